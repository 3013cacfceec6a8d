"""A machine whose memory is saved goes on as what it was saved as, whatever was changed of it meanwhile."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

from bocage.model import vm, work
from bocage.model.units import Size
from bocage.node import started
from bocage.node.place import edits
from bocage.store import resources
from tests.node.house import BLANK, House
from tests.node.test_snapshots import booted, qmp, with_agent
from tests.node.test_wishes import problem

SMALL: dict[str, Any] = {"image": "tiny", "memory": "128M", "disk": "64M", "nics": []}
SMALL |= {"max_memory": "128M", "max_cpus": 1}  # so that what is changed waits for a cold start


def done(task: work.Task) -> None:
    assert task.status.state is work.TaskState.DONE, task.status.problem


async def change(house: House, which: vm.VM, **fields: object) -> None:
    """As `vm set` and `vm edit` do."""
    await house.resources.change(
        vm.VM, "default", which.uid, lambda one: resources.bumped(one, resources.with_spec(one, **fields))
    )


async def memory(house: House, which: vm.VM) -> int:
    """Bytes that the guest sees, rounded to those of a machine."""
    line = await house.says(which, "^MemTotal:", send="grep MemTotal /proc/meminfo")
    return -(-int(line.split()[1]) * 1024 // (64 << 20)) * (64 << 20)


async def remembers(house: House, which: vm.VM) -> None:
    """What its guest had in memory is there."""
    assert await house.says(which, "^heron", send="cat /tmp/note") == "heron"


async def with_a_note(house: House, **request: Any) -> vm.VM:
    made = await house.create(start=True, **{**SMALL, **request})
    await house.says(made, "^tiny: ready")
    await house.says(made, "^noted", send="mkdir -p /tmp; echo heron >/tmp/note; echo noted")
    return made


def waiting(house: House, which: vm.VM) -> list[str]:
    built = started.read(house.homes.vm_runtime(which.uid))
    assert built is not None
    return [one["path"] for one in edits.pending(built, which)]


@pytest.mark.guest
@pytest.mark.slow
async def test_memory_that_was_saved_goes_on_before_a_change_that_came_afterwards_counts(tiny_house: House):
    made = await with_a_note(tiny_house)
    done(await tiny_house.ask("vm.save", made))
    await change(
        tiny_house,
        made,
        memory=Size(256 << 20),
        cpus=vm.Cpus(cores=2),
        boot=vm.Boot(order=("disk0",), once="disk0"),
    )
    done(await tiny_house.ask("vm.start", made))
    await remembers(tiny_house, made)
    assert await memory(tiny_house, made) == 128 << 20
    resumed = await tiny_house.read(made)
    assert waiting(tiny_house, resumed) == ["cpus.cores", "memory"]
    assert resumed.status.applied_generation < resumed.metadata.generation
    assert resumed.spec.boot.once == "disk0"  # that is for the next cold start
    place = tiny_house.place(made)
    assert not place.saved.exists()
    assert not place.saved_definition.exists()
    done(await tiny_house.ask("vm.stop", made))
    done(await tiny_house.ask("vm.start", made))
    await tiny_house.says(made, "^tiny: ready cpus=2")
    assert await memory(tiny_house, made) == 256 << 20
    cold = await tiny_house.read(made)
    assert waiting(tiny_house, cold) == []
    assert cold.status.applied_generation == cold.metadata.generation
    assert cold.spec.boot.once is None


@pytest.mark.guest
async def test_a_disk_that_was_plugged_in_before_the_save_is_there_afterwards(tiny_house: House):
    made = await with_a_note(tiny_house)
    done(await tiny_house.attach(made, size="32M"))
    await tiny_house.says(made, "^vdb", send="until [ -e /sys/block/vdb ]; do sleep 0.1; done; echo vdb")
    await tiny_house.says(made, "^wrote", send="echo egret >/dev/vdb; sync; echo wrote")
    done(await tiny_house.ask("vm.save", made))
    done(await tiny_house.attach(made, size="16M"))  # while it is saved: that one waits
    disk = (await tiny_house.read(made)).spec.disks[1]
    refused = await tiny_house.ask("vm.disk-detach", made, disk=disk.name, volume=disk.volume)
    assert problem(refused) == "vm-saved-with-disk"
    done(await tiny_house.ask("vm.start", made))
    await remembers(tiny_house, made)
    assert await tiny_house.says(made, "^egret", send="head -c 5 /dev/vdb; echo") == "egret"
    await tiny_house.says(made, "^vdc", send="until [ -e /sys/block/vdc ]; do sleep 0.1; done; echo vdc")
    assert waiting(tiny_house, await tiny_house.adapted(made)) == []
    done(await tiny_house.ask("vm.save", made))  # and again
    done(await tiny_house.ask("vm.start", made))
    await remembers(tiny_house, made)
    assert await tiny_house.says(made, "^[0-9]+", send="cat /sys/block/vdc/size") == "32768"


@pytest.mark.guest
async def test_saved_changed_and_carried_to_another_machine_it_goes_on_there(
    tiny_house: House, other: House, tmp_path: pathlib.Path
):
    made = await with_a_note(tiny_house, nics=[{}])
    done(await tiny_house.ask("vm.save", made))
    await change(tiny_house, made, memory=Size(256 << 20))
    path = tmp_path / "box.tar.zst"
    await tiny_house.export(made, path)
    assert problem(await other.bring(path, new_identity=True)) == "adopt-saved-memory"
    done(await other.ask("vm.import", upload="upload-1", storage=(await other.facts()).storage["local"].uid))
    there = await other.read(made)
    assert there.status.state is vm.State.SAVED
    second = await other.storage("second")
    done(await other.ask("vm.move", there, storage=second.uid))
    done(await other.ask("vm.start", there))
    await other.ask("vm.pause", there)
    await other.ask("vm.resume", there)
    now = await other.read(made)
    assert now.status.state is vm.State.RUNNING
    assert waiting(other, now) == ["memory"]
    assert "vm-restored" in await other.events()


async def test_saved_memory_gives_nobody_the_disk_of_another_vm(house: House):
    made = await house.create(start=True, **BLANK)
    stranger = await house.create("stranger", **BLANK)
    done(await house.ask("vm.save", made))
    place = house.place(made)
    held = json.loads(place.saved_definition.read_text())
    mine, held["spec"]["disks"][0]["volume"] = held["spec"]["disks"][0]["volume"], stranger.spec.disks[0].volume
    place.saved_definition.write_text(json.dumps(held))
    assert problem(await house.ask("vm.start", made)) == "vm-saved-with-what-it-lost"
    assert (await house.read(made)).status.state is vm.State.SAVED
    held["spec"]["disks"][0]["volume"] = mine
    place.saved_definition.write_text(json.dumps(held))
    done(await house.ask("vm.start", made))


@pytest.mark.fault
async def test_without_a_word_on_how_it_was_saved_it_is_taken_as_it_is_now(house: House):
    made = await house.create(start=True, **BLANK)
    done(await house.ask("vm.save", made))
    place = house.place(made)
    place.saved_definition.write_text("{")
    await change(house, made, memory=Size(48 << 20))
    assert problem(await house.ask("vm.start", made)) == "vm-load-failed"
    await change(house, made, memory=Size(32 << 20))
    done(await house.ask("vm.start", made))


@pytest.mark.guest
async def test_the_clock_of_a_guest_that_stood_still_is_set_by_its_agent_or_it_is_said_why_not(tiny_house: House):
    with_one = await booted(tiny_house, name="answers")
    await with_agent(tiny_house, with_one, "true")
    without = await booted(tiny_house, name="silent")
    for made in (with_one, without):
        await tiny_house.says(made, "^late-1", send="date -s @1000000000 >/dev/null; echo late-$((1))")
        done(await tiny_house.ask("vm.save", made))
        done(await tiny_house.ask("vm.start", made))
    later = "until [ $(date +%s) -gt 1700000000 ]; do sleep 0.1; done; echo set-$((1))"
    await tiny_house.says(with_one, "^set-1", send=later)
    told = await tiny_house.until(tiny_house.events, lambda types: {"vm-clock-set", "vm-clock-late"} <= set(types))
    assert told.count("vm-clock-late") == 1
    assert await tiny_house.says(without, "^now-", send="echo now-$(date +%s | cut -c1-4)") == "now-1000"


@pytest.mark.fault
async def test_a_save_stands_still_nowhere_though_a_daemon_died_that_wanted_one_to(house: House):
    made = await house.create(start=True, **BLANK)
    left = {"capabilities": [{"capability": "pause-before-switchover", "state": True}]}
    await (await qmp(house, made)).execute("migrate-set-capabilities", left)
    done(await house.ask("vm.save", made))
    done(await house.ask("vm.start", made))
