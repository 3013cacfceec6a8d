"""The machine's own NICs: found by name or MAC, and what a NIC has of addresses and routes."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import json
from collections.abc import Iterable, Iterator
from typing import Any

from bocage import errors
from bocage.network import base, kernel
from bocage.words import N_

_DROPPED_FLAGS = ("linkdown", "dead", "pervasive")
_NO_NICS = ("bridge", "tun", "ifb")
_ON_ANOTHER = ("vlan", "macvlan", "macvtap", "ipvlan", "ipvtap")  # these bear the MAC of what they stand on
BONDS = ("bond", "team")
"""They bear the MAC of one of their ports, and their ports bear theirs."""


_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class NoSuchNic(base.Error, errors.NotFound):
    type = "network-no-such-nic"
    text = N_("this machine has no NIC {nic}")
    hint = N_("'ip link' shows those it has; name one by its name or its MAC address")
    nic: str


class NicTaken(base.Error, errors.Conflict):
    type = "network-nic-taken"
    text = N_("{nic} is a port of {master} already")
    hint = N_("'ip link show {nic}'; take it out of there first, or name {master} if that is a bond")
    nic: str
    master: str


class NicCarries(base.Error, errors.Conflict):
    type = "network-nic-carries"
    text = N_("{others} stands on {nic} and would be cut off: {nic} is to be one of several, or to carry VLANs")
    hint = N_("take it away first ('ip link delete {others}'), or choose another NIC")
    nic: str
    others: str


@dataclasses.dataclass(frozen=True, slots=True)
class Ways:
    """Addresses and routes of a NIC, but for those that the kernel makes by itself.

    `leased` are IPv4 addresses with a time to live. Routes are as `ip route` prints them, direct ones first.
    """

    addresses: tuple[str, ...] = ()
    leased: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    routes6: tuple[str, ...] = ()

    def __or__(self, more: Ways) -> Ways:
        """All that either has; where routes to one place differ, those of `more` come last."""
        return Ways(*[
            tuple(dict.fromkeys((*ours, *theirs)))
            for ours, theirs in zip(dataclasses.astuple(self), dataclasses.astuple(more), strict=True)
        ])  # fmt: skip


async def find(nic: str, *, kind: str | None = None, of: str = "") -> kernel.Link:
    """A NIC by name or MAC; bridges and taps are none. `kind`: of that kind alone, as the kernel calls it.

    `of`: it may be a port of this one. Of those that bear one MAC a bond comes before its ports, and what stands on
    a NIC is not meant. Raises NoSuchNic, NicTaken.
    """
    found = chosen(await kernel.links(), nic, kind=kind)
    if found is None:
        raise NoSuchNic(nic=nic)
    if found.master and found.master != of:
        raise NicTaken(nic=found.name, master=found.master)
    return found


def chosen(links: Iterable[kernel.Link], nic: str, *, kind: str | None = None) -> kernel.Link | None:
    """The one of these that is called so, or else bears that MAC."""
    some = [one for one in links if one.kind not in _NO_NICS and one.name != "lo" and kind in (None, one.kind)]
    named = [one for one in some if one.name == nic]
    bearing = [one for one in some if nic.lower() in (one.mac, one.permanent) and one.kind not in _ON_ANOTHER]
    ranked = sorted(bearing, key=lambda one: (one.kind not in BONDS, bool(one.master), one.name))
    return next(iter([*named, *ranked]), None)


async def refuse_carried(names: Iterable[str]) -> None:
    """Raise NicCarries when a VLAN or the like stands on one of these NICs."""
    links = await kernel.links()
    for name in names:
        if others := [one.name for one in links if one.on == name and one.kind in _ON_ANOTHER]:
            raise NicCarries(nic=name, others=", ".join(others))


def late(links: Iterable[kernel.Link], macs: Iterable[str]) -> list[str]:
    """The NICs with these MACs that are nobody's port: those of a bond that came when it was made already."""
    wanted, others = set(macs), (*_NO_NICS, *_ON_ANOTHER, *BONDS)
    free = [one for one in links if not one.master and one.kind not in others]
    return [one.name for one in free if wanted & {one.mac, one.permanent}]


def by_name(kind: str | None) -> bool:
    """Whether a NIC of this kind is known by its name: its MAC is that of another."""
    return kind in (*BONDS, *_ON_ANOTHER)


async def own(name: str) -> set[str]:
    """All addresses of an interface, link-local ones too. Raises base.Refused."""
    shown = json.loads(await base.run("ip", "-json", "address", "show", "dev", name) or b"[]")
    return {entry["local"] for link in shown for entry in link.get("addr_info", [])}


async def routers(name: str) -> set[str]:
    """The gateways of this machine on an interface, and whoever told it to be a router there. Raises base.Refused."""
    found: set[str] = set()
    for version in ("-4", "-6"):
        for route in json.loads(await base.run("ip", version, "-json", "route", "show", "table", "all") or b"[]"):
            hops = [hop for hop in (route, *route.get("nexthops", [])) if hop.get("dev") == name]
            found |= {hop.get("gateway") or hop.get("via", {}).get("host", "") for hop in hops}
    shown = json.loads(await base.run("ip", "-6", "-json", "neighbour", "show", "dev", name) or b"[]")
    found |= {item["dst"] for item in shown if "router" in item}
    return found - {""}


async def ways(name: str) -> Ways:
    """What an interface has now."""
    shown: list[dict[str, Any]] = json.loads(await base.run("ip", "-json", "address", "show", "dev", name) or b"[]")
    listed = [entry for link in shown for entry in link.get("addr_info", []) if entry.get("scope") != "link"]
    addresses, leased = [], []
    for entry in listed:
        address = f"{entry['local']}/{entry['prefixlen']}"
        if not entry.get("dynamic"):
            addresses.append(address)
        elif entry["family"] == "inet":
            leased.append(address)
    return Ways(tuple(addresses), tuple(leased), await _routes("-4", name), await _routes("-6", name))


def settled(confirmed: Ways, now: Ways) -> Ways:
    """What a NIC is to have that comes up with `now`, when it had `confirmed`.

    What was confirmed, where it has none of that (yet); what it has, where somebody numbered it otherwise since; and a
    lease that it has now, in the place of one that it had then.
    """
    addresses: list[str] = []
    renumbered = set()
    for version in (4, 6):
        before, after = _of(version, confirmed.addresses), _of(version, now.addresses)
        if set(after) <= set(before):
            addresses += before
        else:
            addresses += after
            renumbered.add(version)
    some = bool(_of(4, now.addresses) or now.leased)
    leased = now.leased or (() if some else confirmed.leased)
    networks = [ipaddress.ip_interface(one).network for one in (*addresses, *leased)]
    routes, routes6 = (
        tuple(_leading((*(() if version in renumbered else ours), *theirs), networks))
        for version, ours, theirs in ((4, confirmed.routes, now.routes), (6, confirmed.routes6, now.routes6))
    )
    return Ways(tuple(addresses), leased, routes, routes6)


def given(wanted: Ways, name: str) -> Iterator[str]:
    """The steps that give an interface these."""
    for address in (*wanted.addresses, *wanted.leased):
        yield f"address add {address} dev {name} nodad" if ":" in address else f"address add {address} dev {name}"
    yield from (f"route replace {route} dev {name}" for route in wanted.routes)
    yield from (f"route replace {route.replace('default', '::/0', 1)} dev {name}" for route in wanted.routes6)


def _of(version: int, addresses: Iterable[str]) -> list[str]:
    return [one for one in addresses if ipaddress.ip_interface(one).version == version]


def _leading(routes: Iterable[str], networks: Iterable[_Network]) -> Iterator[str]:
    """The routes, each once, that need no gateway or have one on these networks or behind a route before them."""
    reached = list(networks)
    for route in sorted(dict.fromkeys(routes), key=lambda one: "via" in one.split()):
        words = route.split()
        gateway = words[words.index("via") + 1] if "via" in words else ""
        if gateway in ("", "inet", "inet6") or "onlink" in words:
            with contextlib.suppress(ValueError):  # `default`, or the kind of a route
                reached.append(ipaddress.ip_network(words[0]))
            yield route
        else:
            via = ipaddress.ip_address(gateway)
            if via.is_link_local or any(via in one for one in reached):
                yield route


async def _routes(version: str, name: str) -> tuple[str, ...]:
    said = (await base.run("ip", version, "route", "show", "dev", name)).decode()
    lines = [line.split() for line in said.splitlines()]
    kept = [words for words in lines if "kernel" not in words and "ra" not in words]
    kept = [[word for word in words if word not in _DROPPED_FLAGS] for words in kept]
    return tuple(" ".join(words) for words in sorted(kept, key=lambda words: "via" in words))  # direct ones first
