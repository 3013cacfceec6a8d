"""What a firewall group lets through, in a form that costs a packet one look-up however many rules there are.

Rules only allow, so a group is the union of what its rules allow: boxes of a protocol, a range of ports and a
subnet. They are cut and joined until none overlaps another, as the kernel's sets want them.
"""

from __future__ import annotations

import collections
import dataclasses
import ipaddress
from collections.abc import Iterable, Iterator
from typing import Literal

from bocage.model import firewall
from bocage.model.firewall import Prefix

_MOST = 8  # times as many boxes as there were before, and some, may come of cutting
_SOME = 1000


@dataclasses.dataclass(frozen=True, slots=True)
class Box:
    """Some ports, first to last, of some addresses."""

    protocol: str
    first: int
    last: int
    peer: Prefix


@dataclasses.dataclass(frozen=True, slots=True)
class Allowed:
    """What is let through of one IP version in one direction.

    `apart`: no two boxes overlap. `icmp` and `everything` are the peers of which ICMP, or all, is let through.
    """

    boxes: tuple[Box, ...] = ()
    apart: bool = True
    icmp: tuple[Prefix, ...] = ()
    everything: tuple[Prefix, ...] = ()


def allowed(rules: Iterable[firewall.FirewallRule], direction: Literal["in", "out"], version: Literal[4, 6]) -> Allowed:
    """What these rules let through."""
    boxes: list[Box] = []
    peers: dict[str, list[Prefix]] = {"icmp": [], "any": []}
    for rule in rules:
        if rule.direction != direction:
            continue
        prefixes = [one for one in rule.prefixes if one.version == version]
        if rule.protocol in peers:
            peers[rule.protocol] += prefixes
        else:
            boxes += [Box(rule.protocol, *ports, peer) for ports in rule.ranges for peer in prefixes]
    distinct, apart = _apart(boxes)
    return Allowed(distinct, apart, tuple(_joined(peers["icmp"])), tuple(_joined(peers["any"])))


def _apart(boxes: list[Box]) -> tuple[tuple[Box, ...], bool]:
    """The same boxes, cut so that none overlaps another; as they are where that would make far too many."""
    found: list[Box] = []
    most = _MOST * len(boxes) + _SOME
    for protocol in dict.fromkeys(box.protocol for box in boxes):
        for box in _cut([one for one in boxes if one.protocol == protocol]):
            found.append(box)
            if len(found) > most:
                return tuple(dict.fromkeys(boxes)), False
    return tuple(found), True


def _cut(boxes: list[Box]) -> Iterator[Box]:
    """Of one protocol: by ports first, and each piece with as few subnets as say the same."""
    begins, ends = collections.defaultdict(list), collections.defaultdict(list)
    for box in boxes:
        begins[box.first].append(box.peer)
        ends[box.last + 1].append(box.peer)
    open_: collections.Counter[Prefix] = collections.Counter()
    bounds = sorted({*begins, *ends})
    pending: tuple[int, int, list[Prefix]] | None = None
    for port, following in zip(bounds, [*bounds[1:], bounds[-1]], strict=True):
        open_.update(begins[port])
        open_.subtract(ends[port])
        peers = _joined(peer for peer, count in open_.items() if count > 0)
        if pending and pending[2] == peers:
            pending = pending[0], following - 1, peers
            continue
        if pending:
            yield from (Box(boxes[0].protocol, pending[0], pending[1], peer) for peer in pending[2])
        pending = port, following - 1, peers
    if pending:
        yield from (Box(boxes[0].protocol, pending[0], pending[1], peer) for peer in pending[2])


def _joined(prefixes: Iterable[Prefix]) -> list[Prefix]:
    four, six = [], []
    for one in prefixes:
        if isinstance(one, ipaddress.IPv4Network):
            four.append(one)
        else:
            six.append(one)
    return [*ipaddress.collapse_addresses(four), *ipaddress.collapse_addresses(six)]
