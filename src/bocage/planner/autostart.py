"""In which order, and how long after another, the VMs start with their host."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from bocage.model import vm


@dataclasses.dataclass(frozen=True, slots=True)
class Turn:
    """When one VM starts: `delay` seconds after the one before it; the first of an order waits for all before it."""

    uid: str
    project: str
    delay: float
    first_of_its_order: bool


def turns(machines: Iterable[vm.VM]) -> list[Turn]:
    """Those that start with their host, or should run anyway: lower orders first, within one the older ones."""
    wanted = [
        machine
        for machine in machines
        if not machine.metadata.deleted
        and (
            machine.spec.power is vm.Power.RUNNING
            or (machine.spec.autostart.enabled and machine.spec.power is vm.Power.STOPPED)
        )
    ]
    wanted.sort(key=lambda machine: (machine.spec.autostart.order, machine.metadata.created, machine.uid))
    result: list[Turn] = []
    order: int | None = None
    for machine in wanted:
        start = machine.spec.autostart
        result.append(Turn(machine.uid, machine.metadata.project or "", start.delay, start.order != order))
        order = start.order
    return result
