"""What a VM is built on: the board and what belongs to it, written down at creation."""

from __future__ import annotations

import enum
import ipaddress
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from bocage.model.base import Line, Part, Uid
from bocage.model.units import Size

Address = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z]+[a-z0-9.]*/[0-9a-f]{2}\.[0-7]$"),
    Field(
        description="Where a device sits: BUS/SLOT.FUNCTION on PCI; on ISA the slot counts the usual ports.",
        examples=["rp3/00.0"],
    ),
]
DeviceName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,14}$")]
UsbId = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9a-f]{4}:[0-9a-f]{4}$"),
    Field(description="Vendor and product.", examples=["0529:0001"]),
]
OsName = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"),
    Field(description="An operating system by osinfo-db's short name.", examples=["debian11", "win2k3"]),
]


class Bus(enum.StrEnum):
    VIRTIO = "virtio"
    SCSI = "scsi"
    SATA = "sata"
    IDE = "ide"
    FLOPPY = "floppy"
    """For drives whose medium can be changed alone."""


class NicModel(enum.StrEnum):
    VIRTIO = "virtio"
    E1000 = "e1000"
    E1000E = "e1000e"
    RTL8139 = "rtl8139"
    PCNET = "pcnet"
    TULIP = "tulip"
    NE2K = "ne2k"
    VMXNET3 = "vmxnet3"


class Firmware(enum.StrEnum):
    BIOS = "bios"
    UEFI = "uefi"


class AddedMemory(enum.StrEnum):
    """How memory comes while the guest runs."""

    VIRTIO_MEM = "virtio-mem"
    """Taken and given back in blocks of 2 MiB by a guest that drives it."""
    DIMM = "dimm"
    """As modules, which every system with ACPI memory hotplug takes, and which stay."""


class Video(enum.StrEnum):
    VGA = "vga"
    CIRRUS = "cirrus"
    VMWARE = "vmware"
    VIRTIO = "virtio"
    NONE = "none"


class Sound(enum.StrEnum):
    """What the guest sees; nothing is heard."""

    NONE = "none"
    SB16 = "sb16"
    ES1370 = "es1370"
    AC97 = "ac97"
    HDA = "hda"


class Pointer(enum.StrEnum):
    """`tablet` points where the screen was clicked; `ps2` is a mouse, for systems without USB."""

    TABLET = "tablet"
    PS2 = "ps2"


class Usb(enum.StrEnum):
    """The USB controller."""

    XHCI = "xhci"
    EHCI = "ehci"
    UHCI = "uhci"
    NONE = "none"


class Scsi(enum.StrEnum):
    """The SCSI controller, by what drives it."""

    VIRTIO = "virtio"
    LSI = "lsi"
    """LSI 53c895a."""
    SAS = "sas"
    """LSI SAS1068 (MPT)."""
    MEGASAS = "megasas"
    PVSCSI = "pvscsi"
    NONE = "none"


class Tpm(enum.StrEnum):
    """A TPM 2.0, by the interface that the guest finds it at; its state lies in the VM's directory."""

    NONE = "none"
    CRB = "crb"
    TIS = "tis"


class Watchdog(Part):
    """A timer that the guest must wind up again and again, and what is done when it does not."""

    model: Literal["i6300esb", "ib700"] = "i6300esb"
    action: Literal["reset", "poweroff", "shutdown", "pause", "inject-nmi", "none"] = "reset"


class UsbDevice(Part):
    """A USB device of the host that the guest is to have whenever it is plugged in there."""

    name: DeviceName
    id: UsbId | None = None
    """What it is; None: whatever is plugged in at `port`."""
    serial: Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,126}$")] | None = None
    """Which of them it is."""
    port: Annotated[str, StringConstraints(pattern=r"^\d{1,3}-\d{1,3}(\.\d{1,3}){0,6}$")] | None = None
    """Where on the host it is plugged in: bus, then port by port; None: anywhere."""
    unit: Annotated[int, Field(ge=1, le=15)]
    """The port of the guest's own USB controller that it is plugged into."""

    @model_validator(mode="after")
    def _one_can_be_found(self) -> UsbDevice:
        if self.id is None and self.port is None:
            raise ValueError("give vendor and product ('id'), or where it is plugged in ('port')")
        if self.serial and self.id is None:
            raise ValueError("a serial number tells devices of one 'id' apart: give that, too")
        return self


class GuestPort(Part):
    """A serial or parallel port of the guest, and where on the host it leads. COM1 is the console and none of these."""

    name: DeviceName
    kind: Literal["serial", "parallel"] = "serial"
    number: Annotated[int, Field(ge=1, le=4)]
    """COM2 to COM4; LPT1 to LPT3."""
    to: Literal["file", "listen", "connect", "device"]
    """A file of its name in the VM's directory; a TCP port of the host, or one to connect to; a port of the host."""
    address: (
        Annotated[
            str,
            StringConstraints(
                max_length=259,
                pattern=r"^(\[[0-9a-f:.]+\]|[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*\.?):\d{1,5}$",
            ),
        ]
        | None
    ) = None
    """For `listen` and `connect`."""
    telnet: bool = False
    """Speak telnet's way of it (RFC 854), as most serial-port servers do."""
    rfc2217: bool = False
    """For a serial port that listens: answer to what sets speed and lines, too (RFC 2217)."""
    device: (
        Annotated[
            str,
            StringConstraints(
                pattern=r"^/dev/(tty(S|USB|ACM)\d{1,3}|parport\d|serial/by-(id|path)/[A-Za-z0-9_.:-]{1,200})$"
            ),
        ]
        | None
    ) = None

    @model_validator(mode="after")
    def _leads_somewhere(self) -> GuestPort:
        least, most = (2, 4) if self.kind == "serial" else (1, 3)
        if not least <= self.number <= most:
            raise ValueError(f"number: a {self.kind} port has a number from {least} to {most}")
        if (self.address is not None) != (self.to in ("listen", "connect")):
            raise ValueError("address: needed to listen or to connect, and for nothing else")
        if self.address and not 1 <= int(self.address.rpartition(":")[2]) <= 65535:
            raise ValueError("address: its port is no TCP port")
        if self.address and self.address.startswith("["):
            ipaddress.IPv6Address(self.address[1:].partition("]")[0])
        if self.rfc2217 and (self.kind, self.to, self.telnet) != ("serial", "listen", False):
            raise ValueError("rfc2217: for a serial port that listens, and telnet is part of it")
        if (self.device is not None) != (self.to == "device"):
            raise ValueError("device: needed for a port of the host, and for nothing else")
        if self.device and self.device.startswith("/dev/parport") != (self.kind == "parallel"):
            raise ValueError("device: a serial port leads to a serial one, a parallel port to a parallel one")
        return self


Enlightenment = Literal[
    "relaxed", "vapic", "spinlocks", "vpindex", "runtime", "time", "synic", "stimer", "frequencies", "reset"
]


class Rtc(Part):
    """The clock that the guest reads at its start."""

    base: Literal["utc", "localtime"] = "utc"
    """What it shows; `localtime` is the host's."""
    drift: Literal["none", "slew"] = "none"
    """`slew` delivers the ticks late that the guest missed: for systems that keep time by counting them."""


class Limits(Part):
    """What the guest's system can use at all; None for no limit that is known."""

    cpus: Annotated[int, Field(ge=1)] | None = None
    memory: Size | None = None


class Smbios(Part):
    """The identity that licences hang on (SMBIOS types 1, 2 and 11). It never changes by itself."""

    uuid: Uid
    manufacturer: Line = "Bocage"
    product: Line = "Virtual Machine"
    version: Line = ""
    serial: Line
    sku: Line = ""
    family: Line = ""
    oem_strings: tuple[Line, ...] = ()


class Fittings(Part):
    """The choices that a board is made by, beside its machine, CPU and identity.

    The defaults are those of the VMs that were made before there was a choice.
    """

    os: OsName | None = None
    """The system that they were chosen for."""
    firmware: Firmware = Firmware.BIOS
    secure_boot: bool = False
    """Boot what Microsoft's keys vouch for alone; with UEFI."""
    tpm: Tpm = Tpm.NONE
    disk_bus: Bus = Bus.VIRTIO
    """What a disk is attached by when nothing else is said."""
    nic_model: NicModel = NicModel.VIRTIO
    """What a NIC is when nothing else is said."""
    scsi: Scsi = Scsi.VIRTIO
    usb: Usb | None = None
    """None: what the machine usually has, xHCI on q35 and UHCI on i440fx."""
    video: Video = Video.VGA
    sound: Sound = Sound.NONE
    pointer: Pointer = Pointer.TABLET
    rtc: Rtc = Rtc()
    hpet: bool = True
    hyperv: tuple[Enlightenment, ...] = ()
    """What QEMU tells a Windows guest of being one, so that it waits less."""
    watchdog: Watchdog | None = None
    added_memory: AddedMemory = AddedMemory.VIRTIO_MEM
    """How memory comes beyond that which it starts with, up to `max_memory`."""
    limits: Limits = Limits()


class Hardware(Fittings):
    """The board, written down at creation: QEMU's command line is a function of it and of the rest of the spec."""

    machine: Annotated[str, StringConstraints(pattern=r"^(pc-(q35|i440fx)-\d+\.\d+|isapc)$")]
    cpu_model: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.,+=-]{0,127}$")]
    smbios: Smbios
    generation_id: Uid | None = None
    """Another whenever the VM goes back or is copied, which guests such as domain controllers look at (vmgenid).

    None for a VM that was made before there was one: its guest has no such device.
    """
    max_cpus: Annotated[int, Field(ge=1, le=255)] | None = None
    """vCPUs that it can have without a cold start; None: those that it starts with."""
    max_memory: Size | None = None
    """Memory that it can have without a cold start; None: that which it starts with."""
    root_ports: Annotated[int, Field(ge=0, le=32)] = 16
    """PCI Express root ports, used and free; 0 on a machine that has no Express."""
    devices: dict[DeviceName, Address]
    """Where the board's own devices sit, and so which there are: video, agent, balloon, rng, scsi, usb, sound, …"""
