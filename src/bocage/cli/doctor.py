"""`bocage doctor`: whether the machine has what VMs need, and what to do where it has not."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from bocage import client
from bocage.cli import complete, failure, options, output, people, session, table
from bocage.words import N_

_MARKS = {"ok": "ok", "warning": "! ", "error": "!!"}


class AddressTaken(client.Unreachable):
    """The daemon does not run, and here is why it would not start."""

    type = "daemon-address-taken"
    text = N_("the daemon does not run, and another program listens on {listen}, where it would")
    hint = N_("'ss -ltnp' shows which; BOCAGE_LISTEN=HOST:PORT moves the daemon: 'bocage daemon start'")
    listen: str


def doctor(
    host: Annotated[
        str | None,
        typer.Option(metavar="HOST", help="Another host of the cluster.", autocompletion=complete.hosts),
    ] = None,
    json: options.Json = False,
) -> None:
    """Check the machine: accelerator, packages, cgroups, disk, clock, ports. Exit code 1 when something is amiss.

    Examples:
      bocage doctor
      bocage doctor --host host2
    """
    try:
        with session.connect() as api:
            answer = api.doctor(host=host)
    except client.Unreachable as unreachable:
        if taken := _taken():
            raise AddressTaken(address=unreachable.address, reason=unreachable.reason, listen=taken) from unreachable
        raise
    if json:
        output.document(answer)
    else:
        for check in answer["checks"]:
            output.line(_shown(check))
    if any(check["level"] == "error" for check in answer["checks"]):
        raise typer.Exit(failure.FAILED)


def _taken() -> str | None:
    """The address that a daemon of this home would listen on, when somebody else does."""
    import socket

    from bocage import home

    host, _, port = (listen := home.listen_address()).rpartition(":")
    if os.environ.get("BOCAGE_URL") or not port.isdigit():
        return None
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
    except OSError:
        return None
    return listen


def _shown(check: dict[str, Any]) -> str:
    text, hint = people.saying(check), people.hint(check)
    return table.facts([(_MARKS.get(check["level"], "?"), f"{text} → {hint}" if hint else text)])
