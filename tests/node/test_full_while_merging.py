"""A storage that fills while chains are made shorter: nothing is lost, it is said, and it goes on by itself."""

from __future__ import annotations

import asyncio
import os
import pathlib
import subprocess
from typing import Any

import pytest

from bocage.model import base, ground, snapshot, vm, work
from bocage.node.life import overlaying
from bocage.node.place import rooms
from bocage.node.rounds import upkeep
from tests.node.house import House
from tests.node.test_relocating import small  # noqa: F401 - the fixture
from tests.node.test_snapshots import done

pytestmark = pytest.mark.fault
_MIB = 1 << 20
WAITING = ["alarm-flatten-waits-for-room", "alarm-snapshot-waits-for-room"]


async def test_what_meets_a_full_storage_waits_says_so_and_ends_when_there_is_room(
    house: House,
    small: pathlib.Path,  # noqa: F811 - the fixture
    monkeypatch: pytest.MonkeyPatch,
):
    """Snapshots that are deleted and VMs that are made independent of their image, while they run and while not."""

    async def fits(*_: object, **__: object) -> None: ...  # somebody else takes the room in between

    monkeypatch.setattr(rooms.Rooms, "check_growth", fits)
    monkeypatch.setattr(overlaying, "_TRY_AGAIN", 0.5)
    monkeypatch.setattr(upkeep, "EVERY", 0.5)
    narrow = await house.storage("narrow", small / "narrow", overcommit=True, reserve_percent=0)
    await add_image(house, narrow, bytes(range(1, 129)) * (4 * _MIB // 128))
    kept = [await holding(house, name) for name in ("kept-on", "kept-off")]
    linked = [
        await house.create(name, image="small", memory="32M", disk="8M", nics=[], storage="narrow")
        for name in ("linked-on", "linked-off")
    ]
    for made in (kept[0], linked[0]):
        done(await house.ask("vm.start", made))
    resize(small, os.statvfs(small).f_blocks - os.statvfs(small).f_bfree + (_MIB // os.statvfs(small).f_frsize))

    doomed = [(await house.kept(made))["before"] for made in kept]
    begun = [
        await begin(house, "vm.snapshot-delete", made, snapshot=one.uid, name="before")
        for made, one in zip(kept, doomed, strict=True)
    ]
    begun += [await begin(house, "vm.flatten", made) for made in linked]
    for said in ("waits-for-room", "flatten-waits-for-room"):
        await house.until(house.events, lambda types, said=said: types.count(said) >= 2)  # type: ignore[misc]
    await house.until(lambda: raised(house), lambda types: types == sorted(WAITING * 2))
    for one in doomed:
        status = (await house.resources.get(snapshot.Snapshot, "default", one.uid)).status
        assert (status.state, status.reason and status.reason.type) == ("deleting", "waits-for-room")
    for uid in begun:
        assert (await house.resources.get(work.Task, "default", uid)).status.state is work.TaskState.RUNNING
    told = await house.events()
    assert [told.count(said) for said in ("waits-for-room", "flatten-waits-for-room")] == [2, 2], "each says it once"

    resize(small, 64 * _MIB // os.statvfs(small).f_frsize)
    for uid in begun:
        done(await house.ended(uid))
    await house.until(lambda: raised(house), lambda types: not set(types) & set(WAITING))
    for made in (kept[0], linked[0]):
        assert (await house.read(made)).status.state is vm.State.RUNNING
        done(await house.ask("vm.kill", made))
    for made in kept:
        assert await house.kept(made) == {}
        await holds(house, made, {0: 1, 1: 2, 4: 2, 5: 0})
    for made in linked:
        [volume] = await house.node.preparation.disks.of(await house.read(made))
        assert not volume.spec.linked
        [only] = await house.node.preparation.disks.layers(volume, "disk0")
        raw = house.homes.path / "read.raw"
        await tool("qemu-img", "convert", "-O", "raw", only.path, raw)
        assert raw.read_bytes()[: 4 * _MIB] == bytes(range(1, 129)) * (4 * _MIB // 128)


def resize(place: pathlib.Path, blocks: int) -> None:
    size = blocks * os.statvfs(place).f_frsize
    subprocess.run(["mount", "-o", f"remount,size={size}", place], check=True)


async def add_image(house: House, storage: ground.Storage, content: bytes) -> None:
    path = house.homes.path / "small.raw"
    path.write_bytes(content)
    subject = base.Ref(kind="image", uid=base.new_uid(), project="default", name="small")
    done(await house.ask("image.add", subject, name="small", path=str(path), storage=storage.uid))


async def holding(house: House, name: str) -> vm.VM:
    """A VM with a snapshot, and more written since than it takes to be merged."""
    made = await house.create(name, memory="32M", disk="8M", nics=[], storage="narrow")
    place = (await house.node.preparation.place(made)).disks
    await tool("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 1M", place / "disk0.qcow2")
    done(await house.keep(made, "before"))
    [volume] = await house.node.preparation.disks.of(await house.read(made))
    await tool("qemu-io", "-f", "qcow2", "-c", "write -P 2 1M 4M", place / volume.spec.file_name)
    return made


async def begin(house: House, action: str, made: vm.VM, **params: Any) -> str:
    task = work.task(action, subject=made.ref, host=house.node.ground.uid, **params)
    await house.resources.create(task)
    return task.uid


async def holds(house: House, made: vm.VM, wanted: dict[int, int]) -> None:
    """By MiB, the bytes that stand there."""
    [volume] = await house.node.preparation.disks.of(await house.read(made))
    [top, *_] = await house.node.preparation.disks.layers(volume, "disk0")
    for first, pattern in wanted.items():
        said = await tool("qemu-io", "-f", "qcow2", "-c", f"read -P {pattern} {first}M 1M", top.path)
        assert "failed" not in said, (first, said)


async def tool(*line: str | pathlib.Path) -> str:
    ended = await asyncio.to_thread(subprocess.run, line, check=True, capture_output=True, text=True)
    return ended.stdout


async def raised(house: House) -> list[str]:
    """Of those that are of this, one word for each."""
    return sorted(
        alarm.spec.said.type
        for alarm in (await house.resources.list(work.Alarm)).items
        if alarm.spec.said.type in WAITING
    )
