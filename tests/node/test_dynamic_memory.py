"""Guests whose memory follows what they need, seen from inside and from outside."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bocage.model import ground, sample, vm
from bocage.model.units import MiB, Size
from bocage.store import resources
from tests.node.house import House

pytestmark = pytest.mark.guest
_USUAL = {"startup": "128M", "minimum": "80M", "maximum": "384M", "buffer": 20}
_BUDGET = 480 * MiB
_PEAK = 160  # MiB


async def lend(house: House, size: int) -> None:
    """What the host's VMs may have together."""
    uid = house.node.ground.uid
    await house.resources.change(
        ground.Host, None, uid, lambda one: resources.with_spec(one, memory_for_vms=Size(size))
    )


async def up(house: House, name: str = "box", **memory: Any) -> vm.VM:
    made = await house.create(name, image="tiny", nics=[], memory={**_USUAL, **memory}, start=True)
    await house.says(made, "^tiny: ready")
    return made


async def dynamic(house: House, which: vm.VM) -> sample.Dynamic | None:
    return house.node.balancing.of(which.uid)


async def has(house: House, which: vm.VM, least: int, most: int) -> sample.Dynamic:
    """Once its guest has so much and has told what it needs; in MiB."""
    found = await house.until(
        lambda: dynamic(house, which),
        lambda one: one is not None and one.needs is not None and least * MiB <= one.has <= most * MiB,
    )
    assert found
    return found


async def available(house: House, which: vm.VM) -> int:
    """What the guest itself says that it has left."""
    line = await house.says(which, "^MemAvailable:", send="grep MemAvailable /proc/meminfo")
    return int(line.split()[1]) << 10


@contextlib.asynccontextmanager
async def watched(house: House, *machines: vm.VM) -> AsyncIterator[list[int]]:
    """All sums of what these VMs have, as long as this lasts."""
    sums: list[int] = []

    async def watch() -> None:
        while True:
            await asyncio.sleep(0.1)
            sums.append(sum(one.has for machine in machines if (one := house.node.balancing.of(machine.uid))))

    watching = asyncio.create_task(watch())
    try:
        yield sums
    finally:
        watching.cancel()


async def test_of_three_guests_the_one_with_a_peak_gets_memory_and_gives_it_back(tiny_house: House):
    await lend(tiny_house, _BUDGET)
    machines = [await up(tiny_house, name) for name in ("one", "two", "three")]
    one, two, three = machines
    for machine in machines:
        calm = await has(tiny_house, machine, 80, 132)
    assert calm.why.type in ("memory-at-minimum", "memory-as-needed")
    async with watched(tiny_house, *machines) as sums:
        await tiny_house.says(
            one, "^filled 0", send=f"dd if=/dev/zero of=/run/peak bs=1M count={_PEAK} 2>/dev/null; echo filled $?"
        )
        peak = await has(tiny_house, one, _PEAK + 60, 384)
        assert await available(tiny_house, one) > 4 * MiB
        assert (peak.needs or 0) > _PEAK * MiB
        for machine in (two, three):
            assert (await has(tiny_house, machine, 80, 132)).has
        await tiny_house.says(one, "^freed", send="rm /run/peak; echo freed")
        await has(tiny_house, one, 80, 150)
    assert max(sums) <= _BUDGET
    for machine in machines:
        assert await tiny_house.says(machine, r"^\d+$", send="dmesg | grep -c -i -e 'killed process'") == "0"
