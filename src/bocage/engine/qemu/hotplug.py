"""Disks and CDs that come and go while the VM runs. Their files are passed by descriptor: QEMU may not see their paths.

Each function looks at what is there first, so that it can be cut off anywhere and called again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
from collections.abc import Sequence

from bocage import errors
from bocage.engine import base, block
from bocage.engine.qemu import chain, devices, layering, link, qmp, throttling
from bocage.engine.qemu.descriptors import hand
from bocage.model import vm as model
from bocage.words import N_

_UNPLUG_BOUND = 30.0  # seconds that the guest gets to let go of a device


class Error(base.Error):
    """A device could not be plugged or unplugged."""


class ColdBus(Error, errors.Conflict):
    """The bus takes devices only while the VM is off."""

    type = "bus-not-hot-pluggable"
    text = N_("a disk on the {bus} bus can be attached and detached only while the VM is off")
    hint = N_("use the virtio or the scsi bus, or stop the VM first")
    bus: str


class GuestHolds(Error, errors.Conflict):
    """The guest was asked to let go of a device and did not."""

    type = "guest-holds-device"
    text = N_("the guest did not let go of {device} within {bound:seconds}")
    hint = N_("have the guest stop using it and try again; it goes in any case when the VM stops")
    device: str
    bound: float


class Disks:
    """The disks and CDs of one machine."""

    def __init__(self, at: link.Link) -> None:
        self._at = at

    async def there(self, name: str) -> bool:
        return await has_device(self._at, name)

    async def attach(self, disk: model.Disk, files: Sequence[block.File]) -> None:
        """Raises ColdBus, qmp.CommandFailed, OSError."""
        _require_hot(disk.bus)
        if await has_device(self._at, disk.name):
            return
        await throttling.remove(self._at, disk.name)
        await _remove_nodes(self._at, disk.name)
        async with contextlib.AsyncExitStack() as undo:
            undo.push_async_callback(_remove_nodes, self._at, disk.name)
            opened = []
            for depth, file in enumerate(files):
                flags = os.O_RDONLY if depth and not file.own else os.O_RDWR
                called = chain.node_of(disk.name, file.path, depth)
                opened.append(await hand(self._at, file.path, flags, undo, of=f"{called}.file"))
            for node in chain.nodes(disk.name, files, cache=disk.cache, discard=disk.discard, opened=opened):
                await self._at.execute("blockdev-add", node)
            await self._at.execute("device_add", devices.disk(disk, files))
            undo.pop_all()

    async def detach(self, name: str) -> None:
        """Raises GuestHolds; then the guest may still let go later."""
        if await has_device(self._at, name):
            await unplug(self._at, name)
        await throttling.remove(self._at, name)
        await _remove_nodes(self._at, name)

    async def grow(self, name: str, size: int) -> None:
        root = await layering.root(self._at, name)  # who tells the guest of it
        await self._at.execute("block_resize", {"node-name": root, "size": size}, within=60.0)

    async def change_cd(self, name: str, image: pathlib.Path | None) -> None:
        await self._at.execute("blockdev-open-tray", {"id": name, "force": True})
        with contextlib.suppress(qmp.CommandFailed):  # there was none in it
            await self._at.execute("blockdev-remove-medium", {"id": name})
        await _remove_nodes(self._at, name)
        if image is None:
            return
        async with contextlib.AsyncExitStack() as undo:
            undo.push_async_callback(_remove_nodes, self._at, name)
            path = await hand(self._at, image, os.O_RDONLY, undo, of=f"{chain.node_name(name)}.file")
            for node in chain.read_only(name, path):
                await self._at.execute("blockdev-add", node)
            await self._at.execute("blockdev-insert-medium", {"id": name, "node-name": chain.node_name(name)})
            undo.pop_all()
        await self._at.execute("blockdev-close-tray", {"id": name})


async def unplug(at: link.Link, name: str) -> None:
    """Have the guest let go of a device. Raises GuestHolds."""
    with at.events("DEVICE_DELETED", "DEVICE_UNPLUG_GUEST_ERROR") as events:
        try:
            await at.execute("device_del", {"id": name})
        except qmp.CommandFailed as error:
            if error.kind == "DeviceNotFound":
                return
            if "process of unplug" not in error.description:
                raise
        try:
            async with asyncio.timeout(_UNPLUG_BOUND):
                async for event in events:
                    if event.data.get("device") != name:
                        continue
                    if event.name == "DEVICE_DELETED":
                        return
                    raise GuestHolds(device=name, bound=0.0)
        except TimeoutError as error:
            if await has_device(at, name):
                raise GuestHolds(device=name, bound=_UNPLUG_BOUND) from error


async def _remove_nodes(at: link.Link, name: str) -> None:
    """Take away the nodes of a disk or CD, and the descriptors under them."""
    for node in await layering.nodes(at, name):
        await layering.remove(at, node)


async def has_device(at: link.Link, name: str) -> bool:
    """Whether the machine has a device of this name."""
    listed = await at.execute("qom-list", {"path": "/machine/peripheral"})
    return any(entry["name"] == name for entry in listed)


def _require_hot(bus: model.Bus) -> None:
    if bus not in (model.Bus.VIRTIO, model.Bus.SCSI):
        raise ColdBus(bus=str(bus))
