"""A file system of a storage's own: XFS, whose files can share blocks, on one empty disk or on a mirror of two.

It bears the storage's uid, and is found by it, whatever the disks are called by then.
"""

from __future__ import annotations

import asyncio
import os
import pathlib
from collections.abc import Awaitable, Callable, Sequence

from bocage import process
from bocage.storage import devices, mirror

_BOUND = 900.0  # seconds; a large disk that discards takes its time
_OPTIONS = "nodev,nosuid,noatime"


async def make(
    root: pathlib.Path, uid: str, disks: Sequence[str], *, begun: bool, begin: Callable[[], Awaitable[None]]
) -> None:
    """Have a file system on disks that were empty, and mount it at `root`. Can be cut off anywhere and done again.

    `begin` is awaited when they were found empty, before the first byte is written; whoever comes again then says
    `begun`. Raises devices.NotEmpty, devices.NotADisk, process.Missing, process.Failed.
    """
    if await _device(uid) is None:
        if not begun:
            for disk in disks:
                await devices.check_empty(disk)
            await begin()
        device = disks[0] if len(disks) == 1 else await mirror.make(uid, disks)
        await process.run("mkfs.xfs", "-q", "-f", "-m", f"reflink=1,uuid={uid}", device, within=_BOUND)
    await mount(root, uid, disks)


async def mount(root: pathlib.Path, uid: str, disks: Sequence[str]) -> None:
    """Mount the file system of a storage, when it is not. Raises process.Failed when it cannot be found."""
    if await asyncio.to_thread(os.path.ismount, root):
        return
    if len(disks) > 1 and await _device(uid) is None:
        await mirror.assemble(uid)
    await asyncio.to_thread(root.mkdir, mode=0o711, parents=True, exist_ok=True)
    await process.run("mount", "-t", "xfs", "-o", _OPTIONS, f"UUID={uid}", root, within=_BOUND)


async def unmount(root: pathlib.Path) -> None:
    """Let go of it; what lies on it stays. Raises process.Failed while something uses it."""
    if await asyncio.to_thread(os.path.ismount, root):
        await process.run("umount", root, within=_BOUND)


async def let_go(root: pathlib.Path, uid: str, disks: Sequence[str]) -> None:
    """Have nothing of a storage hold its disks; what lies on them stays. Raises process.Failed while it is used."""
    await unmount(root)
    if len(disks) > 1:
        await mirror.stop(uid)


async def _device(uid: str) -> str | None:
    """The device that bears the file system."""
    try:
        said = await process.run("blkid", "--cache-file", os.devnull, "--uuid", uid, within=_BOUND)
    except process.Failed:
        return None
    return said.decode().strip() or None
