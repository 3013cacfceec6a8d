"""NICs that come and go while the VM runs, and their cables.

Each function looks at what is there first, so that it can be cut off anywhere and called again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable

from bocage import errors
from bocage.engine import base
from bocage.engine.qemu import command, devices, hotplug, link, paths, qmp
from bocage.model import vm as model
from bocage.words import N_

_CABLE_OUT = 1.0  # seconds that a guest gets to see it


class Enclosed(base.Error, errors.Conflict):
    """QEMU's own network would lead from a namespace that has none."""

    type = "nic-needs-cold-start"
    text = N_("without passt, a NIC on a user-mode network comes with the next cold start")
    hint = N_("'apt install passt' lets it come while the VM runs")


Carry = Callable[[], Awaitable[None]]


async def plug(at: link.Link, nic: model.Nic, backend: base.Backend, files: paths.Paths, *, carry: Carry) -> None:
    """Give a running VM a NIC; `carry` starts what carries it beside QEMU. Raises qmp.CommandFailed, OSError."""
    if await hotplug.has_device(at, nic.name):
        return
    await _remove_netdev(at, nic.name)
    async with contextlib.AsyncExitStack() as undo:
        await _add_netdev(at, nic.name, backend, files)
        undo.push_async_callback(_remove_netdev, at, nic.name)
        await carry()
        await at.execute("device_add", devices.nic(nic))
        undo.pop_all()
    await set_link(at, nic.name, connected=nic.connected)


async def unplug(at: link.Link, name: str) -> None:
    """Take a NIC from a running VM. Raises hotplug.GuestHolds; then the guest may still let go later."""
    if await hotplug.has_device(at, name):
        await hotplug.unplug(at, name)
    await _remove_netdev(at, name)


async def set_link(at: link.Link, name: str, *, connected: bool) -> None:
    """Put a NIC's cable in, or pull it out."""
    await at.execute("set_link", {"name": name, "up": connected})


async def reconnect(at: link.Link, name: str) -> None:
    """Pull the cable and put it in again, so that the guest asks for an address anew."""
    await set_link(at, name, connected=False)
    await asyncio.sleep(_CABLE_OUT)
    await set_link(at, name, connected=True)


async def _add_netdev(at: link.Link, name: str, backend: base.Backend, files: paths.Paths) -> None:
    match backend:
        case base.Tap(open=open_) if open_:
            descriptor, handle = open_(), f"tap-{name}"
            try:
                await at.name_descriptor(descriptor, handle)
            finally:
                os.close(descriptor)
            await at.execute("netdev_add", {"type": "tap", "id": name, "fd": handle})
        case _:
            await at.execute(
                "netdev_add", command.netdev(name, backend, files.nic(name), number=_number(name), taps={})
            )


async def _remove_netdev(at: link.Link, name: str) -> None:
    with contextlib.suppress(qmp.CommandFailed):  # there is none
        await at.execute("netdev_del", {"id": name})


def _number(name: str) -> int:
    """What tells the networks inside QEMU apart: the number that the NIC's name ends in, else its letters' sum."""
    digits = name.lstrip("abcdefghijklmnopqrstuvwxyz-")
    return int(digits) % 200 if digits.isdigit() else sum(name.encode()) % 200
