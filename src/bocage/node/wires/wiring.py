"""The wires of this host: networks made and taken down, and each VM's NICs connected to them."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import os
from collections.abc import Iterable

from bocage.engine import base as engine
from bocage.model import ground, share, vm
from bocage.network import addresses, bridge, kernel, neighbours, rate, tap, user
from bocage.network import base as network
from bocage.node import started
from bocage.node.wires import cards, ledger, networks
from bocage.store import resources


class Wires(networks.Networks):
    """What VMs are connected by to the networks of one host."""

    async def recall(self, machines: Iterable[vm.VM]) -> None:
        """Know again what was given to the VMs of this host, as the store and their runtime directories say."""
        for machine in machines:
            if machine.metadata.deleted:
                continue
            nets = await self._networks(machine, machine.spec)
            for nic in machine.spec.nics:
                net = nets.get(nic.name)
                if net and not self._ledger.reserved(net.uid, nic.mac) and (kept := cards.reserved(machine, nic, net)):
                    self._reserve(net.uid, machine, nic, kept)
            if machine.status.pid is not None and not self._ground.rebooted:
                await self._note_plugged(machine)
        for net in await self._known(self._ledger.in_use()):
            async with self._locks[net.uid]:
                await self._fencing.renew(net, self._made(net))

    async def found(self, machine: vm.VM) -> None:
        """A VM runs: what it was started with is in force."""
        if self._ledger.plugged(machine.uid):
            return
        await self._note_plugged(machine)
        for nic, net in await self._bridged(machine, self._started(machine)):
            async with self._locks[net.uid]:
                if made := self._made(net):
                    leased = (await bridge.leases(made)).get(nic.mac)
                    await self._keep_address(machine, nic, net, wish=leased)
                await self._fencing.renew(net, made)
                if nic.publish and made:
                    await bridge.publish(made, self._ledger.forwards(net.uid))

    async def connect(self, machine: vm.VM, process_uid: int | None) -> dict[str, engine.Backend]:
        """What carries each NIC. Those on bridges have a tap then, and are plugged in by `plug_in`.

        Raises what keeps one from being carried. `disconnect` takes all away again.
        """
        nets = await self._networks(machine, machine.spec, required=True)
        plugged = [cards.card(machine, nic, nets[nic.name]) for nic in machine.spec.nics]
        self._ledger.plug(machine.uid, machine.name, plugged)
        published = [one for card in plugged for one in card.publish]
        low_ports = os.geteuid() == 0 and (any(card.tap for card in plugged) or network.find("passt") is not None)
        await asyncio.to_thread(user.check_ports, published, low_ports=low_ports)
        for card in plugged:
            if card.tap:
                await self._make_tap(card)
        return await self._carriers_of(machine, nets, process_uid)

    async def plug_in(self, machine: vm.VM) -> None:
        """Before its vCPUs run: have its NICs be on their bridges, held to their rules; those that are stay so."""
        down = [card.mac for card in self._ledger.plugged(machine.uid) if card.tap and not kernel.is_up(card.tap)]
        if not down:
            return
        spec = self._started(machine)
        nets = await self._networks(machine, spec)
        for nic in spec.nics:
            if nic.mac in down and nic.name in nets:
                await self._plug_in(machine, nic, nets[nic.name])

    async def plug(self, machine: vm.VM, nic: vm.Nic, process_uid: int | None) -> engine.Backend:
        """Make what carries one NIC of a VM that runs, on the network that it is on now; what it had is free."""
        nets = await self._networks(machine, machine.spec, required=True)
        before = self._card_of(machine.uid, nic)
        card = cards.card(machine, nic, nets[nic.name])
        others = [one for one in self._ledger.plugged(machine.uid) if one is not before]
        new = [port for port in card.publish if before is None or port not in before.publish]
        self._ledger.plug(machine.uid, machine.name, [*others, card])
        try:
            await asyncio.to_thread(user.check_ports, new, low_ports=os.geteuid() == 0)
            if card.tap:
                await self._plug_in(machine, nic, nets[nic.name])
            if before and before.tap and (before.network != card.network or before.publish):
                await self._settle(before.network)
            if before and before.tap and not card.tap:
                await tap.remove(before.tap)
        except BaseException:
            self._ledger.plug(machine.uid, machine.name, [*others, *([before] if before else [])])
            raise
        return (await self._carriers_of(machine, nets, process_uid))[nic.name]

    async def hold(self, machine: vm.VM, nic: vm.Nic, wanted: share.NetRate) -> None:
        """Hold a plugged NIC to a rate. Raises cards.NotHeld where it is not on a bridge."""
        card = self._card_of(machine.uid, nic)
        if card is None or (not card.tap and wanted.none):
            return
        if not card.tap:
            raise cards.NotHeld(name=machine.name, nic=nic.name)
        async with self._locks[card.network]:
            await rate.hold(card.tap, inward=wanted.inward, outward=wanted.outward)

    async def unplug(self, machine: vm.VM, nic: vm.Nic) -> None:
        """Take away what carried one NIC of a VM that runs."""
        if (card := self._card_of(machine.uid, nic)) is None:
            return
        left = [one for one in self._ledger.plugged(machine.uid) if one is not card]
        self._ledger.plug(machine.uid, machine.name, left)
        if card.tap:
            async with self._locks[card.network]:
                await tap.remove(card.tap)
            await self._settle(card.network)

    async def fence(self, machine: vm.VM, nic: vm.Nic) -> None:
        """Have a NIC of a VM that runs be held to what its definition now says."""
        before = self._card_of(machine.uid, nic)
        if before is None or not before.tap:
            return
        net = await self._ground.resources.get(ground.Network, machine.metadata.project, before.network)
        others = [one for one in self._ledger.plugged(machine.uid) if one is not before]
        async with self._locks[net.uid]:
            self._ledger.plug(machine.uid, machine.name, [*others, cards.card(machine, nic, net)])
            try:
                await self._keep_address(machine, nic, net)
                await self._fencing.apply(net, self._made(net))
                await self._plug(cards.card(machine, nic, net), net)
            except BaseException:
                self._ledger.plug(machine.uid, machine.name, [*others, before])
                raise

    async def refence(self, project: str | None, group: str) -> None:
        """Have all NICs that refer to a firewall group be held to what it now says. Raises network.Refused."""
        for net in await self._known(self._ledger.refer_to(group)):
            if net.metadata.project == project:
                async with self._locks[net.uid]:
                    await self._fencing.apply(net, self._made(net))

    def is_bridged(self, machine: vm.VM, nic: vm.Nic) -> bool | None:
        """Whether a plugged NIC is on a bridge; None when it is not plugged."""
        card = self._card_of(machine.uid, nic)
        return bool(card.tap) if card else None

    def _card_of(self, uid: str, nic: vm.Nic) -> ledger.Card | None:
        return next((one for one in self._ledger.plugged(uid) if one.mac == nic.mac), None)

    async def _settle(self, *uids: str) -> None:
        """A card has left these networks: nothing of it stays in their rules."""
        for net in await self._known(set(uids)):
            async with self._locks[net.uid]:
                if net.status.state in ("ready", "unconfirmed"):
                    if made := self._made(net):
                        await bridge.publish(made, self._ledger.forwards(net.uid))
                    await self._fencing.renew(net, self._made(net))

    async def describe(self, machine: vm.VM, process_uid: int | None = None) -> dict[str, engine.Backend]:
        """What carries each NIC, without making anything."""
        return await self._carriers_of(machine, await self._networks(machine, machine.spec, required=True), process_uid)

    async def disconnect(self, machine: vm.VM) -> None:
        """Take away what carried a VM's NICs; what it reserved stays while the VM is there."""
        plugged = self._ledger.unplug(machine.uid)
        for card in plugged:
            if card.tap:
                self._new.discard(card.tap)
                async with self._locks[card.network]:
                    await tap.remove(card.tap)
        for name in (tap.name_for(machine.uid, nic.name) for nic in machine.spec.nics):
            self._new.discard(name)
            if kernel.present(name):  # of a start that was cut off before anybody knew of it
                await tap.remove(name)
        await self._settle(*{card.network for card in plugged if card.tap})

    async def agree(self, machine: vm.VM) -> None:
        """Have the networks know a VM by its present name, and keep nothing for NICs that it no longer has."""
        kept = [(nic.network, nic.mac) for nic in machine.spec.nics]
        kept += [(card.network, card.mac) for card in self._ledger.plugged(machine.uid)]
        await self._tell_hosts(self._ledger.agree(machine.uid, machine.name, kept))

    async def forget(self, machine: vm.VM) -> None:
        """A VM is deleted: its addresses and names are free."""
        await self._tell_hosts(self._ledger.agree(machine.uid, machine.name, []))

    async def addresses(self) -> dict[str, tuple[str, ...]]:
        """By MAC: the addresses that the bridged networks of this host know their VMs by."""
        found: dict[str, tuple[str, ...]] = {}
        for net in await self._known(self._ledger.in_use()):
            if net.status.state == "ready" and net.spec.kind != "bridge":
                known = await neighbours.addresses(self._bridge(net))
                found |= {mac: tuple(some) for mac, some in known.items()}
        return found

    async def carriers(self, machine: vm.VM) -> dict[str, str]:
        """By NIC name: what carries it, for people."""
        nets = await self._networks(machine, machine.spec)
        return {name: net.status.bridge or net.status.backend for name, net in nets.items()}

    async def _plug_in(self, machine: vm.VM, nic: vm.Nic, net: ground.Network) -> None:
        async with self._locks[net.uid]:
            if net.status.state != "ready" or not self._is_there(net):
                async with self._telling(net):
                    net = await self._make(net)
            made = self._made(net)
            if nic.publish and made is None:
                raise network.PublishUnfit(port=nic.publish[0].host_port, network=net.name)
            await self._keep_address(machine, nic, net)
            await self._fencing.apply(net, self._made(net))  # before a packet can pass
            await self._plug(cards.card(machine, nic, net), net)
            if nic.publish and made:
                await bridge.publish(made, self._ledger.forwards(net.uid))

    def _is_there(self, net: ground.Network) -> bool:
        made = self._made(net)
        return bridge.stands(made) if made else kernel.present(cards.interface(net))

    async def _keep_address(
        self, machine: vm.VM, nic: vm.Nic, net: ground.Network, *, wish: ipaddress.IPv4Address | None = None
    ) -> None:
        """Have an address reserved for a NIC, and written down: the one it had, else `wish`, else a free one."""
        if (made := self._made(net)) is None:
            return  # whoever gives addresses there is not we
        known = self._ledger.reserved(net.uid, nic.mac)
        asked = ipaddress.IPv4Address(nic.ip) if nic.ip else None
        fits = known and known.host.address in made.subnet and known.host.name == machine.name
        if known and fits and asked in (None, known.host.address):
            return
        taken = self._ledger.taken(net.uid, besides=nic.mac)
        taken |= {address for mac, address in (await bridge.leases(made)).items() if mac != nic.mac}
        wishes = [known.host.address if known else None, cards.reserved(machine, nic, net), wish]
        fitting = [one for one in wishes if one and addresses.reservable(made.subnet, one) and one not in taken]
        address = asked or (fitting[0] if fitting else addresses.allocate(made.subnet, taken, nic.mac))
        if asked:
            addresses.check_reservable(made.subnet, asked, taken)
        await self._ground.resources.change_status(
            vm.VM, machine.metadata.project, machine.uid, lambda present: cards.with_reserved(present, nic, address)
        )
        self._reserve(net.uid, machine, nic, address)
        await bridge.set_hosts(made, self._ledger.hosts(net.uid))

    def _reserve(self, net: str, machine: vm.VM, nic: vm.Nic, address: ipaddress.IPv4Address) -> None:
        host = network.Host(address=address, name=machine.name)
        self._ledger.reserve(net, nic.mac, ledger.Reservation(machine.uid, host))

    async def _carriers_of(
        self, machine: vm.VM, nets: dict[str, ground.Network], process_uid: int | None
    ) -> dict[str, engine.Backend]:
        backends: dict[str, engine.Backend] = {}
        numbers = itertools.count()
        for nic in machine.spec.nics:
            net = nets[nic.name]
            if cards.bridged(net):
                backends[nic.name] = cards.on_bridge(machine, nic, net)
            else:
                planned = await user.plan(cards.published(nic), card=next(numbers), check=False)
                backends[nic.name] = cards.in_user_mode(nic, planned, process_uid)
        return backends

    async def _note_plugged(self, machine: vm.VM) -> None:
        spec = self._started(machine)
        nets = await self._networks(machine, spec)
        plugged = [cards.card(machine, nic, nets[nic.name]) for nic in spec.nics if nic.name in nets]
        with contextlib.suppress(ledger.PortPublished):
            self._ledger.plug(machine.uid, machine.name, plugged)

    async def _networks(self, machine: vm.VM, spec: vm.VMSpec, *, required: bool = False) -> dict[str, ground.Network]:
        """By NIC name: the networks; raises resources.Missing where one is `required` and gone."""
        found: dict[str, ground.Network] = {}
        for nic in spec.nics:
            try:
                found[nic.name] = await self._ground.resources.get(
                    ground.Network, machine.metadata.project, nic.network
                )
            except resources.Missing:
                if required:
                    raise
        return found

    async def _bridged(self, machine: vm.VM, spec: vm.VMSpec) -> list[tuple[vm.Nic, ground.Network]]:
        nets = await self._networks(machine, spec)
        return [(nic, nets[nic.name]) for nic in spec.nics if nic.name in nets and nets[nic.name].status.bridge]

    def _started(self, machine: vm.VM) -> vm.VMSpec:
        return started.read(self._ground.home.vm_runtime(machine.uid)) or machine.spec

    async def _tell_hosts(self, uids: set[str]) -> None:
        for net in await self._known(uids):
            if net.status.subnet:
                async with self._locks[net.uid]:
                    await bridge.set_hosts(self._bridge(net), self._ledger.hosts(net.uid))
