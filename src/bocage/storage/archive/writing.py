"""Writing an archive: blocking, member by member."""

from __future__ import annotations

import hashlib
import os
import pathlib
import stat
from collections.abc import Callable, Iterator, Mapping

import zstandard

from bocage import threads
from bocage.storage import digests, sparse
from bocage.storage.archive import manifest, members, problems

_PIECE = 1 << 20
_LEAST_HOLE = 256 << 10  # bytes; a smaller hole is not worth an entry in the map
Sink = Callable[[bytes], None]


def write(job: threads.Job, files: Mapping[str, pathlib.Path], sink: Sink, *, level: int) -> None:
    """Write an archive of `files` to `sink`. Raises problems.Unsafe, problems.Changed."""
    compressor = zstandard.ZstdCompressor(level=level)
    _write_small(compressor, sink, manifest.CONTENTS, _contents(files))
    digests: dict[str, str] = {}
    total = sum(os.stat(path).st_blocks * 512 for path in files.values())
    told = 0
    for name, path in files.items():
        digests[name] = _write_file(job, compressor, sink, name, path, told, total)
        told += os.stat(path).st_blocks * 512
    _write_small(compressor, sink, manifest.SUMS, manifest.sums(digests), end=bytes(2 * members.BLOCK))
    job.step(total, total)


def _contents(files: Mapping[str, pathlib.Path]) -> bytes:
    return manifest.contents({name: path.stat().st_size for name, path in files.items()})


def _write_small(compressor: zstandard.ZstdCompressor, sink: Sink, name: str, data: bytes, *, end: bytes = b"") -> None:
    sink(compressor.compress(members.header(name, len(data), None, 0) + members.padded(data) + end))


def _write_file(
    job: threads.Job,
    compressor: zstandard.ZstdCompressor,
    sink: Sink,
    name: str,
    path: pathlib.Path,
    told: int,
    total: int,
) -> str:
    """Write a file; the SHA-256 of what it holds."""
    descriptor = open_plain(path, name)
    try:
        before = os.fstat(descriptor)
        extents = merged(sparse.extents(descriptor, before.st_size))
        is_sparse = extents != [(0, before.st_size)] and before.st_size > 0
        if is_sparse and (not extents or sum(extents[-1]) < before.st_size):
            extents.append((before.st_size, 0))  # as GNU tar marks a hole at the end
        frame, hashed, at, stored = compressor.compressobj(), hashlib.sha256(), 0, 0
        mtime = int(before.st_mtime)
        sink(frame.compress(members.header(name, before.st_size, extents if is_sparse else None, mtime)))
        for start, length in extents:
            digests.add_zeros(job, hashed, start - at)
            for piece in _pieces(descriptor, start, length, name):
                job.step(min(told + stored, total), total)
                hashed.update(piece)
                sink(frame.compress(piece))
                stored += len(piece)
            at = start + length
        sink(frame.compress(bytes(-stored % members.BLOCK)) + frame.flush())
        after = os.fstat(descriptor)
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise problems.Changed(member=name)
        return hashed.hexdigest()
    finally:
        os.close(descriptor)


def open_plain(path: pathlib.Path, name: str) -> int:
    """Open a regular file to pack it as `name`. Raises problems.Unsafe and OSError."""
    # O_NONBLOCK: a pipe must not hold us up before it is recognised as one
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise problems.Unsafe(member=name, fault="no plain file")
    return descriptor


def merged(extents: Iterator[tuple[int, int]]) -> list[tuple[int, int]]:
    """Extents joined over holes that are not worth leaving out."""
    found: list[tuple[int, int]] = []
    for start, length in extents:
        if found and start - sum(found[-1]) < _LEAST_HOLE:
            found[-1] = (found[-1][0], start + length - found[-1][0])
        elif not found and start < _LEAST_HOLE:
            found.append((0, start + length))
        else:
            found.append((start, length))
    return found


def _pieces(descriptor: int, start: int, length: int, name: str) -> Iterator[bytes]:
    at, end = start, start + length
    while at < end:
        piece = os.pread(descriptor, min(_PIECE, end - at), at)
        if not piece:
            raise problems.Changed(member=name)
        yield piece
        at += len(piece)
