"""Who has what of a host's networks."""

from __future__ import annotations

import ipaddress

import pytest

from bocage import words
from bocage.network import base as network
from bocage.node.wires import ledger


def port(number: int, address: str = "127.0.0.1", protocol: network.Protocol = "tcp") -> network.Publish:
    return network.Publish(host_port=number, guest_port=80, host_address=address, protocol=protocol)


def card(mac: str = "m1", *publish: network.Publish, net: str = "lan", tap: str = "bt1") -> ledger.Card:
    return ledger.Card(network=net, mac=mac, tap=tap, publish=publish)


def kept(vm: str, name: str, last: int) -> ledger.Reservation:
    return ledger.Reservation(vm, network.Host(address=ipaddress.IPv4Address(f"10.0.0.{last}"), name=name))


@pytest.mark.parametrize(
    ("one", "other", "collide"),
    [
        (port(80), port(80), True),
        (port(80), port(81), False),
        (port(80), port(80, protocol="udp"), False),
        (port(80), port(80, "0.0.0.0"), True),
        (port(80, "::"), port(80, "::1"), True),
        (port(80, "::"), port(80), False),
        (port(80, "192.0.2.1"), port(80), False),
        (port(80, "...."), port(80), False),
    ],
)
def test_ports_collide_where_both_cannot_be_had(one: network.Publish, other: network.Publish, collide: bool) -> None:
    assert ledger.collide(one, other) is ledger.collide(other, one) is collide


def test_a_port_that_another_vm_publishes_is_refused_by_its_name_and_nothing_is_changed() -> None:
    held = ledger.Ledger()
    held.plug("1", "first", [card("m1", port(80))])
    with pytest.raises(ledger.PortPublished) as refused:
        held.plug("2", "second", [card("m2", port(80, "0.0.0.0"), tap="")])
    assert "first" in words.say(refused.value)
    assert held.plugged("2") == ()
    held.plug("1", "first", [card("m1", port(80))])  # its own start, tried again
    assert held.unplug("1") == (card("m1", port(80)),)
    held.plug("2", "second", [card("m2", port(80))])


def test_what_is_published_on_a_bridge_leads_to_the_address_that_is_kept() -> None:
    held = ledger.Ledger()
    held.plug("1", "first", [card("m1", port(80)), card("m2", port(81), net="own", tap="")])
    assert held.forwards("lan") == []
    held.reserve("lan", "m1", kept("1", "first", 7))
    held.reserve("own", "m2", kept("1", "first", 8))
    assert held.forwards("lan") == [network.Forward(address=ipaddress.IPv4Address("10.0.0.7"), publish=port(80))]
    assert held.forwards("own") == []
    assert held.in_use() == {"lan"}
    held.unplug("1")
    assert held.forwards("lan") == []
    assert list(held.hosts("lan")) == ["m1"]  # it is off, not gone


def test_a_vm_is_known_by_its_present_name_and_cards_alone() -> None:
    held = ledger.Ledger()
    for mac, last in (("m1", 1), ("m2", 2)):
        held.reserve("lan", mac, kept("1", "old", last))
    held.reserve("lan", "m3", kept("2", "other", 3))
    assert held.agree("1", "old", [("lan", "m1"), ("lan", "m2")]) == set()
    assert held.agree("1", "new", [("lan", "m1")]) == {"lan"}
    assert {mac: host.name for mac, host in held.hosts("lan").items()} == {"m1": "new", "m3": "other"}
    assert held.taken("lan", besides="m1") == {ipaddress.IPv4Address("10.0.0.3")}
    assert held.agree("1", "new", []) == {"lan"}
    assert held.reserved("lan", "m1") is None
    held.forget("lan")
    assert held.hosts("lan") == {}
