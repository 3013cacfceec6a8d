"""An exported VM as a directory: unpacked from the archive's stream with its holes and checksums, and packed again.

The archive is a zstd-compressed pax tar: `bocage-archive.json`, the files, `SHA256SUMS` last.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pathlib
import shutil
import tarfile
from collections.abc import Iterator
from typing import IO, Any, cast

from bocage import errors
from bocage.client import problems
from bocage.words import N_

CONTENTS, SUMS = "bocage-archive.json", "SHA256SUMS"
_PIECE = 1 << 20
_HOLE = 64 << 10  # zeros in a row, aligned, that become a hole
_ZEROS = bytes(_PIECE)


class Damaged(problems.Error, errors.Invalid, ValueError):
    type = "export-damaged"
    text = N_("the archive is damaged: {fault}")
    hint = N_("nothing was kept of it; export the VM again")
    fault: str


def unpack(pieces: Iterator[bytes], into: pathlib.Path) -> int:
    """Write the files of an archive into the new directory `into`, which is there only when all is well.

    Returns the bytes in its files. Raises Damaged, FileExistsError, OSError.
    """
    import zstandard

    if os.path.lexists(into):
        raise FileExistsError(17, "it is there already", str(into))
    beside = into.with_name(f".{into.name}.part")
    if beside.exists():
        shutil.rmtree(beside)
    beside.mkdir(mode=0o700)
    try:
        reader = zstandard.ZstdDecompressor().stream_reader(cast(IO[bytes], _Pieces(pieces)), read_across_frames=True)
        with tarfile.open(fileobj=reader, mode="r|") as tar:
            total = _extract(tar, beside)
        os.rename(beside, into)
    except (tarfile.TarError, zstandard.ZstdError, EOFError) as error:
        raise Damaged(fault=str(error)) from error
    finally:
        if beside.exists():
            shutil.rmtree(beside)
    return total


def _extract(tar: tarfile.TarFile, into: pathlib.Path) -> int:
    digests: dict[str, str] = {}
    sums: dict[str, str] | None = None
    for member in tar:
        parts = pathlib.PurePosixPath(member.name).parts
        if not member.isreg() or member.name.startswith("/") or ".." in parts or not parts:
            raise Damaged(fault=f"'{member.name}' is no file of a VM")
        content = tar.extractfile(member)
        assert content
        path = into.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        digests[member.name] = _write(content, path)
        if member.name == SUMS:
            sums = _read_sums(path)
    if sums is None:
        raise Damaged(fault="it ends before its checksums")
    for name, digest in digests.items():
        if name not in (SUMS, CONTENTS) and sums.get(name) != digest:
            raise Damaged(fault=f"'{name}' does not have its checksum")
    return sum(path.stat().st_size for path in into.rglob("*") if path.is_file())


def _write(content: IO[bytes], path: pathlib.Path) -> str:
    digest, size = hashlib.sha256(), 0
    with path.open("xb") as file:
        while piece := content.read(_PIECE):
            digest.update(piece)
            size += len(piece)
            for start in range(0, len(piece), _HOLE):
                part = piece[start : start + _HOLE]
                if part == _ZEROS[: len(part)]:
                    file.seek(len(part), os.SEEK_CUR)
                else:
                    file.write(part)
        file.truncate(size)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _read_sums(path: pathlib.Path) -> dict[str, str]:
    pairs = (line.partition("  ") for line in path.read_text().splitlines())
    return {name: digest for digest, _, name in pairs}


def pack(directory: pathlib.Path) -> Iterator[bytes]:
    """The archive of a directory that `unpack` made, piece by piece. Raises Damaged, OSError."""
    import zstandard

    names = sorted(
        path.relative_to(directory).as_posix()
        for path in directory.rglob("*")
        if path.is_file() and not path.is_symlink()
    )
    names = [name for name in names if name not in (CONTENTS, SUMS)]
    if "vm.yaml" not in names:
        raise Damaged(fault=f"{directory} holds no vm.yaml")
    sizes = {name: (directory / name).stat().st_size for name in names}
    about: dict[str, Any] = {"kind": "bocage-archive", "version": 1, "files": sizes}
    recorded = directory / SUMS
    given = _read_sums(recorded) if recorded.exists() else None
    compressor = zstandard.ZstdCompressor(level=3)
    yield compressor.compress(_member(CONTENTS, json.dumps(about).encode()))
    digests: dict[str, str] = {}
    for name in names:
        yield from _pack_file(compressor, directory / name, name, sizes[name], digests)
        if given is not None and given.get(name) != digests[name]:
            raise Damaged(fault=f"'{name}' does not have its checksum in {SUMS}")
    sums = "".join(f"{digest}  {name}\n" for name, digest in digests.items())
    yield compressor.compress(_member(SUMS, sums.encode()) + bytes(2 * tarfile.BLOCKSIZE))


def _pack_file(compressor: Any, path: pathlib.Path, name: str, size: int, digests: dict[str, str]) -> Iterator[bytes]:
    frame = compressor.compressobj()
    yield frame.compress(_header(name, size))
    digest, left = hashlib.sha256(), size
    with path.open("rb") as file:
        while left and (piece := file.read(min(_PIECE, left))):
            digest.update(piece)
            left -= len(piece)
            yield frame.compress(piece)
    if left:
        raise Damaged(fault=f"'{name}' became shorter while it was read")
    yield frame.compress(bytes(-size % tarfile.BLOCKSIZE)) + frame.flush()
    digests[name] = digest.hexdigest()


def _member(name: str, data: bytes) -> bytes:
    return _header(name, len(data)) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    return info.tobuf(tarfile.PAX_FORMAT)


class _Pieces(io.RawIOBase):
    """An iterator of bytes as a file to be read."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._left = pieces, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            try:
                self._left = next(self._pieces)
            except StopIteration:
                return 0
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count
