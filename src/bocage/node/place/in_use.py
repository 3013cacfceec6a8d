"""Who uses the disks of one host's VMs just now: those that write, that copy, that rearrange layers."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Iterable, Iterator

from bocage import errors
from bocage.model import ground, vm
from bocage.words import N_

_LOOK = 0.2  # seconds between two looks whether somebody still copies


class Error(errors.Problem):
    """A disk is not free for what is to be done with it."""


class CopyWhileRunning(Error, errors.Conflict):
    type = "copy-while-running"
    text = N_("{name} is running: its disks change while they would be copied")
    hint = N_("'bocage vm stop {name}' first")
    name: str


class BeingCopied(Error, errors.Conflict):
    type = "disks-being-copied"
    text = N_("the disks of {name} are being copied just now")
    hint = N_("'bocage task list' shows how far that is")
    name: str


class VolumeBeingCopied(Error, errors.Conflict):
    type = "volume-being-copied"
    text = N_("the volume of {disk} is being copied just now")
    hint = N_("'bocage task list' shows how far that is")
    disk: str


class BeingMerged(Error, errors.Conflict):
    type = "disks-being-merged"
    text = N_("a snapshot of {name} is being deleted just now")
    hint = N_("'bocage task list' shows how far that is; try again then")
    name: str


class StillPlugged(Error, errors.Conflict):
    type = "disk-still-plugged"
    text = N_("{disk} is still plugged in {vm}, whose guest has not let go of it")
    hint = N_("'bocage vm reboot {vm}' or a stop takes it from there; 'bocage vm diff {vm}' shows what waits")
    disk: str
    vm: str


@dataclasses.dataclass(frozen=True, slots=True)
class _Writer:
    """A VM with a process, and the volumes that it has open."""

    name: str
    volumes: set[str]

    @classmethod
    def of(cls, machine: vm.VM, built: vm.VMSpec) -> _Writer:
        return cls(machine.name, {disk.volume for disk in built.disks})


class InUse:
    """Who has which volumes, by what they hold themselves: a definition may name others by now."""

    def __init__(self) -> None:
        self._written: dict[str, _Writer] = {}  # VMs that have a process, or are about to
        self._copied: collections.Counter[str] = collections.Counter()  # VMs, and volumes, that are read for a copy
        self._read: collections.Counter[str] = collections.Counter()  # those of whose snapshots one is read
        self._merged: set[str] = set()  # those whose layers are being rearranged

    def write(self, machine: vm.VM) -> None:
        """A VM's process may write from now on. Raises BeingCopied, StillPlugged."""
        if self.is_copied(machine):
            raise BeingCopied(name=machine.name)
        self.check_plugged_nowhere_else(machine)
        self._written[machine.uid] = _Writer.of(machine, machine.spec)

    def found(self, machine: vm.VM, built: vm.VMSpec) -> None:
        """A process is there that was built so; what is known of it already stays."""
        self._written.setdefault(machine.uid, _Writer.of(machine, built))

    def hold(self, machine: vm.VM, disk: vm.Disk) -> None:
        """A running VM is about to get a disk. Raises VolumeBeingCopied, StillPlugged."""
        self.check_not_copied(disk.volume, disk.name)
        self.check_plugged_nowhere_else(machine, disk)
        if writer := self._written.get(machine.uid):
            writer.volumes.add(disk.volume)

    def let_go(self, machine: vm.VM, disk: vm.Disk) -> None:
        """A running VM does not have a disk any more."""
        if writer := self._written.get(machine.uid):
            writer.volumes.discard(disk.volume)

    def had_by(self, machine: vm.VM) -> set[str]:
        """The volumes that its process has, or may have."""
        writer = self._written.get(machine.uid)
        return set(writer.volumes) if writer else set()

    def plugged_in(self, volume: str) -> str | None:
        """The VM whose process has a volume open, whatever its definition says by now."""
        return next((one.name for one in self._written.values() if volume in one.volumes), None)

    def check_plugged_nowhere_else(self, machine: vm.VM, *those: vm.Disk) -> None:
        """No other VM's process has its disks, or `those` alone, open. Raises StillPlugged."""
        for disk in those or machine.spec.disks:
            for uid, writer in self._written.items():
                if uid != machine.uid and disk.volume in writer.volumes:
                    raise StillPlugged(disk=disk.name, vm=writer.name)

    def rest(self, machine: vm.VM) -> None:
        """No process of the VM is there any more."""
        self._written.pop(machine.uid, None)

    @contextlib.contextmanager
    def copied(self, machines: Iterable[vm.VM], *volumes: ground.Volume) -> Iterator[None]:
        """Nobody starts these VMs inside, nor gets one of their volumes or of these.

        Raises CopyWhileRunning, BeingMerged, StillPlugged.
        """
        with contextlib.ExitStack() as undo:
            for machine in machines:
                if machine.uid in self._written:
                    raise CopyWhileRunning(name=machine.name)
                if machine.uid in self._merged:
                    raise BeingMerged(name=machine.name)
                self.check_plugged_nowhere_else(machine)
                self._copy(undo, machine.uid, *(disk.volume for disk in machine.spec.disks))
            for volume in volumes:
                if by := self.plugged_in(volume.uid):  # whose definition has it no more
                    raise StillPlugged(disk=volume.name, vm=by)
                self._copy(undo, volume.uid)
            yield

    def _copy(self, undo: contextlib.ExitStack, *uids: str) -> None:
        self._copied.update(uids)
        undo.callback(self._copied.subtract, uids)

    @contextlib.contextmanager
    def read(self, vm_uid: str, name: str) -> Iterator[None]:
        """Nobody merges layers of this VM inside. Raises BeingMerged."""
        if vm_uid in self._merged:
            raise BeingMerged(name=name)
        self._read[vm_uid] += 1
        try:
            yield
        finally:
            self._read[vm_uid] -= 1

    def is_read(self, vm_uid: str) -> bool:
        """Whether somebody copies from its snapshots just now."""
        return self._read[vm_uid] > 0

    @contextlib.contextmanager
    def merged(self, machine: vm.VM) -> Iterator[None]:
        """Nobody reads the layers of this VM inside. Raises BeingCopied."""
        if self._read[machine.uid] or self._copied[machine.uid]:
            raise BeingCopied(name=machine.name)
        self._merged.add(machine.uid)
        try:
            yield
        finally:
            self._merged.discard(machine.uid)

    async def unread(self, vm_uid: str) -> None:
        """Wait until nobody copies from this VM, which may take hours."""
        while self.is_read(vm_uid) or self._copied[vm_uid]:  # noqa: ASYNC110 - a look is cheap
            await asyncio.sleep(_LOOK)

    @contextlib.asynccontextmanager
    async def taken_away(self, machine: vm.VM) -> AsyncIterator[None]:
        """Nobody copies from this VM inside; who does so now is waited for. Raises no BeingCopied."""
        await self.unread(machine.uid)
        with self.merged(machine):
            yield

    def is_copied(self, machine: vm.VM) -> bool:
        """Whether a VM's disks are being read for a copy just now, so that it must not start."""
        return any(self._copied[uid] for uid in (machine.uid, *(disk.volume for disk in machine.spec.disks)))

    def check_not_copied(self, volume: str, disk: str) -> None:
        """Raises VolumeBeingCopied."""
        if self._copied[volume]:
            raise VolumeBeingCopied(disk=disk)
