import os
import pathlib
import resource
import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bocage import words
from bocage.storage import inspect, probe, reader, refusals
from tests.storage import hostile, samples

GOOD = {
    "qcow2": ("qcow2", ()),
    "qcow2-v2": ("qcow2", ("compat=0.10",)),
    "qcow2-extended-zstd": ("qcow2", ("extended_l2=on,compression_type=zstd,cluster_size=128k",)),
    "vmdk": ("vmdk", ()),
    "vmdk-stream": ("vmdk", ("subformat=streamOptimized",)),
    "vhd": ("vpc", ("force_size=on",)),
    "vhd-fixed": ("vpc", ("subformat=fixed,force_size=on",)),
    "vhdx": ("vhdx", ()),
    "vhdx-fixed": ("vhdx", ("subformat=fixed",)),
    "vdi": ("vdi", ()),
    "vdi-static": ("vdi", ("static=on",)),
}


@pytest.mark.parametrize("name", GOOD)
async def test_every_format_that_is_taken_is_recognised_with_the_size_that_qemu_sees(
    name: str, tmp_path: pathlib.Path
) -> None:
    form, options = GOOD[name]
    path = samples.image(tmp_path, form, *options)

    found = await inspect.inspect(path)

    assert found.driver == form
    assert found.format == path.suffix[1:]
    assert found.virtual_size == samples.info(path, form)["virtual-size"] == 4 << 20
    assert found.file_size == path.stat().st_size


async def test_a_bare_disk_is_raw_and_a_disc_is_iso(tmp_path: pathlib.Path) -> None:
    assert (await inspect.inspect(samples.raw(tmp_path / "disk.img"))).format == "raw"
    disc = await inspect.inspect(samples.iso(tmp_path / "disc.iso"))
    assert (disc.format, disc.driver, disc.virtual_size) == ("iso", "raw", (tmp_path / "disc.iso").stat().st_size)


async def test_a_disc_that_boots_from_a_stick_too_is_an_iso(tmp_path: pathlib.Path) -> None:
    disc = samples.patch(samples.iso(tmp_path / "hybrid.iso"), 446, b"\x80" + bytes(63) + b"\x55\xaa")
    assert (await inspect.inspect(disc)).format == "iso"


async def test_a_disc_of_pure_udf_is_an_iso(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "udf.iso"
    path.write_bytes(
        bytes(32768) + b"\x00BEA01\x01".ljust(2048, b"\x00") + b"\x00NSR02\x01".ljust(2048, b"\x00") + bytes(8192)
    )
    assert (await inspect.inspect(path)).format == "iso"


async def test_what_has_no_signature_is_raw_only_when_somebody_says_so(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "contents"
    path.write_bytes(b"some data" * 1000)
    with pytest.raises(refusals.Unknown):
        await inspect.inspect(path)
    assert (await inspect.inspect(path, claimed_format="raw")).virtual_size == 9216
    assert (await inspect.inspect(path, file_name="C:/disk.raw")).format == "raw"


@pytest.mark.parametrize("name", hostile.IMAGES)
async def test_a_hostile_image_is_refused_and_qemu_never_sees_it(
    name: str, tmp_path: pathlib.Path, qemu_calls: Callable[[], list[str]]
) -> None:
    make, refusal = hostile.IMAGES[name]
    path = make(tmp_path)

    with pytest.raises(refusal) as caught:
        await inspect.inspect(path)

    assert qemu_calls() == []
    said = str(caught.value)
    assert path.name in said
    assert "{" not in said.replace("json:{", "")


async def test_a_wrong_format_option_is_refused(tmp_path: pathlib.Path) -> None:
    path = samples.image(tmp_path, "qcow2")
    for claimed in ("raw", "vmdk", "vpc"):
        with pytest.raises(refusals.FormatLie) as caught:
            await inspect.inspect(path, claimed_format=claimed)
        assert caught.value.found == "qcow2"
    with pytest.raises(inspect.NoSuchFormat):
        await inspect.inspect(path, claimed_format="qcow9")
    assert (await inspect.inspect(path, claimed_format="qcow2")).format == "qcow2"


async def test_links_directories_pipes_and_missing_files_are_refused_at_once(tmp_path: pathlib.Path) -> None:
    (tmp_path / "link.raw").symlink_to("/etc/shadow")
    os.mkfifo(tmp_path / "pipe.raw")
    (tmp_path / "directory.raw").mkdir()
    for name in ("link.raw", "pipe.raw", "directory.raw"):
        with pytest.raises(refusals.NotAFile):
            await inspect.inspect(tmp_path / name)
    with pytest.raises(refusals.Unreadable):
        await inspect.inspect(tmp_path / "missing.raw")


async def test_an_inspection_that_blows_up_is_a_refusal_and_not_ours(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = samples.raw(tmp_path / "disk.raw")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(refusals.InspectionFailed):
        await inspect.inspect(path)


def test_the_child_is_bound_in_memory_and_time_and_writes_nothing() -> None:
    child = os.fork()
    if child == 0:
        try:
            probe._close_in()
            bounds = [resource.getrlimit(one)[1] for one in (resource.RLIMIT_AS, resource.RLIMIT_CPU)]
            fine = max(bounds) <= 1 << 30 and resource.getrlimit(resource.RLIMIT_FSIZE) == (0, 0) and os.geteuid() != 0
            os._exit(0 if fine else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_every_refusal_comes_back_from_its_type_and_parameters() -> None:
    refusal = refusals.Polyglot(file="x", formats=["iso", "qcow2"])
    again = words.revive(refusal.type, refusal.params)
    assert isinstance(again, refusals.Polyglot)
    assert str(again) == str(refusal)


def _judge(data: bytes, claimed: str | None = None) -> probe.Found | None:
    descriptor = os.memfd_create("image")
    try:
        os.write(descriptor, data)
        source = reader.Reader(descriptor=descriptor, size=len(data), name="image")
        try:
            found = probe.examine(source, claimed=claimed, file_name=None)
            probe.second_opinion(source, found)
        except refusals.Refused:
            return None
        return found
    finally:
        os.close(descriptor)


MAGICS = [
    b"",
    b"QFI\xfb\x00\x00\x00\x03",
    b"KDMV\x01\x00\x00\x00",
    b"conectix",
    b"vhdxfile",
    b"# Disk DescriptorFile\n",
]


@settings(max_examples=200, deadline=None)
@given(magic=st.sampled_from(MAGICS), rest=st.binary(max_size=2048), claimed=st.sampled_from([None, "raw"]))
def test_random_bytes_are_refused_or_taken_but_never_crash_the_inspection(
    magic: bytes, rest: bytes, claimed: str | None
) -> None:
    _judge(magic + rest, claimed)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    made = {}
    for name, (form, options) in GOOD.items():
        made[name] = samples.image(tmp_path_factory.mktemp(name), form, *options).read_bytes()
    return made


CHANGES = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 600), st.integers(-600, -1), st.integers(0, 1 << 21)),
        st.one_of(
            st.binary(min_size=1, max_size=8),
            st.sampled_from([b"\xff" * 4, b"\xff" * 8, bytes(8), b"\x00\x00\x00\x01"]),
        ),
    ),
    min_size=1,
    max_size=4,
)


def _changed(data: bytes, changes: list[tuple[int, bytes]], length: int | None) -> bytes:
    changed = bytearray(data)
    for at, piece in changes:
        start = at % len(changed)
        changed[start : start + len(piece)] = piece[: len(changed) - start]
    return bytes(changed[:length])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(GOOD)), changes=CHANGES, length=st.none() | st.integers(0, 300_000))
def test_mutated_headers_are_refused_or_taken_but_never_crash_the_inspection(
    sound: dict[str, bytes], name: str, changes: list[tuple[int, bytes]], length: int | None
) -> None:
    _judge(_changed(sound[name], changes, length))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=CHANGES)
def test_whatever_is_let_through_names_no_other_file_to_qemu(
    sound: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, bytes]]
) -> None:
    for name in ("qcow2", "vmdk"):
        data = _changed(sound[name], changes, None)
        if _judge(data) is None:
            continue
        path = tmp_path_factory.getbasetemp() / f"through.{name}"
        path.write_bytes(data)
        try:
            seen = samples.info(path, name)
        except subprocess.CalledProcessError:
            continue  # QEMU refuses it as well
        assert "backing-filename" not in seen
        assert "data-file" not in seen.get("format-specific", {}).get("data", {})  # type: ignore[attr-defined]
        opened = [extent["filename"] for extent in (seen.get("format-specific", {}).get("data", {}).get("extents", []))]  # type: ignore[attr-defined]
        assert all(pathlib.Path(one) == path for one in opened)


def test_an_inspection_of_a_large_sparse_image_reads_only_its_ends(tmp_path: pathlib.Path) -> None:
    path = samples.raw(tmp_path / "large.raw", 1 << 40)
    seen: list[int] = []

    class Counting(reader.Reader):
        __slots__ = ()

        def read(self, offset: int, length: int) -> bytes:
            seen.append(length)
            return super().read(offset, length)

    with reader.opened(path) as opened:
        source = Counting(descriptor=opened.descriptor, size=opened.size, name=opened.name)
        found = probe.examine(source, claimed=None, file_name="large.raw")
        probe.second_opinion(source, found)
    assert found.virtual_size == 1 << 40
    assert sum(seen) < 6 << 20
