import os
import pathlib
import time

import pytest

from bocage.storage import directory
from tests.storage import samples


def test_a_storage_is_made_once_and_opened_by_its_uid(tmp_path: pathlib.Path) -> None:
    made = directory.create(tmp_path / "s", "u-1")
    again = directory.create(tmp_path / "s", "u-1")
    opened = directory.open(tmp_path / "s", "u-1")
    assert made.uid == again.uid == opened.uid == directory.uid_at(tmp_path / "s") == "u-1"
    assert sorted(one.name for one in (tmp_path / "s").iterdir()) == [
        "images", "incoming", "storage.yaml", "trash", "vms", "volumes",
    ]  # fmt: skip
    for other in (directory.create, directory.open):
        with pytest.raises(directory.AnotherStorage):
            other(tmp_path / "s", "u-2")


def test_a_storage_is_not_made_among_the_files_of_others(tmp_path: pathlib.Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(directory.NotEmpty):
        directory.create(tmp_path, "u-1")
    assert samples.listing(tmp_path) == ["photos"]


@pytest.mark.fault
def test_an_unmounted_storage_is_seen_and_nothing_is_written_below_its_mount_point(small_disk: pathlib.Path) -> None:
    import subprocess

    storage = directory.create(small_disk, "u-1")
    storage.present()
    subprocess.run(["umount", small_disk], check=True)
    try:
        for use in (storage.present, storage.capacity, storage.sweep, lambda: directory.open(small_disk)):
            with pytest.raises(directory.Gone):
                use()
        assert samples.listing(small_disk) == []
    finally:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "bocage-test", small_disk], check=True)


@pytest.mark.parametrize(
    "text", ["", "version: 1\n", "version: 9\nuid: u-1\n", "uid: [", "version: 1\nuid: 7\n", "\x00"]
)
def test_a_damaged_marker_opens_nothing(text: str, tmp_path: pathlib.Path) -> None:
    directory.create(tmp_path / "s", "u-1")
    (tmp_path / "s/storage.yaml").write_text(text)
    with pytest.raises(directory.TooNew):
        directory.open(tmp_path / "s")


def test_capacity_counts_what_files_really_take_and_links_once(tmp_path: pathlib.Path) -> None:
    storage = directory.create(tmp_path / "s", "u-1")
    before = storage.capacity()
    with open(storage.volumes / "thin", "wb") as file:
        file.truncate(1 << 30)
        file.write(os.urandom(1 << 20))
        file.flush()
        os.fsync(file.fileno())
    os.link(storage.volumes / "thin", storage.vms / "same")
    after = storage.capacity()
    assert 1 << 20 <= after.allocated - before.allocated <= (1 << 20) + 65536
    assert after.total >= after.free > 0


def test_a_sweep_removes_what_is_half_made_and_uploads_that_nobody_goes_on_with(tmp_path: pathlib.Path) -> None:
    storage = directory.create(tmp_path / "s", "u-1")
    storage.sweep()
    (storage.vms / "v1/disks").mkdir(parents=True)
    for name in ("vms/.v2.ab.part", "vms/v1/disks/.disk.ab.part", "images/.x.part", "volumes/.y.part", "trash/.z.part"):
        (storage.root / name).touch()
    for name in ("vms/v1/disks/disk", "incoming/new.part", "incoming/old.part", "incoming/old.note"):
        (storage.root / name).touch()
    long_ago = time.time() - 30 * 86400
    os.utime(storage.root / "incoming/old.part", (long_ago, long_ago))

    assert sorted(storage.sweep()) == [
        "images/.x.part", "incoming/old.part", "trash/.z.part", "vms/.v2.ab.part", "vms/v1/disks/.disk.ab.part",
        "volumes/.y.part",
    ]  # fmt: skip
    assert storage.sweep() == []
    assert sorted(one.name for one in (storage.root / "incoming").iterdir()) == ["boot-id", "new.part"]


def test_uploads_from_before_a_boot_are_not_gone_on_with(tmp_path: pathlib.Path) -> None:
    storage = directory.create(tmp_path / "s", "u-1")
    storage.sweep()
    (storage.root / "incoming/new.part").touch()
    (storage.root / "incoming/boot-id").write_text("another boot\n")
    assert storage.sweep() == ["incoming/new.part"]
