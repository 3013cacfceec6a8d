"""Reads osinfo-db: what each operating system can drive, as libosinfo's project keeps it.

Its files are merged as libosinfo does it: several may speak of one system, which takes over the devices of
what it derives from or is a clone of.
"""

from __future__ import annotations

import dataclasses
import datetime
import pathlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bocage import errors
from bocage.model import osinfo
from bocage.model.units import Size
from bocage.words import N_

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

ROOT = pathlib.Path("/usr/share/osinfo")
_ARCHITECTURES = ("all", "x86_64", "i686", "i386")
_TEXTS = ("name", "family", "distro", "version", "release-date", "eol-date")
_LARGEST = 1 << 20  # bytes of one file


class Error(errors.Problem):
    """osinfo-db cannot be read."""


class NotInstalled(Error, errors.Unavailable):
    type = "osinfo-missing"
    text = N_("nothing is known of operating systems: {path} is not there")
    hint = N_("apt install osinfo-db")
    path: str


def installed(root: pathlib.Path = ROOT) -> int:
    """When the database was installed, in nanoseconds; another one has another time. Raises NotInstalled."""
    try:
        return (root / "os").stat().st_mtime_ns
    except OSError as error:
        raise NotInstalled(path=str(root)) from error


@dataclasses.dataclass(slots=True)
class _Said:
    """What the files that speak of one system say of it, put together."""

    names: list[str] = dataclasses.field(default_factory=list)
    texts: dict[str, str] = dataclasses.field(default_factory=dict)  # in no particular language, by tag
    origins: list[str] = dataclasses.field(default_factory=list)  # ids of what it takes devices over from
    devices: dict[str, bool] = dataclasses.field(default_factory=dict)  # by id: whether it drives it, or no more
    firmware: set[tuple[str, bool]] = dataclasses.field(default_factory=set)
    amounts: dict[tuple[str, str], int] = dataclasses.field(default_factory=dict)  # as `minimum`, `memory`

    def hear(self, one: Element) -> None:
        """Take in what one file says."""
        self.names += [name.text for name in one.findall("short-id") if name.text and name.text not in self.names]
        for tag in _TEXTS:
            found = next((text.text for text in one.findall(tag) if text.text and not text.attrib), None)
            if found:
                self.texts.setdefault(tag, found)
        for tag in ("derives-from", "clones"):
            self.origins += [str(origin.get("id")) for origin in one.findall(tag)]
        self.devices |= {
            str(device.get("id")): device.get("removed") != "true" for device in one.findall("devices/device")
        }
        self.firmware |= {
            (str(firmware.get("type")), firmware.get("supported") != "false")
            for firmware in one.findall("firmware")
            if firmware.get("arch") in _ARCHITECTURES
        }
        for resources in one.findall("resources"):
            if resources.get("arch") in _ARCHITECTURES:
                self._hear_amounts(resources)

    def _hear_amounts(self, resources: Element) -> None:
        """Of what is said for 32 and 64 bits the less demanding least counts, else the larger amount."""
        for tag in ("minimum", "recommended", "maximum"):
            choose = min if tag == "minimum" else max
            for name, key in (("n-cpus", "cpus"), ("ram", "memory"), ("storage", "storage")):
                text = resources.findtext(f"{tag}/{name}") or ""
                if re.fullmatch(r"\d{1,18}", text):
                    self.amounts[tag, key] = choose(self.amounts.get((tag, key), int(text)), int(text))


def read(root: pathlib.Path = ROOT) -> dict[str, osinfo.System]:
    """Every system that runs on a PC, by its short name. Files that are no sound XML are passed over.

    Raises NotInstalled.
    """
    installed(root)
    devices = {
        str(one.get("id")): str(one.findtext("name")) for one in _records(root / "device") if one.findtext("name")
    }
    merged: dict[str, _Said] = {}
    for one in _records(root / "os"):
        merged.setdefault(str(one.get("id")), _Said()).hear(one)
    systems = (_system(identity, merged, devices) for identity, said in merged.items() if said.names)
    return {system.name: system for system in systems}


def _records(room: pathlib.Path) -> Iterator[Element]:
    import defusedxml.ElementTree as Xml

    for path in sorted(room.rglob("*.xml")):
        try:
            if path.stat().st_size <= _LARGEST:
                yield from Xml.parse(path).getroot()
        except (OSError, Xml.ParseError, ValueError):
            continue


def _system(identity: str, merged: dict[str, _Said], devices: dict[str, str]) -> osinfo.System:
    said = merged[identity]
    texts = {tag: said.texts.get(tag, "") for tag in _TEXTS}
    drives = _drives(identity, merged, ())
    return osinfo.System(
        name=said.names[0],
        also=tuple(said.names[1:]),
        title=texts["name"] or said.names[0],
        family=_family(identity, merged, ()),
        distro=texts["distro"],
        version=texts["version"],
        released=_date(texts["release-date"]),
        ended=_date(texts["eol-date"]),
        devices=frozenset(devices[one] for one, there in drives.items() if there and one in devices),
        bios=("bios", False) not in said.firmware,
        uefi=("efi", True) in said.firmware,
        least=_needs(said, "minimum"),
        recommended=_needs(said, "recommended"),
        most=_needs(said, "maximum"),
    )


def _family(identity: str, merged: dict[str, _Said], seen: tuple[str, ...]) -> str:
    """Its family, else that of what it derives from."""
    said = merged.get(identity)
    if said is None or identity in seen:
        return ""
    found = (_family(origin, merged, (*seen, identity)) for origin in said.origins)
    return said.texts.get("family") or next(filter(None, found), "")


def _drives(identity: str, merged: dict[str, _Said], seen: tuple[str, ...]) -> dict[str, bool]:
    """Whether it drives a device or does so no more, by the device's id, with all that it takes over."""
    said, found = merged.get(identity), dict[str, bool]()
    if said is None or identity in seen:
        return found
    for origin in said.origins:
        found |= _drives(origin, merged, (*seen, identity))
    return found | said.devices


def _needs(said: _Said, tag: str) -> osinfo.Needs:
    amounts = {key: amount for (of, key), amount in said.amounts.items() if of == tag}
    return osinfo.Needs(
        cpus=amounts.get("cpus"),
        memory=Size(amounts["memory"]) if "memory" in amounts else None,
        storage=Size(amounts["storage"]) if "storage" in amounts else None,
    )


def _date(text: str) -> datetime.date | None:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        return None
