"""In which order, and how long after another, the VMs start with their host."""

from __future__ import annotations

from collections.abc import Iterable

from bocage.model import vm


def holds(machines: Iterable[vm.VM]) -> dict[str, float]:
    """By uid: the seconds after the daemon's start before which a VM does not start.

    Those with a lower order come first; each waits its delay after the one before it.
    """
    wanted = [
        machine
        for machine in machines
        if not machine.metadata.deleted and (machine.spec.autostart.enabled or machine.spec.power is vm.Power.RUNNING)
    ]
    wanted.sort(key=lambda machine: (machine.spec.autostart.order, machine.metadata.created, machine.uid))
    result: dict[str, float] = {}
    at = 0.0
    for machine in wanted:
        at += machine.spec.autostart.delay
        result[machine.uid] = at
    return result
