"""What comes to a NIC that has firewall groups, and what leaves it: as its groups say, and the answers to that."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from bocage.model.firewall import FirewallRule, Prefix
from bocage.network import nft
from bocage.planner import firewall

_FLOWS = 32_768  # that one guest may have at a time, of each IP version
_BRIEF = "1m"  # that a TCP connection is remembered for before both sides have spoken, and after its end
_KEPT = {"tcp": "12h", "udp": "5m"}  # without a packet of the guest's
_KEPT_ELSE = "10m"


def limits_what_leaves(groups: Iterable[str], rules: Mapping[str, Sequence[FirewallRule]]) -> bool:
    """Whether one of these groups says what may go out."""
    return any(rule.direction == "out" for name in groups for rule in rules.get(name, ()))


def shared(groups: Iterable[str], rules: Mapping[str, Sequence[FirewallRule]]) -> Iterator[str]:
    """What the NICs of a network have in common: what each group lets in, and what every NIC hears."""
    yield nft.chain(
        "always",
        [
            "ether type arp accept",
            "icmp type { echo-reply, destination-unreachable, time-exceeded, parameter-problem } accept",
            "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem } accept",
            "icmpv6 type { echo-reply, nd-neighbor-solicit, nd-neighbor-advert, mld-listener-query } accept",
        ],
    )
    for name in sorted(set(groups)):
        yield from _group(f"in_{name}", rules.get(name, ()), "in", "accept")


def of(tap: str, groups: Sequence[str], rules: Mapping[str, Sequence[FirewallRule]]) -> Iterator[str]:
    """The chains and sets of one NIC: `comes_TAP` for what comes to it, `leaves_TAP` for what leaves it."""
    limited = limits_what_leaves(groups, rules)
    yield from _sets(tap)
    if limited:
        for name in groups:
            yield from _group(f"out_{tap}_{name}", rules.get(name, ()), "out", f"goto forth_{tap}")
            yield from _group(f"in_{tap}_{name}", rules.get(name, ()), "in", f"goto back_{tap}")
    yield from _fence(tap, groups, limited=limited)


def _fence(tap: str, groups: Sequence[str], *, limited: bool) -> Iterator[str]:
    """What comes to a NIC that has groups, and what of its own is remembered so that answers come, too."""
    own = f"{tap}_" if limited else ""
    yield from _passage(
        f"comes_{tap}",
        tap,
        (_turned(_FLOW4), _turned(_FLOW6), _turned(_PAIR4), _turned(_PAIR6)),
        [f"jump in_{own}{name}" for name in groups],
        [
            "icmpv6 type { nd-router-advert, nd-redirect } accept",
            "udp sport 67 udp dport 68 accept",
            "udp sport 547 udp dport 546 accept",
        ],
    )
    yield from _noted(f"note_{tap}", tap, (_FLOW4, _FLOW6, _PAIR4, _PAIR6))
    if not limited:
        yield nft.chain(f"leaves_{tap}", [f"goto note_{tap}"])
        return
    yield nft.chain(f"forth_{tap}", [f"jump note_{tap}", "accept"])
    yield nft.chain(f"back_{tap}", [f"jump kept_{tap}", "accept"])
    yield from _noted(f"kept_{tap}", tap, (_turned(_FLOW4), _turned(_FLOW6), _turned(_PAIR4), _turned(_PAIR6)))
    yield from _passage(
        f"leaves_{tap}",
        tap,
        (_FLOW4, _FLOW6, _PAIR4, _PAIR6),
        [f"jump out_{tap}_{name}" for name in groups],
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
    yield nft.chain(f"{chain}_ip", [f"{flow4} @flows4_{tap} accept", *groups, _PIECE4, *more, "drop"])
    yield nft.chain(f"{chain}_ip6", [f"{flow6} @flows6_{tap} accept", *groups, _PIECE6, *more, "drop"])
    yield nft.chain(
        chain,
        [
            f"meta protocol . meta l4proto vmap {nft.set_of(kinds)}",
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
            yield nft.chain(f"{chain}_{ip}_{what}", [*([brief] if what == "tcp" else []), kept])
    yield nft.chain(
        chain,
        [
            f"meta protocol . meta l4proto vmap {nft.set_of(kinds)}",
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
                yield nft.chain(of_peers, [f"{address} {side} {nft.set_of(peers)} {verdict}"])
                verdicts[peers] = f"jump {of_peers}"
        if ports:
            pairs = [f"{what} . {port} : {verdicts[peers]}" for (what, port), peers in ports.items()]
            lines.append(f"meta protocol {address} meta l4proto . th dport vmap {nft.set_of(pairs)}")
        key = f"meta l4proto . th dport . {address} {side}"
        boxes = [f"{one.protocol} . {one.first}-{one.last} . {one.peer}" for one in rest]
        at_once = [boxes] if found.apart and boxes else [[one] for one in boxes]
        lines += [f"{key} {nft.set_of(some)} {verdict}" for some in at_once]
        lines += [f"meta l4proto {icmp} {address} {side} {nft.set_of(found.icmp)} {verdict}"] if found.icmp else []
        lines += [f"{address} {side} {nft.set_of(found.everything)} {verdict}"] if found.everything else []
    yield nft.chain(chain, lines)


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
