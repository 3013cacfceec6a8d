"""A process that looks after a file, outlives whoever started it, and is seen to be there by the lock that it holds."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pathlib
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import TextIO

from bocage import errors

_ALONE_WITHIN = 120.0  # seconds: a watcher tries for half a minute and more
_LOOKED_WITHIN = 5.0  # seconds: a look takes none
_LOOK = 0.02  # seconds between two looks
_LOCK = "hhqqi4x"  # struct flock (fcntl(2)): type, whence, start, length, pid


def watched(path: pathlib.Path) -> bool:
    """Whether a watcher looks after it. Its lock is looked at and not taken: one that just starts would give way."""
    with contextlib.suppress(FileNotFoundError), open(lock_of(path)) as file:
        found = fcntl.fcntl(file, fcntl.F_OFD_GETLK, struct.pack(_LOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        return bool(struct.unpack(_LOCK, found)[0] != fcntl.F_UNLCK) or not _flock(file, fcntl.LOCK_SH)
    return False


@contextlib.asynccontextmanager
async def alone(lock: pathlib.Path) -> AsyncIterator[None]:
    """One at a time, of whoever started a watcher and the watcher. Raises errors.TimedOut."""
    due = time.monotonic() + _ALONE_WITHIN
    with _opened(lock) as file:
        while not (_lock(file) and _flock(file, fcntl.LOCK_EX)):
            if time.monotonic() > due:
                raise errors.TimedOut(what=lock.name, bound=_ALONE_WITHIN)
            await asyncio.sleep(_LOOK)
        yield


@contextlib.contextmanager
def at_work(path: pathlib.Path) -> Iterator[bool]:
    """What a watcher does its work in; False: there is another."""
    with open(lock_of(path), "a") as file:
        due = time.monotonic() + _LOOKED_WITHIN
        while _lock(file):  # from here on nobody looks at the older lock any more; who does so already is waited for
            if _flock(file, fcntl.LOCK_EX):
                yield True
                return
            if time.monotonic() > due:
                break
            time.sleep(_LOOK)
        yield False


def started(module: str, path: pathlib.Path) -> subprocess.Popen[bytes]:
    """A watcher on its way: `python -m MODULE FILE`."""
    nowhere = subprocess.DEVNULL
    command = [sys.executable, "-m", module, os.fspath(path)]
    return subprocess.Popen(command, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True)


def lock_of(path: pathlib.Path) -> pathlib.Path:
    """What a watcher holds a lock on while it lives."""
    return path.with_suffix(".watch")


def _opened(lock: pathlib.Path) -> TextIO:
    lock.parent.mkdir(parents=True, exist_ok=True)
    return open(lock, "a")


def _lock(file: TextIO) -> bool:
    """Take it if nobody has it; once more is the same."""
    try:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack(_LOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except BlockingIOError:
        return False
    return True


def _flock(file: TextIO, how: int) -> bool:
    """The same, of the lock that watchers of the earlier version have, and no other."""
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
