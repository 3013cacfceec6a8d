"""The room on this host's storages: what running VMs may still write is promised to them.

On a storage of several hosts what those of the others may write counts as well, from the wish that they run on: two
that are to start at the same moment on two hosts know of each other, so that no byte is promised twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterable, Sequence

from bocage import errors, files, reach, words
from bocage.model import ground, vm
from bocage.node.ground import Ground
from bocage.planner import capacity
from bocage.words import N_


class Error(errors.Problem):
    """A storage has too little room."""


class WouldNotFit(Error, errors.Unavailable):
    """What was asked could fill the storage past its reserve. `reason` is the planner's."""

    type = "storage-would-not-fit"
    status = 507
    text = N_("{reason}")
    hint = N_("{advice}")
    reason: str
    advice: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Extent:
    """A disk file and the bytes that it may come to take."""

    storage: str  # uid
    path: pathlib.Path
    size: int

    def growth(self) -> int:
        """Bytes that it can still grow by; what is not there yet can grow to all of it."""
        with contextlib.suppress(OSError):
            return max(self.size - files.allocated(self.path), 0)
        return self.size


class Rooms:
    """What was promised on this host."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._promised: dict[str, tuple[Extent, ...]] = {}  # by VM
        self._claiming = asyncio.Lock()

    def promise(self, vm_uid: str, extents: Iterable[Extent]) -> None:
        """Make this all that is promised to a VM; nothing when it does not run."""
        self._promised.pop(vm_uid, None)
        if kept := tuple(extents):
            self._promised[vm_uid] = kept

    async def claim(self, vm_uid: str, extents: Sequence[Extent]) -> None:
        """Promise a VM that is to start what its disks can grow by, when that fits. Raises WouldNotFit."""
        async with self._claiming:
            for storage in {extent.storage for extent in extents}:
                later = sum(extent.growth() for extent in extents if extent.storage == storage)
                await self._check(storage, capacity.Growth(later=later), besides=vm_uid)
            self.promise(vm_uid, extents)

    async def left(self, storage: str) -> int:
        """Bytes that may still be written to a storage before its reserve begins."""
        room, _ = await self._room(storage)
        return max(room.free - room.reserve, 0)

    async def check_growth(self, storage: str, *, now: int = 0, later: int = 0) -> None:
        """Refuse to write `now` bytes, or to let a disk grow by `later`. Raises WouldNotFit."""
        await self._check(storage, capacity.Growth(now=now, later=later))

    async def _check(self, uid: str, growth: capacity.Growth, *, besides: str = "") -> None:
        room, storage = await self._room(uid, besides=besides)
        refusal = capacity.fits(storage.name, room, growth, overcommit=storage.spec.overcommit)
        if refusal:
            raise WouldNotFit(reason=words.say(refusal), advice=words.advise(refusal))

    async def _room(self, uid: str, *, besides: str = "") -> tuple[capacity.Room, ground.Storage]:
        storage = await self._ground.resources.get(ground.Storage, None, uid)
        root = pathlib.Path(storage.spec.path)
        known = await reach.Way(root).call(os.statvfs, root)
        total = known.f_blocks * known.f_frsize
        promises = dict(self._promised)
        if storage.shared and not storage.spec.overcommit:
            promises = {**await self._of_others(storage), **promises}
        extents = [one for vm_uid, those in promises.items() if vm_uid != besides for one in those]
        promised = await reach.Way(root).call(lambda: sum(one.growth() for one in extents if one.storage == uid))
        free, reserve = known.f_bavail * known.f_frsize, total * storage.spec.reserve_percent // 100
        return capacity.Room(total=total, free=free, promised=promised, reserve=reserve), storage

    async def _of_others(self, storage: ground.Storage) -> dict[str, tuple[Extent, ...]]:
        """What the VMs of other hosts that run, or are to, may come to take of a storage."""
        kept = self._ground.resources
        volumes = {one.uid: one for one in (await kept.list(ground.Volume)).items if one.spec.storage == storage.uid}
        found = dict[str, tuple[Extent, ...]]()
        for machine in (await kept.list(vm.VM)).items:
            runs = machine.spec.power in (vm.Power.RUNNING, vm.Power.PAUSED) or machine.status.pid is not None
            if runs and machine.status.host not in (None, self._ground.uid):
                those = [volumes[disk.volume] for disk in machine.spec.disks if disk.volume in volumes]
                found[machine.uid] = tuple(_extent(one) for one in those)
        return found


def _extent(volume: ground.Volume) -> Extent:
    """Of a volume on a storage of several hosts, which has one path on all of them."""
    return Extent(volume.spec.storage, pathlib.Path(volume.status.path or f"/{volume.uid}"), volume.spec.size)
