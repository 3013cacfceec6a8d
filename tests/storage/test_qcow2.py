import os
import pathlib
import subprocess

import pytest

from bocage.storage import half_made, qcow2, qcow2_header, refusals
from tests.storage import samples


async def test_an_overlay_names_its_backing_file_relative_to_itself_and_works_after_a_move(
    tmp_path: pathlib.Path,
) -> None:
    here = tmp_path / "storage"
    (here / "images").mkdir(parents=True)
    (here / "vms" / "a vm").mkdir(parents=True)
    base = samples.image(here / "images", "qcow2")
    path = here / "vms" / "a vm" / "disk.qcow2"

    await qcow2.create_overlay(path, backing_relative="../../images/sample.qcow2", backing_format="qcow2", size=8 << 20)

    header = qcow2.check_header(path, backing="../../images/sample.qcow2", backing_format="qcow2", size=8 << 20)
    assert header.virtual_size == 8 << 20
    there = here.rename(tmp_path / "moved")
    moved = there / path.relative_to(here)
    assert samples.info(moved, "qcow2")["full-backing-filename"] == str(moved.parent / "../../images/sample.qcow2")
    flat = tmp_path / "flat.raw"
    samples.qemu_img("convert", "-O", "raw", moved, flat)
    assert flat.read_bytes()[1 << 20 : (1 << 20) + 7] == b"Bocage "
    assert base.name == "sample.qcow2"


@pytest.mark.parametrize("size", [512, 8 << 20, (512 << 20) + 512, 10 << 30, 64 << 40, qcow2_header.MOST])
async def test_an_overlay_is_what_qemu_makes_and_takes_writes_anywhere(size: int, tmp_path: pathlib.Path) -> None:
    path, theirs = tmp_path / "ours.qcow2", tmp_path / "theirs.qcow2"
    await qcow2.create_overlay(path, backing_relative="base.raw", backing_format="raw", size=size)
    samples.qemu_img("create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", "base.raw", theirs, str(size))
    told = [samples.info(one, "qcow2") for one in (path, theirs)]
    for one in told:
        del one["filename"], one["full-backing-filename"], one["actual-size"]
        one.pop("children", None)
    assert told[0] == told[1]
    assert await qcow2.check(path) == qcow2.Health(leaks=False, corruptions=False)
    (tmp_path / "base.raw").write_bytes(bytes(512))
    last = size - 512
    qemu_io(path, "write -P 7 0 512", f"write -P 9 {last} 512")
    assert "verification failed" not in qemu_io(path, f"read -P 9 {last} 512")
    assert await qcow2.check(path) == qcow2.Health(leaks=False, corruptions=False)


@pytest.mark.parametrize("size", [512, (512 << 20) + 512, 10 << 30, qcow2_header.MOST])
def test_an_empty_disk_is_what_qemu_makes_and_takes_writes_anywhere(size: int, tmp_path: pathlib.Path) -> None:
    path, theirs = tmp_path / "ours.qcow2", tmp_path / "theirs.qcow2"
    qcow2.write_empty(path, size)
    samples.qemu_img("create", "-q", "-f", "qcow2", theirs, str(size))
    told = [samples.info(one, "qcow2") for one in (path, theirs)]
    for one in told:
        del one["filename"], one["actual-size"]
        one.pop("children", None)
    assert told[0] == told[1]
    last = size - 512
    assert "verification failed" not in qemu_io(path, f"write -P 9 {last} 512", f"read -P 9 {last} 512")
    samples.qemu_img("check", "-q", "-f", "qcow2", path)


async def test_a_header_that_differs_in_any_field_from_what_is_recorded_is_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "disk.qcow2"
    await qcow2.create_overlay(path, backing_relative="base.qcow2", backing_format="qcow2", size=1 << 20)
    recorded = {"backing": "base.qcow2", "backing_format": "qcow2", "size": 1 << 20}
    qcow2.check_header(path, **recorded)  # type: ignore[arg-type]

    for change in ({"backing": None}, {"backing": "other"}, {"backing_format": "raw"}, {"size": 2 << 20}):
        with pytest.raises(qcow2.HeaderDiffers):
            qcow2.check_header(path, **{**recorded, **change})  # type: ignore[arg-type]

    samples.qemu_img("rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", "/etc/shadow", path)
    with pytest.raises(qcow2.HeaderDiffers) as caught:
        qcow2.check_header(path, **recorded)  # type: ignore[arg-type]
    assert caught.value.found == "/etc/shadow"


def test_a_data_file_and_encryption_are_differences_too(tmp_path: pathlib.Path) -> None:
    for made in (samples.qcow2_with_data_file(tmp_path), samples.qcow2_encrypted(tmp_path)):
        with pytest.raises(qcow2.HeaderDiffers):
            qcow2.check_header(made, backing=None, backing_format=None)


def test_a_truncated_header_is_refused_and_a_link_is_not_followed(tmp_path: pathlib.Path) -> None:
    path = samples.image(tmp_path, "qcow2")
    (tmp_path / "link.qcow2").symlink_to(path)
    with pytest.raises(refusals.NotAFile):
        qcow2.read_header(tmp_path / "link.qcow2")
    os.truncate(path, 50)
    with pytest.raises(refusals.Truncated):
        qcow2.read_header(path)


@pytest.mark.parametrize("name", ["", "/etc/shadow", "json:{}", "nbd:unix:/x", "file:x", "x" * 1024])
async def test_only_plain_relative_names_get_into_a_header(name: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(qcow2.BackingName):
        await qcow2.create_overlay(tmp_path / "o.qcow2", backing_relative=name, backing_format="raw", size=1 << 20)
    assert samples.listing(tmp_path) == []


async def test_an_overlay_does_not_replace_what_is_there(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "o.qcow2"
    path.write_text("precious")
    with pytest.raises(half_made.Exists):
        await qcow2.create_overlay(path, backing_relative="base", backing_format="raw", size=1 << 20)
    assert path.read_text() == "precious"


async def test_rebase_changes_the_name_alone(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "o.qcow2"
    await qcow2.create_overlay(path, backing_relative="a.qcow2", backing_format="qcow2", size=1 << 20)
    await qcow2.rebase(path, backing_relative="../b.raw", backing_format="raw")
    qcow2.check_header(path, backing="../b.raw", backing_format="raw", size=1 << 20)
    await qcow2.rebase(path, backing_relative=None, backing_format=None)
    qcow2.check_header(path, backing=None, backing_format=None)


async def test_check_finds_damage_without_opening_the_backing_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "o.qcow2"
    await qcow2.create_overlay(path, backing_relative="not-there.qcow2", backing_format="qcow2", size=1 << 20)
    assert await qcow2.check(path) == qcow2.Health(leaks=False, corruptions=False)

    damaged = samples.image(tmp_path, "qcow2")
    os.truncate(damaged, damaged.stat().st_size - (128 << 10))
    assert (await qcow2.check(damaged)).corruptions


def qemu_io(path: pathlib.Path, *commands: str) -> str:
    line = ["qemu-io", "-f", "qcow2", *(word for one in commands for word in ("-c", one)), str(path)]
    return subprocess.run(line, check=True, capture_output=True, text=True).stdout
