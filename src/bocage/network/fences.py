"""What keeps a NIC on a bridge from passing for another, and strangers from it: one nftables table a network.

It stands in the family `bridge`, so that neighbours on one bridge are kept apart too, and is the same in every
kernel: what the guest itself asked for is let back in by sets that its own packets fill, since the kernel's
connection tracking knows bridges only where a module for it is there. A table is replaced in one transaction;
those sets stay, and so do connections.
"""

from __future__ import annotations

import collections
import dataclasses
import ipaddress
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Literal

from bocage.model.firewall import FirewallRule, Prefix
from bocage.network import base
from bocage.planner import firewall

_NAMED = re.compile(r"^\s*(chain|set|map) (\S+) \{$", re.MULTILINE)
_FLOWS = 32_768  # that one guest may have at a time, of each IP version
_BRIEF = "1m"  # that a TCP connection is remembered for before both sides have spoken, and after its end
_KEPT = {"tcp": "12h", "udp": "5m"}  # without a packet of the guest's
_KEPT_ELSE = "10m"
_UNKNOWN = ipaddress.IPv4Address(0)  # of one that asks for an address, or whether another has it
_SNAP = "ether type < 0x0600 @ll,112,48 0xaaaa03000000"  # ARP and IP in another guise (RFC 1042)
_NOT_CARRIED = "ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00"  # what is for the next bridge: spanning tree, …


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A NIC on the bridge. `addresses` are those it may use as its own; none of an IP version: any that is nobody's.

    `made`: those that its guest may make of its MAC. `free`: it may pass for anybody. `tagged`: its packets may bear
    VLAN tags; of these only the MAC is looked at, and the bridge knows which VLANs it has. `groups`: what is let in;
    None: all that comes.
    """

    tap: str
    mac: str
    addresses: tuple[Prefix, ...] = ()
    made: tuple[ipaddress.IPv6Address, ...] = ()
    free: bool = False
    tagged: bool = False
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


def table_of(uid: str) -> str:
    """The table, of the family `bridge`, of the network `uid`."""
    return base.table_of(uid)


async def apply(
    uid: str,
    ports: Sequence[Port],
    known: Collection[Prefix],
    groups: Mapping[str, Sequence[FirewallRule]],
    *,
    others: bool = False,
) -> None:
    """Have these ports held to their rules. What was in force before stays when it is refused.

    `known` are the addresses that the network knows to be somebody's. `others`: there are ports beside these, whose
    rules stay as they are. Raises base.Refused.
    """
    text, present = ruleset(uid, ports, known, groups), await _present(uid)
    await base.run("nft", "-f", "-", stdin=_beside(uid, present, text) if others else _over(uid, present, text))


async def remove(uid: str) -> None:
    """Take the table away; not an error when there is none."""
    name = table_of(uid)
    await base.run("nft", "-f", "-", stdin=f"table bridge {name}\ndelete table bridge {name}\n")


async def tables() -> set[str]:
    """The names of all tables of the family `bridge`. Raises base.Refused."""
    listed = await base.run("nft", "list", "tables", "bridge")
    return {line.split()[-1] for line in listed.decode().splitlines() if line.startswith("table ")}


async def _present(uid: str) -> list[tuple[str, str]]:
    """What the table has by now: kind and name."""
    if table_of(uid) not in await tables():
        return []
    listed = await base.run("nft", "--terse", "list", "table", "bridge", table_of(uid))
    return [(kind, name) for kind, name in _NAMED.findall(listed.decode())]


def _over(uid: str, present: Iterable[tuple[str, str]], text: str) -> str:
    """The transaction from what is there to `text`: all goes, but for the sets of connections that stay wanted."""
    name, present = table_of(uid), list(present)
    stays = {found for kind, found in _NAMED.findall(text) if kind == "set"}
    chains = [found for kind, found in present if kind == "chain"]
    maps = [found for kind, found in present if kind == "map"]
    lines = [f"table bridge {name}"]
    lines += [f"flush chain bridge {name} {one}" for one in chains]
    lines += [f"delete map bridge {name} {one}" for one in maps]
    lines += [f"delete chain bridge {name} {one}" for one in chains]
    lines += [f"delete set bridge {name} {one}" for kind, one in present if kind == "set" and one not in stays]
    return "".join(f"{line}\n" for line in lines) + text


def _beside(uid: str, present: Iterable[tuple[str, str]], text: str) -> str:
    """The transaction that adds `text` to what is there: a chain of the same name is another now, all else stays."""
    name, wanted = table_of(uid), set(_NAMED.findall(text))
    lines = [f"table bridge {name}"]
    lines += [f"flush chain bridge {name} {one}" for kind, one in present if kind == "chain" and (kind, one) in wanted]
    return "".join(f"{line}\n" for line in lines) + text


def ruleset(
    uid: str, ports: Sequence[Port], known: Collection[Prefix], groups: Mapping[str, Sequence[FirewallRule]]
) -> str:
    """The table as `nft -f` takes it. A group that is not among `groups` lets nothing through."""
    ports = sorted(ports, key=lambda one: one.tap)
    guarded = [one for one in ports if not one.free]
    fenced = [one for one in ports if one.groups is not None]
    outgoing = [one for one in fenced if _limits_what_leaves(one, groups)]
    everybody = {*known, *(ipaddress.ip_network(one) for port in ports for one in (port.link_local, *port.made))}
    leaving = {one.tap: f"goto leaves_{one.tap}" for one in fenced}
    leaving |= {one.tap: f"goto sent_{one.tap}" for one in guarded}
    body = [
        _verdicts("leaving", leaving),
        _verdicts("coming", {one.tap: f"goto comes_{one.tap}" for one in fenced}),
        _base("left", "prerouting", "iifname vmap @leaving"),
        _base("came", "postrouting", "oifname vmap @coming"),
        *_claims(everybody),
    ]
    for port in guarded:
        body += _guard(port)
    for name in sorted({name for one in fenced for name in one.groups or ()}):
        body += _group(f"in_{name}", groups.get(name, ()), "in", "accept")
    for port in fenced:
        body += _sets(port.tap)
        if port in outgoing:
            for name in port.groups or ():
                body += _group(f"out_{port.tap}_{name}", groups.get(name, ()), "out", f"goto forth_{port.tap}")
                body += _group(f"in_{port.tap}_{name}", groups.get(name, ()), "in", f"goto back_{port.tap}")
        body += _fence(port, limited=port in outgoing)
    return f"table bridge {table_of(uid)} {{\n{''.join(body)}}}\n"


def _limits_what_leaves(port: Port, groups: Mapping[str, Sequence[FirewallRule]]) -> bool:
    return any(rule.direction == "out" for name in port.groups or () for rule in groups.get(name, ()))


def _claims(everybody: Iterable[Prefix]) -> list[str]:
    """What no guest sends as if it were its own: what is a router's, a DHCP server's, somebody else's."""
    four, six = _by_version(everybody)
    raw = [_raw(one) for one in six]
    return [
        _chain("strangers_arp", [f"arp saddr ip {_set(four)} drop"] if four else []),
        _chain("strangers_ip", [f"ip saddr {_set(four)} drop"] if four else []),
        _chain("strangers_ip6", [f"ip6 saddr {_set(six)} drop"] if six else []),
        _chain("strangers_nd", [f"icmpv6 type nd-neighbor-advert @th,64,128 {_set(raw)} drop"] if raw else []),
        _chain(
            "always",
            [
                "ether type arp accept",
                "icmp type { echo-reply, destination-unreachable, time-exceeded, parameter-problem } accept",
                "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem } accept",
                "icmpv6 type { echo-reply, nd-neighbor-solicit, nd-neighbor-advert, mld-listener-query } accept",
            ],
        ),
        _chain(
            "servers_ip6",
            [
                "icmpv6 type { nd-router-advert, nd-redirect } drop",
                "udp sport 547 drop",
                "exthdr frag exists ip6 saddr fe80::/10 drop",  # neighbour discovery is never in pieces (RFC 6980)
            ],
        ),
    ]


def _guard(port: Port) -> Iterator[str]:
    """What a NIC may send: in its own name, with its own addresses. Common packets are through after a few rules."""
    tap, (four, six) = port.tap, _by_version(port.addresses)
    own = [*(ipaddress.IPv6Network(one) for one in (port.link_local, *port.made)), *six]
    raw = [_raw(one) for one in own]
    through = "accept" if port.groups is None else f"goto leaves_{tap}"
    yield _chain(
        f"sent_{tap}",
        [
            f"ether saddr != {port.mac} drop",
            f"ether type vmap {{ ip : goto ip_{tap}, ip6 : goto ip6_{tap}, arp : goto arp_{tap} }}",
            *([f"ether type 8021q {through}"] if port.tagged else []),
            "ether type { 8021q, 8021ad } drop",
            f"{_NOT_CARRIED} drop",
            f"{_SNAP} drop",
            through,
        ],
    )
    yield _chain(
        f"ip_{tap}",
        [f"ip saddr != {_set(four)} goto asks_{tap}" if four else "jump strangers_ip", "udp sport 67 drop", through],
    )
    yield _chain(f"asks_{tap}", [f"ip saddr {_UNKNOWN} udp sport 68 udp dport 67 accept", "drop"])
    claimed = f"arp saddr ip != {_set([*four, _UNKNOWN])} drop"
    loose = [f"arp saddr ip {_UNKNOWN} accept", "goto strangers_arp"]
    yield _chain(f"arp_{tap}", [f"arp saddr ether != {port.mac} drop", *([claimed] if four else loose)])
    yield _chain(
        f"ip6_{tap}",
        [
            "jump servers_ip6",
            f"icmpv6 type nd-neighbor-advert @th,64,128 != {_set(raw)} jump nd_{tap}",
            f"ip6 saddr {_set(own)} {through}",
            *(["ip6 saddr != { ::, fe80::/10 } drop"] if six else []),
            "jump strangers_ip6",
            through,
        ],
    )
    listed = ["@th,64,10 != 0x3fa drop"] if six else []  # of others it speaks only for link-local ones
    yield _chain(f"nd_{tap}", [*listed, "goto strangers_nd"])


def _fence(port: Port, *, limited: bool) -> Iterator[str]:
    """What comes to a NIC that has groups, and what of its own is remembered so that answers come, too."""
    tap, own = port.tap, f"{port.tap}_" if limited else ""
    yield from _passage(
        f"comes_{tap}",
        tap,
        (_turned(_FLOW4), _turned(_FLOW6), _turned(_PAIR4), _turned(_PAIR6)),
        [f"jump in_{own}{name}" for name in port.groups or ()],
        [
            "icmpv6 type { nd-router-advert, nd-redirect } accept",
            "udp sport 67 udp dport 68 accept",
            "udp sport 547 udp dport 546 accept",
        ],
    )
    yield from _noted(f"note_{tap}", tap, (_FLOW4, _FLOW6, _PAIR4, _PAIR6))
    if not limited:
        yield _chain(f"leaves_{tap}", [f"goto note_{tap}"])
        return
    yield _chain(f"forth_{tap}", [f"jump note_{tap}", "accept"])
    yield _chain(f"back_{tap}", [f"jump kept_{tap}", "accept"])
    yield from _noted(f"kept_{tap}", tap, (_turned(_FLOW4), _turned(_FLOW6), _turned(_PAIR4), _turned(_PAIR6)))
    yield from _passage(
        f"leaves_{tap}",
        tap,
        (_FLOW4, _FLOW6, _PAIR4, _PAIR6),
        [f"jump out_{tap}_{name}" for name in port.groups or ()],
        [
            "icmpv6 type { nd-router-solicit, mld-listener-report, mld2-listener-report } accept",
            "udp sport 68 udp dport 67 accept",
            "udp sport 546 udp dport 547 accept",
        ],
    )


def _passage(
    chain: str, tap: str, keys: tuple[str, str, str, str], groups: Sequence[str], more: Sequence[str]
) -> Iterator[str]:
    """What of a direction passes: what belongs to a connection, what a group allows, what no network is without."""
    flow4, flow6, pair4, pair6 = keys
    kinds = [f"{ip} . {what} : goto {chain}_{ip}" for ip in ("ip", "ip6") for what in ("tcp", "udp")]
    yield _chain(f"{chain}_ip", [f"{flow4} @flows4_{tap} accept", *groups, _PIECE4, *more, "drop"])
    yield _chain(f"{chain}_ip6", [f"{flow6} @flows6_{tap} accept", *groups, _PIECE6, *more, "drop"])
    yield _chain(
        chain,
        [
            f"meta protocol . meta l4proto vmap {_set(kinds)}",
            f"{pair4} @pairs4_{tap} accept",
            f"{pair6} @pairs6_{tap} accept",
            "jump always",
            _PIECE4,
            _PIECE6,
            *more,
            *groups,
            "drop",
        ],
    )


def _noted(chain: str, tap: str, keys: tuple[str, str, str, str]) -> Iterator[str]:
    """Remember the connection that a packet belongs to."""
    flow4, flow6, pair4, pair6 = keys
    kinds = [f"{ip} . {what} : goto {chain}_{ip}_{what}" for ip in ("ip", "ip6") for what in _KEPT]
    for ip, held, flow in (("ip", f"flows4_{tap}", flow4), ("ip6", f"flows6_{tap}", flow6)):
        for what, time in _KEPT.items():
            brief = f"tcp flags & (syn | fin | rst) != 0 update @{held} {{ {flow} timeout {_BRIEF} }} return"
            kept = f"update @{held} {{ {flow} timeout {time} }}"
            yield _chain(f"{chain}_{ip}_{what}", [*([brief] if what == "tcp" else []), kept])
    yield _chain(
        chain,
        [
            f"meta protocol . meta l4proto vmap {_set(kinds)}",
            "meta l4proto { icmp, ipv6-icmp } return",  # answers to these pass always
            f"update @pairs4_{tap} {{ {pair4} timeout {_KEPT_ELSE} }} return",
            f"update @pairs6_{tap} {{ {pair6} timeout {_KEPT_ELSE} }}",
        ],
    )


_FLOW4 = "meta l4proto . ip saddr . th sport . ip daddr . th dport"
_FLOW6 = "meta l4proto . ip6 saddr . th sport . ip6 daddr . th dport"
_PAIR4, _PAIR6 = "meta l4proto . ip saddr . ip daddr", "meta l4proto . ip6 saddr . ip6 daddr"
_PIECE4, _PIECE6 = "ip frag-off & 0x1fff != 0 accept", "frag frag-off != 0 accept"
"""Pieces are worth nothing without the first one, which is looked at."""


def _turned(flow: str) -> str:
    """The flow that a packet coming in belongs to, as the guest's own packets would name it."""
    others = {"saddr": "daddr", "daddr": "saddr", "sport": "dport", "dport": "sport"}
    return " ".join(others.get(word, word) for word in flow.split())


def _sets(tap: str) -> Iterator[str]:
    """The connections of one guest."""
    for version in ("4", "6"):
        address = "ipv4_addr" if version == "4" else "ipv6_addr"
        ends = f"{address} . inet_service . {address} . inet_service"
        for name, ty in ((f"flows{version}_{tap}", ends), (f"pairs{version}_{tap}", f"{address} . {address}")):
            yield (
                f"  set {name} {{\n    type inet_proto . {ty}\n    size {_FLOWS}\n    flags dynamic,timeout\n"
                f"    timeout {_KEPT_ELSE}\n  }}\n"
            )


def _group(chain: str, rules: Sequence[FirewallRule], direction: Literal["in", "out"], verdict: str) -> Iterator[str]:
    """What a group lets through in one direction."""
    lines: list[str] = []
    side = "saddr" if direction == "in" else "daddr"
    versions: tuple[tuple[Literal[4, 6], str, str], ...] = ((4, "ip", "icmp"), (6, "ip6", "ipv6-icmp"))
    for version, address, icmp in versions:
        found = firewall.allowed(rules, direction, version)
        ports, rest = _by_port(found) if found.apart else ({}, found.boxes)
        verdicts: dict[tuple[Prefix, ...], str] = {}
        for peers in ports.values():
            if peers not in verdicts and any(one.prefixlen == 0 for one in peers):
                verdicts[peers] = verdict
            elif peers not in verdicts:
                of_peers = f"{chain}_{address}_{len(verdicts)}"
                yield _chain(of_peers, [f"{address} {side} {_set(peers)} {verdict}"])
                verdicts[peers] = f"jump {of_peers}"
        if ports:
            pairs = [f"{what} . {port} : {verdicts[peers]}" for (what, port), peers in ports.items()]
            lines.append(f"meta protocol {address} meta l4proto . th dport vmap {_set(pairs)}")
        key = f"meta l4proto . th dport . {address} {side}"
        boxes = [f"{one.protocol} . {one.first}-{one.last} . {one.peer}" for one in rest]
        at_once = [boxes] if found.apart and boxes else [[one] for one in boxes]
        lines += [f"{key} {_set(some)} {verdict}" for some in at_once]
        lines += [f"meta l4proto {icmp} {address} {side} {_set(found.icmp)} {verdict}"] if found.icmp else []
        lines += [f"{address} {side} {_set(found.everything)} {verdict}"] if found.everything else []
    yield _chain(chain, lines)


def _by_port(found: firewall.Allowed) -> tuple[dict[tuple[str, int], tuple[Prefix, ...]], list[firewall.Box]]:
    """By protocol and port, for which one look-up is enough: the peers; and what is for ranges of ports."""
    ports: dict[tuple[str, int], list[Prefix]] = collections.defaultdict(list)
    for box in found.boxes:
        if box.first == box.last:
            ports[box.protocol, box.first].append(box.peer)
    return (
        {port: tuple(peers) for port, peers in ports.items()},
        [box for box in found.boxes if box.first != box.last],
    )


def _by_version(prefixes: Iterable[Prefix]) -> tuple[list[ipaddress.IPv4Network], list[ipaddress.IPv6Network]]:
    """Sorted, each once, none within another."""
    prefixes = list(prefixes)
    four = [one for one in prefixes if isinstance(one, ipaddress.IPv4Network)]
    six = [one for one in prefixes if isinstance(one, ipaddress.IPv6Network)]
    return list(ipaddress.collapse_addresses(four)), list(ipaddress.collapse_addresses(six))


def _raw(prefix: ipaddress.IPv6Network) -> str:
    """As a number, for a field that has no name in nft."""
    first, last = f"{int(prefix.network_address):#034x}", f"{int(prefix.broadcast_address):#034x}"
    return first if first == last else f"{first}-{last}"


def _set(values: Iterable[object]) -> str:
    return f"{{ {', '.join(str(one) for one in values)} }}"


def _verdicts(name: str, verdicts: Mapping[str, str]) -> str:
    pairs = ", ".join(f'"{tap}" : {verdict}' for tap, verdict in verdicts.items())
    elements = f"    elements = {{ {pairs} }}\n" if pairs else ""
    return f"  map {name} {{\n    type ifname : verdict\n{elements}  }}\n"


def _base(name: str, hook: str, rule: str) -> str:
    return f"  chain {name} {{\n    type filter hook {hook} priority 0; policy accept;\n    {rule}\n  }}\n"


def _chain(name: str, rules: Iterable[str]) -> str:
    body = "".join(f"    {rule}\n" for rule in rules)
    return f"  chain {name} {{\n{body}  }}\n"
