"""Files in the making: they bear a temporary name until they are whole, so that a crash leaves nothing else."""

from __future__ import annotations

import contextlib
import os
import pathlib
import secrets
import time
from collections.abc import AsyncIterator

from bocage import errors, files, storage, threads
from bocage.storage import space
from bocage.words import N_

SUFFIX = ".part"


class Exists(storage.Error, errors.Conflict, FileExistsError):
    """What should be made is there already."""

    type = "storage-file-exists"
    text = N_("{path} is there already")
    path: str


@contextlib.asynccontextmanager
async def made_whole(path: pathlib.Path, *, mode: int = 0o600) -> AsyncIterator[pathlib.Path]:
    """Give a temporary name beside `path` to write to; rename it durably to `path` when all went well.

    What was written is synced first. On an error or a cancellation it is removed.
    Raises Exists, and space.Full in the place of a system's error that says so.
    """
    if os.path.lexists(path):  # noqa: ASYNC240 - a moment
        raise Exists(path=str(path))
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}{SUFFIX}")
    try:
        with space.told_when_full(path.parent):
            yield beside
            await threads.run(finish, beside, path, mode)
    except BaseException:
        with contextlib.suppress(OSError):
            files.remove_tree(beside)
        raise


def finish(beside: pathlib.Path, path: pathlib.Path, mode: int) -> None:
    """Sync a finished file and give it its name. Raises Exists: somebody has made one of that name meanwhile."""
    descriptor = os.open(beside, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    try:
        files.rename_durably(beside, path, replace=False)
    except FileExistsError as error:
        raise Exists(path=str(path)) from error


def sweep(directory: pathlib.Path, *, depth: int = 0, untouched: float = 0.0) -> list[str]:
    """Remove what a crash left half made in a directory and `depth` levels below it; the paths that went.

    Call it before anything is made there; where others may be making something just now, with the seconds that nobody
    has written to it for. Links are not followed.
    """
    removed = []
    for entry in sorted(os.scandir(directory), key=lambda one: one.name):
        path = directory / entry.name
        if entry.name.endswith(SUFFIX):
            if not untouched or is_untouched(path, untouched):
                files.remove_tree(path)
                removed.append(entry.name)
        elif depth and entry.is_dir(follow_symlinks=False):
            below = sweep(path, depth=depth - 1, untouched=untouched)
            removed += [f"{entry.name}/{name}" for name in below]
    return removed


def is_untouched(path: pathlib.Path, seconds: float) -> bool:
    """Whether a file, and all below a directory, was written to that long ago; what is gone was not."""
    try:
        newest = max([os.lstat(path).st_mtime, *(os.lstat(one).st_mtime for one in path.rglob("*"))])
    except FileNotFoundError:
        return False
    return time.time() - newest > seconds
