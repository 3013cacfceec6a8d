"""`bocage cluster shutdown` and `start`: all VMs off and on again, in order, with no failover meanwhile."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from bocage.cli import failure, options, output, session
from bocage.client import rest

_LOOK = 0.5  # seconds


def shutdown(
    within: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Each guest's time; else as its stop policy says.")
    ] = None,
    kill: Annotated[
        bool, typer.Option("--kill", help="Pull the plug when that time is over; wait for no silent host.")
    ] = False,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Have all VMs of the cluster go off, those that others start after last, before its servers are switched off.

    No server is taken for dead until 'bocage cluster start'. A guest that does not switch off
    is named and holds the rest up: look at it, or ask again with --kill. When every server was
    off and is back, all that ran starts by itself.

    Examples:
      bocage cluster shutdown
      bocage cluster shutdown --within 60 --kill
    """
    with session.connect() as api:
        found = api.cluster.shut_down(rest.given(within=within, kill=kill or None))
        found = _followed(api, found, "down") if wait else found
    if json:
        output.document(found)
    elif found["phase"] == "down":
        output.line(f"all VMs are off, {found['ran']} of which ran; the servers can be switched off now")
        output.complain("'bocage cluster start' starts those again, as does the return of all servers")
    elif found["stuck"]:
        raise failure.Usage(
            option="",
            wrong=f"{', '.join(found['stuck'])} did not switch off in time, and the rest waits",
            right="look at them ('bocage vm console'), or 'bocage cluster shutdown --kill'; 'bocage cluster start' "
            "starts what is off again",
        )


def start(wait: options.Wait = True, json: options.Json = False) -> None:
    """Have all VMs start that ran before 'bocage cluster shutdown', those that others start after first.

    Examples:
      bocage cluster start
    """
    with session.connect() as api:
        found = api.cluster.start()
        before = found
        found = _followed(api, found, "works") if wait else found
    if json:
        output.document(found)
    elif before["phase"] == "works":
        output.complain("the cluster was not shut down")
    else:
        output.line("the cluster works: all that ran was started" if found["phase"] == "works" else "it goes on")


def _followed(api: rest.Client, found: rest.Document, phase: str) -> rest.Document:
    """The standstill once it has come to a phase, or when VMs are stuck on the way to being off."""
    told: list[str] = []
    while found["phase"] != phase and not (phase == "down" and found["stuck"]):
        if found["left"] != told:
            told = found["left"]
            output.complain(f"waiting for {', '.join(told[:8])}{' …' if len(told) > 8 else ''}")
        time.sleep(_LOOK)
        found = api.cluster.standstill()
        if phase == "down" and found["phase"] in ("starting", "works"):
            break  # somebody has ended it
    return found
