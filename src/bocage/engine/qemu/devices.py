"""The devices of a VM as QEMU's `-device` and `device_add` take them, each at the address that its spec gives.

What a person named keeps that name as its id; what belongs to the board is called `board.…`, which
no name of a device can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bocage.engine import block
from bocage.engine.qemu import chain
from bocage.model import board as boards
from bocage.model import vm as model
from bocage.planner import hardware

Device = dict[str, Any]

SEED = "board.seed"
BALLOON = "board.balloon"
_WITH_GENERATION_ID = (2, 5)  # earlier machine types have no way to tell the guest where it lies
_AGENT_CHANNEL = {"chardev": "agent", "name": "org.qemu.guest_agent.0"}
_ONCE, _STANDING = 0, 10  # boot indexes: the next boot's device, and where the standing order begins
_NICS = {
    model.NicModel.VIRTIO: "virtio-net-pci",
    model.NicModel.E1000: "e1000",
    model.NicModel.E1000E: "e1000e",
    model.NicModel.RTL8139: "rtl8139",
    model.NicModel.PCNET: "pcnet",
    model.NicModel.TULIP: "tulip",
    model.NicModel.NE2K: "ne2k_pci",
    model.NicModel.VMXNET3: "vmxnet3",
}
_NE2000_ISA = ((0x300, 9), (0x320, 10), (0x340, 11), (0x360, 3))  # port and interrupt, as the cards were set
_VIDEO = {
    boards.Video.VGA: "VGA",
    boards.Video.CIRRUS: "cirrus-vga",
    boards.Video.VMWARE: "vmware-svga",
    boards.Video.VIRTIO: "virtio-vga",
}
_VIDEO_ON_ISA = {boards.Video.VGA: "isa-vga", boards.Video.CIRRUS: "isa-cirrus-vga"}
_SCSI = {
    boards.Scsi.VIRTIO: "virtio-scsi-pci",
    boards.Scsi.LSI: "lsi53c895a",
    boards.Scsi.SAS: "mptsas1068",
    boards.Scsi.MEGASAS: "megasas",
    boards.Scsi.PVSCSI: "pvscsi",
}
_USB = {boards.Usb.XHCI: "qemu-xhci", boards.Usb.EHCI: "usb-ehci", boards.Usb.UHCI: "piix3-usb-uhci"}
AUDIO, TPM = "board.audio", "board.emulated-tpm"
_FLOPPY_BOOT = ("bootindexA", "bootindexB")


def standing_order(spec: model.VMSpec) -> dict[str, int]:
    """The boot index of each device that is booted from: the order as given, else disks before CDs."""
    order = spec.boot.order or (*(disk.name for disk in spec.disks), *(cd.name for cd in spec.cds))
    return {name: _STANDING + position for position, name in enumerate(order)}


def first_order(spec: model.VMSpec) -> dict[str, int]:
    """The boot indexes of the first boot, where what boots once comes before all else."""
    once = {spec.boot.once: _ONCE} if spec.boot.once else {}
    return {**standing_order(spec), **once}


def root_ports(board: model.Hardware) -> list[Device]:
    """The PCI Express root ports, eight to a slot; chassis numbers tell the guest's slots apart."""
    ports: list[Device] = []
    for index in range(board.root_ports if hardware.is_express(board) else 0):
        at = place(hardware.port_address(index))
        port = {"driver": "pcie-root-port", "id": _bus(f"rp{index}"), **at, "chassis": index + 1}
        ports.append({**port, "multifunction": True} if index % 8 == 0 else port)
    return ports


def board(of: model.Hardware, *, deflates: bool = False) -> list[Device]:
    """What the board itself has: screen, SCSI and USB controllers, agent channel, balloon, random numbers, sound.

    With `deflates` the guest takes from its balloon before it kills a program for want of memory.
    """
    at = {name: place(address) for name, address in of.devices.items()}
    made: list[Device] = []
    if hardware.is_isa(of) and of.video in _VIDEO_ON_ISA:
        made.append({"driver": _VIDEO_ON_ISA[of.video], "id": "board.video"})
    elif "video" in at and of.video in _VIDEO:
        made.append({"driver": _VIDEO[of.video], "id": "board.video", **at["video"]})
    if "scsi" in at and of.scsi in _SCSI:
        made.append({"driver": _SCSI[of.scsi], "id": "board.scsi", **at["scsi"]})
    if "agent" in at:
        made.append({"driver": "virtio-serial-pci", "id": "board.agent", **at["agent"]})
        made.append(
            {"driver": "virtserialport", "id": "board.channel", "bus": "board.agent.0", "nr": 1, **_AGENT_CHANNEL}
        )
    if "balloon" in at:
        balloon = {"driver": "virtio-balloon-pci", "id": BALLOON, **at["balloon"], "free-page-reporting": True}
        made.append({**balloon, "deflate-on-oom": True} if deflates else balloon)
    if "rng" in at:
        made.append({"driver": "virtio-rng-pci", "id": "board.rng", **at["rng"], "rng": "rng"})
    if "usb" in at:
        made += _usb(of, at["usb"])
    if hardware.is_paravirtual(of):
        made.append({"driver": "pvpanic", "id": "board.panic"})
    if of.generation_id and hardware.machine_version(of) >= _WITH_GENERATION_ID:
        made.append({"driver": "vmgenid", "id": "board.generation", "guid": of.generation_id})
    made += _sound(of, at.get("sound", {}))
    if of.tpm is not boards.Tpm.NONE:
        made.append({"driver": f"tpm-{of.tpm}", "id": "board.tpm", "tpmdev": TPM})
    if of.watchdog:
        made.append({"driver": of.watchdog.model, "id": "board.watchdog", **at.get("watchdog", {})})
    return made


def _usb(of: model.Hardware, place: Device) -> list[Device]:
    usual = boards.Usb.XHCI if hardware.is_express(of) else boards.Usb.UHCI
    made: list[Device] = [{"driver": _USB[of.usb or usual], "id": "board.usb", **place}]
    if of.pointer is boards.Pointer.TABLET:
        made.append({"driver": "usb-tablet", "id": "board.tablet", "bus": "board.usb.0", "port": "1"})
        made.append({"driver": "usb-kbd", "id": "board.keyboard", "bus": "board.usb.0", "port": "2"})
    return made


def _sound(of: model.Hardware, place: Device) -> list[Device]:
    heard = {"audiodev": AUDIO}
    match of.sound:
        case boards.Sound.NONE:
            return []
        case boards.Sound.SB16:
            return [{"driver": "sb16", "id": "board.sound", **heard}]
        case boards.Sound.ES1370 | boards.Sound.AC97:
            return [{"driver": of.sound.upper(), "id": "board.sound", **place, **heard}]
        case boards.Sound.HDA:
            card = "ich9-intel-hda" if hardware.is_express(of) else "intel-hda"
            codec = {"driver": "hda-duplex", "id": "board.codec", "bus": "board.sound.0", **heard}
            return [{"driver": card, "id": "board.sound", **place}, codec]


def disk(of: model.Disk, files: Sequence[block.File], *, boot: int | None = None) -> Device:
    """A disk over the nodes that `chain` made for it. A write that fails stops the VM, so that nothing is lost."""
    driver = {model.Bus.VIRTIO: "virtio-blk-pci", model.Bus.SCSI: "scsi-hd"}.get(of.bus, "ide-hd")
    at = place(of.address) if of.address else _unit(of.bus, of.unit or 0)
    device: Device = {"driver": driver, "id": of.name, **at, "drive": chain.node_of(of.name, files[0].path)}
    device |= {"serial": of.serial, "write-cache": chain.write_cache(of.cache), "werror": "stop", "rerror": "report"}
    return device if boot is None else {**device, "bootindex": boot}


def cd(of: model.Cd, *, loaded: bool, boot: int | None = None, floppies: str = "floppy-bus.0") -> Device:
    """A drive; `loaded` when there are nodes for what lies in its tray. A floppy's boot index is its controller's."""
    match of.bus:
        case model.Bus.FLOPPY:
            device: Device = {"driver": "floppy", "id": of.name, "bus": floppies, "unit": of.unit}
        case model.Bus.SCSI:
            device = {"driver": "scsi-cd", "id": of.name, **_unit(of.bus, of.unit)}
        case _:
            device = {"driver": "ide-cd", "id": of.name, **_unit(of.bus, of.unit)}
    if loaded:
        device["drive"] = chain.node_name(of.name)
    return device if boot is None or of.bus is model.Bus.FLOPPY else {**device, "bootindex": boot}


def floppy_controller(spec: model.VMSpec) -> tuple[dict[str, int], list[Device]]:
    """The floppy drives' boot indexes by the controller's properties, and the controller where none is built in."""
    order = first_order(spec)
    drives = [cd for cd in spec.cds if cd.bus is model.Bus.FLOPPY]
    indexes = {_FLOPPY_BOOT[cd.unit]: order[cd.name] for cd in drives if cd.name in order}
    if drives and hardware.is_express(spec.hardware):
        return {}, [{"driver": "isa-fdc", "id": "board.floppies", **indexes}]
    return indexes, []


def usb(name: str, unit: int, file: str) -> Device:
    """A USB device of the host, by its open file."""
    return {"driver": "usb-host", "id": name, "bus": "board.usb.0", "port": str(unit), "hostdevice": file}


def port(of: boards.GuestPort) -> Device:
    """A serial or parallel port, on the chardev of its name."""
    return {"driver": f"isa-{of.kind}", "id": of.name, "index": of.number - 1, "chardev": of.name}


def seed() -> Device:
    """The CD that cloud-init reads at the first boot."""
    at = _unit(model.Bus.SCSI, hardware.SEED_UNIT)
    return {"driver": "scsi-cd", "id": SEED, **at, "drive": chain.node_name(SEED)}


def nic(of: model.Nic, *, boot: int | None = None) -> Device:
    """A network card on the netdev of its name."""
    bus, slot, _ = hardware.split(of.address)
    if bus == "isa.0":
        port, interrupt = _NE2000_ISA[slot]
        device: Device = {"driver": "ne2k_isa", "id": of.name, "iobase": port, "irq": interrupt}
    else:
        device = {"driver": _NICS[of.model], "id": of.name, **place(of.address)}
    device |= {"netdev": of.name, "mac": of.mac}
    return device if boot is None else {**device, "bootindex": boot}


def place(address: str) -> Device:
    """An address of a spec as the properties of a PCI device."""
    bus, slot, function = hardware.split(address)
    return {"bus": _bus(bus), "addr": f"{slot:02x}.{function}"}


def _bus(name: str) -> str:
    return f"board.{name}" if name.startswith("rp") else name


def _unit(bus: model.Bus, unit: int) -> Device:
    match bus:
        case model.Bus.SCSI:
            return {"bus": "board.scsi.0", "channel": 0, "scsi-id": unit, "lun": 0}
        case model.Bus.IDE:
            return {"bus": f"ide.{unit // 2}", "unit": unit % 2}
        case _:
            return {"bus": f"ide.{unit}", "unit": 0}
