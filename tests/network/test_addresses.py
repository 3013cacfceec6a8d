from __future__ import annotations

import ipaddress
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bocage.network import addresses

Network = ipaddress.IPv4Network
UID = "1b4e28ba-2fa1-41d2-883f-0016d3cca427"


def test_a_network_gets_the_same_subnet_each_time() -> None:
    assert addresses.choose_subnet(UID, []) == addresses.choose_subnet(UID, [])


def test_two_networks_rarely_want_the_same_subnet() -> None:
    chosen = {addresses.choose_subnet(str(uuid.UUID(int=number)), []) for number in range(200)}
    assert len(chosen) > 190


@pytest.mark.parametrize("wider", [22, 24, 30])
def test_a_subnet_that_a_route_overlaps_is_avoided(wider: int) -> None:
    first = addresses.choose_subnet(UID, [])
    route = Network((first.network_address, wider), strict=False)
    second = addresses.choose_subnet(UID, [], [route])
    assert not second.overlaps(route)
    assert second != first


def test_when_all_is_routed_there_is_no_subnet() -> None:
    with pytest.raises(addresses.SubnetsExhausted):
        addresses.choose_subnet(UID, [], [Network("10.0.0.0/8")])


def test_a_subnet_is_found_beside_a_default_vpn_of_half_of_the_pool() -> None:
    chosen = addresses.choose_subnet(UID, [], [Network("10.0.0.0/9")])
    assert chosen.subnet_of(Network("10.128.0.0/9"))


@given(prefix=st.integers(16, 29), mac=st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":")))
def test_a_card_gets_an_address_for_machines_and_the_same_each_time(prefix: int, mac: str) -> None:
    subnet = Network(f"10.77.0.0/{prefix}")
    given_address = addresses.allocate(subnet, set(), mac)
    assert given_address == addresses.allocate(subnet, set(), mac.upper())
    assert given_address in subnet
    assert given_address not in (subnet[0], subnet[1], subnet[-1])
    if dynamic := addresses.dynamic_range(subnet):
        assert not dynamic[0] <= given_address <= dynamic[1]


@pytest.mark.parametrize(("subnet", "count"), [("10.77.0.0/29", 5), ("10.77.0.0/28", 13), ("10.77.0.0/24", 190)])
def test_every_address_is_given_once_until_none_is_left(subnet: str, count: int) -> None:
    taken: set[ipaddress.IPv4Address] = set()
    for number in range(count):
        taken.add(addresses.allocate(Network(subnet), taken, f"52:54:00:00:00:{number:02x}"))
    assert len(taken) == count
    with pytest.raises(addresses.AddressesExhausted):
        addresses.allocate(Network(subnet), taken, "52:54:00:00:01:00")


def test_an_address_that_is_taken_moves_this_card_only() -> None:
    subnet, mac = Network("10.77.0.0/24"), "52:54:00:00:00:01"
    first = addresses.allocate(subnet, set(), mac)
    assert addresses.allocate(subnet, {first}, mac) != first


@pytest.mark.parametrize(
    "subnet", ["10.0.0.0/7", "10.0.0.0/30", "127.0.0.0/24", "224.0.0.0/24", "169.254.1.0/24", "0.0.0.0/8"]
)
def test_what_machines_cannot_be_numbered_from_is_refused(subnet: str) -> None:
    with pytest.raises(addresses.SubnetUnfit):
        addresses.fit(Network(subnet))


@pytest.mark.parametrize("subnet", ["10.1.2.0/24", "192.168.0.0/16", "172.16.5.8/29", "10.0.0.0/8"])
def test_what_machines_can_be_numbered_from_is_taken(subnet: str) -> None:
    addresses.fit(Network(subnet))
