"""A power cut of the whole host while a guest logs and snapshots come and go; the disk forgets what nobody flushed."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import multiprocessing
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from bocage import home
from bocage.engine.qemu import console, processes
from bocage.model import ground, vm, work
from bocage.planner import layers
from bocage.storage import qcow2
from tests.node import forgetful
from tests.node.house import House
from tests.storage.test_devices import REAL

FUSE = pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs FUSE")
pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.guest, REAL, FUSE]

_ROUNDS = 3  # snapshots taken before the cut, at least
_context = multiprocessing.get_context("forkserver")


class Disk:
    """A file system on a disk that forgets, mounted at `at`."""

    def __init__(self, scratch: pathlib.Path, at: pathlib.Path, seed: str) -> None:
        self.backing, self._fuse, self.at = scratch / "backing", scratch / "fuse", at
        self._fuse.mkdir()
        with self.backing.open("wb") as file:
            file.truncate(1 << 30)
        line = [sys.executable, forgetful.__file__, str(self.backing), str(self._fuse), seed]
        self._server = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._said() == "ready"
        self._loop = _run("losetup", "--find", "--show", str(self._fuse / "disk"))
        _run("mkfs.ext4", "-q", self._loop)
        _run("mount", self._loop, str(at))
        at.chmod(0o711)

    def cut(self) -> None:
        """Nothing that is written from now on is kept."""
        assert self._server.stdin
        self._server.stdin.write("cut\n")
        self._server.stdin.flush()
        print("sectors lost and kept of those that nobody had flushed:", self._said())

    def again(self) -> None:
        """The machine starts anew: what is left of the file system, on a disk that does not forget."""
        self.off()
        self._loop = _run("losetup", "--find", "--show", str(self.backing))
        _run("mount", self._loop, str(self.at))

    def off(self) -> None:
        for line in (["umount", "-l", str(self.at)], ["losetup", "-d", self._loop], ["umount", "-l", str(self._fuse)]):
            subprocess.run(line, check=False, capture_output=True)
        self._server.kill()
        self._server.wait()

    def _said(self) -> str:
        assert self._server.stdout
        return self._server.stdout.readline().strip()


def _run(*line: str) -> str:
    return subprocess.run(line, check=True, capture_output=True, text=True, timeout=120).stdout.strip()


@pytest.fixture
def disk(homes: home.Home, tmp_path: pathlib.Path, dice: random.Random) -> Iterator[Disk]:
    made = Disk(tmp_path, homes.path, str(dice.random()))
    try:
        yield made
    finally:
        for found in processes.find(homes.runtime):
            with contextlib.suppress(processes.Gone):
                processes.send(found.identity, signal.SIGKILL)
        made.off()


async def test_no_acknowledged_write_is_lost_by_a_power_cut_while_snapshots_come_and_go(
    homes: home.Home, disk: Disk, dice: random.Random, tiny_image: pathlib.Path
):
    acknowledged = await lived_until_the_cut(homes, disk, dice, tiny_image, cache="writeback")
    for path in sorted(homes.path.rglob("disks/*.qcow2")):
        assert not (await qcow2.check(path)).corruptions, path
    assert await verified(homes, all_of_it=True) >= acknowledged


async def test_with_an_unsafe_cache_the_same_cut_loses_acknowledged_writes(
    homes: home.Home, disk: Disk, dice: random.Random, tiny_image: pathlib.Path
):
    acknowledged = await lived_until_the_cut(homes, disk, dice, tiny_image, cache="unsafe")
    assert await verified(homes) < acknowledged


async def lived_until_the_cut(
    homes: home.Home, disk: Disk, dice: random.Random, image: pathlib.Path, *, cache: str
) -> int:
    """The last record that the guest knew to be durable."""
    ours, theirs = _context.Pipe(duplex=False)
    child = _context.Process(target=_live, args=(homes.path, image, cache, dice.random(), theirs))
    child.start()
    theirs.close()
    log = pathlib.Path(await asyncio.to_thread(ours.recv))
    while await asyncio.to_thread(ours.recv) < _ROUNDS:
        pass
    await asyncio.sleep(dice.uniform(0.0, 3.0))
    said = re.findall(rb"tiny: log (\d+)\r?\n", await asyncio.to_thread(log.read_bytes))
    disk.cut()
    child.kill()
    child.join()
    for found in processes.find(homes.runtime):
        with contextlib.suppress(processes.Gone):
            processes.send(found.identity, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while processes.find(homes.runtime) and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    shutil.rmtree(homes.runtime, ignore_errors=True)
    disk.again()
    return int(said[-1])


def _live(path: pathlib.Path, image: pathlib.Path, cache: str, seed: float, told: Any) -> None:
    os.environ["BOCAGE_HOME"] = str(path)
    asyncio.run(_snapshots_come_and_go(image, cache, random.Random(seed), told))


async def _snapshots_come_and_go(image: pathlib.Path, cache: str, dice: random.Random, told: Any) -> None:
    house = await House(home.Home.from_environment()).open()
    await house.add_image(image)
    disks = [{"size": "16M", "cache": cache}]
    made = await house.create(start=True, image="tiny", memory="128M", disk="64M", nics=[], disks=disks)
    await house.says(made, "^tiny: ready")
    await house.says(made, "^tiny: log 5$", send="tiny log /dev/vdb")
    told.send(str(house.place(made).serial_log))
    number = 0
    while True:
        # To write memory durably flushes much else, too, and what an unsafe cache is to lose with it.
        await house.keep(made, f"s{number}", memory=cache != "unsafe" and dice.random() < 0.4)
        if number:
            await house.forget(made, f"s{number - 1}")
        number += 1
        told.send(number)


async def verified(homes: home.Home, *, all_of_it: bool = False) -> int:
    """The last record that the guest finds; -1 when the log, or what it lies on, is broken.

    With `all_of_it` what else is there is looked at before, too.
    """
    house = House(homes)
    house.last_boot = "before the cut"
    await house.open()
    try:
        [made] = (await house.resources.list(vm.VM)).items
        await house.until(
            lambda: house.resources.list(work.Task), lambda found: all(one.status.state.ended for one in found.items)
        )
        if all_of_it:
            await every_snapshot_is_whole(house, made)
        if (await house.ask("vm.start", made)).status.state is not work.TaskState.DONE:
            return -1
        try:
            await house.says(made, "^tiny: ready")
            line = await house.says(made, "^tiny: (verified|bad|gap)", send="tiny verify /dev/vdb")
        except console.Error as error:
            print(error, house.place(made).serial_log.read_bytes()[-2000:])
            return -1
        print(line)
        found = re.fullmatch(r"tiny: verified (\d+)\r?", line)
        return int(found[1]) if found else -1
    finally:
        for one in (await house.resources.list(vm.VM)).items:
            await house.ask("vm.kill", one)
        await house.close()


async def every_snapshot_is_whole(house: House, made: vm.VM) -> None:
    """What each is made of opens and is without fault down to the image; `vm.yaml` names the same ones."""
    place, disks = house.place(made), house.node.preparation.disks
    kept = (await house.kept(made)).values()
    print("snapshots after the cut:", [(one.name, one.status.consistency) for one in kept])
    assert [one.status for one in place.read().snapshots] == [one.status for one in kept]
    known = {one.uid: one for one in await disks.of(await house.read(made))}
    for one in kept:
        assert one.status.state == "ready", one.name
        assert place.memory_of(one.uid)[0].exists() == one.spec.memory, one.name
        for disk in one.status.disks:
            spec = known[disk.volume].spec
            files = await disks.chain(known[disk.volume], disk.disk, top=disk.file)
            assert len(files) == len(layers.chain(spec, disk.file)) + spec.linked, "down to the image"
            for file in files:
                if file.format == "qcow2":
                    assert not (await qcow2.check(file.path)).corruptions, file.path
            read = ["qemu-io", "-r", "-f", files[0].format, "-c", f"read 0 {int(disk.size)}", str(files[0].path)]
            said = await asyncio.to_thread(subprocess.run, read, check=True, capture_output=True, text=True)
            assert "failed" not in said.stdout, said.stdout
    for image in (await house.resources.list(ground.Image)).items:
        stored = await disks.image_file(image.spec.storage, image.spec.sha256)
        assert stored is not None
        if stored.suffix == ".qcow2":
            assert await qcow2.check(stored) == qcow2.Health(leaks=False, corruptions=False)
        else:
            assert hashlib.sha256(await asyncio.to_thread(stored.read_bytes)).hexdigest() == image.spec.sha256
