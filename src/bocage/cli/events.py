"""`bocage events`: what happened, and what happens."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bocage.cli import options, output, people, session, table, waiting

_MARKS = {"info": " ", "warning": "!", "error": "!!"}


def events(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what happens.")] = False,
    limit: Annotated[int, typer.Option(metavar="N", min=0, help="So many of the past.")] = 50,
    kinds: Annotated[
        str | None,
        typer.Option(metavar="KIND,…", help="With --follow: also changes of vm, task, image, …; event alone else."),
    ] = None,
    since: Annotated[str | None, typer.Option(metavar="REVISION", help="With --follow: all after this one.")] = None,
    json: options.Json = False,
) -> None:
    """Print the events, the newest last.

    Examples:
      bocage events --follow
      bocage events --follow --kinds vm,task --json
    """
    with session.connect() as api:
        after = since
        if not since and (limit or not follow):
            found = api.events.list(limit=limit)
            after = str(found["revision"])
            if json and not follow:
                output.document(found)
                return
            for event in found["items"]:
                _print("event", event, json=json)
        if not follow:
            return
        from bocage.client import streams

        for change in streams.changes(api.connection, kinds=kinds or "event", since=after):
            _print(change.kind, change.data, json=json)


def _print(kind: str, data: Any, *, json: bool) -> None:
    import sys

    if json:
        output.document(data if kind == "event" else {"kind": kind, "data": data})
    elif kind == "event":
        output.line(_event(data))
    else:
        output.line(_change(kind, data))
    sys.stdout.flush()


def _event(event: dict[str, Any]) -> str:
    spec = event["spec"]
    mark = _MARKS.get(spec.get("severity", ""), "?").ljust(2)
    return table.paragraph(people.saying(spec["said"]), lead=f"{people.clock(spec['time'])} {mark} ")


def _change(kind: str, data: dict[str, Any]) -> str:
    about = data.get("metadata") or {}
    called = waiting.describe(data) if kind == "task" else about.get("name") or about.get("uid", "")
    state = (data.get("status") or {}).get("state", "")
    return table.clean(f"{kind} {called} {state}".rstrip())
