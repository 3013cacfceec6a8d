"""Files that QEMU is handed as descriptors, since it may not see their paths."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import re
from collections.abc import Callable

from bocage import errors
from bocage.engine.qemu import link

_FDSET = re.compile(r"/dev/fdset/(\d+)")


OTHERS = "usb "
"""How the words begin of files that are no node's."""


async def hand(at: link.Link, path: pathlib.Path, flags: int, undo: contextlib.AsyncExitStack, *, of: str) -> str:
    """Give QEMU a file, for the node `of`; the path under which that opens it. What takes it back goes on `undo`."""
    descriptor = await _opened(path, flags)
    try:
        given = await at.add_descriptor(descriptor, of=of)
    finally:
        os.close(descriptor)
    undo.push_async_callback(take_back, at, given)
    return given


async def _opened(path: pathlib.Path, flags: int) -> int:
    """Open a file whose storage may not answer, which holds up nobody else."""
    opening = asyncio.ensure_future(asyncio.to_thread(os.open, path, flags | os.O_CLOEXEC))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close)
        raise


def _close(opened: asyncio.Future[int]) -> None:
    if not opened.cancelled() and opened.exception() is None:
        os.close(opened.result())


async def take_back(at: link.Link, path: str) -> None:
    """Make QEMU close a descriptor that it was given for this path; any other path is left alone."""
    if match := _FDSET.fullmatch(path):
        with contextlib.suppress(errors.Problem):
            await at.execute("remove-fd", {"fdset-id": int(match[1])})


async def take_back_of(at: link.Link, node: str) -> None:
    """Make QEMU close the descriptors that it was given for a node."""
    await take_back_others(at, lambda name: name != node)


async def take_back_others(at: link.Link, needs: Callable[[str], bool]) -> None:
    """Make QEMU close the descriptors of nodes that are not there any more."""
    for one in await at.execute("query-fdsets"):
        known = {str(given.get("opaque", "")) for given in one["fds"]} - {""}  # none: an earlier version gave it
        if known and not any(word.startswith(OTHERS) or needs(word) for word in known):
            await take_back(at, f"/dev/fdset/{one['fdset-id']}")
