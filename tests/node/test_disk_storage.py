"""A storage on a disk of its own: made, found again, refused, and let go."""

from __future__ import annotations

import asyncio
import os
import pathlib
import uuid

import pytest

from bocage.model import base, ground, vm, work
from bocage.storage import filesystems
from bocage.store import resources
from tests.node.house import BLANK, BOUND, House
from tests.storage.test_devices import REAL, loop

pytestmark = REAL


async def created(house: House, disk: str) -> work.Task:
    spec = ground.StorageSpec(host=house.node.ground.uid, path=str(house.homes.path / "own"), disks=(disk,))
    made = ground.Storage(metadata=base.Metadata(name="own"), spec=spec)
    await house.resources.create(made)
    return await house.ask("storage.create", made)


async def ready(house: House) -> ground.Storage:
    async def read() -> ground.Storage:
        return await house.resources.find(ground.Storage, None, "own")

    return await house.until(read, lambda one: one.status.state == "ready")


async def test_a_disk_becomes_a_storage_that_is_mounted_again_and_let_go(house: House, tmp_path: pathlib.Path):
    with loop(tmp_path / "disk") as disk:
        assert (await created(house, disk)).status.state is work.TaskState.DONE
        made = await ready(house)
        root = pathlib.Path(made.spec.path)
        one = await house.create("one", storage="own", **BLANK)
        copy, task = await house.clone(one, "copy")
        assert task.status.state is work.TaskState.DONE, task.status
        await house.close()
        await filesystems.unmount(root)  # the machine is started anew
        again = await House(house.homes).open()
        try:
            assert os.path.ismount(root)
            assert (await ready(again)).uid == made.uid
            for gone in (one, copy):
                assert (await again.ask("vm.delete", gone, purge=True)).status.state is work.TaskState.DONE
            assert [one.name for one in (await again.resources.list(vm.VM)).items] == []
            assert (await again.ask("storage.delete", made)).status.state is work.TaskState.DONE
            assert not os.path.ismount(root)
        finally:
            await again.close()
            await filesystems.unmount(root)


MDADM = """#!/bin/sh
echo "$@" >>"$0.log"
case "$*" in
    "--detail --scan") [ ! -e "$0.runs" ] || cat "$0.runs" ;;
    "--stop /dev/md127") if grep -q ROOT /proc/mounts; then echo "it is in use" >&2; exit 1; fi; rm "$0.runs" ;;
    *) exit 2 ;;
esac
"""


async def test_the_array_of_a_mirror_is_stopped_when_that_is_let_go(
    house: House, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    """mdadm is told to stop the one that bears the uid, when nothing lies on it any more. Real ones: tests/server."""
    with loop(tmp_path / "disk") as disk:
        assert (await created(house, disk)).status.state is work.TaskState.DONE
        made = await ready(house)
        other = uuid.uuid4().hex
        mdadm = tmp_path / "mdadm"
        mdadm.write_text(MDADM.replace("ROOT", made.spec.path))
        mdadm.chmod(0o755)
        runs, mine = tmp_path / "mdadm.runs", uuid.UUID(made.uid).hex
        words = [":".join(one[at : at + 8] for at in range(0, 32, 8)) for one in (other, mine)]
        runs.write_text(f"ARRAY /dev/md126 UUID={words[0]}\nARRAY /dev/md127 metadata=1.2 UUID={words[1]}\n")
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        await house.resources.change(
            ground.Storage, None, made.uid, lambda one: resources.with_spec(one, disks=(disk, "/dev/another"))
        )
        assert (await house.ask("storage.delete", made)).status.state is work.TaskState.DONE
        assert not runs.exists()
        assert not os.path.ismount(made.spec.path)


async def test_what_bears_a_signature_is_refused_and_no_storage_is_left(house: House, tmp_path: pathlib.Path):
    with loop(tmp_path / "disk") as disk:
        with open(disk, "r+b") as device:
            device.seek(510)
            device.write(b"\x55\xaa")  # a partition table
        refused = await created(house, disk)
        assert refused.status.problem is not None
        assert refused.status.problem.type == "disk-not-empty"
        assert {one.name for one in (await house.resources.list(ground.Storage)).items} == {"local"}


@pytest.mark.fault
async def test_a_daemon_that_ends_between_making_and_mounting_goes_on_from_there(
    house: House, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    reached = asyncio.Event()

    async def hang(*_: object) -> None:
        reached.set()
        await asyncio.Event().wait()

    with loop(tmp_path / "disk") as disk:
        with monkeypatch.context() as patch:
            patch.setattr(filesystems, "mount", hang)
            creating = asyncio.create_task(created(house, disk))
            await asyncio.wait_for(reached.wait(), BOUND)
            creating.cancel()
            await house.close()
        again = await House(house.homes).open()
        try:
            made = await ready(again)
            assert os.path.ismount(made.spec.path)
        finally:
            await again.close()
            await filesystems.unmount(pathlib.Path(made.spec.path))
