"""Reads osinfo-db: what each operating system can drive, as libosinfo's project keeps it.

Its files are merged as libosinfo does it: several may speak of one system, which takes over the devices of
what it derives from or is a clone of.
"""

from __future__ import annotations

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


def read(root: pathlib.Path = ROOT) -> dict[str, osinfo.System]:
    """Every system that runs on a PC, by its short name. Files that are no sound XML are passed over.

    Raises NotInstalled.
    """
    if not (root / "os").is_dir():
        raise NotInstalled(path=str(root))
    devices = {
        str(one.get("id")): str(one.findtext("name")) for one in _records(root / "device") if one.findtext("name")
    }
    merged: dict[str, list[Element]] = {}
    for one in _records(root / "os"):
        merged.setdefault(str(one.get("id")), []).append(one)
    found: dict[str, osinfo.System] = {}
    for identity, parts in merged.items():
        if system := _system(identity, parts, merged, devices):
            found[system.name] = system
    return found


def _records(room: pathlib.Path) -> Iterator[Element]:
    import defusedxml.ElementTree as Xml

    for path in sorted(room.rglob("*.xml")):
        try:
            if path.stat().st_size <= _LARGEST:
                yield from Xml.parse(path).getroot()
        except (OSError, Xml.ParseError, ValueError):
            continue


def _system(
    identity: str, parts: list[Element], merged: dict[str, list[Element]], devices: dict[str, str]
) -> osinfo.System | None:
    names = [one.text or "" for part in parts for one in part.findall("short-id")]
    names = list(dict.fromkeys(name for name in names if name))
    if not names:
        return None
    firmware = {
        (str(one.get("type")), one.get("supported") != "false")
        for part in parts
        for one in part.findall("firmware")
        if one.get("arch") in _ARCHITECTURES
    }
    drives = _drives(identity, merged, ())
    return osinfo.System(
        name=names[0],
        also=tuple(names[1:]),
        title=_plain(parts, "name") or names[0],
        family=_plain(parts, "family") or _inherited(identity, "family", merged),
        distro=_plain(parts, "distro"),
        version=_plain(parts, "version"),
        released=_date(parts, "release-date"),
        ended=_date(parts, "eol-date"),
        devices=frozenset(devices[one] for one in drives if one in devices),
        bios=("bios", False) not in firmware,
        uefi=("efi", True) in firmware,
        least=_needs(parts, "minimum"),
        recommended=_needs(parts, "recommended"),
        most=_needs(parts, "maximum"),
    )


def _plain(parts: list[Element], tag: str) -> str:
    """The text in no particular language."""
    found = (one for part in parts for one in part.findall(tag) if not one.attrib)
    return next((str(one.text) for one in found if one.text), "")


def _origins(identity: str, merged: dict[str, list[Element]]) -> Iterator[str]:
    for part in merged.get(identity, ()):
        for tag in ("derives-from", "clones"):
            yield from (str(one.get("id")) for one in part.findall(tag))


def _inherited(identity: str, tag: str, merged: dict[str, list[Element]], seen: tuple[str, ...] = ()) -> str:
    for origin in _origins(identity, merged):
        if origin in seen:
            continue
        if found := _plain(merged.get(origin, []), tag) or _inherited(origin, tag, merged, (*seen, identity)):
            return found
    return ""


def _drives(identity: str, merged: dict[str, list[Element]], seen: tuple[str, ...]) -> dict[str, None]:
    """The ids of the devices that a system drives, those included that it takes over."""
    found: dict[str, None] = {}
    for origin in _origins(identity, merged):
        if origin not in seen:
            found |= _drives(origin, merged, (*seen, identity))
    for part in merged.get(identity, ()):
        for one in part.findall("devices/device"):
            if one.get("removed") == "true":
                found.pop(str(one.get("id")), None)
            else:
                found[str(one.get("id"))] = None
    return found


def _needs(parts: list[Element], tag: str) -> osinfo.Needs:
    """What is said for PCs: of 32 and 64 bits the less demanding least, else the larger amount."""
    amounts: dict[str, int] = {}
    choose = min if tag == "minimum" else max
    for part in parts:
        for resources in part.findall("resources"):
            if resources.get("arch") not in _ARCHITECTURES:
                continue
            for name, key in (("n-cpus", "cpus"), ("ram", "memory"), ("storage", "storage")):
                text = resources.findtext(f"{tag}/{name}") or ""
                if re.fullmatch(r"\d{1,18}", text):
                    amounts[key] = choose(amounts.get(key, int(text)), int(text))
    return osinfo.Needs(
        cpus=amounts.get("cpus"),
        memory=Size(amounts["memory"]) if "memory" in amounts else None,
        storage=Size(amounts["storage"]) if "storage" in amounts else None,
    )


def _date(parts: list[Element], tag: str) -> datetime.date | None:
    try:
        return datetime.date.fromisoformat(_plain(parts, tag))
    except ValueError:
        return None
