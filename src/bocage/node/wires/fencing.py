"""Which NIC may send what, and what may come to it: from what the store says to the rules of each network."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterable

from bocage import errors
from bocage.model import firewall, ground
from bocage.network import base as network
from bocage.network import bridge, fences, kernel, tap, uplink
from bocage.node.ground import Ground
from bocage.node.wires import cards, ledger
from bocage.store import resources

log = logging.getLogger(__name__)


class Fencing:
    """The fences of one host's networks. One call at a time for a network."""

    def __init__(self, ground: Ground, kept: ledger.Ledger) -> None:
        self._ground, self._ledger = ground, kept
        self._has: dict[str, fences.Names] = {}
        """What each network's table has; of those whose taps are all known."""
        self.refused: set[str] = set()
        """Networks whose newest rules are not in force: those before them are."""

    async def apply(self, net: ground.Network, made: network.Bridge | None) -> None:
        """Hold all that is plugged into a network to what is wanted of it. Raises network.Refused.

        `made` is None for one onto a NIC of the host.
        """
        plugged = [card for card in self._ledger.cards(net.uid) if card.tap]
        leases = await bridge.leases(made) if made else {}
        given = {card.mac: self._given(net, card, leases.get(card.mac)) for card in plugged}
        known = _somebodys(given.values())
        known |= {ipaddress.ip_network(host.address) for host in self._ledger.hosts(net.uid).values()}
        routers = {str(made.gateway)} if made else await uplink.neighbours(uplink.interface_of(net.uid))
        known |= {ipaddress.ip_network(one) for one in routers}
        prefix = made.prefix if made else None
        if made and made.gateway6:
            known |= {ipaddress.ip_network(one) for one in (made.gateway6, fences.link_local(made.mac))}
        ports = [
            fences.Port(
                tap=card.tap,
                mac=card.mac,
                addresses=tuple(given[card.mac]),
                made=(fences.made_of(card.mac, prefix),) if prefix else (),
                free=card.free,
                trunk=tuple(one for one in card.trunk if one != (card.vlan or 1)),
                groups=card.groups or None,
            )
            for card in plugged
        ]
        groups = await self._groups(net, {name for card in plugged for name in card.groups})
        # A VM that nobody knows yet, since the database was lost, keeps the rules that it has. It is from before.
        others, present = set[str](), self._has.get(net.uid)
        if present is None:
            there = await kernel.carrying(cards.interface(net), tap.ALIAS)
            others = there - {card.tap for card in plugged}
        try:
            has = await fences.apply(net.uid, ports, known, groups, others=others, present=present)
        except network.Refused:
            self.refused.add(net.uid)
            raise
        self.refused.discard(net.uid)
        if not others:
            self._has[net.uid] = has

    async def remove(self, uid: str) -> None:
        """Take a network's rules away."""
        self._has.pop(uid, None)
        await fences.remove(uid)

    async def renew(self, net: ground.Network, made: network.Bridge | None) -> None:
        """The same, for NICs that are there already: what is refused is told, and tried again."""
        try:
            await self.apply(net, made)
        except errors.Problem as problem:
            self.refused.add(net.uid)
            log.warning("the rules of network %s: %s", net.name, problem)

    def _given(
        self, net: ground.Network, card: ledger.Card, leased: ipaddress.IPv4Address | None
    ) -> list[firewall.Prefix]:
        """The addresses that a card may use: what its definition says, and what its network's DHCP gives it."""
        dhcp = (self._ledger.address(net.uid, card.mac), leased) if net.spec.dhcp and not card.vlan else ()
        return [*card.addresses, *(ipaddress.ip_network(address) for address in dhcp if address)]

    async def _groups(self, net: ground.Network, names: set[str]) -> dict[str, tuple[firewall.FirewallRule, ...]]:
        found = {}
        for name in names:
            try:
                group = await self._ground.resources.find(firewall.FirewallGroup, net.metadata.project, name)
            except resources.Missing:
                continue  # what is not there lets nothing through
            found[name] = group.spec.rules
        return found


def _somebodys(given: Iterable[Iterable[firewall.Prefix]]) -> set[firewall.Prefix]:
    """What no other may use: what is allowed to one as a whole subnet is not taken from all others."""
    return {one for some in given for one in some if one.prefixlen == one.max_prefixlen}
