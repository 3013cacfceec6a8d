"""`bocage doctor`: whether the machine has what VMs need, and what to do where it has not."""

from __future__ import annotations

from typing import Any

import typer

from bocage.cli import failure, options, output, people, session, table

_MARKS = {"ok": "ok", "warning": "! ", "error": "!!"}


def doctor(json: options.Json = False) -> None:
    """Check the machine: accelerator, packages, cgroups, disk, clock, ports. Exit code 1 when something is amiss."""
    with session.connect() as api:
        answer = api.doctor()
    if json:
        output.document(answer)
    else:
        for check in answer["checks"]:
            output.line(_shown(check))
    if any(check["level"] == "error" for check in answer["checks"]):
        raise typer.Exit(failure.FAILED)


def _shown(check: dict[str, Any]) -> str:
    text, hint = people.saying(check), people.hint(check)
    return table.facts([(_MARKS.get(check["level"], "?"), f"{text} → {hint}" if hint else text)])
