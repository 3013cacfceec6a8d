"""A VM's directory as one stream or as a directory to carry away, with checksums.

An archive is a zstd-compressed POSIX tar (pax) that `tar --zstd -xf` and `sha256sum -c SHA256SUMS`
can read without us. Its members:

    bocage-archive.json   {"kind": "bocage-archive", "version": 1, "files": {NAME: SIZE}}
    NAME ...              the files; those with holes as GNU sparse members, format 1.0
    SHA256SUMS            the SHA-256 of every file, holes as zeros, as coreutils write it

Each member is a zstd frame of its own, so that an archive that broke off is carried on after its last
whole member. The directory form holds the same files beside each other.
"""

from __future__ import annotations

import asyncio
import os
import pathlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Mapping

from bocage import files as durable
from bocage.storage import half_made, space, threads
from bocage.storage.archive import bridge, folder, journal, manifest, members, problems, reading, writing

LEVEL = 3
"""zstd's level: about 300 MB/s on one core."""

_MOST_FILES = 1000


async def pack(
    files: Mapping[str, pathlib.Path], to: pathlib.Path, *, level: int = LEVEL, progress: threads.Progress | None = None
) -> None:
    """Write an archive of `files` (names in the archive, and where they are) to the new file `to`.

    It has its name only once it is whole. When it breaks off, what is there stays beside it, and the
    same call goes on after the last whole member whose source is unchanged.
    Raises half_made.Exists, problems.Changed, space.Full, OSError.
    """
    _check_names(files)
    if os.path.lexists(to):  # noqa: ASYNC240 - a moment
        raise half_made.Exists(path=str(to))
    with space.told_when_full(to.parent):
        await threads.run_job(journal.write, progress, files, to, level)


async def export(
    files: Mapping[str, pathlib.Path], to: pathlib.Path, *, progress: threads.Progress | None = None
) -> None:
    """Copy `files` with their holes and checksums into the new directory `to`: the directory form.

    When it breaks off, the same call goes on after the last whole file whose source is unchanged.
    Raises half_made.Exists, problems.Changed, space.Full, OSError.
    """
    _check_names(files)
    if os.path.lexists(to):  # noqa: ASYNC240 - a moment
        raise half_made.Exists(path=str(to))
    with space.told_when_full(to.parent):
        await threads.run_job(folder.write, progress, files, to)


async def packed(
    files: Mapping[str, pathlib.Path], *, level: int = LEVEL, progress: threads.Progress | None = None
) -> AsyncGenerator[bytes, None]:
    """The same archive as a stream. Close it (`aclose`) when it is not read to its end.

    Raises problems.Changed, OSError.
    """
    _check_names(files)
    out = bridge.Out()

    def work(job: threads.Job) -> None:
        writing.write(job, files, lambda data: out.write(job, data), level=level, done=[], whole=lambda _: None)
        out.flush(job)

    writer = asyncio.create_task(threads.run_job(work, progress))
    try:
        while True:
            taken = asyncio.create_task(out.queue.get())
            await asyncio.wait([taken, writer], return_when=asyncio.FIRST_COMPLETED)
            if not taken.done() and out.queue.empty():
                taken.cancel()
                break
            yield await taken
        await writer
    finally:
        writer.cancel()
        await asyncio.wait([writer])


async def unpack(
    source: pathlib.Path | AsyncIterator[bytes],
    into: pathlib.Path,
    *,
    limit_bytes: int,
    limit_files: int = _MOST_FILES,
    progress: threads.Progress | None = None,
) -> dict[str, int]:
    """Make the directory `into` of an archive, or of the directory form; the files and their sizes.

    Nothing is believed: paths, kinds, sizes (at most `limit_bytes` of data in at most `limit_files`
    files) and checksums are checked, and `into` is there only when all is well.
    Raises problems.Error, half_made.Exists, space.Full, OSError.
    """
    if os.path.lexists(into):  # noqa: ASYNC240 - a moment
        raise half_made.Exists(path=str(into))
    beside = into.with_name(f".{into.name}.{secrets.token_hex(4)}{half_made.SUFFIX}")
    loop = asyncio.get_running_loop()

    def work(job: threads.Job) -> dict[str, int]:
        beside.mkdir(mode=0o700)
        if isinstance(source, pathlib.Path):
            if source.is_dir():
                return folder.take(job, source, beside, limit_bytes, limit_files)
            with open(source, "rb") as opened:
                return reading.extract(job, reading.Stream(opened, limit_bytes, limit_files), beside)
        stream = reading.Stream(bridge.In(job, loop, source), limit_bytes, limit_files)
        return reading.extract(job, stream, beside)

    try:
        with space.told_when_full(into.parent):
            sizes = await threads.run_job(work, progress)
            await threads.run(_settle, beside, into)
            return sizes
    finally:
        await threads.run(durable.remove_tree, beside)


def _settle(beside: pathlib.Path, into: pathlib.Path) -> None:
    for directory, _, _ in os.walk(beside):
        durable.sync_directory(pathlib.Path(directory))
    durable.rename_durably(beside, into)


def _check_names(files: Mapping[str, pathlib.Path]) -> None:
    for name in files:
        if members.safe(name) != name or name in (manifest.CONTENTS, manifest.SUMS):
            raise problems.Unsafe(member=name, fault="no plain path")
