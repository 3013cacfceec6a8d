"""Several NICs of the machine as one (the kernel's bonding): made for a network onto them, and taken apart with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from bocage import errors
from bocage.network import base, kernel, nics
from bocage.words import N_

Mode = Literal["active-backup", "balance-xor", "802.3ad"]
PREFIX = "bcb-"
_LOOK = 100  # milliseconds between two looks at whether a cable is in


class Numbered(base.Error, errors.Conflict):
    type = "network-nic-numbered"
    text = N_("{nic} has addresses of its own: of NICs that become one, only the first keeps them")
    hint = N_("name it first, or take them away: 'ip address flush dev {nic}'")
    nic: str


def interface_of(uid: str) -> str:
    """The bond of the network `uid`."""
    return PREFIX + base.interface_of(uid).partition("-")[2]


async def found(named: str) -> list[kernel.Link]:
    """The NICs, by name or MAC with commas between. Raises nics.NoSuchNic, nics.NicTaken, Numbered."""
    links = [await nics.find(one) for one in named.split(",")]
    for other in links[1:]:
        ways = await nics.ways(other.name)
        if ways.addresses or ways.leased:
            raise Numbered(nic=other.name)
    return links


async def again(macs: Iterable[str]) -> list[kernel.Link]:
    """Those of them that are there. Raises nics.NoSuchNic when none is, nics.NicTaken."""
    links, lost = [], None
    for mac in macs:
        try:
            links.append(await nics.find(mac))
        except nics.NoSuchNic as error:
            lost = error
    if not links and lost:
        raise lost
    return links


async def make(name: str, mode: Mode, mac: str, ports: Sequence[str]) -> None:
    """Have these NICs be one; their addresses and routes are gone. Raises base.KernelLacks, base.Refused."""
    try:
        await kernel.change([f"link add {name} address {mac} type bond mode {mode} miimon {_LOOK}"])
    except base.Refused as refused:
        raise base.KernelLacks(what="bonds (the module 'bonding')", said=refused.output) from refused
    await join(name, ports)
    await kernel.change([f"link set {name} up"])


async def join(name: str, ports: Iterable[str]) -> None:
    """Have these NICs be of it, too; their addresses and routes are gone. Raises base.Refused."""
    for port in ports:
        steps = [f"address flush dev {port} scope global", f"link set {port} down", f"link set {port} master {name}"]
        await kernel.change(steps)


def apart(name: str, ports: Iterable[str]) -> Iterator[str]:
    """The steps that have them be NICs of their own again."""
    yield f"link delete {name}"
    yield from (f"link set {port} up" for port in ports)
