"""A move that meets what may happen: a database that is lost, a storage that hangs or is deleted, a QEMU that dies."""

from __future__ import annotations

import asyncio
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from bocage import errors, home, reach
from bocage.engine.qemu import carrying, link, processes, qmp, saved
from bocage.model import ground, vm, work
from bocage.node.jobs import storages
from bocage.node.life import filling
from bocage.node.place import directory
from tests.node import crash, hanging, test_crash
from tests.node.house import BLANK, House
from tests.node.test_crash import EVERY, fill
from tests.node.test_moving import move
from tests.node.test_relocating import lies_wholly_in
from tests.node.test_snapshots import done
from tests.node.test_snapshots import qmp as monitor_of
from tests.node.test_wishes import problem

pytestmark = pytest.mark.fault

_FEW = 3
_WROTE = 9  # what the guest of a VM has written last


async def begun(house: House, made: vm.VM, to: ground.Storage) -> str:
    """A move that stands before its end, for as long as `is_read` says so; its uid."""
    task = work.task("vm.move", subject=made.ref, host=house.node.ground.uid, storage=to.uid)
    await house.resources.create(task)
    ready = lambda told: any(one["status"] == "ready" for one in told)  # noqa: E731
    await house.until(lambda: jobs(house, made), ready)
    return task.uid


async def jobs(house: House, made: vm.VM) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = await (await monitor_of(house, made)).execute("query-jobs")
    return found


async def wrote(execute: Callable[..., Awaitable[Any]], command: str) -> str:
    """Have something written through the device of the first disk, as its guest would."""
    stats = await execute("query-blockstats")
    device = next(one["qdev"] for one in stats if "/disk0/" in one.get("qdev", ""))
    return str(await execute("human-monitor-command", {"command-line": f'qemu-io -d {device} "{command}"'}))


async def first_word(house: House, made: vm.VM) -> int:
    """What stands at the beginning of the first disk of a VM that is off."""
    [volume, *_] = await house.node.preparation.disks.of(await house.read(made))
    chain = await house.node.preparation.disks.layers(volume, "disk0")
    raw = house.homes.path / "read.raw"
    line = ["qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", str(chain[0].path), str(raw)]
    await asyncio.to_thread(subprocess.run, line, check=True, capture_output=True)
    word = (await asyncio.to_thread(raw.read_bytes))[0]
    raw.unlink()
    return word


@pytest.mark.slow
@pytest.mark.parametrize("deed", ["move", "move-running"])
async def test_of_a_move_that_was_cut_off_whatever_is_adopted_holds_all_that_was_written(
    deed: str, homes: home.Home, dice: random.Random
):
    points = await lost_at(homes, deed, 0)
    chosen = range(1, points + 1) if EVERY else sorted(dice.sample(range(1, points + 1), _FEW))
    for point in chosen:
        await lost_at(homes, deed, point)


async def lost_at(homes: home.Home, deed: str, point: int) -> int:
    """The daemon dies at a point of a move, its VM writes where its vCPUs run, and ends; then the database is lost."""
    print(f"{deed} and the database lost at {point}")
    async with test_crash.opened(homes) as house:
        made = await house.create("box", **BLANK)
        await fill(house, made, 1)
        await house.storage("other")
        if deed == "move-running":
            done(await house.ask("vm.start", made))
    points, word = crash.die_at(homes.path, deed, point), 1
    if found := [one for one in processes.find(homes.runtime) if "qemu-system" in one.arguments[0]]:
        async with await qmp.connect(homes.vm_runtime(made.uid) / "io" / "qmp", within=60.0) as monitor:
            if (await monitor.execute("query-status"))["status"] == "running":
                await wrote(monitor.execute, f"write -P {_WROTE} 0 64k")
                await wrote(monitor.execute, "flush")
                word = _WROTE
        for one in found:
            processes.send(one.identity, signal.SIGKILL)
    for path in homes.path.glob("bocage.db*"):
        path.unlink()
    async with test_crash.opened(homes) as house:
        if point % 2:
            await house.adopt_local()  # while nobody knows of the other one
        other = await house.storage("other")
        await house.ask("adopt", storage=other.uid, new_identity=False)
        await house.adopt_local()
        [again] = (await house.resources.list(vm.VM)).items
        assert again.uid == made.uid
        await house.ask("vm.kill", again)
        assert await first_word(house, again) == word, f"it was not on {again.spec.storage} that it wrote last"
        done(await house.ask("vm.delete", again, purge=True))
        for storage in (await house.resources.list(ground.Storage)).items:
            for left in (pathlib.Path(storage.spec.path) / "vms").iterdir():  # a new storage was not swept
                shutil.rmtree(left)
        done(await house.ask("storage.delete", other))
        shutil.rmtree(other.spec.path)
    return points or 0


async def test_of_two_directories_of_a_vm_the_older_one_is_never_adopted(house: House):
    made = await house.create(**BLANK)
    local, other = await house.resources.find(ground.Storage, None, "local"), await house.storage("other")
    old, new = house.place(made), directory.Directory(pathlib.Path(other.spec.path) / "vms" / made.uid)
    aside = old.path.with_name("aside")
    shutil.copytree(old.path, aside)
    done(await move(house, made, "other"))
    aside.rename(old.path)
    await house.close()
    for path in house.homes.path.glob("bocage.db*"):
        path.unlink()
    again = await House(house.homes).open()
    try:
        await again.storage("other")
        refused = await again.adopt_local()
        assert problem(refused) == "adopt-older"
        assert refused.status.problem
        assert refused.status.problem.params["newer"] == str(new.path)
        held = new.definition.read_bytes()
        new.definition.write_bytes(old.definition.read_bytes())
        assert problem(await again.adopt_local()) == "adopt-twice"
        new.definition.write_bytes(held)
        half_made = old.path.with_name(f"{made.uid}.0123.part")
        old.path.rename(half_made)
        assert done(await again.adopt_local()).status.result["adopted"] == []
        assert problem(await again.ask("adopt", directories=[str(half_made)], new_identity=False)) == "adopt-half-made"
        done(await again.ask("adopt", storage=other.uid, new_identity=False))
        [found] = (await again.resources.list(vm.VM)).items
        assert found.spec.storage == other.uid
        assert local.uid != other.uid
    finally:
        await again.close()


async def test_a_storage_that_a_vm_is_moved_to_is_not_deleted_before_it_is_there(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    local, other = await house.resources.find(ground.Storage, None, "local"), await house.storage("other")
    made = await house.create(start=True, **BLANK)
    with monkeypatch.context() as patch:
        patch.setattr(house.node.preparation.in_use, "is_read", lambda _: True)
        moving = await begun(house, made, other)
        assert problem(await house.ask("storage.delete", other)) == "storage-in-use"
    done(await house.ended(moving))
    await lies_wholly_in(house, made, other, local)
    done(await move(house, made, "local"))
    commit = filling.commit

    async def deleted_first(*arguments: Any) -> None:
        await house.resources.delete(await house.resources.get(ground.Storage, None, other.uid))
        await commit(*arguments)

    monkeypatch.setattr(filling, "commit", deleted_first)
    done(await house.ask("vm.kill", made))
    assert problem(await move(house, made, "other")) == "not-found"
    await lies_wholly_in(house, made, local, other)


async def test_who_copies_from_a_vm_is_waited_for_before_its_old_place_goes(house: House):
    local, other = await house.resources.find(ground.Storage, None, "local"), await house.storage("other")
    made = await house.create(**BLANK)
    old, new = house.place(made), directory.Directory(pathlib.Path(other.spec.path) / "vms" / made.uid)
    with house.node.preparation.in_use.copied([made]), house.node.preparation.in_use.read(made.uid, made.name):
        task = work.task("vm.move", subject=made.ref, host=house.node.ground.uid, storage=other.uid)
        await house.resources.create(task)
        await house.until(lambda: asyncio.to_thread(new.exists), bool)
        assert (await house.read(made)).spec.storage == local.uid
        assert old.definition.exists()
        assert not new.definition.exists(), "it counts for nothing yet"
    done(await house.ended(task.uid))
    await lies_wholly_in(house, made, other, local)


@pytest.mark.parametrize("moment", ["mirrored", "before the store says so", "after the store has said so"])
async def test_a_qemu_that_dies_in_the_middle_of_a_move_is_started_again_where_its_disks_are(
    house: House, monkeypatch: pytest.MonkeyPatch, moment: str
):
    local, other = await house.resources.find(ground.Storage, None, "local"), await house.storage("other")
    made = await house.create(start=True, **BLANK)
    before, commit = (await house.read(made)).status.pid, filling.commit
    assert before

    async def dies(*arguments: Any) -> None:
        if moment == "after the store has said so":
            await commit(*arguments)
        os.kill(before, signal.SIGKILL)
        if moment == "before the store says so":
            raise errors.TimedOut(what="the store", bound=1.0)

    with monkeypatch.context() as patch:
        if moment == "mirrored":
            patch.setattr(house.node.preparation.in_use, "is_read", lambda _: True)
            moving = await begun(house, made, other)
            os.kill(before, signal.SIGKILL)
            await house.until(lambda: house.read(made), lambda one: one.status.pid != before)
            patch.undo()
            ended = await house.ended(moving)
        else:
            patch.setattr(filling, "commit", dies)
            ended = await move(house, made, "other")
    again = await house.until(lambda: house.read(made), lambda one: one.status.pid not in (None, before))
    assert again.status.restarts == 1
    if moment == "after the store has said so":
        done(ended)
        await lies_wholly_in(house, made, other, local)
    else:
        assert problem(ended) == "move-ended-meanwhile"
        await lies_wholly_in(house, made, local, other)


class Hanging:
    """A file system that can hang."""

    def __init__(self, backing: pathlib.Path, at: pathlib.Path) -> None:
        self.at = at
        line = [sys.executable, hanging.__file__, str(backing), str(at)]
        self._server = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
        assert self._server.stdout
        assert self._server.stdout.readline() == "ready\n"

    def hang(self) -> None:
        self._server.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._server.send_signal(signal.SIGCONT)

    def off(self) -> None:
        self._server.kill()  # what waits there fails
        self._server.wait()
        subprocess.run(["umount", "-l", str(self.at)], check=False)


@pytest.fixture
def slow(tmp_path: pathlib.Path, homes: home.Home) -> Iterator[Hanging]:
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        pytest.skip("needs root and FUSE")
    (backing := tmp_path / "backing").mkdir(mode=0o711)
    (at := homes.path / "slow").mkdir(mode=0o711)
    made = Hanging(backing, at)
    try:
        yield made
    finally:
        made.off()


@pytest.mark.slow
@pytest.mark.parametrize("way", ["vm.kill", "vm.stop", "between"])
async def test_a_vm_is_stopped_and_started_whatever_the_storage_does_that_it_was_to_be_moved_to(
    house: House, slow: Hanging, monkeypatch: pytest.MonkeyPatch, way: str
):
    root = slow.at / "s"
    local, other = await house.resources.find(ground.Storage, None, "local"), await house.storage("slow", root)
    made = await house.create(start=True, **BLANK)
    for module, name, seconds in (
        (reach, "PATIENCE", 3.0),
        (carrying, "_STAY_BOUND", 1.0),
        (carrying, "_OVER_BOUND", 2.0),
    ):
        monkeypatch.setattr(module, name, seconds)
    with monkeypatch.context() as patch:
        if way == "between":
            moving = await hung_between(house, slow, made, other, patch)
        else:
            patch.setattr(house.node.preparation.in_use, "is_read", lambda _: True)
            moving = await begun(house, made, other)
            slow.hang()
            await wrote((await monitor_of(house, made)).execute, "aio_write -P 5 0 64k")  # which never comes back
        bound: dict[str, Any] = {"within": 1.0, "kill": True} if way == "vm.stop" else {}
        done(await house.ask("vm.stop" if way == "vm.stop" else "vm.kill", await house.read(made), **bound))
    await storages.measure(house.node.shop, await house.resources.get(ground.Storage, None, other.uid))
    seen = (await house.resources.get(ground.Storage, None, other.uid)).status
    assert seen.reason
    assert (seen.state, seen.reason.type) == ("unavailable", "storage-hangs")
    done(await house.ask("vm.start", await house.read(made)))
    assert problem(await house.ended(moving)) == "storage-hangs"
    there = await house.read(made)
    assert (there.spec.storage, there.status.state) == (local.uid, vm.State.RUNNING)
    slow.go_on()
    await house.until(lambda: asyncio.to_thread(lambda: list((root / "vms").iterdir())), lambda left: left == [])
    done(await move(house, made, "slow"))
    await lies_wholly_in(house, made, other, local)


async def hung_between(house: House, slow: Hanging, made: vm.VM, to: ground.Storage, patch: pytest.MonkeyPatch) -> str:
    """A move whose storage hangs while the vCPUs stand."""
    go_over = carrying.Carrying.go_over

    async def hangs(*arguments: Any) -> None:
        await wrote((await monitor_of(house, made)).execute, "write -P 5 0 64k")  # which is not flushed there
        slow.hang()
        await go_over(*arguments)

    patch.setattr(carrying.Carrying, "go_over", hangs)
    task = work.task("vm.move", subject=made.ref, host=house.node.ground.uid, storage=to.uid)
    await house.resources.create(task)
    await house.until(house.events, lambda types: "move-stands-between" in types)
    return task.uid


@pytest.mark.slow
async def test_a_save_onto_a_storage_that_hangs_is_given_up_and_the_daemon_waits_for_nothing(
    house: House, slow: Hanging, monkeypatch: pytest.MonkeyPatch
):
    await house.storage("slow", slow.at / "s")
    made = await house.create(start=True, storage="slow", **BLANK)
    elsewhere = await house.create("elsewhere", **BLANK)
    is_written = saved._is_written

    async def hangs(at: link.Link) -> bool:
        written = await is_written(at)
        slow.hang()
        return written

    with monkeypatch.context() as patch:
        patch.setattr(saved, "_is_written", hangs)
        patch.setattr(reach, "PATIENCE", 3.0)
        saving = asyncio.create_task(house.ask("vm.save", made))
        await house.until(lambda: house.read(made), lambda one: one.spec.power is vm.Power.SAVED)
        done(await house.ask("vm.start", elsewhere))  # by the same loop, and the same threads
        assert problem(await saving) == "storage-hangs"
    running = await house.until(lambda: house.read(made), lambda one: one.spec.power is vm.Power.RUNNING)
    slow.go_on()
    await house.until(lambda: house.read(made), lambda one: one.status.state is vm.State.RUNNING)
    assert (await house.read(made)).status.pid == running.status.pid
    done(await house.ask("vm.save", made))
    done(await house.ask("vm.start", made))
    done(await house.ask("vm.kill", made))
