"""What is changed while a VM runs, read back from inside the guest."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from bocage.model import requests, vm
from bocage.model.units import Size
from bocage.node import started
from bocage.node.life import adapting
from bocage.planner import definition
from bocage.store import resources
from tests.node.house import BLANK, House
from tests.node.test_saved import change, done, waiting

pytestmark = pytest.mark.guest
ROOMY: dict[str, Any] = {"image": "tiny", "nics": [], "memory": "128M", "max_memory": "1G", "max_cpus": 4}
_MIB = 1 << 20


async def up(house: House, **request: Any) -> vm.VM:
    made = await house.create(start=True, **{**ROOMY, **request})
    await house.says(made, "^tiny: ready")
    return made


async def carried_out(house: House, which: vm.VM) -> dict[str, vm.Outcome]:
    """By path: what became of the last change."""
    return {one.path: one for one in (await house.adapted(which)).status.outcomes}


async def all_done(house: House, which: vm.VM) -> None:
    """Once a guest that gives slowly, on a machine under load, has given all."""
    await house.until(
        lambda: carried_out(house, which), lambda became: {one.how for one in became.values()} in ({"done"}, set())
    )


def dimms(house: House, which: vm.VM) -> tuple[int, ...]:
    built = started.read_whole(house.homes.vm_runtime(which.uid))
    assert built
    return built.first.dimms


async def sees(house: House, which: vm.VM, *, cpus: int, memory: int) -> None:
    """The guest has so many vCPUs, and about so many bytes, once it has put them to use or struck them off."""

    async def told() -> tuple[int, int]:
        line = await house.says(which, "^tiny: ready cpus=", send="tiny ready")
        found = dict(part.split("=") for part in line.split() if "=" in part)
        return int(found["cpus"]), int(found["memory_kib"]) << 10

    await house.until(told, lambda found: found[0] == cpus and memory - 40 * _MIB < found[1] <= memory)


async def test_vcpus_and_memory_come_while_it_runs_memory_goes_and_all_of_it_is_saved_and_resumed(tiny_house: House):
    made = await up(tiny_house)
    await sees(tiny_house, made, cpus=1, memory=128 * _MIB)
    await change(tiny_house, made, cpus=vm.Cpus(cores=3), memory=Size(512 * _MIB))
    became = await carried_out(tiny_house, made)
    assert {path: one.how for path, one in became.items()} == {"cpus": "done", "memory": "done"}
    await sees(tiny_house, made, cpus=3, memory=512 * _MIB)
    assert waiting(tiny_house, await tiny_house.read(made)) == []
    await change(tiny_house, made, memory=Size(256 * _MIB))
    await all_done(tiny_house, made)
    await sees(tiny_house, made, cpus=3, memory=256 * _MIB)
    done(await tiny_house.ask("vm.save", made))
    done(await tiny_house.ask("vm.start", made))
    await sees(tiny_house, made, cpus=3, memory=256 * _MIB)
    await change(tiny_house, made, cpus=vm.Cpus(cores=4), memory=Size(128 * _MIB))  # and it goes on from there
    await all_done(tiny_house, made)
    await sees(tiny_house, made, cpus=4, memory=128 * _MIB)
    assert (await tiny_house.events()).count("vm-adapted") >= 5


@pytest.mark.slow
async def test_where_memory_comes_as_dimms_they_stay_whatever_becomes_of_guest_and_daemon(tiny_house: House):
    made = await up(tiny_house, max_cpus=1, machine="pc", board={"added_memory": "dimm"})
    await sees(tiny_house, made, cpus=1, memory=128 * _MIB)
    await change(tiny_house, made, memory=Size(200 * _MIB))
    became = (await carried_out(tiny_house, made))["memory"]
    assert (became.how, became.saying.type) == ("pending", "memory-dimms-are-whole")
    for size in (256, 512):
        await change(tiny_house, made, memory=Size(size * _MIB))
        became = (await carried_out(tiny_house, made))["memory"]
        assert (became.how, became.saying.type, became.saying.params["size"]) == (
            *("done", "memory-dimm-there"),
            size * _MIB,
        )
        await sees(tiny_house, made, cpus=1, memory=size * _MIB)
    done(await tiny_house.keep(made, "large", memory=True))
    done(await tiny_house.ask("vm.save", made))
    await tiny_house.close()
    opened = await House(tiny_house.homes).open()
    try:
        done(await opened.ask("vm.start", made))
        await sees(opened, made, cpus=1, memory=512 * _MIB)
        await change(opened, made, memory=Size(192 * _MIB))  # DIMMs stay: the balloon takes
        await all_done(opened, made)
        line = await opened.says(made, "^MemTotal:", send="grep MemTotal /proc/meminfo")
        assert 100 * _MIB < int(line.split()[1]) << 10 <= 192 * _MIB
        done(await opened.go_back(made, "large", start=True))
        await opened.becomes(made, vm.State.RUNNING)
        await sees(opened, made, cpus=1, memory=512 * _MIB)
        assert waiting(opened, await opened.read(made)) == []
        assert dimms(opened, made) == (128 * _MIB, 256 * _MIB)
        done(await opened.ask("vm.kill", made))
        done(await opened.ask("vm.start", made))
        await sees(opened, made, cpus=1, memory=512 * _MIB)
        assert dimms(opened, made) == ()
    finally:
        await opened.close()


async def test_what_is_beyond_its_room_waits_for_a_cold_start_and_is_said_to(tiny_house: House):
    made = await up(tiny_house, max_cpus=1)
    await change(tiny_house, made, cpus=vm.Cpus(cores=2), memory=Size(2048 * _MIB))
    became = await carried_out(tiny_house, made)
    assert {path: (one.how, one.saying.type) for path, one in became.items()} == {
        "cpus": ("pending", "waits-for-cold-start"),
        "memory": ("pending", "waits-for-cold-start"),
    }
    await sees(tiny_house, made, cpus=1, memory=128 * _MIB)
    done(await tiny_house.ask("vm.kill", made))
    done(await tiny_house.ask("vm.start", made))
    await tiny_house.says(made, "^tiny: ready cpus=2 ")
    assert (await tiny_house.read(made)).status.outcomes == ()


async def test_a_guest_without_a_driver_gives_nothing_and_that_is_said(tiny_house: House):
    made = await tiny_house.create(start=True, **{**BLANK, "max_memory": "256M", "max_cpus": 2})
    await tiny_house.becomes(made, vm.State.RUNNING)
    await change(tiny_house, made, memory=Size(64 * _MIB), cpus=vm.Cpus(cores=2))
    became = await carried_out(tiny_house, made)
    assert (became["cpus"].how, became["cpus"].saying.type) == ("partly", "cpus-not-taken")
    assert became["cpus"].saying.params == {"name": "box", "count": 2, "taken": 1}
    assert became["memory"].how == "partly"
    assert became["memory"].saying.params == {"size": 32 * _MIB, "wanted": 64 * _MIB}
    assert waiting(tiny_house, await tiny_house.read(made)) == ["memory"]


@pytest.mark.fault
@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_daemon_that_ends_in_the_midst_of_a_change_carries_it_out_when_it_is_back(
    tiny_house: House, monkeypatch: pytest.MonkeyPatch, moment: str
):
    made = await up(tiny_house)
    begun = adapting._try
    cut_off = []

    async def never_told(*arguments: Any) -> Any:
        if moment == "after":
            await begun(*arguments)
        cut_off.append(arguments)
        raise RuntimeError("cut off here")  # what the daemon would write next is not written

    monkeypatch.setattr(adapting, "_try", never_told)
    await change(tiny_house, made, cpus=vm.Cpus(cores=2), memory=Size(256 * _MIB))
    await tiny_house.until(tiny_house.events, lambda _: bool(cut_off))
    await tiny_house.close()
    monkeypatch.undo()
    opened = await House(tiny_house.homes).open()
    try:
        became = await carried_out(opened, made)
        assert set(became) == {"cpus", "memory"}
        await sees(opened, made, cpus=2, memory=256 * _MIB)
        assert waiting(opened, await opened.read(made)) == []
    finally:
        await opened.close()


@pytest.mark.fault
async def test_what_it_has_counts_and_not_what_somebody_who_was_cut_off_had_noted(tiny_house: House):
    dimms = {"machine": "pc", "board": {"added_memory": "dimm"}}
    asked = requests.VMCreate.model_validate({"name": "box", "start": True, "cpus": 2, **ROOMY, **dimms})
    defined = definition.define(asked, await tiny_house.facts(), project="default")
    board = defined.vm.spec.hardware
    kept = {name: place for name, place in board.devices.items() if name != "balloon"}
    board = board.model_copy(update={"devices": kept})
    made = await tiny_house.enter(dataclasses.replace(defined, vm=resources.with_spec(defined.vm, hardware=board)))
    await tiny_house.says(made, "^tiny: ready")
    actor = tiny_house.node.crew.of(made.uid)
    assert actor
    running = actor.standing.machine
    assert running
    await running.growing.plug_cpus(3)  # of four, one of two is gone
    await running.growing.plug_dimm(0, 128 * _MIB)
    await tiny_house.close()
    started.change(tiny_house.homes.vm_runtime(made.uid), cpus=vm.Cpus(cores=4))
    opened = await House(tiny_house.homes).open()
    try:
        await change(opened, made, memory=Size(256 * _MIB))
        became = await carried_out(opened, made)
        assert [path for path, one in became.items() if one.how != "done"] == ["cpus"]
        assert waiting(opened, await opened.read(made)) == ["cpus.cores"]
        done(await opened.ask("vm.save", made))
        done(await opened.ask("vm.start", made))
        await sees(opened, made, cpus=3, memory=256 * _MIB)
    finally:
        await opened.close()
