"""From what is known of an operating system to the hardware that a VM for it is built with.

osinfo-db says which devices a system drives; where it is silent (it knows little of the time before 2006),
the year and the family decide: by what these systems brought drivers for.
"""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from bocage import errors, words
from bocage.model import board, osinfo, requests
from bocage.model import vm as model
from bocage.model.units import GiB, MiB, Size
from bocage.planner import hardware
from bocage.words import N_

_HYPERV: tuple[board.Enlightenment, ...] = (
    *("relaxed", "vapic", "spinlocks", "vpindex", "runtime", "time", "synic", "stimer", "frequencies"),
)
_DOS = ("msdos", "win16")
_WINDOWS = ("win16", "win9x", "winnt")
_NUMBERED = re.compile(r"(.*?)(\d+(?:\.\d+)*)")
_CLOSE = 3  # names that are offered
_WITH_VIRTIO_MEM = datetime.date(2021, 8, 1)
_KIN_OF_RHEL = (
    "rhel",
    "rhl",
    "centos",
    "almalinux",
    "rocky",
    "ol",
    "eurolinux",
    "scientificlinux",
    "circle",
    "miraclelinux",
)
_OLD_CPU = "pentium-v1"
_SMALL = Size(2 * GiB)
_BLANK = Size(20 * GiB)


class Error(errors.Problem):
    """No profile can be had."""


class NoSuchOs(Error, errors.NotFound):
    type = "no-such-os"
    text = N_("no operating system is known as {name}")
    hint = N_("{advice}")
    name: str
    advice: str


class Forerunner(words.Message):
    type = "os-by-forerunner"
    text = N_("{name} is not known here yet: its hardware is chosen as for {known}")
    hint = N_("a newer osinfo-db may know it")
    name: str
    known: str


class LessThanNeeded(words.Message):
    type = "os-needs-more-memory"
    text = N_("{os} needs {needed:size} of memory; it has {given:size}")
    os: str
    needed: int
    given: int


class MoreThanSupported(words.Message):
    type = "os-supports-less"
    text = N_("{os} is made for {most} {what} at most; it has {given}")
    hint = N_("what is beyond may lie idle")
    os: str
    what: str
    most: str
    given: str


class NeedsVirtioDrivers(words.Message):
    type = "os-without-virtio"
    text = N_("{os} has no drivers for {what} {value} by itself")
    hint = N_("leave it out: what it drives is chosen by itself")
    os: str
    what: str
    value: str


@dataclasses.dataclass(frozen=True, slots=True)
class Profile:
    """What a VM for a system is made of, where nothing else is asked for."""

    alias: hardware.Alias
    fittings: board.Fittings
    paravirtual: bool  # whether it knows what to do with virtio's balloon, random numbers and agent's channel
    cpu_model: str | None  # None: the host's usual one
    cpus: int
    memory: Size
    disk: Size
    floppy: bool = False  # whether it has a floppy drive even with nothing in it


def find(name: str, systems: Mapping[str, osinfo.System]) -> tuple[osinfo.System, words.Message | None]:
    """The system of a name, and what to know when it is another one. Raises NoSuchOs.

    `rhel4` is `rhel4.0`; a release that is newer than all that are known is taken for the newest of them.
    """
    wanted = name.lower()
    for system in systems.values():
        if wanted in (system.name.lower(), *(one.lower() for one in system.also)):
            return system, None
    if f"{wanted}.0" in systems:
        return systems[f"{wanted}.0"], None
    if below := sorted((one for one in systems if one.startswith(f"{wanted}.")), key=_by_number):
        return systems[below[0]], None
    if (match := _NUMBERED.fullmatch(wanted)) and match[1]:
        others = [one for one in systems if (known := _NUMBERED.fullmatch(one)) and known[1] == match[1]]
        newest = max(others, key=_by_number, default=None)
        if newest and _by_number(newest) < _by_number(wanted):
            return systems[newest], Forerunner(name=name, known=newest)
    close = difflib.get_close_matches(wanted, list(systems), n=_CLOSE)
    advice = f"did you mean {', '.join(close)}? " if close else ""
    raise NoSuchOs(name=name, advice=f"{advice}'bocage os list' shows all that are known")


def choose(system: osinfo.System, machine: hardware.Alias | None = None) -> Profile:
    """The hardware for a system, on `machine` when that is asked for: what it drives by itself."""
    year, drives = _year(system), system.devices
    alias = machine or _machine(system)
    pci = alias != "isapc"
    virtio = bool(drives & {"virtio-block", "virtio1.0-block"}) and pci
    usb = _usb(system, alias, year)
    windows = _family(system) in (*_WINDOWS, "msdos")
    vista = system.family == "winnt" and _version(system) >= (6,) and pci
    most = _limits(system)
    fittings = board.Fittings(
        os=system.name,
        firmware=board.Firmware.BIOS if system.bios else board.Firmware.UEFI,
        secure_boot=not system.bios,
        tpm=board.Tpm.NONE if system.bios else board.Tpm.CRB,
        disk_bus=model.Bus.VIRTIO if virtio else model.Bus.SATA if alias == "q35" else model.Bus.IDE,
        nic_model=_nic(system, alias, year),
        scsi=board.Scsi.VIRTIO if virtio or vista else board.Scsi.NONE,
        usb=usb,
        video=_video(system, year),
        sound=_sound(system, alias, year),
        pointer=_pointer(system, usb),
        rtc=board.Rtc(base="localtime" if windows else "utc", drift="slew" if system.family == "winnt" else "none"),
        hpet=not windows,
        hyperv=_HYPERV if vista else (),
        added_memory=board.AddedMemory.VIRTIO_MEM if _drives_virtio_mem(system) else board.AddedMemory.DIMM,
        limits=most,
    )
    memory = _memory(system, year)
    return Profile(
        alias=alias,
        fittings=fittings,
        paravirtual=virtio or vista,
        cpu_model=_cpu(system, year),
        cpus=min(system.least.cpus or 1, most.cpus or 255),
        memory=Size(min(memory, most.memory or memory)),
        disk=_disk(system, year),
        floppy=windows and not vista,
    )


def usual(machine: hardware.Alias) -> Profile:
    """What a VM is made of for which no system is named: the devices of today, where the machine takes them."""
    if machine == "isapc":
        old = board.Fittings(
            disk_bus=model.Bus.IDE,
            nic_model=model.NicModel.NE2K,
            scsi=board.Scsi.NONE,
            usb=board.Usb.NONE,
            video=board.Video.CIRRUS,
            pointer=board.Pointer.PS2,
        )
        return Profile(
            machine, old, paravirtual=False, cpu_model=_OLD_CPU, cpus=1, memory=Size(64 * MiB), disk=_SMALL, floppy=True
        )
    new = board.Fittings(usb=board.Usb.XHCI if machine == "q35" else board.Usb.UHCI)
    return Profile(machine, new, paravirtual=True, cpu_model=None, cpus=1, memory=Size(512 * MiB), disk=_BLANK)


def fill(request: requests.VMCreate, profile: Profile) -> requests.VMCreate:
    """The request with what it leaves open taken from the profile."""
    given = request.model_fields_set
    filled: dict[str, Any] = {"machine": profile.alias}
    if "cpus" not in given:
        filled["cpus"] = model.Cpus(cores=profile.cpus)
    if "memory" not in given:
        filled["memory"] = profile.memory
    if request.disk is None and request.image is None:
        filled["disk"] = profile.disk
    if request.cpu_model is None:
        filled["cpu_model"] = profile.cpu_model
    return request.model_copy(update=filled)


def fittings(request: requests.VMCreate, profile: Profile) -> board.Fittings:
    """The fittings of the profile, with those that the request names. Raises errors.InvalidFields."""
    asked = request.board.model_dump(exclude_none=True, exclude_unset=True)
    if request.firmware is not None:
        asked["firmware"] = request.firmware
    return board.Fittings.model_validate(hardware.merged(profile.fittings.model_dump(), asked))


def warnings(spec: model.VMSpec, system: osinfo.System) -> list[words.Message]:
    """What to know of a VM that is to run a system: it gets less than that needs, or more than it is made for."""
    said: list[words.Message] = []
    if system.least.memory and spec.memory < system.least.memory:
        said.append(LessThanNeeded(os=system.name, needed=int(system.least.memory), given=int(spec.memory)))
    if system.most.memory and spec.memory > system.most.memory:
        most, given = words.size(system.most.memory), words.size(spec.memory)
        said.append(MoreThanSupported(os=system.name, what="memory", most=most, given=given))
    if system.most.cpus and spec.cpus.count > system.most.cpus:
        most, given = str(system.most.cpus), str(spec.cpus.count)
        said.append(MoreThanSupported(os=system.name, what="vCPUs", most=most, given=given))
    if "virtio" not in "".join(system.devices):
        virtio = [("the disk bus", disk.bus) for disk in spec.disks] + [("the NIC", nic.model) for nic in spec.nics]
        lacking = dict.fromkeys(what for what, kind in virtio if kind == "virtio")
        said += [NeedsVirtioDrivers(os=system.name, what=what, value="virtio") for what in lacking]
    return said


def _machine(system: osinfo.System) -> hardware.Alias:
    if _family(system) in _DOS:
        return "isapc"
    return "q35" if "qemu-x86-q35" in system.devices or not system.bios else "pc"


def _nic(system: osinfo.System, alias: hardware.Alias, year: int) -> model.NicModel:
    if alias == "isapc":
        return model.NicModel.NE2K
    known: tuple[tuple[tuple[str, ...], model.NicModel], ...] = (
        (("virtio-net", "virtio1.0-net"), model.NicModel.VIRTIO),
        *(((("e1000e",), model.NicModel.E1000E),) if alias == "q35" else ()),
        (("e1000",), model.NicModel.E1000),
        (("rtl8139",), model.NicModel.RTL8139),
        (("pcnet",), model.NicModel.PCNET),
        (("ne2k_pci",), model.NicModel.NE2K),
    )
    for names, card in known:
        if system.devices.intersection(names):
            return card
    # The cards that had their drivers on the CD: RTL8139 with Windows 2000 and ME, PCnet with those since 1994.
    if system.family in _WINDOWS:
        return model.NicModel.RTL8139 if year >= 2000 else model.NicModel.PCNET if year >= 1994 else model.NicModel.NE2K
    if system.family == "netware":
        return model.NicModel.PCNET
    return model.NicModel.E1000 if year >= 2003 else model.NicModel.PCNET if year >= 1998 else model.NicModel.NE2K


def _usb(system: osinfo.System, alias: hardware.Alias, year: int) -> board.Usb:
    without = _family(system) in (*_DOS, "netware") or (system.family == "winnt" and _version(system) < (5,))
    if alias == "isapc" or without or year < 1998:
        return board.Usb.NONE
    if system.devices & {"qemu-xhci", "nec-xhci"}:
        return board.Usb.XHCI
    return board.Usb.EHCI if alias == "q35" else board.Usb.UHCI


def _pointer(system: osinfo.System, usb: board.Usb) -> board.Pointer:
    drives = "tablet" in system.devices and usb is not board.Usb.NONE
    return board.Pointer.TABLET if drives else board.Pointer.PS2


def _video(system: osinfo.System, year: int) -> board.Video:
    """Before Vista, Windows drives the VGA of today in 16 colours, and the Cirrus Logic as what it is."""
    old_windows = system.family in _WINDOWS and _version(system) < (6,)
    return board.Video.CIRRUS if old_windows or _family(system) == "msdos" or year < 2000 else board.Video.VGA


def _sound(system: osinfo.System, alias: hardware.Alias, year: int) -> board.Sound:
    """For systems that people sat before; a server of today needs none."""
    if _family(system) not in (*_WINDOWS, "msdos"):
        return board.Sound.NONE
    if alias == "isapc" or year < 2000:
        return board.Sound.SB16
    return board.Sound.HDA if system.devices & {"ich6", "ich9-hda"} else board.Sound.AC97


def _cpu(system: osinfo.System, year: int) -> str | None:
    """A CPU of its own time: old kernels look at the model, and some stop at one they cannot place."""
    if _family(system) == "msdos":
        return _OLD_CPU
    for before, name in ((1993, "486-v1"), (1997, _OLD_CPU), (2000, "pentium2-v1"), (2001, "pentium3-v1")):
        if year < before:
            return name
    modern = year >= 2010 or (system.family == "winnt" and _version(system) >= (6,))
    return None if modern else "Conroe-v1"


def _limits(system: osinfo.System) -> board.Limits:
    """What it cannot go beyond: with more it does not start, or its file cache breaks it (Windows 9x)."""
    family, version = _family(system), _version(system)
    match family:
        case "msdos" | "win16":
            return board.Limits(cpus=1, memory=Size(64 * MiB))
        case "win9x":
            return board.Limits(cpus=1, memory=Size((480 if version < (4, 1) else 512) * MiB))
        case "winnt" if version < (5,):
            return board.Limits(cpus=4, memory=Size(2 * GiB))
        case "netware":
            return board.Limits(cpus=32 if version >= (5,) else 1, memory=Size(3 * GiB))
        case _:
            return board.Limits()


def _memory(system: osinfo.System, year: int) -> Size:
    said = system.recommended.memory or Size(2 * (system.least.memory or 0))
    for before, usual in ((1993, 16), (1996, 32), (2000, 128), (2006, 512)):
        if year < before:
            return Size(max(_whole(said), usual * MiB))
    return Size(max(_whole(said), 1 * GiB))


def _disk(system: osinfo.System, year: int) -> Size:
    """What its loader and its file system can reach: FAT16 ends at 2 GiB, the old BIOS interface at 8 GiB."""
    if _family(system) in _DOS or year < 1996:
        return _SMALL
    if year < 2000:
        return Size(8 * GiB)
    return Size(max(_BLANK, system.least.storage or 0, system.recommended.storage or 0))


def _whole(size: Size) -> int:
    return -(-int(size) // MiB) * MiB


def _family(system: osinfo.System) -> str:
    """FreeDOS, which osinfo-db counts among the Linux distributions, is a DOS."""
    return "msdos" if system.distro == "freedos" else system.family


def _drives_virtio_mem(system: osinfo.System) -> bool:
    """Whether it comes with a driver for virtio-mem: Linux from 5.8 on has one, where its distributor builds it.

    osinfo-db does not tell. Debian 11 is the first of those that last; RHEL 8 and its kin stayed with 4.18.
    """
    if system.family != "linux" or (system.distro in _KIN_OF_RHEL and _version(system) < (9,)):
        return False
    return system.released is None or system.released >= _WITH_VIRTIO_MEM


def _year(system: osinfo.System) -> int:
    """When it came out; one without a date is rolling, and so of today."""
    return system.released.year if system.released else datetime.date.max.year


def _version(system: osinfo.System) -> tuple[int, ...]:
    return tuple(int(one) for one in re.findall(r"\d+", system.version))


def _by_number(name: str) -> tuple[int, ...]:
    return tuple(int(one) for one in re.findall(r"\d+", name))


def listed(systems: Iterable[osinfo.System]) -> list[osinfo.System]:
    """Systems in the order that people look for them: by family of names, then by age."""
    return sorted(systems, key=lambda one: (re.sub(r"[\d.]+.*", "", one.name), _year(one), one.name))
