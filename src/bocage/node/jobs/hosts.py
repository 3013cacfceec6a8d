"""The VMs of a host before it goes down: off, those first that start last, and on again in their order.

That they should run stays wanted; so they are started with the machine's next start.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from bocage.model import ground, vm
from bocage.node import notes, tasks
from bocage.node.shop import Shop

_LOOK = 0.3  # seconds
_MARGIN = 30.0  # seconds beyond the longest stop policy, for a plug to be pulled
_START_BOUND = 60.0  # seconds that those of one order get before the next ones start all the same
_EVERY_ORDER = 0
_NAMED = 20
_UP = (vm.State.RUNNING, vm.State.PAUSED, vm.State.STARTING, vm.State.STOPPING, vm.State.UNKNOWN)
_STARTED = (vm.State.RUNNING, vm.State.PAUSED, vm.State.CRASHED)
_WANTED = (vm.Power.RUNNING, vm.Power.PAUSED)


async def stop_vms(shop: Shop, run: tasks.Run) -> None:
    """Order after order, the highest first; from then on none starts."""
    machines = await _machines(shop)
    up = [one for one in machines if one.status.state in _UP]
    for order in sorted({one.spec.autostart.order for one in up}, reverse=True):
        now = [one for one in up if one.spec.autostart.order == order]
        names = sorted(one.name for one in now)
        run.report(notes.StoppingVms(count=len(names), order=order, names=names[:_NAMED]))
        await _leave(shop, order)
        bound = max(one.spec.stop.within for one in now) + _MARGIN
        await _until(shop, order, lambda one: one.status.state not in _UP, within=bound)
        run.progress(sum(one.spec.autostart.order >= order for one in up), len(up), unit="VMs")
    await _leave(shop, _EVERY_ORDER)


async def start_vms(shop: Shop, run: tasks.Run) -> None:
    """Order after order, the lowest first."""
    if shop.ground.leave_from is not None:
        orders = {one.spec.autostart.order for one in await _machines(shop) if one.spec.power in _WANTED}
        for order in sorted(orders):
            await _leave(shop, order + 1)
            await _until(shop, order, _has_started, within=_START_BOUND)
    await _leave(shop, None)


def _has_started(machine: vm.VM) -> bool:
    return machine.status.state in _STARTED or machine.spec.power not in _WANTED


async def _leave(shop: Shop, order: int | None) -> None:
    """Have VMs from an order on be off; the node wakes them when it sees the change."""
    host = shop.ground
    host.leave_from = order
    leaving = None if order is None else ground.Leaving(boot_id=host.boot_id, order=order)
    await host.resources.change_status(
        ground.Host, None, host.uid, lambda present: present.status.model_copy(update={"leaving": leaving})
    )


async def _until(shop: Shop, order: int, holds: Callable[[vm.VM], bool], *, within: float) -> None:
    """Wait for all VMs of an order; what does not come to hold holds up the others no longer than the bound."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if all(holds(one) for one in await _machines(shop) if one.spec.autostart.order == order):
            return
        await asyncio.sleep(_LOOK)


async def _machines(shop: Shop) -> list[vm.VM]:
    listing = await shop.ground.resources.list(vm.VM)
    return [one for one in listing.items if one.status.host == shop.ground.uid]
