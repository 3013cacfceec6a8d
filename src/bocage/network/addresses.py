"""Which addresses a network gets and which it gives: pure arithmetic over IPv4 subnets."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Collection, Iterable, Iterator

from bocage import errors
from bocage.network import base
from bocage.words import N_

_POOL = ipaddress.IPv4Network("10.0.0.0/8")
_LOWEST, _SPAN = 32, 192  # 10.32.0.0 to 10.223.255.0: away from what people number by hand
_DYNAMIC_FROM = 27  # smaller subnets (a longer prefix) give no addresses to strangers


class SubnetsExhausted(base.Error, errors.Conflict):
    type = "network-subnets-exhausted"
    text = N_("no free subnet is left in {pool}")
    hint = N_("name one: '--subnet 192.168.77.0/24'")
    pool: str


class AddressesExhausted(base.Error, errors.Conflict):
    type = "network-addresses-exhausted"
    text = N_("the subnet {subnet} has no free address left")
    hint = N_("remove VMs from the network, or make one with a larger subnet")
    subnet: str


class SubnetUnfit(base.Error, errors.Invalid, ValueError):
    type = "network-subnet-unfit"
    text = N_("{subnet} cannot be a network's subnet: it takes an IPv4 subnet of /8 to /29 for machines")
    hint = N_("for example 10.77.5.0/24")
    subnet: str


class AddressUnfit(base.Error, errors.Invalid, ValueError):
    type = "network-address-unfit"
    text = N_("{address} cannot be kept for a NIC: those of {subnet} for it are {first} to {last}")
    hint = N_("leave it out: a free one is chosen")
    address: str
    subnet: str
    first: str
    last: str


class AddressTaken(base.Error, errors.Conflict):
    type = "network-address-taken"
    text = N_("{address} is another NIC's already")
    hint = N_("leave it out: a free one is chosen")
    address: str


def dynamic_range(subnet: ipaddress.IPv4Network) -> tuple[ipaddress.IPv4Address, ipaddress.IPv4Address] | None:
    """First and last address for cards that no VM of ours has: the last quarter; None in a small subnet."""
    if subnet.prefixlen > _DYNAMIC_FROM:
        return None
    return subnet[subnet.num_addresses * 3 // 4], subnet[-2]


def fit(subnet: ipaddress.IPv4Network) -> None:
    """Raise SubnetUnfit when machines cannot be numbered from `subnet`."""
    odd = subnet.is_loopback or subnet.is_multicast or subnet.is_reserved or subnet.is_link_local
    if odd or not 8 <= subnet.prefixlen <= 29 or subnet.overlaps(ipaddress.IPv4Network("0.0.0.0/8")):
        raise SubnetUnfit(subnet=str(subnet))


def choose_subnet(
    uid: str,
    taken: Iterable[ipaddress.IPv4Network],
    routes: Iterable[ipaddress.IPv4Network] = (),
) -> ipaddress.IPv4Network:
    """A /24 in 10.0.0.0/8 for the network `uid`: always the same one, unless it overlaps one `taken` or routed.

    Raises SubnetsExhausted.
    """
    avoided = [*taken, *routes]
    for candidate in _candidates(uid):
        if not any(candidate.overlaps(other) for other in avoided):
            return candidate
    raise SubnetsExhausted(pool=str(_POOL))


def check_reservable(
    subnet: ipaddress.IPv4Network, address: ipaddress.IPv4Address, taken: Collection[ipaddress.IPv4Address]
) -> None:
    """Raise AddressUnfit or AddressTaken when a NIC cannot be given this address for good."""
    if not reservable(subnet, address):
        first, after = (ipaddress.IPv4Address(number) for number in _reservable(subnet))
        raise AddressUnfit(address=str(address), subnet=str(subnet), first=str(first), last=str(after - 1))
    if address in taken:
        raise AddressTaken(address=str(address))


def reservable(subnet: ipaddress.IPv4Network, address: ipaddress.IPv4Address) -> bool:
    """Whether a card may be given this address for good: it is neither the gateway's nor a dynamic one."""
    first, last = _reservable(subnet)
    return first <= int(address) < last


def allocate(
    subnet: ipaddress.IPv4Network, taken: Collection[ipaddress.IPv4Address], mac: str
) -> ipaddress.IPv4Address:
    """The address for the card `mac`: always the same one, unless it is `taken`.

    `taken` are the other cards' reservations, and their leases: the server gives no address that is leased.
    The gateway's and the dynamic range are never given. Raises AddressesExhausted.
    """
    first, last = _reservable(subnet)
    count = last - first
    start = _number(mac.lower()) % count if count > 0 else 0
    for offset in range(max(count, 0)):
        candidate = ipaddress.IPv4Address(first + (start + offset) % count)
        if candidate not in taken:
            return candidate
    raise AddressesExhausted(subnet=str(subnet))


def _reservable(subnet: ipaddress.IPv4Network) -> tuple[int, int]:
    """The first address that may be kept for a card, and the one after the last."""
    dynamic = dynamic_range(subnet)
    return int(subnet[2]), int(dynamic[0]) if dynamic else int(subnet.broadcast_address)  # [1] is the gateway


def _candidates(uid: str) -> Iterator[ipaddress.IPv4Network]:
    start, count = _number(uid), _SPAN * 256
    for offset in range(count):
        second, third = divmod((start + offset) % count, 256)
        yield ipaddress.IPv4Network(f"10.{_LOWEST + second}.{third}.0/24")


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
