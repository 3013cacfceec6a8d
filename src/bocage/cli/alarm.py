"""`bocage alarm`: what somebody should look at."""

from __future__ import annotations

from typing import Annotated

import typer

from bocage.cli import lazy, options, output, people, session, table
from bocage.client import rest


def list_alarms(
    all_: Annotated[bool, typer.Option("--all", help="Acknowledged ones, too.")] = False,
    json: options.Json = False,
) -> None:
    """List the alarms, each with its next step; they go by themselves when their cause is gone."""
    with session.connect() as api:
        found = api.alarms.list()
    if json:
        output.document(found)
        return
    open_ = [one for one in found["items"] if all_ or not one["status"].get("acknowledged")]
    if not open_:
        hidden = len(found["items"])
        output.complain("no alarm" + (f" that was not acknowledged; --all shows {hidden}" if hidden else ""))
    for alarm in open_:
        output.line(_shown(alarm))


def _shown(alarm: rest.Document) -> str:
    spec, status = alarm["spec"], alarm["status"]
    seen = f", acknowledged by {status.get('acknowledged_by') or '?'}" if status.get("acknowledged") else ""
    return table.facts(
        [
            (spec["severity"], people.saying(spec["said"])),
            ("", people.hint(spec["said"])),
            ("", f"raised {people.ago(spec['raised'])}{seen}; alarm {alarm['metadata']['uid']}"),
        ]
    )


def ack(
    alarm: Annotated[str, typer.Argument(metavar="ALARM", help="Its uid, or its beginning or end.")],
    json: options.Json = False,
) -> None:
    """Acknowledge an alarm: somebody has seen it."""
    with session.connect() as api:
        answer = api.alarms.acknowledge(_find(api, alarm))
    if json:
        output.document(answer)
    else:
        output.line("acknowledged; it goes by itself when its cause is gone")


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
