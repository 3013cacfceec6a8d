"""Has a VM that starts by itself wait for those that it comes after, on whatever host they are."""

from __future__ import annotations

import contextlib

from bocage.model import base, vm
from bocage.node import clock, notes
from bocage.node.life.standing import Standing
from bocage.planner import order
from bocage.store import resources


async def holds(standing: Standing, machine: vm.VM) -> notes.WaitsForOthers | None:
    """What its start waits for; when it has waited long enough it starts all the same, and that is told."""
    awaited = order.awaited(machine, await _leaders(standing, machine))
    if not awaited:
        standing.awaits, standing.alone = None, False
        return None
    now, within = clock.boottime(), machine.spec.autostart.within
    standing.awaits = standing.awaits if standing.awaits is not None else now
    if now < standing.awaits + within:
        return notes.WaitsForOthers(name=machine.name, others=awaited, span=within)
    if not standing.alone:
        standing.alone = True
        note = notes.StartsWithout(name=machine.name, others=awaited, span=within)
        await standing.tell(machine, note, base.Severity.WARNING)
    return None


async def _leaders(standing: Standing, machine: vm.VM) -> dict[str, vm.VM]:
    found = {}
    for uid in machine.spec.autostart.after:
        with contextlib.suppress(resources.Missing, resources.Damaged):
            found[uid] = await standing.ground.resources.get(vm.VM, standing.project, uid)
    return found
