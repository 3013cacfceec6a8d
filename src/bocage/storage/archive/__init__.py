"""A VM's directory as one stream to carry away, with checksums.

An archive is a zstd-compressed POSIX tar (pax) that `tar --zstd -xf` and `sha256sum -c SHA256SUMS`
can read without us. Its members:

    bocage-archive.json   {"kind": "bocage-archive", "version": 1, "files": {NAME: SIZE}}
    NAME ...              the files; those with holes as GNU sparse members, format 1.0
    SHA256SUMS            the SHA-256 of every file, holes as zeros, as coreutils write it

Of the same files it is the same each time, byte for byte, so that one that broke off can be gone on with.
"""

from __future__ import annotations

import asyncio
import os
import pathlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Mapping

from bocage import files as durable
from bocage import threads
from bocage.storage import half_made, space
from bocage.storage.archive import bridge, manifest, members, problems, reading, writing

LEVEL = 3
"""zstd's level: about 300 MB/s on one core."""

_MOST_FILES = 1000


async def packed(
    files: Mapping[str, pathlib.Path], *, level: int = LEVEL, progress: threads.Progress | None = None
) -> AsyncGenerator[bytes, None]:
    """An archive of `files` (names in it, and where they are), as it is made. Close it (`aclose`) before its end.

    Raises problems.Unsafe, problems.Changed, OSError.
    """
    _check_names(files)
    out = bridge.Out()

    def work(job: threads.Job) -> None:
        writing.write(job, files, lambda data: out.write(job, data), level=level)
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
    """Make the directory `into` of an archive; the files and their sizes.

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
