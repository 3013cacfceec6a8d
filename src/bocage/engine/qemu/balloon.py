"""The balloon: what a guest has of the memory that it started with, what it tells of it, and what it is asked to have.

The guest's driver inflates and deflates it as it can (virtio specification 1.2, section 5.5).
"""

from __future__ import annotations

import asyncio
from typing import Any

from bocage.engine import base, uses
from bocage.engine.qemu import added_memory, devices, link, qmp
from bocage.model import sample

_BOUND = 2.0  # seconds for an answer: others wait to be asked
_STILL = 3.0  # seconds without a further page after which the guest has done what it can
_PAUSE = 0.2
_DEVICE = {"path": f"/machine/peripheral/{devices.BALLOON}"}
_POLLING = {**_DEVICE, "property": "guest-stats-polling-interval"}
_STATS = {**_DEVICE, "property": "guest-stats"}
_UNTOLD = (1 << 64) - 1  # what the driver has not told (section 5.5.6.3)


class Balloon:
    """The balloon of one QEMU; sizes are of all that the guest has, what was added included."""

    def __init__(self, monitor: link.Link) -> None:
        self._link = monitor
        self._every = 0  # seconds between two answers of the guest; 0: it is not asked
        self._has: int | None = None  # as it was seen last
        self._adds = True  # there is a device that memory is added by, as far as is known

    async def look(self, *, every: int) -> uses.Ballooned | None:
        answer = await self._told(every)
        if answer is None:
            return None
        has = await self.size()
        return uses.Ballooned(has=has, told=guest_memory(answer, has), told_at=int(answer.get("last-update") or 0))

    async def size(self) -> int:
        try:
            actual = (await self._link.execute("query-balloon", within=_BOUND))["actual"]
        except qmp.CommandFailed as error:
            raise base.NoBalloon from error
        self._has = int(actual) + await self._added()
        return self._has

    async def ask(self, size: int) -> None:
        try:
            value = max(1, size - await self._added())
            await self._link.execute("balloon", {"value": value}, within=_BOUND)
        except qmp.CommandFailed as error:
            raise base.NoBalloon from error

    async def settle(self, size: int) -> int:
        await self.ask(size)
        present, moved = await self.size(), asyncio.get_running_loop().time()
        while present != size and asyncio.get_running_loop().time() < moved + _STILL:
            await asyncio.sleep(_PAUSE)
            await self.ask(size)  # whatever others were about to ask
            before, present = present, await self.size()
            if present != before:
                moved = asyncio.get_running_loop().time()
        return present

    async def guest_memory(self, *, every: int) -> sample.GuestMemory | None:
        """What the guest told last; None when it has no balloon, or its driver tells nothing (yet)."""
        answer = await self._told(every)
        return guest_memory(answer, self._has) if answer else None

    async def _told(self, every: int) -> dict[str, Any] | None:
        try:
            if not 0 < self._every <= every:
                await self._link.execute("qom-set", {**_POLLING, "value": every}, within=_BOUND)
                self._every = every
            answer: dict[str, Any] = await self._link.execute("qom-get", _STATS, within=_BOUND)
        except qmp.CommandFailed:  # it has no balloon
            return None
        return answer

    async def _added(self) -> int:
        if self._adds:
            try:
                return await added_memory.size(self._link)
            except qmp.CommandFailed:
                self._adds = False
        return 0


def guest_memory(answer: dict[str, Any], has: int | None = None) -> sample.GuestMemory | None:
    """From the balloon's `guest-stats`; None when the driver has told nothing, or what cannot be.

    A guest that may take from its balloon counts as its own what lies there: `has` is what is not.
    """
    told = {name: value for name, value in answer["stats"].items() if 0 <= value < _UNTOLD}
    total = told.get("stat-total-memory")
    available = told.get("stat-available-memory", told.get("stat-free-memory"))
    if not answer.get("last-update") or not total or available is None or available > total:
        return None
    return sample.GuestMemory(
        total=total if has is None else max(min(total, has), available),
        available=available,
        swapped_in=told.get("stat-swap-in"),
        swapped_out=told.get("stat-swap-out"),
        faults=told.get("stat-major-faults"),
    )
