"""Guests whose memory follows what they need, seen from inside and from outside."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bocage.model import ground, sample, vm
from bocage.model import memory as memories
from bocage.model.units import MiB, Size
from bocage.node.rounds import balancing
from bocage.planner import memory
from bocage.store import resources
from tests.node import crash
from tests.node.house import BLANK, House
from tests.node.test_adapting import carried_out
from tests.node.test_saved import change, done, waiting

pytestmark = pytest.mark.guest
_USUAL = {"startup": "128M", "minimum": "80M", "maximum": "384M", "buffer": 20}
_BUDGET = 480 * MiB
_PEAK = 160  # MiB


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peak is over, and a guest silent, sooner than for people."""
    monkeypatch.setattr(memory, "_PEAK_LASTS", 3.0)
    monkeypatch.setattr(balancing, "_SILENT", 4.0)
    monkeypatch.setattr(balancing, "_STARTS", 1.0)


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


async def peaks(house: House, which: vm.VM) -> sample.Dynamic:
    """Once it has what its peak needs, and more."""
    needed = (_PEAK + 50) * MiB
    found = await house.until(
        lambda: dynamic(house, which),
        lambda one: one is not None and (one.needs or 0) > needed and one.has > (one.needs or 0) + 8 * MiB,
    )
    assert found
    return found


async def sees(house: House, which: vm.VM, field: str, least: int, most: int) -> None:
    """Once the guest's own /proc/meminfo says so much; in MiB."""

    async def told() -> int:
        line = await house.says(which, f"^{field}:", send=f"grep {field} /proc/meminfo")
        return int(line.split()[1]) << 10

    await house.until(told, lambda found: least * MiB <= found <= most * MiB)


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


async def nobody_was_killed(house: House, *machines: vm.VM) -> None:
    for machine in machines:
        assert await house.says(machine, r"^\d+$", send="dmesg | grep -c -i 'killed process'") == "0"


async def fill(house: House, which: vm.VM, mebibytes: int) -> None:
    dd = f"dd if=/dev/zero of=/run/peak bs=1M count={mebibytes} 2>/dev/null"
    await house.says(which, "^filled 0", send=f"{dd}; echo filled $?")


@pytest.mark.slow
async def test_of_three_guests_the_one_with_a_peak_gets_memory_and_gives_it_back(tiny_house: House):
    await lend(tiny_house, _BUDGET)
    machines = [await up(tiny_house, name) for name in ("one", "two", "three")]
    one = machines[0]
    for machine in machines:
        await has(tiny_house, machine, 80, 132)
    async with watched(tiny_house, *machines) as sums:
        await fill(tiny_house, one, _PEAK)
        await peaks(tiny_house, one)
        await sees(tiny_house, one, "MemAvailable", 8, 160)
        for machine in machines[1:]:
            await has(tiny_house, machine, 80, 132)
        await tiny_house.says(one, "^freed", send="rm /run/peak; echo freed")
        calm = await has(tiny_house, one, 80, 132)
    assert calm.why.type in ("memory-as-needed", "memory-at-minimum", "memory-host-short")
    assert max(sums) <= _BUDGET
    await nobody_was_killed(tiny_house, *machines)
    told = tiny_house.node.sampling.now().vms[one.uid].dynamic
    assert told is not None
    assert 80 * MiB <= told.has <= 132 * MiB


async def test_memory_below_what_it_started_with_is_given_by_the_balloon_and_taken_again(tiny_house: House):
    made = await tiny_house.create(image="tiny", nics=[], memory="128M", start=True)
    await tiny_house.says(made, "^tiny: ready")
    await change(tiny_house, made, memory=Size(96 * MiB))
    became = (await carried_out(tiny_house, made))["memory"]
    assert (became.how, became.saying.params) == ("done", {"size": 96 * MiB})
    await sees(tiny_house, made, "MemTotal", 50, 70)
    assert waiting(tiny_house, await tiny_house.read(made)) == []
    done(await tiny_house.ask("vm.save", made))
    done(await tiny_house.ask("vm.start", made))
    await sees(tiny_house, made, "MemTotal", 50, 70)
    await change(tiny_house, made, memory=Size(128 * MiB))
    assert (await carried_out(tiny_house, made))["memory"].how == "done"
    await sees(tiny_house, made, "MemTotal", 88, 128)
    # Dynamic it becomes at its next cold start alone: it could not take by itself what it lacks.
    wanted = memories.DynamicMemory(startup=Size(128 * MiB), minimum=Size(80 * MiB))
    await change(tiny_house, made, dynamic_memory=wanted)
    became = (await carried_out(tiny_house, made))["dynamic_memory"]
    assert (became.how, became.saying.type) == ("pending", "memory-fixed-until-cold-start")
    assert waiting(tiny_house, await tiny_house.read(made)) == ["dynamic_memory"]
    assert await dynamic(tiny_house, made) is None
    await sees(tiny_house, made, "MemTotal", 88, 128)
    await nobody_was_killed(tiny_house, made)


async def given(house: House) -> int:
    return (await house.node.preparation.admission.shown()).memory


async def test_what_was_started_with_dynamic_memory_becomes_fixed_and_dynamic_again(tiny_house: House):
    made = await up(tiny_house)
    await has(tiny_house, made, 80, 132)
    begun = (await tiny_house.read(made)).spec.dynamic_memory
    assert begun
    await lend(tiny_house, 300 * MiB)
    await change(tiny_house, made, dynamic_memory=None)
    became = await carried_out(tiny_house, made)
    assert (became["dynamic_memory"].how, became["dynamic_memory"].saying.type) == ("pending", "host-without-room")
    await has(tiny_house, made, 80, 132)  # it goes on as it was
    await lend(tiny_house, 1024 * MiB)
    await change(tiny_house, made, memory=Size(320 * MiB))
    became = await carried_out(tiny_house, made)
    assert {path: (one.how, one.saying.params) for path, one in became.items()} == {
        "memory": ("done", {"size": 320 * MiB})
    }
    await sees(tiny_house, made, "MemAvailable", 200, 300)
    assert await given(tiny_house) == 320 * MiB
    await tiny_house.until(lambda: dynamic(tiny_house, made), lambda found: found is None)
    await change(tiny_house, made, dynamic_memory=begun)
    became = await carried_out(tiny_house, made)
    assert (became["dynamic_memory"].how, became["dynamic_memory"].saying.type) == ("done", "memory-follows")
    await has(tiny_house, made, 80, 132)
    await sees(tiny_house, made, "MemAvailable", 8, 80)
    await tiny_house.until(lambda: given(tiny_house), lambda found: found <= 132 * MiB)
    assert waiting(tiny_house, await tiny_house.read(made)) == []
    await nobody_was_killed(tiny_house, made)


@pytest.mark.fault
async def test_a_guest_that_gives_nothing_is_shown_and_holds_up_nobody(tiny_house: House):
    await lend(tiny_house, 1024 * MiB)
    blank = await tiny_house.create(
        "blank", start=True, **{**BLANK, "memory": {"startup": "32M", "minimum": "16M", "maximum": "64M"}}
    )
    fixed = await tiny_house.create("fixed", start=True, **BLANK)
    made = await up(tiny_house)
    await change(tiny_house, fixed, memory=Size(16 * MiB))
    became = (await carried_out(tiny_house, fixed))["memory"]
    assert (became.how, became.saying.params) == ("partly", {"size": 32 * MiB, "wanted": 16 * MiB})
    await has(tiny_house, made, 80, 132)  # all the same
    found = await tiny_house.until(lambda: tiny_house.read(blank), lambda one: one.status.memory_note is not None)
    assert found.status.memory_note
    assert found.status.memory_note.type == "memory-starts"
    await tiny_house.says(made, "^gone", send="rmmod virtio_balloon; echo gone")
    found = await tiny_house.until(lambda: tiny_house.read(made), lambda one: one.status.memory_note is not None)
    assert found.status.memory_note
    assert found.status.memory_note.type == "memory-guest-silent"
    await tiny_house.says(made, "^back", send="modprobe virtio_balloon || insmod virtio_balloon.ko; echo back")


@pytest.mark.fault
@pytest.mark.slow
async def test_a_daemon_that_is_back_finds_what_its_guests_have_and_goes_on_from_there(
    tiny_house: House, dice: random.Random
):
    await lend(tiny_house, _BUDGET)
    made = await up(tiny_house)
    await has(tiny_house, made, 80, 132)
    await tiny_house.close()
    point = dice.randint(1, 3)  # it is told to tell, and asked for what it has, and for more
    print(f"peak killed at {point}")
    assert crash.die_at(tiny_house.homes.path, "peak", point) is None
    opened = await House(tiny_house.homes).open()
    try:
        await opened.says(made, "^filled 0")
        before = await peaks(opened, made)
        assert before.has > (before.needs or 0)
        await opened.says(made, "^freed", send="rm /run/peak; echo freed")
        await has(opened, made, 80, 132)
        await nobody_was_killed(opened, made)
    finally:
        await opened.close()
