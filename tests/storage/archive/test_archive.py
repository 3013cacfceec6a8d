import asyncio
import hashlib
import io
import os
import pathlib
import subprocess
import tarfile
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bocage.storage import archive, half_made, space
from bocage.storage.archive import manifest, problems
from tests.storage import samples

MIB = 1 << 20
LIMIT = 64 * MIB


@pytest.fixture
def files(tmp_path: pathlib.Path) -> dict[str, pathlib.Path]:
    """A VM's files: text, an empty one, noise, one of holes only, and one with holes everywhere."""
    at = tmp_path / "vm"
    at.mkdir()
    (at / "vm.yaml").write_text("name: hello\n")
    (at / "empty").touch()
    samples.noise(at / "disk.qcow2", 3 * MIB)
    with open(at / "hole", "wb") as file:
        file.truncate(40 * MIB)
    with open(at / "thin.raw", "wb") as file:
        file.truncate(80 * MIB)
        for place in (0, 5 * MIB + 4096, 40 * MIB, 80 * MIB - 4096):
            file.seek(place)
            file.write(os.urandom(4096))
    return {
        "vm.yaml": at / "vm.yaml",
        "empty": at / "empty",
        "disks/disk.qcow2": at / "disk.qcow2",
        "disks/hole": at / "hole",
        "disks/thin.raw": at / "thin.raw",
    }


def same(files: Mapping[str, pathlib.Path], into: pathlib.Path) -> bool:
    for name, source in files.items():
        assert (into / name).stat().st_size == source.stat().st_size
        assert (into / name).stat().st_blocks <= source.stat().st_blocks + 1024
        assert subprocess.run(["cmp", source, into / name], check=False).returncode == 0
    found = {str(one.relative_to(into)) for one in into.rglob("*") if one.is_file()}
    return found - {manifest.CONTENTS, manifest.SUMS} == set(files)


def run(*command: str | pathlib.Path) -> None:
    subprocess.run(command, check=True)


def sums_hold(directory: pathlib.Path) -> None:
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=directory, check=True)


async def pack(files: Mapping[str, pathlib.Path], to: pathlib.Path, **options: Any) -> None:
    """An archive as a file."""
    with to.open("wb") as file:
        async for piece in archive.packed(files, **options):
            file.write(piece)


async def pieces(data: bytes, size: int = 10_000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def test_an_archive_comes_back_with_its_holes(files: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    seen: list[tuple[int, int]] = []
    await pack(files, tmp_path / "a.tar.zst", progress=lambda *told: seen.append(told))
    assert (tmp_path / "a.tar.zst").stat().st_size < 4 * MIB
    sizes = await archive.unpack(tmp_path / "a.tar.zst", tmp_path / "back", limit_bytes=LIMIT)
    assert sizes == {name: path.stat().st_size for name, path in files.items()}
    assert same(files, tmp_path / "back")
    assert seen[-1][0] == seen[-1][1] > 0
    assert samples.listing(tmp_path) == ["a.tar.zst", "back", "vm"]


async def test_other_programs_read_it(files: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    await pack(files, tmp_path / "a.tar.zst")
    there = tmp_path / "there"
    there.mkdir()
    plain = zstandard.ZstdDecompressor().stream_reader(
        io.BytesIO((tmp_path / "a.tar.zst").read_bytes()), read_across_frames=True
    )
    (tmp_path / "a.tar").write_bytes(plain.read())
    run("tar", "-xf", tmp_path / "a.tar", "-C", there)
    sums_hold(there)
    assert same(files, there)
    with tarfile.open(tmp_path / "a.tar") as opened:
        assert opened.getmember("disks/thin.raw").size == 80 * MIB


async def test_it_goes_through_a_pipe(files: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    await archive.unpack(archive.packed(files), tmp_path / "back", limit_bytes=LIMIT)
    assert same(files, tmp_path / "back")


async def test_a_stream_that_nobody_reads_to_its_end_stops(
    files: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    samples.noise(files["disks/disk.qcow2"], 64 * MIB)
    stream = archive.packed(files)
    await anext(stream)
    await asyncio.wait_for(stream.aclose(), 20)


async def test_of_the_same_files_it_is_the_same_each_time(
    files: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    for name in ("once", "twice"):
        await pack(files, tmp_path / name)
    assert (tmp_path / "once").read_bytes() == (tmp_path / "twice").read_bytes()


async def test_what_is_no_file_is_not_packed(files: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "vm/late")
    with pytest.raises(problems.Unsafe):
        await pack({**files, "late": tmp_path / "vm/late"}, tmp_path / "out")


async def test_a_cancelled_unpack_leaves_nothing(files: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    await pack(files, tmp_path / "a")
    data = (tmp_path / "a").read_bytes()
    half = asyncio.Event()

    async def stalls() -> AsyncIterator[bytes]:
        yield data[: len(data) // 2]
        half.set()
        await asyncio.Event().wait()

    unpacking = asyncio.create_task(archive.unpack(stalls(), tmp_path / "back", limit_bytes=LIMIT))
    await asyncio.wait_for(half.wait(), 20)
    unpacking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(unpacking, 20)
    assert samples.listing(tmp_path) == ["a", "vm"]


async def test_what_is_there_is_never_replaced(files: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(half_made.Exists):
        await archive.unpack(pieces(b""), tmp_path / "out", limit_bytes=LIMIT)


def built(members: list[tuple[tarfile.TarInfo, bytes]], sums: bool = True) -> bytes:
    """An archive of hand-made members, its contents and checksums put around them."""
    inside = {info.name: data for info, data in members if info.isreg()}
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:

        def add(info: tarfile.TarInfo, data: bytes) -> None:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))

        add(tarfile.TarInfo(manifest.CONTENTS), manifest.contents({name: len(data) for name, data in inside.items()}))
        for info, data in members:
            add(info, data)
        if sums:
            digests = {name: hashlib.sha256(data).hexdigest() for name, data in inside.items()}
            add(tarfile.TarInfo(manifest.SUMS), manifest.sums(digests))
    return zstandard.compress(made.getvalue())


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


HOSTILE: dict[str, tuple[list[tuple[tarfile.TarInfo, bytes]], type[problems.Error]]] = {
    "parent": ([(member("../outside"), b"x")], problems.Unsafe),
    "parent-inside": ([(member("a/../../outside"), b"x")], problems.Unsafe),
    "absolute": ([(member("/tmp/bocage-outside"), b"x")], problems.Unsafe),
    "dot": ([(member("a/./b"), b"x")], problems.Unsafe),
    "double-slash": ([(member("a//b"), b"x")], problems.Unsafe),
    "newline": ([(member("a\nb"), b"x")], problems.Unsafe),
    "escape": ([(member("a\x1b[2J"), b"x")], problems.Unsafe),
    "long": ([(member("a" * 300), b"x")], problems.Unsafe),
    "deep": ([(member("/".join("abcdefghij")), b"x")], problems.Unsafe),
    "symlink": ([(member("a", tarfile.SYMTYPE, "/etc/shadow"), b"")], problems.Unsafe),
    "symlink-then-file": (
        [(member("d", tarfile.SYMTYPE, "/tmp"), b""), (member("d/outside"), b"x")],
        problems.Unsafe,
    ),
    "hardlink": ([(member("a", tarfile.LNKTYPE, "/etc/shadow"), b"")], problems.Unsafe),
    "device": ([(member("a", tarfile.CHRTYPE), b"")], problems.Unsafe),
    "block-device": ([(member("a", tarfile.BLKTYPE), b"")], problems.Unsafe),
    "pipe": ([(member("a", tarfile.FIFOTYPE), b"")], problems.Unsafe),
    "twice": ([(member("a"), b"x"), (member("a"), b"y")], problems.Unsafe),
    "twice-dotted": ([(member("a"), b"x"), (member("./a"), b"y")], problems.Unsafe),
    "file-and-directory": ([(member("a"), b"x"), (member("a/b"), b"y")], problems.Unsafe),
    "too-many": ([(member(f"f{number}"), b"") for number in range(120)], problems.TooMany),
    "too-large": ([(member("zeros"), bytes(LIMIT + 1))], problems.TooMuch),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_archive_is_refused_and_leaves_nothing(name: str, tmp_path: pathlib.Path) -> None:
    inside, problem = HOSTILE[name]
    (tmp_path / "in").mkdir()
    with pytest.raises(problem):
        await archive.unpack(pieces(built(inside)), tmp_path / "in/back", limit_bytes=LIMIT, limit_files=100)
    assert samples.listing(tmp_path / "in") == []
    assert samples.listing(tmp_path) == ["in"]
    assert not {"bocage-outside", "outside"} & set(samples.listing(pathlib.Path("/tmp")))


async def test_an_archive_that_was_packed_again_by_hand_is_taken(tmp_path: pathlib.Path) -> None:
    data = built([(member("d", tarfile.DIRTYPE), b""), (member("./d/a"), b"hello")])
    data = zstandard.compress(zstandard.decompress(data).replace(b"./d/a", b"d/a\x00\x00"))
    with pytest.raises(problems.Broken):
        await archive.unpack(pieces(data), tmp_path / "damaged", limit_bytes=LIMIT)
    (tmp_path / "src/d").mkdir(parents=True)
    (tmp_path / "src/d/a").write_text("hello")
    await pack({"d/a": tmp_path / "src/d/a"}, tmp_path / "packed")
    (tmp_path / "x.tar").write_bytes(
        zstandard.ZstdDecompressor().stream_reader((tmp_path / "packed").read_bytes(), read_across_frames=True).read()
    )
    (tmp_path / "out").mkdir()
    run("tar", "-xf", tmp_path / "x.tar", "-C", tmp_path / "out")
    run("tar", "-cf", tmp_path / "x.tar", "-C", tmp_path / "out", ".")
    await archive.unpack(
        pieces(zstandard.compress((tmp_path / "x.tar").read_bytes())), tmp_path / "back", limit_bytes=LIMIT
    )
    assert (tmp_path / "back/d/a").read_text() == "hello"


@pytest.mark.parametrize("where", [0.1, 0.5, 0.9, 0.999])
async def test_an_archive_cut_short_or_with_a_changed_byte_is_refused(
    where: float, files: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    await pack(files, tmp_path / "a")
    data = bytearray((tmp_path / "a").read_bytes())
    at = int(len(data) * where)
    with pytest.raises(problems.Error):
        await archive.unpack(pieces(bytes(data[:at])), tmp_path / "back", limit_bytes=LIMIT)
    data[at] ^= 0x10
    with pytest.raises(problems.Error):
        await archive.unpack(pieces(bytes(data)), tmp_path / "back", limit_bytes=LIMIT)
    assert samples.listing(tmp_path) == ["a", "vm"]


async def test_wrong_and_missing_checksums_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(problems.Broken):
        await archive.unpack(pieces(built([(member("a"), b"x")], sums=False)), tmp_path / "b", limit_bytes=LIMIT)
    plain = zstandard.decompress(built([(member("a"), b"hello")]))
    changed = zstandard.compress(plain.replace(b"hello", b"hallo"))
    with pytest.raises(problems.WrongChecksum):
        await archive.unpack(pieces(changed), tmp_path / "b", limit_bytes=LIMIT)
    with pytest.raises(problems.Broken):
        await archive.unpack(pieces(zstandard.compress(plain) + b"more"), tmp_path / "b", limit_bytes=LIMIT)
    assert samples.listing(tmp_path) == []


@pytest.mark.parametrize("name", ["../x", "/x", "a//b", manifest.SUMS, ""])
async def test_only_plain_names_are_packed(name: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "f").touch()
    with pytest.raises(problems.Unsafe):
        await anext(archive.packed({name: tmp_path / "f"}))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 5000), piece=st.binary(min_size=1, max_size=600), compressed=st.booleans())
async def test_mutated_archives_are_refused_or_taken_but_never_escape(
    at: int, piece: bytes, compressed: bool, tmp_path: pathlib.Path
) -> None:
    data = built([(member("a/b"), b"hello"), (member("c"), bytes(2000))])
    plain = bytearray(data if compressed else zstandard.decompress(data))
    at %= len(plain)
    plain[at : at + len(piece)] = piece
    changed = bytes(plain) if compressed else zstandard.compress(bytes(plain))
    inner = tmp_path / "in"
    inner.mkdir(exist_ok=True)
    try:
        await archive.unpack(pieces(changed), inner / "back", limit_bytes=LIMIT)
    except problems.Error:
        assert samples.listing(inner) == []
    else:
        run("rm", "-r", inner / "back")
    assert samples.listing(tmp_path) == ["in"]


@pytest.mark.fault
async def test_a_full_disk_is_told_and_an_unpack_leaves_nothing(
    small_disk: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    big = samples.noise(tmp_path / "big", 40 * MIB)
    await pack({"big": big}, tmp_path / "a")
    with pytest.raises(space.Full):
        await archive.unpack(tmp_path / "a", small_disk / "back", limit_bytes=LIMIT)
    assert samples.listing(small_disk) == []
