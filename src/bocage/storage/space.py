"""A storage without room: the one error for it, made from what the system and QEMU's tools say."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
from collections.abc import Iterator

from bocage import errors, process, storage
from bocage.words import N_


class Full(storage.Error, errors.Unavailable):
    """The file system has no room left, or its quota is used up. `free` is in bytes."""

    type = "storage-full"
    status = 507
    text = N_("there is no room left in {directory} ({free:size} free)")
    hint = N_("make room, or choose another storage")
    directory: str
    free: int


@contextlib.contextmanager
def told_when_full(directory: pathlib.Path) -> Iterator[None]:
    """Turn a full disk met inside into `Full`; `directory` is where was written."""
    try:
        yield
    except errors.Problem as error:
        failed = error if isinstance(error, process.Failed) else error.__cause__
        said = failed.output if isinstance(failed, process.Failed) else ""
        if "No space left on device" in said or "Disk quota exceeded" in said:
            raise Full(directory=str(directory), free=free(directory)) from error
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Full(directory=str(directory), free=free(directory)) from error
        raise


def free(directory: pathlib.Path) -> int:
    """Bytes that may still be written below `directory` by an ordinary user; 0 when it is not there."""
    try:
        known = os.statvfs(directory)
    except OSError:
        return 0
    return known.f_bavail * known.f_frsize
