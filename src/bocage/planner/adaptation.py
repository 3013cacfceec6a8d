"""What of a changed definition a running machine can take, as single changes; all else waits for a cold start."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from bocage.model import board as boards
from bocage.model import memory as memories
from bocage.model import vm as model
from bocage.model.units import MiB, Size
from bocage.planner import fitting, hardware, shares

MEMORY_BLOCK = 2 * MiB
"""Memory comes and goes in blocks of this many bytes, where the guest drives virtio-mem."""
DIMM_BLOCK = 128 * MiB
"""Memory comes in multiples of this where it comes as a DIMM: Linux puts no smaller piece to use."""
DIMM_SLOTS = 16


@dataclasses.dataclass(frozen=True, slots=True)
class First:
    """What a machine had at its cold start, and the DIMMs that came later: neither can be told from its spec."""

    cpus: model.Cpus
    memory: Size
    deflates: bool = False
    """Whether the guest may take from its balloon what it was not given, where it would kill programs otherwise."""
    slots: int = 0
    """For DIMMs."""
    dimms: tuple[int, ...] = ()
    """Bytes of each, by its slot."""

    @classmethod
    def of(cls, spec: model.VMSpec) -> First:
        """Of a machine that starts with all that its spec has."""
        board = spec.hardware
        slots = DIMM_SLOTS if board.added_memory is boards.AddedMemory.DIMM and not hardware.is_isa(board) else 0
        room = (board.max_memory or 0) - spec.memory
        return cls(
            spec.cpus,
            spec.memory,
            deflates=spec.dynamic_memory is not None,
            slots=slots if room >= DIMM_BLOCK else 0,
        )

    @property
    def whole(self) -> int:
        """Bytes that stay its own whatever it is asked to give: the balloon alone takes of them."""
        return int(self.memory) + sum(self.dimms)


@dataclasses.dataclass(frozen=True, slots=True)
class Built:
    """What a running machine is made of by now, and what it began with."""

    spec: model.VMSpec
    first: First

    def as_found(self, cpus: int, dimms: tuple[int, ...]) -> Built:
        """The same with the vCPUs and DIMMs that it turns out to have; what is there of a core in part counts whole."""
        first = dataclasses.replace(self.first, dimms=dimms)
        found: dict[str, object] = {"cpus": _with_count(self.spec.cpus, cpus)}
        if first.slots and "balloon" not in self.spec.hardware.devices:  # then its guest has all of it
            found["memory"] = Size(first.whole)
        return Built(self.spec.model_copy(update=found), first)


@dataclasses.dataclass(frozen=True, slots=True)
class PlugCpus:
    """Have more vCPUs."""

    cpus: model.Cpus

    @property
    def path(self) -> str:
        return "cpus"


@dataclasses.dataclass(frozen=True, slots=True)
class UnplugCpus:
    """Have fewer vCPUs, down to those that it began with."""

    cpus: model.Cpus

    @property
    def path(self) -> str:
        return "cpus"


@dataclasses.dataclass(frozen=True, slots=True)
class ResizeMemory:
    """Have more memory beside that which it started with, or less; also less than it started with, or dynamic."""

    memory: Size
    added: int  # bytes
    balloon: bool = False  # whether what it started with is given back or taken again, too
    dynamic: model.DynamicMemory | None = None
    dimm: bool = False  # whether what is added is one DIMM more
    path: str = "memory"


@dataclasses.dataclass(frozen=True, slots=True)
class _OfNic:
    nic: model.Nic

    @property
    def path(self) -> str:
        return f"nics[{self.nic.name}]"


class UnplugNic(_OfNic):
    """Have one NIC less."""

    __slots__ = ()


class PlugNic(_OfNic):
    """Have one NIC more."""

    __slots__ = ()


class RewireNic(_OfNic):
    """Have a NIC carried by another network, or publish other ports; the card itself stays."""

    __slots__ = ()


class FenceNic(_OfNic):
    """Hold a NIC to other addresses, other firewall groups."""

    __slots__ = ()


class SetLink(_OfNic):
    """Put in a NIC's cable, or pull it out."""

    __slots__ = ()


@dataclasses.dataclass(frozen=True, slots=True)
class _OfDisk:
    disk: model.Disk

    @property
    def path(self) -> str:
        return f"disks[{self.disk.name}]"


class UnplugDisk(_OfDisk):
    """Have one disk less; its volume stays."""

    __slots__ = ()


class PlugDisk(_OfDisk):
    """Have one disk more."""

    __slots__ = ()


@dataclasses.dataclass(frozen=True, slots=True)
class ChangeMedium:
    """Have another image in a drive for CDs or floppies, or none."""

    drive: model.Cd

    @property
    def path(self) -> str:
        return f"cds[{self.drive.name}]"


@dataclasses.dataclass(frozen=True, slots=True)
class _OfUsb:
    device: boards.UsbDevice

    @property
    def path(self) -> str:
        return f"usb[{self.device.name}]"


class UnplugUsb(_OfUsb):
    """Have no more of a USB device of the host."""

    __slots__ = ()


class PlugUsb(_OfUsb):
    """Have a USB device of the host whenever it is plugged in there."""

    __slots__ = ()


@dataclasses.dataclass(frozen=True, slots=True)
class OrderBoot:
    """Boot from other devices when the guest next restarts."""

    boot: model.Boot

    @property
    def path(self) -> str:
        return "boot"


_AFTER_NICS = (shares.HoldNics, shares.HoldNic)
_OfNics = UnplugNic | PlugNic | RewireNic | FenceNic | SetLink
_OfDisks = UnplugDisk | PlugDisk
_OfCpus = PlugCpus | UnplugCpus
Change = _OfCpus | ResizeMemory | _OfDisks | _OfNics | ChangeMedium | UnplugUsb | PlugUsb | OrderBoot | shares.Hold


def bare(spec: model.VMSpec) -> model.VMSpec:
    """The machine as its process is started: held to nothing, and without devices of the host."""
    return shares.without(spec).model_copy(update={"usb": ()})


def changes(built: Built, wanted: model.VMSpec, *, again: bool = False, kvm: bool = False) -> Iterator[Change]:
    """The changes that can be tried while it runs, in the order in which they are.

    `again`: all that it is held to is told once more, since nobody was there to see that it stayed so. `kvm`: its
    vCPUs are real ones, which can be taken away.
    """
    now = built.spec
    holds = list(shares.changes(now, wanted, again=again))
    yield from (hold for hold in holds if not isinstance(hold, _AFTER_NICS))
    if _more_of_the_same(now.cpus, wanted.cpus) and wanted.cpus.count <= now.cpus.board(now.hardware.max_cpus).count:
        yield PlugCpus(wanted.cpus)
    elif kvm and _less_of_the_same(built, wanted.cpus):
        yield UnplugCpus(wanted.cpus)
    yield from _memory(built, wanted)
    yield from _disks(now, wanted)
    yield from _media(now, wanted)
    yield from _nics(now, wanted)
    yield from _usb(now, wanted)
    yield from (hold for hold in holds if isinstance(hold, _AFTER_NICS))
    if now.boot.order != wanted.boot.order:
        yield OrderBoot(now.boot.model_copy(update={"order": wanted.boot.order}))


def _memory(built: Built, wanted: model.VMSpec) -> Iterator[ResizeMemory]:
    """By the device that memory is added by, or as a DIMM, and below what it started with by its balloon.

    What was started with fixed memory becomes dynamic at its next cold start: from a balloon that does not deflate by
    itself its guest could not take what it lacks.
    """
    now, first, has_balloon = built.spec, built.first, "balloon" in built.spec.hardware.devices
    if wanted.dynamic_memory and not now.dynamic_memory and not (first.deflates and has_balloon):
        return
    memory = wanted.memory if _reaches(built, wanted.memory) else now.memory
    dynamic = memories.within(wanted.dynamic_memory, memory)
    if (memory, dynamic) == (now.memory, now.dynamic_memory):
        return
    balloon = min(memory, now.memory) < first.whole
    if balloon and not has_balloon:
        return
    added = max(0, memory - first.whole)
    balloon = balloon or (has_balloon and now.dynamic_memory is not None and dynamic is None)
    dimm = bool(first.slots and added)
    path = "dynamic_memory" if memory == now.memory else "memory"
    yield ResizeMemory(memory, added, balloon=balloon, dynamic=dynamic, dimm=dimm, path=path)


def _reaches(built: Built, memory: int) -> bool:
    """Whether a machine has room to have so much."""
    board, first = built.spec.hardware, built.first
    added = memory - first.whole
    if added <= 0:
        return True
    if memory > (board.max_memory or 0):
        return False
    if first.slots:
        return len(first.dimms) < first.slots and added % DIMM_BLOCK == 0
    return "memory" in board.devices and added % MEMORY_BLOCK == 0


def _disks(now: model.VMSpec, wanted: model.VMSpec) -> Iterator[_OfDisks]:
    """Disks that go before those that come, which may take their places. One that changed otherwise stays."""
    before, after = ({disk.name: disk for disk in spec.disks} for spec in (now, wanted))
    goes = [disk for name, disk in before.items() if name not in after and _is_hot(now.hardware, disk)]
    taken = {nic.address for nic in now.nics} | {_place(disk) for disk in now.disks if disk not in goes}
    yield from map(UnplugDisk, goes)
    for name, disk in after.items():
        if name not in before and _place(disk) not in taken and _is_hot(now.hardware, disk):
            yield PlugDisk(disk)


def _is_hot(board: model.Hardware, disk: model.Disk) -> bool:
    return disk.bus is model.Bus.SCSI or (disk.address is not None and hardware.is_hot(board, disk.address))


def _place(disk: model.Disk) -> object:
    return disk.address or (disk.bus, disk.unit)


def _media(now: model.VMSpec, wanted: model.VMSpec) -> Iterator[ChangeMedium]:
    present = {drive.name: drive for drive in now.cds}
    for drive in wanted.cds:
        had = present.get(drive.name)
        if had is not None and had.image != drive.image and had.model_copy(update={"image": drive.image}) == drive:
            yield ChangeMedium(drive)


def _usb(now: model.VMSpec, wanted: model.VMSpec) -> Iterator[UnplugUsb | PlugUsb]:
    """As far as the board that runs has the ports."""
    free = fitting.usb_ports(now.hardware)
    for device in now.usb:
        if device not in wanted.usb:
            yield UnplugUsb(device)
    for device in wanted.usb:
        if device not in now.usb and device.unit in free:
            yield PlugUsb(device)


def _nics(now: model.VMSpec, wanted: model.VMSpec) -> Iterator[Change]:
    """Cards that go before those that come, which may take their places."""
    before, after = ({nic.name: nic for nic in spec.nics} for spec in (now, wanted))
    taken = {disk.address for disk in now.disks}
    for name, nic in list(before.items()):
        if name in after and _card(nic) == _card(after[name]):
            taken.add(nic.address)
        elif name in after and nic.mac == after[name].mac and nic.model != after[name].model:
            taken.add(nic.address)  # another driver for the same card: whether the guest has one shows at a cold start
        elif hardware.is_hot(now.hardware, nic.address):
            del before[name]
            yield UnplugNic(nic)
        else:
            taken.add(nic.address)
    for name, nic in after.items():
        present = before.get(name)
        if present is None:
            if nic.address not in taken and hardware.is_hot(now.hardware, nic.address):
                yield PlugNic(nic)
        elif _card(present) == _card(nic):
            if (present.network, present.publish) != (nic.network, nic.publish):
                yield RewireNic(nic)
            elif _fence(present) != _fence(nic):
                yield FenceNic(nic)
            if present.connected != nic.connected:
                yield SetLink(nic)


def _card(nic: model.Nic) -> tuple[object, ...]:
    """What of a NIC the guest knows it by: with another it is another, though it bears the same name."""
    return nic.model, nic.mac, nic.address


def _fence(nic: model.Nic) -> tuple[object, ...]:
    return nic.ip, nic.allowed, nic.vlan, nic.trunk, nic.spoofing, nic.firewall


def _with_count(shape: model.Cpus, count: int) -> model.Cpus:
    """So many vCPUs or a few more, in whole cores of one socket, or whole sockets."""
    if shape.sockets == 1:
        return shape.model_copy(update={"cores": -(-count // shape.threads)})
    return shape.model_copy(update={"sockets": -(-count // (shape.cores * shape.threads))})


def _less_of_the_same(built: Built, wanted: model.Cpus) -> bool:
    """Whether only vCPUs that came later are to go, from a board that stays as it is."""
    now, most = built.spec.cpus, built.spec.hardware.max_cpus
    return built.first.cpus.count <= wanted.count < now.count and wanted.board(most) == now.board(most)


def _more_of_the_same(now: model.Cpus, wanted: model.Cpus) -> bool:
    """Whether only further cores of one socket, or further sockets, make the difference."""
    if wanted.count <= now.count or wanted.threads != now.threads:
        return False
    return wanted.sockets == 1 if now.sockets == 1 else wanted.cores == now.cores
