"""A machine's NICs: what carries them, their cables, and how they come and go while it runs.

Each step looks at what is there first, so that it can be cut off anywhere and called again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Mapping

from bocage import errors, words
from bocage.engine import base
from bocage.engine.qemu import carriers, cgroup, command, devices, hotplug, link, paths, processes, qmp
from bocage.model import vm as model
from bocage.words import N_

_CABLE_OUT = 1.0  # seconds that a guest gets to see it


class Enclosed(base.Error, errors.Conflict):
    """QEMU's own network would lead from a namespace that has none."""

    type = "nic-needs-cold-start"
    text = N_("without passt, a NIC on a user-mode network comes with the next cold start")
    hint = N_("'apt install passt' lets it come while the VM runs")


Helpers = Mapping[str, processes.Identity]


class Nics:
    """The NICs of one machine. `helpers` gives, and `note` keeps, which process carries which of them."""

    def __init__(
        self,
        at: link.Link,
        files: paths.Paths,
        group: cgroup.Group | None,
        *,
        enclosed: bool,
        helpers: Callable[[], Helpers],
        note: Callable[[Helpers], Awaitable[None]],
    ) -> None:
        self._at, self._files, self._group = at, files, group
        self._enclosed = enclosed  # in a network namespace that leads nowhere
        self._helpers, self._note = helpers, note
        self._one_at_a_time = asyncio.Lock()

    def require(self, backend: base.Backend) -> None:
        if isinstance(backend, base.UserMode) and self._enclosed:
            raise Enclosed

    async def there(self, name: str) -> bool:
        return await hotplug.has_device(self._at, name)

    async def plug(self, nic: model.Nic, backend: base.Backend) -> None:
        self.require(backend)
        async with self._one_at_a_time, contextlib.AsyncExitStack() as undo:
            if await self.there(nic.name):
                return
            await _remove_netdev(self._at, nic.name)
            await _add_netdev(self._at, nic.name, backend, self._files)
            undo.push_async_callback(_remove_netdev, self._at, nic.name)
            if isinstance(backend, base.Passt):
                await self._carry(nic.name, backend)
            await self._at.execute("device_add", devices.nic(nic))
            undo.pop_all()
        await self.set_link(nic.name, connected=nic.connected)

    async def unplug(self, name: str) -> None:
        """Raises hotplug.GuestHolds; then the guest may still let go later."""
        async with self._one_at_a_time:
            if await self.there(name):
                await hotplug.unplug(self._at, name)
            await _remove_netdev(self._at, name)
            if helper := self._helpers().get(name):
                await self._note({key: one for key, one in self._helpers().items() if key != name})
                await carriers.ended(helper)

    async def recarry(self, nic: model.Nic, backend: base.Backend) -> None:
        async with self._one_at_a_time:
            if isinstance(backend, base.Passt):
                if helper := self._helpers().get(nic.name):  # known until another is: what fails now is mended
                    await carriers.ended(helper)
                await self._carry(nic.name, backend)
            if nic.connected:
                await self.set_link(nic.name, connected=False)
                await asyncio.sleep(_CABLE_OUT)
                await self.set_link(nic.name, connected=True)

    async def set_link(self, name: str, *, connected: bool) -> None:
        await self._at.execute("set_link", {"name": name, "up": connected})

    async def carry(self, backends: Mapping[str, base.Backend]) -> None:
        """Start what carries the NICs of a machine that has just been started."""
        async with self._one_at_a_time:
            for name, backend in backends.items():
                if isinstance(backend, base.Passt):
                    await self._carry(name, backend)

    def cut(self) -> tuple[str, ...]:
        return tuple(name for name, helper in self._helpers().items() if not processes.alive(helper))

    async def mend(self, backends: Mapping[str, base.Backend]) -> dict[str, words.Message]:
        mended: dict[str, words.Message] = {}
        async with self._one_at_a_time:
            for name in self.cut():
                backend = backends.get(name)
                if isinstance(backend, base.Passt) and not self._at.ended.done():
                    ended = await carriers.how_ended(name, self._files)
                    await self._carry(name, backend)
                    await self._announce(name)
                    mended[name] = ended.reason
        return mended

    async def _announce(self, name: str) -> None:
        """Have the NIC be heard: a new passt sends to all until it knows the guest's MAC, and guests ignore that."""
        times = {"initial": 50, "max": 500, "rounds": 5, "step": 100}  # milliseconds
        with contextlib.suppress(qmp.Error, errors.TimedOut, base.NotRunning):
            await self._at.execute("announce-self", {**times, "interfaces": [name]})

    async def _carry(self, name: str, backend: base.Passt) -> None:
        async def note(helper: processes.Identity) -> None:
            await self._note({**self._helpers(), name: helper})

        await carriers.start(name, backend, self._files, group=self._group, before=note)


async def _add_netdev(at: link.Link, name: str, backend: base.Backend, files: paths.Paths) -> None:
    match backend:
        case base.Tap(open=open_) if open_:
            handle = f"tap-{name}"
            with contextlib.suppress(qmp.CommandFailed):  # there is none: nobody was cut off between the two commands
                await at.execute("closefd", {"fdname": handle})
            descriptor = open_()
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
