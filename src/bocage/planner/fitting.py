"""Whether what a board is fitted with fits its machine, whoever wrote it."""

from __future__ import annotations

from collections.abc import Iterator

from bocage import errors
from bocage.model import board
from bocage.model import vm as model
from bocage.words import N_

_ON_ISA = {
    "firmware": (board.Firmware.BIOS,),
    "tpm": (board.Tpm.NONE,),
    "scsi": (board.Scsi.NONE,),
    "usb": (board.Usb.NONE,),
    "video": (board.Video.VGA, board.Video.CIRRUS, board.Video.NONE),
    "sound": (board.Sound.NONE, board.Sound.SB16),
    "disk_bus": (board.Bus.IDE,),
    "nic_model": (board.NicModel.NE2K,),
}
_USB_PORTS = {board.Usb.XHCI: 4, board.Usb.EHCI: 6, board.Usb.UHCI: 2, board.Usb.NONE: 0}
_OWN_ON_USB = 2  # the tablet and its keyboard
_PLACED = {"sound": (board.Sound.ES1370, board.Sound.AC97, board.Sound.HDA)}


class Error(errors.Problem):
    """A board cannot be fitted so."""


class NeedsPci(Error, errors.Invalid):
    type = "board-needs-pci"
    text = N_("the machine {machine} has no PCI, which {what} {value} needs")
    hint = N_("there it can be {choices}; the machine pc has PCI")
    machine: str
    what: str
    value: str
    choices: list[str]


class OneCpu(Error, errors.Invalid):
    type = "board-has-one-cpu"
    text = N_("the machine {machine} has one vCPU, not {count}")
    hint = N_("the machine pc takes more")
    machine: str
    count: int


class NoUsb(Error, errors.Invalid):
    type = "board-tablet-without-usb"
    text = N_("the tablet needs a USB controller, and this board has none")
    hint = N_("choose the pointer ps2, or give 'usb' a place among the board's devices")


class NoPlace(Error, errors.Invalid):
    type = "board-device-without-place"
    text = N_("{what} {value} sits on the PCI bus, and 'spec.hardware.devices' gives no place for {what}")
    hint = N_("write one down there, such as {what}: {bus}/1e.0")
    what: str
    value: str
    bus: str


class SecureBootNeeds(Error, errors.Invalid):
    type = "board-secure-boot-needs"
    text = N_("Secure Boot needs UEFI firmware on the machine q35")
    hint = N_("choose firmware uefi and machine q35, or leave Secure Boot out")


class NoSeed(Error, errors.Invalid):
    type = "board-without-place-for-seed"
    text = N_("what cloud-init is told lies on a CD of the virtio SCSI controller, and this board has none")
    hint = N_("leave out what is to be done inside the guest, or choose the scsi controller virtio")


class NoUsbController(Error, errors.Invalid):
    type = "board-without-usb"
    text = N_("this board has no USB controller to plug {device} into")
    hint = N_("'bocage vm set NAME --board usb=xhci' (or uhci for old systems) gives it one")
    device: str


class NoUsbPort(Error, errors.Conflict):
    type = "board-without-free-usb-port"
    text = N_("the USB controller {controller} has no port {port} for {device}: of its {count} the pointer has {own}")
    hint = N_("the controller xhci has four ports, ehci six, uhci two; the pointer ps2 needs none of them")
    device: str
    controller: str
    port: int
    count: int
    own: int


class UsbPortTaken(Error, errors.Invalid):
    type = "board-usb-port-taken"
    text = N_("two devices are to be plugged into the port {port} of the USB controller")
    port: int


def usb_ports(of: model.Hardware) -> range:
    """The ports of a board's USB controller that its own pointer and keyboard leave free."""
    if "usb" not in of.devices:
        return range(0)
    usual = board.Usb.XHCI if of.machine.startswith("pc-q35-") else board.Usb.UHCI
    own = _OWN_ON_USB if of.pointer is board.Pointer.TABLET else 0
    return range(own + 1, _USB_PORTS[of.usb or usual] + 1)


def check(spec: model.VMSpec) -> None:
    """Raise the first thing that does not fit."""
    for problem in _unfit(spec):
        raise problem


def _unfit(spec: model.VMSpec) -> Iterator[Error]:
    of = spec.hardware
    if of.machine == "isapc":
        for what, choices in _ON_ISA.items():
            if (value := getattr(of, what)) not in choices:
                yield NeedsPci(machine=of.machine, what=what, value=str(value), choices=[str(one) for one in choices])
        if spec.cpus.count > 1:
            yield OneCpu(machine=of.machine, count=spec.cpus.count)
    if of.pointer is board.Pointer.TABLET and "usb" not in of.devices and of.devices:
        yield NoUsb()
    if spec.seed and of.devices and (of.scsi is not board.Scsi.VIRTIO or "scsi" not in of.devices):
        yield NoSeed()
    if of.secure_boot and (of.firmware is not board.Firmware.UEFI or not of.machine.startswith("pc-q35-")):
        yield SecureBootNeeds()
    yield from _unfit_usb(spec)
    bus = "pcie.0" if of.machine.startswith("pc-q35-") else "pci.0"
    if of.watchdog and of.watchdog.model == "i6300esb" and "watchdog" not in of.devices:
        yield NoPlace(what="watchdog", value=of.watchdog.model, bus=bus)
    for what, placed in _PLACED.items():
        if (value := getattr(of, what)) in placed and what not in of.devices:
            yield NoPlace(what=what, value=str(value), bus=bus)


def _unfit_usb(spec: model.VMSpec) -> Iterator[Error]:
    of, free = spec.hardware, usb_ports(spec.hardware)
    taken: set[int] = set()
    for one in spec.usb:
        if "usb" not in of.devices:
            yield NoUsbController(device=one.name)
        elif one.unit not in free:
            usual = "xhci" if of.machine.startswith("pc-q35-") else "uhci"
            yield NoUsbPort(
                device=one.name,
                controller=str(of.usb or usual),
                port=one.unit,
                count=free.stop - 1,
                own=free.start - 1,
            )
        elif one.unit in taken:
            yield UsbPortTaken(port=one.unit)
        taken.add(one.unit)
