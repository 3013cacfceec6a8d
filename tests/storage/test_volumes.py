import asyncio
import os
import pathlib

import pytest

from bocage import errors
from bocage.storage import half_made, qcow2, space, sparse, volumes
from tests.storage import samples

MIB = 1 << 20


@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
@pytest.mark.parametrize("preallocate", [False, True])
async def test_a_volume_has_its_size_and_takes_its_room_only_when_asked(
    image_format: str, preallocate: bool, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "disk"
    await volumes.create(path, image_format=image_format, size=32 * MIB, preallocate=preallocate)

    measured = volumes.measure(path, image_format=image_format)
    assert measured.virtual_size == samples.info(path, image_format)["virtual-size"] == 32 * MIB
    assert (measured.allocated >= 32 * MIB) is preallocate
    assert path.stat().st_mode & 0o777 == 0o600
    assert samples.listing(tmp_path) == ["disk"]


@pytest.mark.parametrize(("image_format", "size"), [("qcow2", 0), ("raw", -512), ("raw", 1000), ("vmdk", 512)])
async def test_sizes_and_formats_that_no_volume_has_are_refused(
    image_format: str, size: int, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(volumes.Unfit) as caught:
        await volumes.create(tmp_path / "disk", image_format=image_format, size=size)
    assert isinstance(caught.value, errors.Invalid)
    assert samples.listing(tmp_path) == []


async def test_what_is_there_is_never_replaced(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "disk"
    path.write_text("precious")
    with pytest.raises(half_made.Exists):
        await volumes.create(path, image_format="raw", size=MIB)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
async def test_volumes_grow_and_never_shrink(image_format: str, tmp_path: pathlib.Path) -> None:
    path = samples.image(tmp_path, image_format)
    await volumes.grow(path, image_format=image_format, size=64 * MIB)
    await volumes.grow(path, image_format=image_format, size=64 * MIB)
    assert volumes.measure(path, image_format=image_format).virtual_size == 64 * MIB
    with pytest.raises(volumes.Shrinks):
        await volumes.grow(path, image_format=image_format, size=32 * MIB)
    samples.qemu_img("convert", "-f", image_format, "-O", "raw", path, tmp_path / "flat")
    assert (tmp_path / "flat").read_bytes()[MIB : MIB + 7] == b"Bocage "


async def test_a_disk_whose_header_was_changed_is_not_grown(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "o.qcow2"
    base = volumes.Backing("base.qcow2", "qcow2")
    await volumes.create(tmp_path / "base.qcow2", image_format="qcow2", size=MIB)
    await volumes.create(path, image_format="qcow2", size=MIB, backing=base)
    samples.qemu_img("rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", "/etc/shadow", path)
    with pytest.raises(qcow2.HeaderDiffers):
        await volumes.grow(path, image_format="qcow2", size=2 * MIB, backing=base)
    assert qcow2.read_header(path).virtual_size == MIB


async def test_a_chain_is_flattened_as_it_is_given_and_not_as_the_headers_say(tmp_path: pathlib.Path) -> None:
    base = samples.image(tmp_path, "qcow2")
    top = tmp_path / "to,p:1.qcow2"
    await volumes.create(top, image_format="qcow2", size=8 * MIB, backing=volumes.Backing("nowhere.qcow2", "qcow2"))
    seen: list[tuple[int, int]] = []

    await volumes.convert(
        [volumes.Layer(top, "qcow2"), volumes.Layer(base, "qcow2")],
        tmp_path / "flat.raw",
        image_format="raw",
        progress=lambda done, total: seen.append((done, total)),
    )

    flat = (tmp_path / "flat.raw").read_bytes()
    assert len(flat) == 8 * MIB
    assert flat[MIB : MIB + 7] == b"Bocage "
    assert seen[-1] == (8 * MIB, 8 * MIB)


async def test_a_copy_that_grows_past_its_limit_is_given_up(tmp_path: pathlib.Path) -> None:
    source = tmp_path / "data.raw"
    source.write_bytes(os.urandom(8 * MIB))
    with pytest.raises(volumes.OverLimit):
        await volumes.convert(
            [volumes.Layer(source, "raw")], tmp_path / "copy.qcow2", image_format="qcow2", limit=4 * MIB
        )
    assert samples.listing(tmp_path) == ["data.raw"]


async def test_delete_is_done_when_it_is_gone_already(tmp_path: pathlib.Path) -> None:
    path = samples.raw(tmp_path / "disk")
    await volumes.delete(path)
    await volumes.delete(path)
    assert samples.listing(tmp_path) == []


async def test_a_copy_keeps_the_holes_and_the_contents(tmp_path: pathlib.Path) -> None:
    source = samples.raw(tmp_path / "source", 1 << 30)
    seen: list[tuple[int, int]] = []
    await sparse.copy(source, tmp_path / "copy", progress=lambda done, total: seen.append((done, total)))
    assert (tmp_path / "copy").stat().st_size == 1 << 30
    assert (tmp_path / "copy").stat().st_blocks <= source.stat().st_blocks + 64
    assert samples.qemu_img("compare", "-f", "raw", "-F", "raw", source, tmp_path / "copy")
    await asyncio.sleep(0)
    assert seen[-1] == (1 << 30, 1 << 30)


async def test_a_cancelled_copy_leaves_nothing_and_has_stopped(tmp_path: pathlib.Path) -> None:
    source = samples.noise(tmp_path / "source", 256 * MIB)
    begun = asyncio.Event()
    copying = asyncio.create_task(sparse.copy(source, tmp_path / "copy", progress=lambda *_: begun.set()))
    await asyncio.wait_for(begun.wait(), 20)
    copying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await copying
    assert samples.listing(tmp_path) == ["source"]


@pytest.mark.fault
async def test_on_a_full_disk_every_way_of_making_a_file_says_so_and_leaves_nothing(
    small_disk: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    data = tmp_path / "data.raw"
    data.write_bytes(os.urandom(40 * MIB))
    ways = [
        volumes.create(small_disk / "a", image_format="raw", size=40 * MIB, preallocate=True),
        volumes.create(small_disk / "b", image_format="qcow2", size=40 * MIB, preallocate=True),
        volumes.convert([volumes.Layer(data, "raw")], small_disk / "c", image_format="qcow2"),
        volumes.convert([volumes.Layer(data, "raw")], small_disk / "d", image_format="raw"),
        sparse.copy(data, small_disk / "e"),
    ]
    for way in ways:
        with pytest.raises(space.Full) as caught:
            await way
        assert caught.value.status == 507
        assert samples.listing(small_disk) == []
        assert space.free(small_disk) > 20 * MIB


def test_a_sweep_removes_only_what_was_half_made(tmp_path: pathlib.Path) -> None:
    for name in (".disk.12ab.part", "disk", "part", ".hidden"):
        (tmp_path / name).touch()
    (tmp_path / ".tree.part" / "deep").mkdir(parents=True)
    (tmp_path / "below").mkdir()
    (tmp_path / "below/.x.part").touch()
    (tmp_path / "link").symlink_to(tmp_path / "below")
    assert half_made.sweep(tmp_path) == [".disk.12ab.part", ".tree.part"]
    assert samples.listing(tmp_path) == [".hidden", "below", "disk", "link", "part"]
    assert half_made.sweep(tmp_path, depth=1) == ["below/.x.part"]
