"""`bocage alarm`: what somebody should look at."""

from __future__ import annotations

from typing import Annotated

import typer

from bocage import words
from bocage.cli import failure, lazy, options, output, people, session, table
from bocage.client import rest


def list_alarms(
    all_: Annotated[bool, typer.Option("--all", help="Acknowledged ones, too.")] = False,
    json: options.Json = False,
) -> None:
    """List the alarms, each with its next step; they go by themselves when their cause is gone.

    Examples:
      bocage alarm list
    """
    with session.connect() as api:
        found = api.alarms.list()
    if json:
        output.document(found)
        return
    open_ = [one for one in found["items"] if all_ or people.is_open(one)]
    if not open_:
        hidden = len(found["items"])
        output.complain(f"no alarm that nobody has seen; --all shows {hidden} more" if hidden else "no alarm")
    for alarm in open_:
        output.line(_shown(alarm))


def _shown(alarm: rest.Document) -> str:
    spec, status = alarm["spec"], alarm["status"]
    who = words.asker(status.get("acknowledged_by") or "?")
    seen = "" if people.is_open(alarm) else f", acknowledged by {who}"
    return table.facts(
        [
            (spec["severity"], people.saying(spec["said"])),
            ("", people.hint(spec["said"])),
            ("", f"raised {people.ago(spec['raised'])}{seen}; alarm {alarm['metadata']['uid']}"),
        ]
    )


def ack(
    alarm: Annotated[
        str | None, typer.Argument(metavar="ALARM", help="Its uid, or its beginning or end.", show_default=False)
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="All that are not acknowledged yet.")] = False,
    json: options.Json = False,
) -> None:
    """Acknowledge alarms: somebody has seen them.

    Examples:
      bocage alarm ack 8b0f3f0e
      bocage alarm ack --all
    """
    if (alarm is None) == (not all_):
        raise failure.Usage(option="ALARM, --all", wrong="one of them is needed, and not both")
    with session.connect() as api:
        if alarm is not None:
            answer = api.alarms.acknowledge(_find(api, alarm))
            acknowledged = [answer]
        else:
            uids = [one["metadata"]["uid"] for one in api.alarms.list()["items"] if people.is_open(one)]
            acknowledged = [api.alarms.acknowledge(uid) for uid in uids]
            answer = {"items": acknowledged}
    if json:
        output.document(answer)
    elif not acknowledged:
        output.complain("no alarm that was not acknowledged")
    else:
        several = len(acknowledged) > 1
        which = f"{len(acknowledged)} alarms are acknowledged; they go" if several else "acknowledged; it goes"
        output.line(f"{which} by {'themselves' if several else 'itself'} when the cause is gone")


def _find(api: rest.Client, given: str) -> str:
    if len(given) == 36:
        return given
    uids = [str(one["metadata"]["uid"]) for one in api.alarms.list()["items"]]
    found = [uid for uid in uids if uid.startswith(given) or uid.endswith(given)]
    return found[0] if len(found) == 1 else given


NOUN = lazy.Group(
    "alarm",
    help="Alarms: what somebody should look at.",
    verbs={"Alarms": {"list": "alarm:list_alarms", "ack": "alarm:ack"}},
)
