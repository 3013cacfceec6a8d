"""A storage that fills while a snapshot's file is merged: nothing is lost, it is said, and it goes on by itself."""

from __future__ import annotations

import asyncio
import os
import pathlib
import subprocess

import pytest

from bocage.model import ground, snapshot, vm, work
from bocage.node.life import merging, overlaying
from bocage.node.rounds import alarming
from tests.node.house import House
from tests.node.test_relocating import small  # noqa: F401 - the fixture
from tests.node.test_snapshots import done

pytestmark = pytest.mark.fault


@pytest.mark.parametrize("running", [True, False], ids=["running", "off"])
async def test_a_deletion_that_meets_a_full_storage_waits_says_so_and_ends_when_there_is_room(
    house: House,
    small: pathlib.Path,  # noqa: F811 - the fixture
    monkeypatch: pytest.MonkeyPatch,
    running: bool,
):
    async def fits(*_: object) -> None: ...  # somebody else takes the room in between

    monkeypatch.setattr(merging, "_check_room", fits)
    monkeypatch.setattr(overlaying, "_TRY_AGAIN", 0.5)
    monkeypatch.setattr(alarming, "_AT_LEAST_EVERY", 1.0)
    await house.storage("narrow", small / "narrow", overcommit=True, reserve_percent=0)
    made = await house.create(memory="32M", disk="16M", nics=[], storage="narrow")
    place = (await house.node.preparation.place(made)).disks
    await writes(place / "disk0.qcow2", 1, 0, 2)
    done(await house.keep(made, "before"))
    [volume] = await house.node.preparation.disks.of(await house.read(made))
    await writes(place / volume.spec.file_name, 2, 1, 9)
    if running:
        done(await house.ask("vm.start", made))
    filler = small / "filler"
    with filler.open("wb") as file:
        free = os.statvfs(small)
        file.write(bytes(free.f_bavail * free.f_frsize - (3 << 20)))
    doomed = (await house.kept(made))["before"]
    task = work.task(
        "vm.snapshot-delete", subject=made.ref, host=house.node.ground.uid, snapshot=doomed.uid, name="before"
    )
    await house.resources.create(task)
    await house.until(house.events, lambda types: "waits-for-room" in types)
    alarm = await house.until(lambda: raised(house), lambda types: "alarm-snapshot-waits-for-room" in types)
    assert alarm
    waits = await house.resources.get(work.Task, "default", task.uid)
    assert waits.status.state is work.TaskState.RUNNING
    one = await house.resources.get(snapshot.Snapshot, "default", doomed.uid)
    assert one.status.state == "deleting"
    assert one.status.reason is not None
    assert one.status.reason.type == "waits-for-room"
    assert (await house.events()).count("waits-for-room") == 1
    filler.unlink()
    done(await house.ended(task.uid))
    assert await house.kept(made) == {}
    await house.until(lambda: raised(house), lambda types: "alarm-snapshot-waits-for-room" not in types)
    if running:
        assert (await house.read(made)).status.state is vm.State.RUNNING
        done(await house.ask("vm.kill", made))
    [volume] = await house.node.preparation.disks.of(await house.read(made))
    await holds(house, volume, {0: 1, 1: 2, 9: 2, 10: 0})


async def writes(path: pathlib.Path, pattern: int, first: int, count: int) -> None:
    line = ["qemu-io", "-f", "qcow2", "-c", f"write -P {pattern} {first}M {count}M", str(path)]
    await asyncio.to_thread(subprocess.run, line, check=True, capture_output=True)


async def holds(house: House, volume: ground.Volume, wanted: dict[int, int]) -> None:
    """By MiB, the bytes that stand there."""
    [top, *_] = await house.node.preparation.disks.layers(volume, "disk0")
    for first, pattern in wanted.items():
        line = ["qemu-io", "-f", "qcow2", "-c", f"read -P {pattern} {first}M 1M", str(top.path)]
        said = await asyncio.to_thread(subprocess.run, line, check=True, capture_output=True, text=True)
        assert "failed" not in said.stdout, (first, said.stdout)


async def raised(house: House) -> list[str]:
    return [alarm.spec.said.type for alarm in (await house.resources.list(work.Alarm)).items]
