"""Disks of a host and file systems on them: loop devices for the real thing, recorded answers for SMART."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import subprocess
import uuid
from collections.abc import Iterator

import pytest

from bocage.storage import devices, filesystems, sparse

LSBLK = {
    "name": "sda",
    "path": "/dev/sda",
    "type": "disk",
    "size": 4000787030016,
    "model": "ST4000NM0035-1V4",
    "serial": "ZC1",
    "wwn": "0x5000c500a1",
    "tran": "sata",
    "rota": True,
    "ro": False,
    "fstype": None,
    "pttype": "gpt",
    "mountpoints": [None],
    "children": [{"name": "sda1"}, {"name": "sda2"}],
}
REAL = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("losetup") or not shutil.which("mkfs.xfs"),
    reason="needs root, loop devices and xfsprogs",
)


@contextlib.contextmanager
def loop(path: pathlib.Path) -> Iterator[str]:
    """An empty disk of 400 MiB that is a file."""
    with path.open("wb") as file:
        file.truncate(400 << 20)
    made = subprocess.run(["losetup", "--find", "--show", path], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"no loop device: {made.stderr}")
    device = made.stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def run(*command: str | pathlib.Path) -> None:
    subprocess.run(command, check=True)


async def nothing() -> None:
    pass


def test_a_disk_that_is_used_says_by_whom_and_how_it_is():
    smart = {"smart_status": {"passed": True}, "temperature": {"current": 31}, "power_on_time": {"hours": 41203}}
    found = devices.disk(LSBLK, smart)
    assert found.content == ("gpt", "sda1", "sda2")
    assert (found.health, found.temperature, found.hours, found.rotational) == ("good", 31, 41203, True)
    assert devices.disk(LSBLK, {"smart_status": {"passed": False}}).health == "failing"
    assert devices.disk(LSBLK, {}).health == "unknown"


@REAL
async def test_an_empty_disk_becomes_a_file_system_whose_files_share_blocks(tmp_path: pathlib.Path):
    uid, root = str(uuid.uuid4()), tmp_path / "root"
    with loop(tmp_path / "disk") as device:
        await devices.check_empty(device)
        await filesystems.make(root, uid, [device], begun=False, begin=nothing)
        try:
            (root / "one").write_bytes(os.urandom(1 << 20))
            assert await sparse.share(root / "one", root / "two")
            await filesystems.make(root, uid, [device], begun=False, begin=nothing)  # again: what is there stays
            assert (root / "two").read_bytes() == (root / "one").read_bytes()
            with pytest.raises(devices.NotEmpty) as used:
                await devices.check_empty(device)
            assert str(root) in used.value.content
        finally:
            await filesystems.unmount(root)
        with pytest.raises(devices.NotEmpty) as signed:
            await filesystems.make(root, str(uuid.uuid4()), [device], begun=False, begin=nothing)
        assert "xfs" in signed.value.content
        await filesystems.mount(root, uid, [device])
        await filesystems.unmount(root)


@REAL
async def test_one_that_bears_a_signature_is_not_touched(tmp_path: pathlib.Path):
    with loop(tmp_path / "disk") as device:
        run("mke2fs", "-q", "-F", device)
        before = (tmp_path / "disk").read_bytes()
        with pytest.raises(devices.NotEmpty) as caught:
            await filesystems.make(tmp_path / "root", str(uuid.uuid4()), [device], begun=False, begin=nothing)
        assert "ext2" in caught.value.content
        assert (tmp_path / "disk").read_bytes() == before


@REAL
@pytest.mark.fault
async def test_what_was_cut_off_in_the_middle_is_made_whole(tmp_path: pathlib.Path):
    uid, root = str(uuid.uuid4()), tmp_path / "root"
    with loop(tmp_path / "disk") as device:
        run("mke2fs", "-q", "-F", device)  # as if half of something lay there
        await filesystems.make(root, uid, [device], begun=True, begin=nothing)
        assert os.path.ismount(root)
        await filesystems.unmount(root)


@REAL
async def test_what_is_no_disk_is_refused(tmp_path: pathlib.Path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(devices.NotADisk):
            await devices.check_empty(str(path))


@REAL
async def test_all_disks_are_listed(tmp_path: pathlib.Path):
    found = await devices.look()
    assert found
    assert all(one.path.startswith("/dev/") and one.size_bytes > 0 for one in found)
