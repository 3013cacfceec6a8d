"""What is known of an operating system: one record of osinfo-db, with what it takes over from others filled in."""

from __future__ import annotations

import datetime

from bocage.model.base import Part
from bocage.model.units import Size


class Needs(Part):
    """An amount of each thing; None where nothing is said."""

    cpus: int | None = None
    memory: Size | None = None
    storage: Size | None = None


class System(Part):
    """One operating system on a PC."""

    name: str
    """osinfo-db's short name, such as `win2k3`."""
    also: tuple[str, ...] = ()
    """Its other short names."""
    title: str
    family: str
    """`linux`, `winnt`, `win9x`, `win16`, `msdos`, `freebsd`, …; empty when unknown."""
    distro: str = ""
    version: str = ""
    released: datetime.date | None = None
    ended: datetime.date | None = None
    """When its maker ceased to look after it."""
    devices: frozenset[str] = frozenset()
    """The devices that it drives by itself, by QEMU's names or near them: `virtio1.0-net`, `e1000`, `tablet`."""
    bios: bool = True
    """Whether it boots by BIOS."""
    uefi: bool = False
    """Whether it is said to boot by UEFI."""
    least: Needs = Needs()
    recommended: Needs = Needs()
    most: Needs = Needs()
