"""VMs that are carried to another storage while their guests run."""

from __future__ import annotations

import pathlib

import pytest

from bocage.model import ground, vm
from bocage.node.place import directory
from bocage.planner import layers
from bocage.storage import qcow2
from tests.node.house import House
from tests.node.test_moving import move
from tests.node.test_snapshots import booted, counted, counts, done, qmp, reads, writes


async def place_of(house: House, made: vm.VM) -> directory.Directory:
    return await house.node.preparation.place(await house.read(made))


async def lies_wholly_in(house: House, made: vm.VM, storage: ground.Storage, *others: ground.Storage) -> None:
    """Every file is there and without fault, nothing of it lies elsewhere, and QEMU has nothing open elsewhere."""
    present, place = await house.read(made), await place_of(house, made)
    assert place.path == pathlib.Path(storage.spec.path) / "vms" / made.uid
    named = set()
    for volume in await house.node.preparation.disks.of(present):
        assert volume.spec.storage == storage.uid
        named |= set(layers.every(volume.spec))
    assert {path.name for path in place.disks.iterdir()} == named
    for name in named:
        if name.endswith(".qcow2") and not present.status.pid:
            assert await qcow2.check(place.disks / name) == qcow2.Health(leaks=False, corruptions=False), name
    for other in others:
        left = [path for part in ("vms", "trash") for path in (pathlib.Path(other.spec.path) / part).rglob("*")]
        assert left == []
    if present.status.pid:
        roots = [f"{other.spec.path}/" for other in others]
        links = [str(path.readlink()) for path in pathlib.Path(f"/proc/{present.status.pid}/fd").iterdir()]
        stale = [one for one in links if any(one.startswith(root) for root in roots)]
        assert all(one.removesuffix(" (deleted)").endswith("qemu.log") for one in stale), stale
    assert place.read().vm.spec.storage == storage.uid


async def gaps(house: House, made: vm.VM) -> None:
    """The counter on the serial line missed nothing and came twice nowhere."""
    said = (await place_of(house, made)).serial_log.read_text(errors="replace")
    numbers = [int(line.split()[2]) for line in said.splitlines() if line.startswith("tiny: count ")]
    assert len(numbers) > 5
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.guest
async def test_a_guest_is_carried_over_and_back_while_it_writes_and_counts(tiny_house: House):
    house = tiny_house
    made = await booted(house, disks=[{"size": "16M"}, {"size": "16M", "bus": "scsi", "format": "raw"}])
    local, other = await house.resources.find(ground.Storage, None, "local"), await house.storage("other")
    await writes(house, made, "heron", "sda")
    await writes(house, made, "first", "vdb", at=30000)
    done(await house.keep(made, "before"))
    done(await house.keep(made, "memory", memory=True))
    await counts(house, made)
    pid = (await house.read(made)).status.pid
    done(await move(house, made, "other"))
    there = await house.read(made)
    assert (there.status.pid, there.status.state) == (pid, vm.State.RUNNING)
    await lies_wholly_in(house, made, other, local)
    done(await move(house, made, "local"))
    done(await house.keep(made, "after"))
    done(await move(house, made, "other"))
    await lies_wholly_in(house, made, other, local)
    await counted(house, made)
    assert await reads(house, made, "sda") == "heron"
    assert {node["node-name"].partition(".")[0] for node in await nodes(house, made)} >= {"disk0", "disk1", "disk2"}
    done(await house.forget(made, "after"))  # what is merged has the names that the moves gave it
    done(await house.ask("vm.flatten", made))
    done(await house.ask("vm.kill", made))
    await lies_wholly_in(house, made, other, local)
    done(await house.go_back(made, "memory", start=True))
    await house.becomes(made, vm.State.RUNNING)
    assert await reads(house, made, "vdb", at=30000) == "first"


async def nodes(house: House, made: vm.VM) -> list[dict[str, str]]:
    found: list[dict[str, str]] = await (await qmp(house, made)).execute("query-named-block-nodes", {"flat": True})
    return found
