import asyncio
import hashlib
import os
import pathlib
from collections.abc import AsyncIterator, Callable

import pytest
import yaml

from bocage.storage import directory, images, inspect, intake, qcow2, refusals, space, volumes
from tests.storage import hostile, samples

MIB = 1 << 20


@pytest.fixture
def library(tmp_path: pathlib.Path) -> images.Library:
    return directory.create(tmp_path / "storage", "uid-1").library


def wanted(path: pathlib.Path, **more: object) -> images.Wanted:
    return images.Wanted(file_name=path.name, origin=str(path), **more)  # type: ignore[arg-type]


def left(tmp_path: pathlib.Path) -> list[str]:
    root = tmp_path / "storage"
    return sorted(str(one.relative_to(root)) for part in ("images", "incoming") for one in (root / part).rglob("*"))


async def pieces(data: bytes, size: int = 70_000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def contents(path: pathlib.Path, form: str, to: pathlib.Path) -> bytes:
    samples.qemu_img("convert", "-f", form, "-O", "raw", path, to)
    return to.read_bytes()


@pytest.mark.parametrize(
    ("form", "stored"),
    [("raw", "raw"), ("qcow2", "qcow2"), ("vmdk", "qcow2"), ("vpc", "qcow2"), ("vhdx", "qcow2"), ("vdi", "qcow2")],
)
async def test_every_format_becomes_a_read_only_image_under_the_digest_of_the_given_file(
    form: str, stored: str, library: images.Library, tmp_path: pathlib.Path
) -> None:
    options = ["force_size=on"] if form == "vpc" else []
    source = samples.image(tmp_path, form, *options)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()

    image = await library.add(source, wanted(source, names={"default/tiny": "u-1"}))

    assert (image.digest, image.format, image.virtual_size) == (digest, stored, 4 * MIB)
    assert library.path(digest).stat().st_mode & 0o777 == 0o444
    assert left(tmp_path) == [f"images/{digest}.{stored}", f"images/{digest}.yaml"]
    expected = samples.raw(tmp_path / "expected").read_bytes()
    assert contents(library.path(digest), stored, tmp_path / "flat") == expected
    record = yaml.safe_load((tmp_path / "storage/images" / f"{digest}.yaml").read_text())
    assert record["origin"] == str(source)
    assert record["names"] == {"default/tiny": "u-1"}
    assert await library.images() == [image]
    assert await library.names() == {"default/tiny": digest}


async def test_a_raw_disk_becomes_a_qcow2_on_request_and_a_disc_stays_a_disc(
    library: images.Library, tmp_path: pathlib.Path
) -> None:
    source = samples.raw(tmp_path / "disk.raw")
    assert (await library.add(source, wanted(source, into="qcow2"))).format == "qcow2"
    disc = samples.iso(tmp_path / "disc.iso")
    image = await library.add(disc, wanted(disc, into="qcow2"))
    assert image.format == "iso"
    assert library.path(image.digest).read_bytes() == disc.read_bytes()


async def test_the_same_file_is_kept_once_and_gathers_its_names(
    library: images.Library, tmp_path: pathlib.Path
) -> None:
    source = samples.image(tmp_path, "vmdk")
    first = await library.add(source, wanted(source, names={"default/a": "1"}))
    both = await asyncio.gather(
        library.add(source, wanted(source, names={"default/b": "2"})),
        library.add(pieces(source.read_bytes()), wanted(source, names={"default/c": "3"})),
    )
    assert {one.digest for one in both} == {first.digest}
    assert library.image(first.digest).names == {"default/a": "1", "default/b": "2", "default/c": "3"}
    assert len(left(tmp_path)) == 2


async def test_a_name_points_to_one_image(library: images.Library, tmp_path: pathlib.Path) -> None:
    one = samples.raw(tmp_path / "one.raw")
    other = samples.raw(tmp_path / "other.raw", 8 * MIB)
    first = await library.add(one, wanted(one, names={"default/x": "1", "default/y": "1"}))
    second = await library.add(other, wanted(other, names={"default/x": "2"}))
    assert await library.names() == {"default/y": first.digest, "default/x": second.digest}
    await library.rename(second.digest, {"default/z": "2"})
    assert await library.names() == {"default/y": first.digest, "default/z": second.digest}


async def test_an_image_is_removed_with_its_record(library: images.Library, tmp_path: pathlib.Path) -> None:
    source = samples.raw(tmp_path / "disk.raw")
    digest = (await library.add(source, wanted(source))).digest
    await library.remove(digest)
    assert left(tmp_path) == []
    for absent in (digest, "../../etc/shadow"):
        with pytest.raises(images.NoSuchImage):
            await library.remove(absent)


@pytest.mark.parametrize("name", [*hostile.IMAGES, "upload:backing-shadow", "upload:vmdk-absolute-extent"])
async def test_a_hostile_image_never_gets_in_and_qemu_never_sees_it(
    name: str, library: images.Library, tmp_path: pathlib.Path, qemu_calls: Callable[[], list[str]]
) -> None:
    make, refusal = hostile.IMAGES[name.removeprefix("upload:")]
    path = make(tmp_path)
    source = pieces(path.read_bytes()) if name.startswith("upload:") else path
    with pytest.raises(refusal):
        await library.add(source, wanted(path))
    assert qemu_calls() == []
    assert left(tmp_path) == []


async def test_qemu_is_started_for_what_passed(
    library: images.Library, tmp_path: pathlib.Path, qemu_calls: Callable[[], list[str]]
) -> None:
    source = samples.image(tmp_path, "vmdk")
    await library.add(source, wanted(source))
    assert [call.split()[1] for call in qemu_calls()] == ["check", "convert"]
    assert all('"driver": "vmdk"' in call for call in qemu_calls())


@pytest.mark.parametrize("form", ["qcow2", "vmdk", "vdi", "vhdx", "vpc"])
@pytest.mark.parametrize("into", ["qcow2", "raw"])
async def test_an_image_cut_short_inside_its_data_is_refused_and_not_filled_with_zeros(
    form: str, into: str, library: images.Library, tmp_path: pathlib.Path
) -> None:
    source = samples.image(tmp_path, form)
    os.truncate(source, source.stat().st_size - (192 << 10))
    with pytest.raises(refusals.Refused):
        await library.add(source, wanted(source, into=into))
    assert left(tmp_path) == []


async def test_a_wrong_checksum_refuses_the_file(library: images.Library, tmp_path: pathlib.Path) -> None:
    source = samples.image(tmp_path, "vdi")
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    for given in (source, pieces(source.read_bytes())):
        with pytest.raises(images.WrongChecksum) as caught:
            await library.add(given, wanted(source, sha256="0" * 64))
        assert caught.value.found == digest
    with pytest.raises(images.BadChecksum):
        await library.add(source, wanted(source, sha256="abc"))
    assert left(tmp_path) == []
    assert (await library.add(source, wanted(source, sha256=digest.upper()))).digest == digest


async def test_an_upload_goes_on_where_it_broke_off_even_after_a_restart(
    library: images.Library, tmp_path: pathlib.Path
) -> None:
    source = samples.image(tmp_path, "vmdk")
    data = source.read_bytes()
    half = len(data) // 2

    async def breaks_off() -> AsyncIterator[bytes]:
        yield data[:half]
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await library.intake.append("up-1", 0, breaks_off())
    offset = library.intake.offset("up-1")
    assert offset <= half
    with pytest.raises(intake.WrongOffset) as caught:
        await library.intake.append("up-1", offset + 1, pieces(data))
    assert caught.value.offset == offset
    await library.intake.append("up-1", offset, pieces(data[offset:half]))

    restarted = images.Library(tmp_path / "storage")
    assert restarted.intake.offset("up-1") == half
    await restarted.intake.append("up-1", half, pieces(data[half:]))
    image = await restarted.finish("up-1", wanted(source, sha256=hashlib.sha256(data).hexdigest()))
    assert image.virtual_size == 4 * MIB
    assert len(left(tmp_path)) == 2


async def test_two_senders_to_one_key_do_not_mix(library: images.Library) -> None:
    gate = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"x" * MIB
        await gate.wait()

    sending = asyncio.create_task(library.intake.append("k", 0, slow()))
    await asyncio.sleep(0)
    with pytest.raises(intake.Busy):
        await library.intake.append("k", 0, pieces(b"y"))
    with pytest.raises(intake.Busy):
        await library.finish("k", images.Wanted(file_name="x", origin=""))
    gate.set()
    assert await sending == MIB


@pytest.mark.parametrize("key", ["", "../x", "a/b", ".hidden", "x" * 101, "a\nb"])
async def test_a_key_is_no_path(key: str, library: images.Library) -> None:
    with pytest.raises(intake.BadKey):
        library.intake.offset(key)


async def test_more_than_the_limit_does_not_come_in(library: images.Library, tmp_path: pathlib.Path) -> None:
    with pytest.raises(intake.OverLimit):
        await library.intake.append("k", 0, pieces(bytes(5 * MIB)), limit=4 * MIB)
    source = tmp_path / "noise.raw"
    source.write_bytes(os.urandom(8 * MIB))
    with pytest.raises(volumes.OverLimit):
        await library.add(source, wanted(source, into="qcow2", limit=4 * MIB))
    assert left(tmp_path) == []


async def test_a_file_that_others_may_write_is_copied_before_it_is_inspected(
    library: images.Library, tmp_path: pathlib.Path, qemu_calls: Callable[[], list[str]]
) -> None:
    source = samples.image(tmp_path, "vmdk")
    source.chmod(0o666)
    await library.add(source, wanted(source))
    assert qemu_calls()
    assert not [call for call in qemu_calls() if str(source) in call]


async def test_a_file_that_changes_while_it_is_read_is_not_taken(
    library: images.Library, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = samples.image(tmp_path, "vmdk")
    real = inspect.inspect_opened

    async def inspected_then_changed(*given: object, **named: object) -> inspect.Inspected:
        found = await real(*given, **named)  # type: ignore[arg-type]
        os.utime(source)
        return found

    monkeypatch.setattr(inspect, "inspect_opened", inspected_then_changed)
    with pytest.raises(images.Changed):
        await library.add(source, wanted(source))
    assert left(tmp_path) == []


async def test_a_cancelled_import_leaves_nothing(library: images.Library, tmp_path: pathlib.Path) -> None:
    source = tmp_path / "noise.raw"
    source.write_bytes(os.urandom(64 * MIB))
    begun = asyncio.Event()
    adding = asyncio.create_task(library.add(source, wanted(source), lambda *_: begun.set()))
    await asyncio.wait_for(begun.wait(), 30)
    adding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await adding
    assert left(tmp_path) == []


async def test_a_lost_or_damaged_record_is_made_anew_from_the_image(
    library: images.Library, tmp_path: pathlib.Path
) -> None:
    source = samples.image(tmp_path, "qcow2")
    image = await library.add(source, wanted(source, names={"default/a": "1"}))
    record = tmp_path / "storage/images" / f"{image.digest}.yaml"
    text = record.read_text()
    for damaged in (None, "", text[:100], "{", "- a\n", text.replace("virtual_size: ", "virtual_size: x")):
        record.unlink(missing_ok=True)
        if damaged is not None:
            record.write_text(damaged)
        found = library.image(image.digest)
        assert (found.format, found.virtual_size, found.names) == ("qcow2", 4 * MIB, {})


async def test_a_record_without_its_image_is_swept(library: images.Library, tmp_path: pathlib.Path) -> None:
    stale = tmp_path / "storage/images" / f"{'a' * 64}.yaml"
    stale.write_text("version: 1\n")
    assert await library.images() == []
    assert library.sweep() == [stale.name]


@pytest.mark.fault
async def test_a_disk_that_fills_while_an_image_comes_in_is_told_and_the_room_is_free_again(
    small_disk: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    storage = directory.create(small_disk / "storage", "uid-1")
    source = tmp_path / "noise.raw"
    source.write_bytes(os.urandom(40 * MIB))
    before = space.free(small_disk)
    for given, into in ((source, "raw"), (source, "qcow2"), (pieces(source.read_bytes()), None)):
        with pytest.raises(space.Full):
            await storage.library.add(given, wanted(source, into=into))
        assert space.free(small_disk) >= before - 65536
    small = samples.raw(tmp_path / "small.raw")
    assert (await storage.library.add(small, wanted(small))).format == "raw"


async def test_an_overlay_on_an_image_is_a_use_of_it(tmp_path: pathlib.Path) -> None:
    storage = directory.create(tmp_path / "storage", "uid-1")
    source = samples.image(tmp_path, "qcow2")
    image = await storage.library.add(source, wanted(source))
    assert storage.users(image.digest) == []
    (storage.vms / "v1").mkdir()
    await qcow2.create_overlay(
        storage.vms / "v1/disk.qcow2",
        backing_relative=f"../../images/{image.file_name}",
        backing_format="qcow2",
        size=image.virtual_size,
    )
    assert storage.users(image.digest) == ["vms/v1/disk.qcow2"]
