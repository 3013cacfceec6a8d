"""Copying files without filling their holes: by reference where the file system can, else extent by extent."""

from __future__ import annotations

import errno
import fcntl
import os
import pathlib
from collections.abc import Iterator

from bocage import threads
from bocage.storage import half_made

_FICLONE = 0x40049409  # linux/fs.h; shares the blocks of another file (btrfs, xfs)
_PIECE = 8 << 20  # bytes between two looks whether to stop
_BLOCK = 64 << 10  # bytes; a block of zeros of this size is left out
_ZEROS = bytes(_BLOCK)


def extents(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Offset and length of each stretch of a file that holds data; what lies between is zeros."""
    at = 0
    while at < size:
        try:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        at = min(os.lseek(descriptor, start, os.SEEK_HOLE), size)
        if start < at:
            yield start, at - start


def clone(source: int, destination: int) -> bool:
    """Let `destination` share the blocks of `source`; False when the file system cannot."""
    try:
        fcntl.ioctl(destination, _FICLONE, source)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.EPERM):
            return False
        raise
    return True


async def copy(source: pathlib.Path, destination: pathlib.Path, *, progress: threads.Progress | None = None) -> None:
    """Copy a file with its holes under a temporary name, then give it its own.

    Raises half_made.Exists and space.Full; then, and when it is cancelled, nothing is left of it.
    """
    async with half_made.made_whole(destination) as beside:
        await threads.run_job(copy_now, progress, source, beside)


class _NoSharing(Exception):
    """The file system has no blocks that two files share."""


async def share(source: pathlib.Path, destination: pathlib.Path) -> bool:
    """Make a file that shares the blocks of another, at once and without room; False when the file system cannot.

    Raises half_made.Exists and space.Full.
    """
    try:
        async with half_made.made_whole(destination) as beside:
            await threads.run(_share_now, source, beside)
    except _NoSharing:
        return False
    return True


def _share_now(source: pathlib.Path, destination: pathlib.Path) -> None:
    with open(source, "rb") as reading, open(destination, "xb") as writing:
        if not clone(reading.fileno(), writing.fileno()):
            raise _NoSharing


def copy_now(job: threads.Job, source: pathlib.Path, destination: pathlib.Path) -> None:
    """Copy a file with its holes to a new file; blocking."""
    reading = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        copy_opened(job, reading, destination)
    finally:
        os.close(reading)


def copy_opened(job: threads.Job, reading: int, destination: pathlib.Path) -> None:
    """Copy an open file with its holes to a new file; blocking."""
    writing = os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(reading).st_size
        if not clone(reading, writing):
            _copy_extents(job, reading, writing, size)
        job.step(size, size)
    finally:
        os.close(writing)


def _copy_extents(job: threads.Job, reading: int, writing: int, size: int) -> None:
    os.ftruncate(writing, size)
    for start, length in extents(reading, size):
        at, end = start, start + length
        while at < end:
            job.step(at, size)
            copied = copy_piece(reading, writing, at, min(_PIECE, end - at))
            if copied == 0:
                return  # it was cut short meanwhile; the size is already as it was
            at += copied


def copy_piece(reading: int, writing: int, at: int, length: int) -> int:
    """Copy up to `length` bytes at the same offset inside the kernel, else through memory; the bytes copied."""
    try:
        return os.copy_file_range(reading, writing, length, at, at)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
    return write_all(writing, os.pread(reading, length, at), at)


def write_all(writing: int, data: bytes | memoryview, at: int) -> int:
    """Write all of `data` at `at`; the bytes written."""
    view = memoryview(data)
    done = 0
    while done < len(view):
        done += os.pwrite(writing, view[done:], at + done)
    return done


def write_thin(writing: int, data: bytes, at: int) -> None:
    """Write `data` at `at` where nothing was written before, leaving out blocks of zeros.

    The file's size is the caller's to set.
    """
    for start in range(0, len(data), _BLOCK):
        block = data[start : start + _BLOCK]
        if block != _ZEROS[: len(block)]:
            write_all(writing, block, at + start)
