"""A storage that goes away while VMs lie on it, and one that has too little room."""

from __future__ import annotations

import asyncio
import os
import pathlib
import subprocess
from collections.abc import Iterator

import pytest

from bocage.model import ground, vm, work
from bocage.node.place import uids
from tests.node.house import BLANK, House
from tests.node.test_wishes import define, problem

pytestmark = pytest.mark.fault


class Mount:
    """A storage's directory that can be taken away, as an unmounted file system is: an empty one stays."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self._aside = path.with_name(f"{path.name}-aside")

    def take_away(self) -> None:
        self.path.rename(self._aside)
        self.path.mkdir(mode=0o711)

    def bring_back(self) -> None:
        assert list(self.path.iterdir()) == [], "something was written beside the storage"
        self.path.rmdir()
        self._aside.rename(self.path)


@pytest.fixture
async def mount(house: House) -> Mount:
    mount = Mount(house.homes.path / "other")
    await house.storage("other", mount.path)
    return mount


async def test_a_vm_whose_storage_is_away_is_refused_and_nothing_is_written_in_its_place(house: House, mount: Mount):
    made = await house.create(storage="other", **BLANK)
    mount.take_away()
    assert problem(await house.ask("vm.start", made)) == "storage-gone"
    assert (await house.read(made)).spec.power is vm.Power.STOPPED
    _, task = await define(house, "another", storage="other")
    assert problem(await house.ended(task.uid)) == "storage-gone"
    mount.bring_back()
    assert (await house.ask("vm.start", made)).status.state is work.TaskState.DONE


async def test_what_is_deleted_while_its_storage_is_away_is_not_taken_for_gone(house: House, mount: Mount):
    made = await house.create(storage="other", **BLANK)
    mount.take_away()
    assert problem(await house.ask("vm.delete", made, purge=True)) == "storage-gone"
    assert (await house.read(made)).metadata.deleted is not None
    mount.bring_back()
    assert (await house.ask("vm.delete", made)).status.state is work.TaskState.DONE
    assert (mount.path / "trash" / made.uid / "vm.yaml").exists()


async def test_saved_memory_on_a_storage_that_is_away_is_still_saved(house: House, mount: Mount):
    made = await house.create(storage="other", start=True, **BLANK)
    await house.ask("vm.save", made)
    mount.take_away()
    assert problem(await house.ask("vm.start", made)) == "storage-gone"
    kept = await house.read(made)
    assert (kept.spec.power, kept.status.state) == (vm.Power.SAVED, vm.State.SAVED)
    mount.bring_back()
    assert (await house.ask("vm.start", made)).status.state is work.TaskState.DONE
    assert "vm-restored" in await house.events()


async def test_a_daemon_that_starts_while_a_storage_is_away_says_so_and_makes_none_in_its_place(
    house: House, mount: Mount
):
    made = await house.create(storage="other", **BLANK)
    await house.close()
    mount.take_away()
    again = await House(house.homes).open()
    try:
        other = await again.resources.find(ground.Storage, None, "other")
        assert (other.status.state, other.status.reason and other.status.reason.type) == ("unavailable", "storage-gone")
        assert problem(await again.ask("vm.start", made)) == "storage-gone"
        await again.until(again.events, lambda events: "alarm-storage-unavailable" in events)
        mount.bring_back()
        assert (await again.ask("vm.start", made)).status.state is work.TaskState.DONE
    finally:
        await again.close()


async def test_a_lost_database_finds_a_second_storage_under_its_old_uid_with_the_vms_in_it(house: House, mount: Mount):
    made = await house.create(storage="other", **BLANK)
    uid = made.spec.storage
    await house.close()
    for path in house.homes.path.glob("bocage.db*"):
        path.unlink()
    again = await House(house.homes).open()
    try:
        storage = await again.storage("other", mount.path)
        assert storage.uid == uid
        adopted = await again.ask("adopt", storage=storage.uid)
        assert adopted.status.result["adopted"] == ["box"], adopted.status
        assert (await again.ask("vm.start", await again.read(made))).status.state is work.TaskState.DONE
    finally:
        await again.close()


@pytest.fixture
def small_disk(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A file system of 256 MiB of its own."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root; it runs as root in CI")
    image, mounted = tmp_path / "disk.img", pathlib.Path(f"/var/tmp/bocage-test-mount-{os.getpid()}")
    with image.open("wb") as file:
        file.truncate(256 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
    mounted.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(mounted)], check=True)
    (mounted / "lost+found").rmdir()
    mounted.chmod(0o711)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", "-l", str(mounted)], check=True)
        mounted.rmdir()


async def test_what_two_vms_together_could_fill_only_one_of_them_may_run_on(house: House, small_disk: pathlib.Path):
    await house.storage("small", small_disk)
    request = {**BLANK, "disk": "150M", "storage": "small"}
    one, other = [await house.create(name, **request) for name in ("one", "other")]
    both = await asyncio.gather(house.ask("vm.start", one), house.ask("vm.start", other))
    assert sorted(str(task.status.state) for task in both) == ["done", "failed"]
    assert {problem(task) for task in both} == {None, "storage-would-not-fit"}
    running, refused = (one, other) if both[0].status.state is work.TaskState.DONE else (other, one)
    assert problem(await house.ask("vm.disk-grow", running, disk="disk0", size="300M")) == "storage-would-not-fit"
    await house.ask("vm.kill", running)
    assert (await house.ask("vm.start", refused)).status.state is work.TaskState.DONE


async def test_where_overcommitting_is_allowed_both_run(house: House, small_disk: pathlib.Path):
    await house.storage("small", small_disk, overcommit=True)
    for name in ("one", "other"):
        made = await house.create(name, start=True, storage="small", **{**BLANK, "disk": "150M"})
        assert (await house.read(made)).status.state is vm.State.RUNNING


async def test_no_two_vms_have_the_same_uid_whatever_storage_they_lie_on(house: House, mount: Mount):
    if os.geteuid() != 0:
        pytest.skip("only root gives VMs uids of their own; it runs as root in CI")
    here = await house.create("here", start=True, **BLANK)
    await house.close()
    again = await House(house.homes).open()
    try:
        there = await again.create("there", start=True, storage="other", **BLANK)
        owners = {(await again.read(one)).status.isolation.uid for one in (here, there)}
        assert len(owners) == 2
        assert all(owner is not None and owner >= uids.FIRST for owner in owners)
    finally:
        await again.close()
