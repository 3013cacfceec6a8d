"""The kernel's network as `ip` shows it and changes it.

`ip` and not a netlink library: 3 ms a call, and nothing to keep in the daemon's memory (pyroute2 takes
14 MiB and 0.25 s to import). What is done can be pasted into a shell.
"""

from __future__ import annotations

import dataclasses
import fcntl
import ipaddress
import json
import pathlib
import pwd
import socket
import struct
from collections.abc import Iterable
from typing import Any

from bocage.network import base

_SYSCTL = pathlib.Path("/proc/sys/net")
_SIOCGIFFLAGS, _IFF_UP = 0x8913, 0x1


@dataclasses.dataclass(frozen=True, slots=True)
class Link:
    """A network interface; `kind` is the kernel's word (`bridge`, `tun`, `veth`) or empty."""

    name: str
    kind: str
    alias: str
    mac: str
    permanent: str  # the MAC that it was made with, where it bears another now; else empty
    mtu: int | None
    up: bool
    carrier: bool  # a tap's: somebody has it open
    master: str
    on: str  # what it stands on, or the other end of a pair, where that is in this namespace
    addresses: tuple[ipaddress.IPv4Interface, ...]
    owner: int | None  # uid that may open a tap
    port_isolated: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Route:
    """A subnet that this machine reaches, through which interface."""

    subnet: ipaddress.IPv4Network
    interface: str


async def links(*selection: str) -> list[Link]:
    """The interfaces, all or a selection as `ip address show` takes it (`type bridge`, `master NAME`)."""
    return [_link(item) for item in await _show("address", "show", *selection) if item.get("ifname")]


async def link(name: str) -> Link | None:
    """The interface `name`, if it is there."""
    if not present(name):
        return None
    try:
        return next((found for found in await links("dev", name) if found.name == name), None)
    except base.Refused:
        if present(name):
            raise
        return None  # it has just gone


async def carrying(bridge: str, alias: str) -> set[str]:
    """The ports of a bridge that bear an alias and have somebody at their other end."""
    try:
        ports = await links("master", bridge)
    except base.Refused:
        if present(bridge):
            raise
        return set()  # it is gone, or has just gone
    return {one.name for one in ports if one.alias == alias and one.carrier}


def present(name: str) -> bool:
    """Whether there is an interface of this name."""
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


def is_up(name: str) -> bool:
    """Whether the interface of this name is there, and up (netdevice(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_:
        try:
            answer = fcntl.ioctl(any_, _SIOCGIFFLAGS, struct.pack("16s24x", name.encode()))
        except OSError:
            return False
    return bool(struct.unpack("16xH22x", answer)[0] & _IFF_UP)


async def routes() -> list[Route]:
    """Every IPv4 subnet that is routed in any table; neither the default route nor single addresses."""
    found: dict[Route, None] = {}
    for item in await _show("-4", "route", "show", "table", "all"):
        destination = item.get("dst", "")
        if destination == "default" or item.get("type") in ("broadcast", "multicast", "local"):
            continue
        subnet = ipaddress.IPv4Network(destination, strict=False)
        if 0 < subnet.prefixlen < 32:
            found[Route(subnet, item.get("dev", item.get("type", "")))] = None
    return list(found)


def default_routes() -> set[int]:
    """Over which of IP versions 4 and 6 this machine reaches the world (proc(5), net/route and net/ipv6_route)."""
    four = [line.split() for line in _lines("route")[1:]]
    six = [line.split() for line in _lines("ipv6_route")]
    reached = set()
    if any(len(fields) > 7 and fields[1] == fields[7] == "00000000" for fields in four):
        reached.add(4)
    if any(len(fields) > 9 and fields[0] == "0" * 32 and fields[1] == "00" and fields[9] != "lo" for fields in six):
        reached.add(6)
    return reached


async def neighbours(interface: str) -> list[tuple[str, str]]:
    """MAC and IP address of each neighbour that the kernel has seen on `interface`, both IP versions."""
    shown = await _show("neighbour", "show")
    dead = {"FAILED", "INCOMPLETE", "NOARP"}
    return [
        (item["lladdr"].lower(), item["dst"])
        for item in shown
        if item.get("dev") == interface and "lladdr" in item and not dead & set(item.get("state", []))
    ]


async def change(steps: Iterable[str]) -> None:
    """Carry out lines as `ip -batch` takes them, in order. Raises base.Refused at the first that fails."""
    lines = list(steps)
    if lines:
        await base.run("ip", "-batch", "-", stdin="".join(f"{line}\n" for line in lines))


def bridge_options(*, vlans: bool) -> str:
    """How each of our bridges is made; nobody is on a VLAN before `set_vlans`."""
    return f"stp_state 0 forward_delay 0{' vlan_filtering 1 vlan_default_pvid 0' if vlans else ''}"


@dataclasses.dataclass(frozen=True, slots=True)
class Vlans:
    """What a port of a bridge is on; those that are tagged may be ranges, `2-4094`."""

    untagged: int = 1
    tagged: tuple[int | str, ...] = ()


async def set_vlans(port: str, wanted: Vlans, *, itself: bool = False) -> None:
    """Have the port of a bridge, or the bridge's own end, be on exactly these VLANs. Raises base.Refused."""
    shown = json.loads(await base.run("bridge", "-json", "vlan", "show", "dev", port) or b"[]")
    present = {
        vid
        for link in shown
        for one in link.get("vlans", [])
        for vid in range(one["vlan"], one.get("vlanEnd", one["vlan"]) + 1)
    }
    stay = {wanted.untagged}
    for some in wanted.tagged:
        first, _, last = str(some).partition("-")
        stay |= set(range(int(first), int(last or first) + 1))
    end = f"dev {port}{' self' if itself else ''}"
    steps = [f"vlan delete vid {one} {end}" for one in _ranges(present - stay)]
    steps += [f"vlan add vid {one} {end}" for one in wanted.tagged if one != wanted.untagged]
    steps.append(f"vlan add vid {wanted.untagged} pvid untagged {end}")
    await base.run("bridge", "-batch", "-", stdin="".join(f"{step}\n" for step in steps))


def _ranges(numbers: set[int]) -> list[str]:
    """As few as there can be: `3-5` for three of them."""
    found: list[list[int]] = []
    for one in sorted(numbers):
        if found and found[-1][1] == one - 1:
            found[-1][1] = one
        else:
            found.append([one, one])
    return [str(first) if first == last else f"{first}-{last}" for first, last in found]


def has_ipv6() -> bool:
    """Whether the kernel speaks IPv6."""
    return sysctl("ipv6/conf/default/disable_ipv6") is not None


def sysctl(name: str) -> str | None:
    """A setting below `net`, its parts parted by `/`: `ipv4/ip_forward`; None where the kernel has it not."""
    try:
        return (_SYSCTL / name).read_text().strip()
    except OSError:
        return None


def set_sysctl(name: str, value: str) -> None:
    """Change a setting below `net`, if it is not so already. Raises base.KernelLacks."""
    if sysctl(name) == value:
        return
    try:
        (_SYSCTL / name).write_text(value)
    except OSError as error:
        what = f"net.{name.replace('/', '.')}={value}"
        raise base.KernelLacks(what=what, said=error.strerror or str(error)) from error


def _lines(table: str) -> list[str]:
    try:
        return pathlib.Path("/proc/thread-self/net", table).read_text().splitlines()
    except OSError:
        return []


async def _show(*arguments: str) -> list[dict[str, Any]]:
    output = await base.run("ip", "-json", "-details", *arguments)
    shown: list[dict[str, Any]] = json.loads(output or b"[]")
    return shown


def _link(item: dict[str, Any]) -> Link:
    about = item.get("linkinfo", {})
    port = about.get("info_slave_data") or {}
    owner = about.get("info_data", {}).get("user") if about.get("info_kind") == "tun" else None
    return Link(
        name=item["ifname"],
        kind=about.get("info_kind", ""),
        alias=item.get("ifalias", ""),
        mac=item.get("address", "").lower(),
        permanent=item.get("permaddr", "").lower(),
        mtu=item.get("mtu"),
        up="UP" in item.get("flags", []),
        carrier="LOWER_UP" in item.get("flags", []),
        master=item.get("master", ""),
        on=item.get("link") or "",
        addresses=tuple(
            ipaddress.IPv4Interface(f"{entry['local']}/{entry['prefixlen']}")
            for entry in item.get("addr_info", [])
            if entry.get("family") == "inet"
        ),
        owner=_uid(owner),
        port_isolated=bool(port.get("isolated", False)),
    )


def _uid(shown: str | int | None) -> int | None:
    if shown is None or str(shown).isdecimal():
        return None if shown is None else int(shown)
    try:
        return pwd.getpwnam(str(shown)).pw_uid  # `ip` shows the name of a known user, whatever it is asked
    except KeyError:
        return None
