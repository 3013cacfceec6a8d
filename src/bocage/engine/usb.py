"""The USB devices of a host, from sysfs (the kernel's Documentation/ABI/stable/sysfs-bus-usb)."""

from __future__ import annotations

import pathlib
import re

from bocage.model import ground

_BUS = pathlib.Path("/sys/bus/usb/devices")
_PORT = re.compile(r"\d+-\d+(\.\d+)*")  # not `usb1`, a bus's own hub, and not `1-2:1.0`, an interface
_HUB = "09"
_DISKS = "*:*/host*/target*/*:*:*:*/block/*"  # of a device that stores
_MOST = 256  # characters of what a device says of itself


def look(at: pathlib.Path = _BUS) -> list[ground.HostUsb]:
    """All devices but hubs, by their port; one that goes while it is looked at is left out."""
    if not at.is_dir():
        return []
    found = [_read(path) for path in at.iterdir() if _PORT.fullmatch(path.name)]
    return sorted(filter(None, found), key=lambda one: [int(part) for part in re.split(r"[-.]", one.port)])


def _read(path: pathlib.Path) -> ground.HostUsb | None:
    names = ("idVendor", "idProduct", "serial", "manufacturer", "product", "busnum", "devnum")
    told = {name: _said(path / name) for name in names}
    if not (told["idVendor"] and told["idProduct"]) or _said(path / "bDeviceClass") == _HUB:
        return None
    return ground.HostUsb(
        id=f"{told['idVendor']}:{told['idProduct']}".lower(),
        serial=told["serial"],
        port=path.name,
        maker=told["manufacturer"],
        model=told["product"],
        node=_node(told["busnum"], told["devnum"]),
        in_use=_is_in_use(path),
    )


def _is_in_use(path: pathlib.Path) -> bool:
    """Whether the host mounts, swaps to, or builds on what it stores (md, device-mapper)."""
    for disk in path.glob(_DISKS):
        for one in (disk, *(part.parent for part in disk.glob("*/partition"))):
            if any((one / "holders").glob("*")) or _said(one / "dev") in _mounted() or one.name in _swapped():
                return True
    return False


def _mounted() -> set[str]:
    """The numbers of the devices that are mounted, `8:1`."""
    return {line.split()[2] for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines()}


def _swapped() -> set[str]:
    return {pathlib.PurePath(line.split()[0]).name for line in pathlib.Path("/proc/swaps").read_text().splitlines()[1:]}


def _node(bus: str, number: str) -> str:
    return f"/dev/bus/usb/{int(bus):03}/{int(number):03}" if bus.isdigit() and number.isdigit() else ""


def _said(path: pathlib.Path) -> str:
    """What the device says of itself, without what would move a cursor."""
    try:
        text = path.read_bytes()[:_MOST].decode(errors="replace")
    except OSError:
        return ""
    return "".join(one for one in text if one.isprintable()).strip()
