"""VMs that are carried to another storage while their guests run."""

from __future__ import annotations

import asyncio
import pathlib
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from bocage.engine.qemu import chain, layering
from bocage.model import ground, share, vm, work
from bocage.node.life import filling, overlaying
from bocage.node.place import directory
from bocage.planner import layers
from bocage.storage import qcow2
from bocage.store import resources
from tests.node.house import BLANK, House
from tests.node.test_crash import kept_twice
from tests.node.test_crash import reads as contents_of
from tests.node.test_moving import move
from tests.node.test_saved import change
from tests.node.test_snapshots import booted, counted, counts, done, qmp, reads, writes
from tests.node.test_wishes import problem


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


@pytest.mark.guest
async def test_a_guest_is_carried_over_and_back_while_it_writes_and_counts(tiny_house: House):
    house = tiny_house
    made = await booted(house, disks=[{"size": "16M"}, {"size": "16M", "bus": "scsi", "format": "raw"}])
    local, other = await house.resources.find(ground.Storage, None, "local"), await house.storage("other")
    await writes(house, made, "heron", "sda")
    await writes(house, made, "first", "vdb", at=30000)
    done(await house.keep(made, "before"))
    done(await house.keep(made, "memory", memory=True))
    limits = share.Share(disks=share.Io(iops=100_000))  # which stand between the disks and what is carried
    await house.resources.change(
        vm.VM, "default", made.uid, lambda one: resources.bumped(one, resources.with_spec(one, share=limits))
    )
    await house.adapted(made)
    await counts(house, made)
    before = await house.read(made)
    done(await move(house, made, "other"))
    there = await house.read(made)
    assert (there.status.pid, there.status.state) == (before.status.pid, vm.State.RUNNING)
    generation = await (await qmp(house, made)).execute("query-vm-generation-id")
    assert before.spec.hardware.generation_id == there.spec.hardware.generation_id == generation["guid"]
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


@pytest.fixture
def small(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A file system of 24 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m,mode=711", "bocage-test", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.fault
async def test_what_does_not_fit_or_is_cancelled_stays_where_it_is_and_leaves_nothing(
    house: House, small: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    local, other = await house.resources.find(ground.Storage, None, "local"), await house.storage("other")
    narrow = await house.storage("narrow", small / "narrow", overcommit=True)
    made = await house.create(memory="32M", disk="64M", nics=[], disks=[{"size": "64M"}])
    for path in house.place(made).disks.iterdir():
        line = ["qemu-io", "-f", "qcow2", "-c", "write -P 7 0 16M", str(path)]
        await asyncio.to_thread(subprocess.run, line, check=True, capture_output=True)
    done(await house.ask("vm.start", made))
    assert problem(await move(house, made, "narrow")) == "storage-would-not-fit"
    with monkeypatch.context() as patch:  # somebody else takes the room in between

        async def fits(*_: object, **__: object) -> None: ...

        patch.setattr(filling, "_check_room", fits)
        assert problem(await move(house, made, "narrow")) == "disk-not-carried"
    await lies_wholly_in(house, made, local, narrow, other)
    with monkeypatch.context() as patch:
        patch.setattr(house.node.preparation.in_use, "is_read", lambda _: True)
        task = work.task("vm.move", subject=made.ref, host=house.node.ground.uid, storage=other.uid)
        await house.resources.create(task)
        await house.until(lambda: jobs(house, made), lambda found: len(found) == 2 and "ready" in found)
        change = lambda one: resources.with_spec(one, cancel=True)  # noqa: E731
        await house.resources.change(work.Task, "default", task.uid, change)
        assert (await house.ended(task.uid)).status.state is work.TaskState.CANCELLED
    await lies_wholly_in(house, made, local, narrow, other)
    assert (await house.read(made)).status.state is vm.State.RUNNING
    assert await jobs(house, made) == []
    assert not any("_" in one["node-name"] for one in await nodes(house, made))
    done(await move(house, made, "other"))
    done(await house.ask("vm.kill", made))
    await lies_wholly_in(house, made, other, local, narrow)


@pytest.mark.fault
async def test_a_store_that_cannot_say_that_the_disks_went_over_leaves_one_place_that_counts(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    local, other = await house.resources.find(ground.Storage, None, "local"), await house.storage("other")
    made = await house.create(start=True, **BLANK)
    before, commit = (await house.read(made)).status.pid, filling.commit
    failed: list[vm.VM] = []

    async def fails_at_first(*arguments: Any) -> None:
        if len(failed) < 2:
            failed.append(await house.read(made))
            raise resources.Missing(kind="image", name="gone")
        await commit(*arguments)

    monkeypatch.setattr(filling, "commit", fails_at_first)
    done(await move(house, made, "other"))
    assert {one.spec.storage for one in failed} == {local.uid}
    running = await house.becomes(made, vm.State.RUNNING)
    assert running.status.pid != before, "it went on in files that the store did not know"
    await lies_wholly_in(house, made, other, local)


@pytest.mark.fault
async def test_what_still_merges_and_nobody_waits_for_ends_before_its_files_are_copied(house: House):
    local, other = await house.resources.find(ground.Storage, None, "local"), await house.storage("other")
    made = await kept_twice(house)
    done(await house.ask("vm.start", made))
    before = await contents_of(house)
    [volume, _] = await house.node.preparation.disks.of(await house.read(made))
    monitor, middle = await qmp(house, made), pathlib.Path(layers.chain(volume.spec)[1])
    names = [one["node-name"] for one in await nodes(house, made)]
    base = next(name for name in names if re.fullmatch(r"disk0\.\d", name))
    asked = {"device": "disk0", "top-node": chain.node_of("disk0", middle), "base-node": base, "speed": 1}
    stats = await monitor.execute("query-blockstats")
    asked["device"] = next(one["node-name"] for one in stats if "/disk0/" in one.get("qdev", ""))
    held = {"auto-dismiss": False, "auto-finalize": False}  # each drain ends the pause that its speed demands
    await monitor.execute("block-commit", {"job-id": "merge-disk0", **held, **asked})
    assert await jobs(house, made) in (["running"], ["pending"])
    done(await move(house, made, "other"))
    assert await jobs(house, made) == []
    done(await house.ask("vm.kill", made))
    await lies_wholly_in(house, made, other, local)
    assert await contents_of(house) == before


@pytest.mark.fault
async def test_a_merge_that_ended_while_nobody_looked_is_durable_before_its_layer_goes(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    made = await kept_twice(house)
    done(await house.ask("vm.start", made))
    flushed, flush = [], layering.flush

    async def noted(at: Any, node: str) -> None:
        flushed.append(node)
        await flush(at, node)

    async def cut_off(*_: object, **__: object) -> None:
        raise overlaying.Later

    monkeypatch.setattr(layering, "flush", noted)
    with monkeypatch.context() as patch:
        patch.setattr(layering, "_settle", cut_off)  # the job ends, and the daemon is not there
        task = work.task("vm.snapshot-delete", subject=made.ref, host=house.node.ground.uid, name="first")
        first = (await house.kept(made))["first"]
        task = task.model_copy(update={"spec": task.spec.model_copy(update={"params": {"snapshot": first.uid}})})
        await house.resources.create(task)
        await house.until(lambda: jobs(house, made), lambda found: "concluded" in found)
        assert flushed == []
    await house.ended(task.uid)
    assert {node.partition(".")[0] for node in flushed} == {"disk0", "disk1"}


async def test_what_the_definition_does_not_know_of_holds_up_a_move(house: House):
    await house.storage("other")
    made = await house.create("box", **BLANK | {"disks": [{"size": "1M"}, {"size": "1M", "bus": "sata"}]})
    done(await house.ask("vm.start", made))
    disks = made.spec.disks
    await change(house, made, disks=disks[:-1])  # which a running machine keeps until its next cold start
    assert problem(await move(house, made, "other")) == "move-disk-apart"
    done(await house.ask("vm.kill", made))
    done(await move(house, made, "other"))


async def test_firmware_variables_go_on_at_the_new_place(house: House):
    made = await house.create(memory="64M", disk="1M", nics=[], firmware="uefi", start=True)
    local, other = await house.resources.find(ground.Storage, None, "local"), await house.storage("other")
    for storage, old in ((other, local), (local, other)):
        done(await move(house, made, storage.name))
        await lies_wholly_in(house, made, storage, old)
        place = await place_of(house, made)
        links = [path.resolve() for path in pathlib.Path(f"/proc/{(await house.read(made)).status.pid}/fd").iterdir()]
        assert place.firmware_variables in links


async def jobs(house: House, made: vm.VM) -> list[str]:
    return [str(job["status"]) for job in await (await qmp(house, made)).execute("query-jobs")]
