"""Writing files so that a crash leaves the old one or the new one, and removing trees."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import pathlib
import secrets
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable

from bocage import errors

_SYNC_EVERY = 0.1  # seconds
_AT_FDCWD, _NOREPLACE = -100, 1  # renameat2(2)
_LIBC = ctypes.CDLL(None, use_errno=True)


def write_durably(path: pathlib.Path, data: bytes | str, *, mode: int = 0o644) -> None:
    """Replace `path` by `data`: written beside it, synced, renamed, and the directory synced.

    Raises OSError; then `path` is as it was.
    """
    content = data.encode() if isinstance(data, str) else data
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.rename(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise
    sync_directory(path.parent)


def rename_durably(source: pathlib.Path, destination: pathlib.Path, *, replace: bool = True) -> None:
    """Rename a finished file or directory and sync the directories on both sides.

    Raises FileExistsError where a file of that name is not to be replaced, also one that comes in this moment.
    """
    (os.rename if replace else _rename_to_free)(source, destination)
    sync_directory(destination.parent)
    if source.parent != destination.parent:
        sync_directory(source.parent)


def _rename_to_free(source: pathlib.Path, destination: pathlib.Path) -> None:
    names = os.fsencode(source), os.fsencode(destination)
    if _LIBC.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _NOREPLACE) == 0:
        return
    number = ctypes.get_errno()
    if number not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(number, os.strerror(number), str(source), None, str(destination))
    os.link(source, destination, follow_symlinks=False)  # NFS has no such rename
    os.unlink(source)


def sync_file(path: pathlib.Path) -> None:
    """Make what was written to a file durable, by whomever."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file_system(path: pathlib.Path) -> None:
    """Have the kernel write all that it holds of a file system; what it cannot write is dropped, and lands no later.

    Raises OSError when nothing is at `path`.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _LIBC.syncfs(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: pathlib.Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(path: pathlib.Path) -> None:
    """Make a directory durable with all that is in it."""
    for directory, _, names in os.walk(path):
        for name in names:
            sync_file(pathlib.Path(directory) / name)
        sync_directory(pathlib.Path(directory))


@contextlib.asynccontextmanager
async def synced_meanwhile(sync: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """Have what somebody writes inside go to the disk steadily, so that no long sync is left for the end.

    That one is still needed, and tells of what could not be written.
    """

    async def go_on() -> None:
        while True:
            await asyncio.sleep(_SYNC_EVERY)
            with contextlib.suppress(OSError, errors.Problem):
                await sync()

    going = asyncio.create_task(go_on())
    try:
        yield
    finally:
        going.cancel()
        await asyncio.wait([going])


def link_durably(link: pathlib.Path, target: str) -> None:
    """Make `link` a symbolic link to `target`, replacing one that is there."""
    beside = link.with_name(f".{link.name}.{secrets.token_hex(4)}.part")
    os.symlink(target, beside)
    try:
        os.rename(beside, link)
    except BaseException:
        os.unlink(beside)
        raise
    sync_directory(link.parent)


def remove_tree(path: pathlib.Path) -> None:
    """Remove a file or a directory with all that is in it; not an error when it is gone already."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=False)
    else:
        path.unlink(missing_ok=True)


def allocated(path: pathlib.Path) -> int:
    """Bytes that a file really takes on its file system; holes are free."""
    return os.stat(path).st_blocks * 512
