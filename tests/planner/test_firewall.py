from __future__ import annotations

import ipaddress
from typing import Literal

import hypothesis
import pydantic
import pytest
from hypothesis import strategies

from bocage.model.firewall import FirewallRule, Prefix
from bocage.planner import firewall

_PORTS = strategies.tuples(strategies.integers(1, 12), strategies.integers(0, 6)).map(
    lambda pair: f"{pair[0]}-{pair[0] + pair[1]}"
)
_PEERS = strategies.sampled_from(
    ["10.0.0.0/8", "10.0.0.0/30", "10.0.0.2", "10.0.0.4/31", "0.0.0.0/0", "fd00::/8", "fd00::1", "fd00::/127", "::/0"]
)
_RULES = strategies.lists(
    strategies.builds(
        lambda direction, protocol, ports, peers: FirewallRule(
            direction=direction, protocol=protocol, ports=ports if protocol in ("tcp", "udp") else (), peers=peers
        ),
        direction=strategies.sampled_from(["in", "out"]),
        protocol=strategies.sampled_from(["tcp", "udp", "icmp", "any"]),
        ports=strategies.lists(_PORTS, max_size=3).map(tuple),
        peers=strategies.lists(_PEERS, max_size=3).map(tuple),
    ),
    max_size=8,
)
_ADDRESSES = [
    ipaddress.ip_network(one)
    for one in ("10.0.0.1", "10.0.0.2", "10.0.0.5", "10.9.9.9", "9.9.9.9", "fd00::1", "fe80::5")
]


def within(address: Prefix, prefix: Prefix) -> bool:
    return address.version == prefix.version and address.network_address in prefix


def says(rule: FirewallRule, protocol: str, port: int, address: Prefix) -> bool:
    """What a rule means, read word by word."""
    if not any(within(address, one) for one in rule.prefixes):
        return False
    if rule.protocol == "any":
        return True
    return rule.protocol == protocol and (
        protocol == "icmp" or any(first <= port <= last for first, last in rule.ranges)
    )


def lets(found: firewall.Allowed, protocol: str, port: int, address: Prefix) -> bool:
    if any(within(address, one) for one in found.everything):
        return True
    if protocol == "icmp":
        return any(within(address, one) for one in found.icmp)
    return any(
        box.protocol == protocol and box.first <= port <= box.last and within(address, box.peer) for box in found.boxes
    )


def overlap(one: firewall.Box, other: firewall.Box) -> bool:
    ports = one.first <= other.last and other.first <= one.last
    return one.protocol == other.protocol and ports and one.peer.overlaps(other.peer)


@hypothesis.settings(deadline=None)
@hypothesis.given(_RULES, strategies.sampled_from(["in", "out"]))
def test_a_group_lets_through_what_one_of_its_rules_does_and_its_boxes_are_apart(
    rules: list[FirewallRule], direction: Literal["in", "out"]
) -> None:
    those = [rule for rule in rules if rule.direction == direction]
    for version in (4, 6):
        found = firewall.allowed(rules, direction, 4 if version == 4 else 6)
        assert found.apart
        assert not any(
            overlap(one, other) for place, one in enumerate(found.boxes) for other in found.boxes[place + 1 :]
        )
        for address in _ADDRESSES:
            if address.version == version:
                for protocol in ("tcp", "udp", "icmp"):
                    for port in (1, 2, 5, 9, 18):
                        wanted = any(says(rule, protocol, port, address) for rule in those)
                        assert lets(found, protocol, port, address) == wanted


def test_rules_that_would_fall_into_far_too_many_pieces_stay_as_they_are() -> None:
    rules = [
        FirewallRule(ports=(f"{number + 1}-{60_000 - number}",), peers=(f"10.{number // 256}.{number % 256}.1",))
        for number in range(300)
    ]
    found = firewall.allowed(rules, "in", 4)
    assert not found.apart
    assert len(found.boxes) == 300


def test_as_many_ports_as_follow_each_other_for_the_same_peers_are_one_box() -> None:
    rules = [FirewallRule(ports=(str(port),)) for port in range(1000, 2000)]
    assert firewall.allowed(rules, "in", 4).boxes == (
        firewall.Box("tcp", 1000, 1999, ipaddress.IPv4Network("0.0.0.0/0")),
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"ports": ["0"]},
        {"ports": ["70000"]},
        {"ports": ["20-10"]},
        {"ports": ["http"]},
        {"ports": [True]},
        {"peers": ["10.0.0.300"]},
        {"peers": ["home"]},
        {"protocol": "icmp", "ports": ["8"]},
        {"direction": "sideways"},
    ],
)
def test_a_rule_that_says_nothing_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(pydantic.ValidationError):
        FirewallRule.model_validate(wrong)


def test_one_rule_has_one_spelling() -> None:
    one = FirewallRule.model_validate({"ports": [80, "0443", "8000-8000"], "peers": ["10.1.2.3/8"]})
    assert one == FirewallRule(ports=("80", "443", "8000"), peers=("10.0.0.0/8",))
