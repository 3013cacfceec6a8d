"""The host's USB devices in a running machine.

QEMU sees no device of the host: it is handed the open file of each. That file bears a word, by which it is known
again after a restart of the daemon what it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import re
from collections.abc import AsyncIterator

from bocage.engine.qemu import descriptors, devices, hotplug, link

_MARK = descriptors.OTHERS
_DEVICES = "/machine/peripheral"
_IS_USB = re.compile(r"child<usb-\w+>")


class Plugs:
    """The USB devices of one machine. Each call looks first at what is there, and can be made again."""

    def __init__(self, at: link.Link) -> None:
        self._at = at
        self._one_at_a_time = asyncio.Lock()
        self._pulled = False

    @property
    def pulled(self) -> bool:
        """Whether it is to have none just now."""
        return self._pulled

    async def plugged(self) -> dict[str, str]:
        """By name, the host's node that each has; empty for one that is only half there, or has lost its device."""
        there = [
            str(one["name"])
            for one in await self._at.execute("qom-list", {"path": _DEVICES})
            if _IS_USB.fullmatch(str(one.get("type"))) and not str(one["name"]).startswith("board.")
        ]
        files = await self._files()
        found = dict.fromkeys([*files, *there], "")
        for name in there:
            asked = {"path": f"{_DEVICES}/{name}", "property": "attached"}
            if name in files and await self._at.execute("qom-get", asked):
                found[name] = files[name][0]
        return found

    async def plug(self, name: str, unit: int, node: str) -> None:
        """Plug a device of the host into a port of the guest's controller. Raises OSError, qmp.CommandFailed."""
        async with self._one_at_a_time, contextlib.AsyncExitStack() as undo:
            if self._pulled:
                return  # the next look finds that it is missing
            await self._unplug(name)
            word = f"{_MARK}{name} {node}"
            given = await descriptors.hand(self._at, pathlib.Path(node), os.O_RDWR, undo, of=word)
            await self._at.execute("device_add", devices.usb(name, unit, given))
            undo.pop_all()

    async def unplug(self, name: str) -> None:
        """Have the guest see it go; its host has it again."""
        async with self._one_at_a_time:
            await self._unplug(name)

    @contextlib.asynccontextmanager
    async def none(self) -> AsyncIterator[None]:
        """Meanwhile it has none: memory that is written knows of no device that may be elsewhere when it is read."""
        self._pulled = True
        try:
            async with self._one_at_a_time:
                for name in await self._files():
                    await self._unplug(name)
            yield
        finally:
            self._pulled = False

    async def _unplug(self, name: str) -> None:
        known = (await self._files()).get(name)
        if known is None and not await hotplug.has_device(self._at, name):
            return
        await hotplug.unplug(self._at, name)
        if known:
            await descriptors.take_back(self._at, known[1])

    async def _files(self) -> dict[str, tuple[str, str]]:
        """By name, the host's node that QEMU was handed and the path under which it has it."""
        found = {}
        for one in await self._at.execute("query-fdsets"):
            for given in one["fds"]:
                word = str(given.get("opaque", ""))
                if word.startswith(_MARK):
                    name, _, node = word.removeprefix(_MARK).partition(" ")
                    found[name] = node, f"/dev/fdset/{one['fdset-id']}"
        return found
