"""Who has what of this host's networks: addresses with their names, plugged taps, published ports.

Kept in memory alone: the store says it all, and a daemon that starts reads it from there.
"""

from __future__ import annotations

import collections
import dataclasses
import ipaddress
from collections.abc import Iterable

from bocage import errors
from bocage.model.firewall import Prefix
from bocage.network import base as networks
from bocage.words import N_


class Error(errors.Problem):
    """Something of the network is another VM's."""


class PortPublished(Error, errors.Conflict):
    type = "port-published-already"
    text = N_("port {port}/{protocol} of {address} is taken: {by} publishes it")
    hint = N_("publish another one, or stop {by} first")
    address: str
    port: int
    protocol: str
    by: str


@dataclasses.dataclass(frozen=True, slots=True)
class Card:
    """A NIC of a VM that is plugged in: on a bridge with its tap, or (no tap) in a network of its own."""

    network: str  # uid
    mac: str
    tap: str = ""
    publish: tuple[networks.Publish, ...] = ()
    addresses: tuple[Prefix, ...] = ()  # that it may use beside the one that its network gives it
    free: bool = False  # it may pass for anybody
    vlan: int | None = None
    trunk: tuple[int, ...] = ()
    groups: tuple[str, ...] = ()  # of firewall rules, by name


@dataclasses.dataclass(frozen=True, slots=True)
class Reservation:
    """What a network keeps for a card, whether its VM runs or not."""

    vm: str  # uid
    host: networks.Host


@dataclasses.dataclass(frozen=True, slots=True)
class _Plugged:
    name: str  # the VM's
    cards: tuple[Card, ...]


class Ledger:
    """What is given away on one host."""

    def __init__(self) -> None:
        self._reserved: dict[str, dict[str, Reservation]] = collections.defaultdict(dict)  # by network and MAC
        self._plugged: dict[str, _Plugged] = {}  # by VM

    def reserve(self, net: str, mac: str, reservation: Reservation) -> None:
        """Keep an address and a name for a card."""
        self._reserved[net][mac] = reservation

    def reserved(self, net: str, mac: str) -> Reservation | None:
        """What is kept for a card."""
        return self._reserved[net].get(mac)

    def taken(self, net: str, *, besides: str) -> set[ipaddress.IPv4Address]:
        """The addresses that other cards than the one of this MAC have."""
        return {one.host.address for mac, one in self._reserved[net].items() if mac != besides}

    def address(self, net: str, mac: str) -> ipaddress.IPv4Address | None:
        """What is kept for a card."""
        kept = self._reserved[net].get(mac)
        return kept.host.address if kept else None

    def hosts(self, net: str) -> dict[str, networks.Host]:
        """By MAC: all that a network's DHCP and DNS shall know."""
        return {mac: one.host for mac, one in self._reserved[net].items()}

    def agree(self, vm: str, name: str, cards: Iterable[tuple[str, str]]) -> set[str]:
        """Make a VM have this name, and nothing reserved but for these cards (network, MAC).

        Returns the networks where that changed something.
        """
        kept, changed = set(cards), set()
        for net, reserved in self._reserved.items():
            for mac, one in list(reserved.items()):
                if one.vm != vm:
                    continue
                if (net, mac) not in kept:
                    del reserved[mac]
                elif one.host.name != name:
                    reserved[mac] = dataclasses.replace(one, host=dataclasses.replace(one.host, name=name))
                else:
                    continue
                changed.add(net)
        return changed

    def plug(self, vm: str, name: str, cards: Iterable[Card]) -> None:
        """Make these all the cards of a VM that starts. Raises PortPublished; then nothing is changed."""
        cards = tuple(cards)
        for other_uid, other in self._plugged.items():
            if other_uid == vm:
                continue
            for theirs in (one for card in other.cards for one in card.publish):
                for ours in (one for card in cards for one in card.publish):
                    if collide(ours, theirs):
                        raise PortPublished(
                            address=ours.host_address, port=ours.host_port, protocol=ours.protocol, by=other.name
                        )
        self._plugged[vm] = _Plugged(name, cards)

    def unplug(self, vm: str) -> tuple[Card, ...]:
        """A VM has ended; the cards that it had."""
        return self._plugged.pop(vm, _Plugged("", ())).cards

    def plugged(self, vm: str) -> tuple[Card, ...]:
        """The cards of a VM that runs or starts."""
        return self._plugged.get(vm, _Plugged("", ())).cards

    def cards(self, net: str) -> list[Card]:
        """All that is plugged into a network."""
        return [card for one in self._plugged.values() for card in one.cards if card.network == net]

    def in_use(self) -> set[str]:
        """The networks with taps in them."""
        return {card.network for one in self._plugged.values() for card in one.cards if card.tap}

    def refer_to(self, group: str) -> set[str]:
        """The networks with taps in them that a firewall group is for."""
        plugged = (card for one in self._plugged.values() for card in one.cards if card.tap)
        return {card.network for card in plugged if group in card.groups}

    def forwards(self, net: str) -> list[networks.Forward]:
        """The published ports of a bridged network, with the addresses behind them."""
        return [
            networks.Forward(address=kept.host.address, publish=one)
            for card in self.cards(net)
            if card.tap and (kept := self._reserved[net].get(card.mac))
            for one in card.publish
        ]

    def forget(self, net: str) -> None:
        """A network is gone."""
        self._reserved.pop(net, None)


def collide(one: networks.Publish, other: networks.Publish) -> bool:
    """Whether two published ports cannot both be had."""
    if (one.host_port, one.protocol) != (other.host_port, other.protocol):
        return False
    try:
        addresses = [ipaddress.ip_address(each.host_address) for each in (one, other)]
    except ValueError:
        return False  # no address at all: refused elsewhere
    if addresses[0].version != addresses[1].version:
        return False
    return addresses[0] == addresses[1] or any(address.is_unspecified for address in addresses)
