"""The board of a VM: laid out once at creation, then only added to. No device ever moves for the sake of another."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import Any, Literal

from bocage import errors
from bocage.model import board as boards
from bocage.model import vm as model
from bocage.model.units import Size
from bocage.planner import fitting
from bocage.words import N_

Alias = Literal["q35", "pc", "isapc"]

SEED_UNIT = 255
"""The SCSI target that the seed's CD takes; no disk or CD gets it."""

_ROOT_PORTS = 16
_PORTS_BEGIN = 0x02  # slot of the first root ports, eight functions each: 32 of them reach to slot 05
_ON_PCIE_0 = {"video": "01.0", "scsi": "06.0", "agent": "07.0", "balloon": "08.0", "rng": "09.0", "usb": "0a.0"}
_ON_PCIE_0_ASKED = {"sound": "1b.0", "watchdog": "1c.0", "memory": "0b.0"}
# On i440fx, slot 01 is the PIIX3 with the IDE and USB controllers as its functions 1 and 2.
_ON_PCI_0 = {"video": "02.0", "scsi": "03.0", "agent": "04.0", "balloon": "05.0", "rng": "06.0", "usb": "01.2"}
_ON_PCI_0_ASKED = {"sound": "1e.0", "watchdog": "1f.0", "memory": "07.0"}
_PARAVIRTUAL = ("agent", "balloon", "rng")
_FREE_ON_PCIE_0 = range(0x0B, 0x1F)  # 1f is the ICH9 with AHCI and SMBus
_FREE_ON_PCI_0 = range(0x07, 0x20)
_FREE_ON_ISA = range(4)  # the ports and interrupts that NE2000 cards were set to
_CONVENTIONAL = frozenset(
    {
        *(model.NicModel.E1000, model.NicModel.RTL8139, model.NicModel.PCNET, model.NicModel.TULIP),
        model.NicModel.NE2K,
    },
)
_UNITS = {model.Bus.SATA: 6, model.Bus.IDE: 4, model.Bus.FLOPPY: 2}
_SCSI_UNITS = {
    boards.Scsi.VIRTIO: SEED_UNIT,
    boards.Scsi.LSI: 7,
    boards.Scsi.SAS: 8,
    boards.Scsi.MEGASAS: 63,
    boards.Scsi.PVSCSI: 63,
}
_PCI_SOUND = frozenset({boards.Sound.ES1370, boards.Sound.AC97, boards.Sound.HDA})
_MAC_ATTEMPTS = 10_000


class Error(errors.Problem):
    """A device has no place on the board."""


class NoAddress(Error, errors.Conflict):
    """All of its PCI slots are taken."""

    type = "no-free-address"
    text = N_("there is no free PCI slot for another {what}; the {count} of this board are taken")
    hint = N_("put further disks on another bus: a virtio controller's scsi bus takes 255")
    what: str
    count: int


class NoUnit(Error, errors.Conflict):
    """All of a bus's units are taken."""

    type = "no-free-unit"
    text = N_("the {bus} bus is full: it takes {count} devices")
    hint = N_("put it on another bus: a virtio controller's scsi bus takes 255")
    bus: str
    count: int


class NoBus(Error, errors.Invalid):
    """This board lacks the bus."""

    type = "no-such-bus"
    text = N_("the machine {machine} has no {bus} bus; there are {buses}")
    machine: str
    bus: str
    buses: list[str]


class NoMachine(Error, errors.Unavailable):
    """The installed monitor does not offer this kind of board."""

    type = "no-such-machine"
    text = N_("this host offers no machine of the kind {alias}; there are {known}")
    hint = N_("'bocage doctor' says what is installed")
    alias: str
    known: list[str]


class Misplaced(Error, errors.Invalid):
    """A device of a spec sits where it cannot."""

    type = "device-misplaced"
    text = N_("the machine {machine} has no place {place} for {device}")
    machine: str
    device: str
    place: str


class Occupied(Error, errors.Invalid):
    """Two devices of a spec sit at one place."""

    type = "device-place-occupied"
    text = N_("{device} cannot sit at {place}: another device is there")
    device: str
    place: str


def lay_out(
    *,
    alias: Alias,
    machines: Mapping[str, str],
    cpu_model: str,
    smbios: model.Smbios,
    firmware: model.Firmware = model.Firmware.BIOS,
    fittings: boards.Fittings | None = None,
    paravirtual: bool = True,
    generation_id: str | None = None,
    max_cpus: int | None = None,
    max_memory: Size | None = None,
) -> model.Hardware:
    """The board of a new VM. `machines` has the host's newest versioned type by alias. Raises NoMachine.

    Without `paravirtual` it lacks the devices that only a system with virtio drivers knows what to do with.
    """
    if alias not in machines:
        raise NoMachine(alias=alias, known=sorted(machines))
    chosen = fittings or boards.Fittings(firmware=firmware)
    bus, places = _onboard(alias)
    there = _wanted(chosen, paravirtual=paravirtual, grows=max_memory is not None)
    if max_memory is not None and alias == "isapc":
        raise NoBus(machine=machines[alias], bus="pci", buses=["isa"])
    return model.Hardware(
        **dict(chosen),
        machine=machines[alias],
        cpu_model=cpu_model,
        smbios=smbios,
        generation_id=generation_id if alias != "isapc" else None,
        max_cpus=max_cpus,
        max_memory=max_memory,
        root_ports=_ROOT_PORTS if alias == "q35" else 0,
        devices={name: f"{bus}/{place}" for name, place in places.items() if name in there},
    )


def refit(spec: model.VMSpec, asked: Mapping[str, Any], *, paravirtual: bool | None = None) -> model.Hardware:
    """The board with other fittings; what stays keeps its place. Raises errors.InvalidFields and NoAddress.

    With `paravirtual` it gets what only virtio's drivers know; None: it has that when it had it.
    """
    old = spec.hardware
    new = model.Hardware.model_validate(merged(old.model_dump(), asked))
    bus, places = _onboard(alias_of(old))
    kept = is_paravirtual(old) if paravirtual is None else paravirtual
    there = _wanted(new, paravirtual=kept, grows=new.max_memory is not None)
    devices = {name: place for name, place in old.devices.items() if name in there or name not in places}
    taken = {*devices.values(), *used_addresses(spec)}
    for name in [name for name in places if name in there and name not in devices]:
        usual = f"{bus}/{places[name]}"
        free = (place for place in (usual, *_on_root_bus(old)) if place not in taken)
        devices[name] = next(free, "")
        if not devices[name]:
            raise NoAddress(what=name, count=len(_on_root_bus(old)))
        taken.add(devices[name])
    return new.model_copy(update={"devices": devices})


def merged(present: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Fields with others over them; of what has parts, only the parts that are asked for."""
    with_parts = {
        name: {**present[name], **value}
        for name, value in asked.items()
        if isinstance(value, dict) and isinstance(present.get(name), dict)
    }
    return {**present, **asked, **with_parts}


def _wanted(of: boards.Fittings, *, paravirtual: bool, grows: bool) -> set[str]:
    """The devices of its own that a board is to have; where it `grows` there is to be room for memory."""
    wanted = {
        "video": of.video is not boards.Video.NONE,
        "scsi": of.scsi is not boards.Scsi.NONE,
        "usb": of.usb is not boards.Usb.NONE,
        "sound": of.sound in _PCI_SOUND,
        "watchdog": of.watchdog is not None and of.watchdog.model == "i6300esb",
        "memory": grows and of.added_memory is boards.AddedMemory.VIRTIO_MEM,
        **dict.fromkeys(_PARAVIRTUAL, paravirtual),
    }
    return {name for name, there in wanted.items() if there}


def _onboard(alias: Alias) -> tuple[str, dict[str, str]]:
    """The bus that a board's own devices are on, and the place of each."""
    match alias:
        case "q35":
            return "pcie.0", _ON_PCIE_0 | _ON_PCIE_0_ASKED
        case "pc":
            return "pci.0", _ON_PCI_0 | _ON_PCI_0_ASKED
        case "isapc":
            return "isa.0", {}


def root_bus(hardware: model.Hardware) -> str:
    """The bus that the board's own devices are on."""
    return _onboard(alias_of(hardware))[0]


def alias_of(hardware: model.Hardware) -> Alias:
    """The kind of machine that it is a version of."""
    return "isapc" if is_isa(hardware) else "q35" if is_express(hardware) else "pc"


def with_generation_id(hardware: model.Hardware, uid: str) -> model.Hardware:
    """The board with another generation id, when it has one at all."""
    return hardware.model_copy(update={"generation_id": uid}) if hardware.generation_id else hardware


def is_express(hardware: model.Hardware) -> bool:
    """Whether the board has PCI Express."""
    return hardware.machine.startswith("pc-q35-")


def is_isa(hardware: model.Hardware) -> bool:
    """Whether the board has no PCI at all."""
    return hardware.machine == "isapc"


def machine_version(hardware: model.Hardware) -> tuple[int, ...]:
    """Of its machine type: `(7, 2)`; `(0,)` for one that has no versions."""
    return tuple(map(int, hardware.machine.rpartition("-")[2].split("."))) if not is_isa(hardware) else (0,)


def is_paravirtual(hardware: model.Hardware) -> bool:
    """Whether the board has the devices that only virtio's drivers know."""
    return all(name in hardware.devices for name in _PARAVIRTUAL)


def split(address: str) -> tuple[str, int, int]:
    """An address as bus, slot and function."""
    bus, place = address.rsplit("/", 1)
    slot, function = place.split(".")
    return bus, int(slot, 16), int(function)


def port_address(index: int) -> str:
    """Where root port `index` sits on pcie.0: eight functions to a slot."""
    return f"pcie.0/{_PORTS_BEGIN + index // 8:02x}.{index % 8}"


def buses(hardware: model.Hardware) -> tuple[model.Bus, ...]:
    """The buses that disks and CDs can be on."""
    onboard = model.Bus.SATA if is_express(hardware) else model.Bus.IDE
    if is_isa(hardware):
        return (onboard,)
    return (model.Bus.VIRTIO, *([model.Bus.SCSI] if "scsi" in hardware.devices else []), onboard)


def cd_bus(hardware: model.Hardware) -> model.Bus:
    """The bus that every guest finds a CD on without a driver of its own."""
    return buses(hardware)[-1]


def places(hardware: model.Hardware, nic: model.NicModel = model.NicModel.VIRTIO) -> tuple[str, ...]:
    """Every address that a virtio disk or a NIC can have, in the order they are given out.

    On q35 that is behind root ports, where devices can be plugged while the VM runs; a conventional
    PCI card does not fit in those and sits on the root bus, for cold plugging alone.
    """
    if is_isa(hardware):
        return tuple(f"isa.0/{slot:02x}.0" for slot in _FREE_ON_ISA if nic is model.NicModel.NE2K)
    if not is_express(hardware):
        return tuple(f"pci.0/{slot:02x}.0" for slot in _FREE_ON_PCI_0)
    if nic in _CONVENTIONAL:
        return tuple(f"pcie.0/{slot:02x}.0" for slot in _FREE_ON_PCIE_0)
    return tuple(f"rp{port}/00.0" for port in range(hardware.root_ports))


def _on_root_bus(hardware: model.Hardware) -> tuple[str, ...]:
    """Where a conventional card of the board itself can sit, the last places first."""
    return tuple(reversed(places(hardware, model.NicModel.E1000)))


def memory_place(of: model.Hardware) -> str:
    """Where on a board the device sits that memory is added by. Raises NoBus where there is no PCI."""
    bus, places = _onboard(alias_of(of))
    if "memory" not in places:
        raise NoBus(machine=of.machine, bus="pci", buses=["isa"])
    return f"{bus}/{places['memory']}"


def is_hot(hardware: model.Hardware, address: str) -> bool:
    """Whether a device can come and go at this address while the VM runs."""
    return address.startswith("rp") or (address.startswith("pci.0/") and not is_express(hardware))


def next_address(hardware: model.Hardware, used: Collection[str], nic: model.NicModel = model.NicModel.VIRTIO) -> str:
    """The first free address for a virtio disk, or for a NIC of a model. Raises NoAddress."""
    possible = places(hardware, nic)
    board = set(hardware.devices.values())
    for address in possible:
        if address not in used and address not in board:
            return address
    raise NoAddress(what=f"{nic} device", count=len(possible))


def next_unit(hardware: model.Hardware, bus: model.Bus, used: Collection[int]) -> int:
    """The first free unit of a bus that counts units. Raises NoUnit and NoBus."""
    if bus is not model.Bus.FLOPPY:
        _require(hardware, bus)
    count = units(hardware, bus)
    for unit in range(count):
        if unit not in used:
            return unit
    raise NoUnit(bus=bus, count=count)


def units(hardware: model.Hardware, bus: model.Bus) -> int:
    """How many devices a bus that counts them takes; 0 for one that does not."""
    return _SCSI_UNITS.get(hardware.scsi, 0) if bus is model.Bus.SCSI else _UNITS.get(bus, 0)


def next_name(prefix: str, taken: Collection[str]) -> str:
    """The default name of a new device: `disk0`, `cd0`, `nic0` and on."""
    number = 0
    while f"{prefix}{number}" in taken:
        number += 1
    return f"{prefix}{number}"


def used_addresses(spec: model.VMSpec) -> frozenset[str]:
    """The PCI addresses that a spec's disks and NICs sit at."""
    disks = (disk.address for disk in spec.disks if disk.address)
    return frozenset((*disks, *(nic.address for nic in spec.nics)))


def used_units(spec: model.VMSpec, bus: model.Bus) -> frozenset[int]:
    """The units of a bus that a spec's disks and CDs have."""
    devices: tuple[model.Disk | model.Cd, ...] = (*spec.disks, *spec.cds)
    return frozenset(device.unit for device in devices if device.bus is bus and device.unit is not None)


def check(spec: model.VMSpec) -> None:
    """Refuse a spec whose devices do not fit its board, whoever wrote it. Raises NoBus, Misplaced, Occupied."""
    fitting.check(spec)
    for bus in (*(disk.bus for disk in spec.disks), *(cd.bus for cd in spec.cds if cd.bus is not model.Bus.FLOPPY)):
        _require(spec.hardware, bus)
    _check_addresses(spec)
    _check_units(spec)


def mac(uid: str, name: str, taken: Collection[str] = ()) -> str:
    """A MAC address for the NIC `name` of the VM `uid`: locally administered, and none of `taken`.

    It follows from the identity alone, so that asking twice gives the same.
    """
    for attempt in range(_MAC_ATTEMPTS):
        digest = hashlib.sha256(f"{uid}/{name}/{attempt}".encode()).digest()
        address = ":".join(f"{byte:02x}" for byte in (0x52, 0x54, *digest[:4]))
        if address not in taken:
            return address
    raise NoAddress(what="MAC address", count=_MAC_ATTEMPTS)


def serial(uid: str) -> str:
    """The serial number of a disk whose volume has this uid: the 20 characters that virtio has room for.

    Taken from the uid's end, where it is random whatever its version.
    """
    return uid.replace("-", "")[-20:]


def _require(hardware: model.Hardware, bus: model.Bus) -> None:
    present = buses(hardware)
    if bus not in present:
        raise NoBus(machine=hardware.machine, bus=bus, buses=[str(one) for one in present])


def _check_addresses(spec: model.VMSpec) -> None:
    taken = set(spec.hardware.devices.values())
    virtio = [(disk.name, disk.address, model.NicModel.VIRTIO) for disk in spec.disks if disk.bus is model.Bus.VIRTIO]
    for name, address, kind in (*virtio, *((nic.name, nic.address, nic.model) for nic in spec.nics)):
        if address is None or address not in places(spec.hardware, kind):
            raise Misplaced(machine=spec.hardware.machine, device=name, place=str(address or "?"))
        if address in taken:
            raise Occupied(device=name, place=address)
        taken.add(address)


def _check_units(spec: model.VMSpec) -> None:
    taken: set[tuple[model.Bus, int]] = set()
    devices: tuple[model.Disk | model.Cd, ...] = (*spec.disks, *spec.cds)
    for device in devices:
        if isinstance(device, model.Disk) and device.bus is model.Bus.VIRTIO:
            continue
        unit, place = device.unit, f"{device.bus} {device.unit}"
        if unit is None or unit >= units(spec.hardware, device.bus):
            raise Misplaced(machine=spec.hardware.machine, device=device.name, place=place)
        if (device.bus, unit) in taken:
            raise Occupied(device=device.name, place=place)
        taken.add((device.bus, unit))
