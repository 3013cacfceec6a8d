"""What a NIC on a bridge may send: in its own name, with its own addresses, nothing that is for routers or servers."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterable, Iterator

from bocage.model.firewall import Prefix
from bocage.network import nft

_UNKNOWN = ipaddress.IPv4Address(0)  # of one that asks for an address, or whether another has it
_SNAP = "ether type < 0x0600 @ll,112,48 0xaaaa03000000"  # ARP and IP in another guise (RFC 1042)
_NOT_CARRIED = "ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00"  # what is for the next bridge: spanning tree, …
_TARGET = "@th,64,128"  # of neighbour discovery, which has no name in every nft
_CLIENT = "@th,288,48"  # the MAC that a DHCP request is for (chaddr, RFC 2131)
_KNOWN_FOR = "150m"  # the longest life of a router's word (RFC 4861, 6.2.1)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A NIC on the bridge. `addresses` are those it may use as its own; none of an IP version: any that is nobody's.

    `made`: those that its guest may make of its MAC. `free`: it may pass for anybody. `trunk`: the VLANs whose tags its
    packets may bear; of these only the MAC is looked at. `groups`: what is let in; None: all that comes.
    """

    tap: str
    mac: str
    addresses: tuple[Prefix, ...] = ()
    made: tuple[ipaddress.IPv6Address, ...] = ()
    free: bool = False
    trunk: tuple[int, ...] = ()
    groups: tuple[str, ...] | None = None

    @property
    def link_local(self) -> ipaddress.IPv6Address:
        """The IPv6 address that a guest makes of its MAC (RFC 4291, appendix A)."""
        return link_local(self.mac)


def link_local(mac: str) -> ipaddress.IPv6Address:
    """The link-local address made of a MAC."""
    return made_of(mac, ipaddress.IPv6Network("fe80::/64"))


def made_of(mac: str, prefix: ipaddress.IPv6Network) -> ipaddress.IPv6Address:
    """The address made of a MAC in a prefix of 64 bits."""
    octets = bytes.fromhex(mac.replace(":", ""))
    identifier = bytes((octets[0] ^ 2, *octets[1:3], 0xFF, 0xFE, *octets[3:]))
    return ipaddress.IPv6Address(prefix.network_address.packed[:8] + identifier)


def routers() -> str:
    """Who is a router, by its own word: a set that what comes in through other ports than guests' fills."""
    return (
        f"  set routers {{\n    typeof {_TARGET}\n    size 64\n    flags dynamic,timeout\n"
        f"    timeout {_KNOWN_FOR}\n  }}\n"
    )


HEARD_OF_ROUTERS = "ip6 hoplimit 255 icmpv6 type nd-router-advert update @routers { @nh,64,128 }"
"""For what comes from elsewhere than a guest that is held to something."""


def claims(everybody: Iterable[Prefix]) -> list[str]:
    """What no guest sends as if it were its own: what is a router's, a DHCP server's, somebody else's."""
    four, six = nft.by_version(everybody)
    raw = [nft.raw(one) for one in six]
    return [
        nft.chain("strangers_arp", [f"arp saddr ip {nft.set_of(four)} drop"] if four else []),
        nft.chain("strangers_asked", [f"arp daddr ip {nft.set_of(four)} drop"] if four else []),
        nft.chain("strangers_ip", [f"ip saddr {nft.set_of(four)} drop"] if four else []),
        nft.chain(
            "strangers_ip6", [*([f"ip6 saddr {nft.set_of(six)} drop"] if six else []), "@nh,64,128 @routers drop"]
        ),
        nft.chain(
            "strangers_nd", [*([f"{_TARGET} {nft.set_of(raw)} drop"] if raw else []), f"{_TARGET} @routers drop"]
        ),
        nft.chain(
            "servers_ip6",
            [
                "icmpv6 type { nd-router-advert, nd-redirect } drop",
                "udp sport 547 drop",
                "exthdr frag exists jump pieces_ip6",
            ],
        ),
        nft.chain(
            "pieces_ip6",
            [  # neighbour discovery is never in pieces (RFC 6980), nor a header in another than the first (RFC 7112)
                "ip6 saddr :: drop",
                "icmpv6 type { 133-137 } drop",
                "frag nexthdr { 0, 43, 44, 51, 60, 135 } drop",
            ],
        ),
    ]


def of(port: Port) -> Iterator[str]:
    """What a NIC may send: in its own name, with its own addresses. Common packets are through after a few rules."""
    tap, (four, six) = port.tap, nft.by_version(port.addresses)
    own = [*(ipaddress.IPv6Network(one) for one in (port.link_local, *port.made)), *six]
    raw = [nft.raw(one) for one in own]
    through = "accept" if port.groups is None else f"goto leaves_{tap}"
    yield nft.chain(
        f"sent_{tap}",
        [
            f"ether saddr != {port.mac} drop",
            f"ether type vmap {{ ip : goto ip_{tap}, ip6 : goto ip6_{tap}, arp : goto arp_{tap} }}",
            f"{_NOT_CARRIED} drop",
            # Not with the tag of the VLAN that it is on without one, nor with two: one would be taken off on the way.
            *([f"vlan id {nft.set_of(port.trunk)} vlan type != {{ 8021q, 8021ad }} {through}"] if port.trunk else []),
            "ether type { 8021q, 8021ad } drop",
            f"{_SNAP} drop",
            through,
        ],
    )
    yield nft.chain(
        f"ip_{tap}",
        [
            f"ip saddr != {nft.set_of(four)} goto asks_{tap}" if four else "jump strangers_ip",
            "udp sport 67 drop",
            f"udp dport 67 goto lease_{tap}",
            through,
        ],
    )
    own_lease = f"{_CLIENT} 0x{port.mac.replace(':', '')}"
    yield nft.chain(f"lease_{tap}", [f"{own_lease} {through}", "drop"])
    yield nft.chain(f"asks_{tap}", [f"ip saddr {_UNKNOWN} udp sport 68 udp dport 67 {own_lease} accept", "drop"])
    # Who asks, without an address, whether one is taken keeps its owner from it as well.
    asked = f"arp saddr ip {_UNKNOWN} arp daddr ip != {nft.set_of(four)} drop"
    claimed = f"arp saddr ip != {nft.set_of([*four, _UNKNOWN])} drop"
    loose = [f"arp saddr ip {_UNKNOWN} goto strangers_asked", "goto strangers_arp"]
    yield nft.chain(f"arp_{tap}", [f"arp saddr ether != {port.mac} drop", *([asked, claimed] if four else loose)])
    yield nft.chain(
        f"ip6_{tap}",
        [
            "jump servers_ip6",
            f"icmpv6 type nd-neighbor-advert {_TARGET} != {nft.set_of(raw)} jump nd_{tap}",
            f"ip6 saddr :: icmpv6 type nd-neighbor-solicit {_TARGET} != {nft.set_of(raw)} jump nd_{tap}",
            f"ip6 saddr {nft.set_of(own)} {through}",
            *(["ip6 saddr != { ::, fe80::/10 } drop"] if six else []),
            "jump strangers_ip6",
            through,
        ],
    )
    listed = ["@th,64,10 != 0x3fa drop"] if six else []  # of others it speaks only for link-local ones
    yield nft.chain(f"nd_{tap}", [*listed, "goto strangers_nd"])
