"""Files that QEMU is handed as descriptors, since it may not see their paths."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re

from bocage import errors
from bocage.engine.qemu import link

_FDSET = re.compile(r"/dev/fdset/(\d+)")


async def hand(at: link.Link, path: pathlib.Path, flags: int, undo: contextlib.AsyncExitStack) -> str:
    """Give QEMU a file; the path under which its block nodes open it. What takes it back is pushed on `undo`."""
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        given = await at.add_descriptor(descriptor)
    finally:
        os.close(descriptor)
    undo.push_async_callback(take_back, at, given)
    return given


async def take_back(at: link.Link, path: str) -> None:
    """Make QEMU close a descriptor that it was given for this path; any other path is left alone."""
    if match := _FDSET.fullmatch(path):
        with contextlib.suppress(errors.Problem):
            await at.execute("remove-fd", {"fdset-id": int(match[1])})
