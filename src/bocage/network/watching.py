"""A process that looks after a file, outlives whoever started it, and is seen to be there by the lock that it holds."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import TextIO


def watched(path: pathlib.Path) -> bool:
    """Whether a watcher looks after it."""
    with contextlib.suppress(FileNotFoundError), open(lock_of(path)) as file:
        return not _lock(file)
    return False


@contextlib.contextmanager
def at_work(path: pathlib.Path) -> Iterator[bool]:
    """What a watcher does its work in; False: there is another."""
    with open(lock_of(path), "a") as file:
        yield _lock(file)


def started(module: str, path: pathlib.Path) -> subprocess.Popen[bytes]:
    """A watcher on its way: `python -m MODULE FILE`."""
    nowhere = subprocess.DEVNULL
    command = [sys.executable, "-m", module, os.fspath(path)]
    return subprocess.Popen(command, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True)


def lock_of(path: pathlib.Path) -> pathlib.Path:
    """What a watcher holds a lock on while it lives."""
    return path.with_suffix(".watch")


def _lock(file: TextIO) -> bool:
    """Take it if nobody has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
