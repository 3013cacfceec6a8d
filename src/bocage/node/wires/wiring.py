"""The wires of this host: networks made and taken down, and each VM's NICs connected to them."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import ipaddress
import itertools
import os
import pathlib
from collections.abc import AsyncIterator, Iterable

from bocage import errors
from bocage.engine import base as engine
from bocage.model import base, ground, share, vm
from bocage.network import addresses, bridge, kernel, neighbours, rate, rules, tap, user
from bocage.network import base as network
from bocage.network import machine as surroundings
from bocage.node import notes, started
from bocage.node.ground import Ground
from bocage.node.wires import cards, ledger
from bocage.store import resources


class Wires:
    """The networks of one host."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._ledger = ledger.Ledger()
        self._locks: dict[str, asyncio.Lock] = collections.defaultdict(asyncio.Lock)  # by network
        self._choosing = asyncio.Lock()  # of a subnet

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

    async def found(self, machine: vm.VM) -> None:
        """A VM runs: what it was started with is in force."""
        if self._ledger.plugged(machine.uid):
            return
        await self._note_plugged(machine)
        for nic, net in await self._bridged(machine, self._started(machine)):
            async with self._locks[net.uid]:
                made = self._bridge(net)
                leased = (await bridge.leases(made)).get(nic.mac)
                await self._keep_address(machine, nic, net, wish=leased)
                if nic.publish:
                    await bridge.publish(made, self._ledger.forwards(net.uid))

    async def wire_up(self, networks: Iterable[ground.Network]) -> None:
        """Make again what a reboot took away of networks that were made before; the others wait for their first VM."""
        for net in networks:
            there = kernel.present(network.interface_of(net.uid))
            if not cards.bridged(net) or net.status.state != "pending" or there:
                with contextlib.suppress(errors.Problem, OSError):  # told in its status
                    await self.ensure(net)

    async def check(self, wanted: ground.Network) -> None:
        """Raise what this machine lacks for a network, or what is in its way."""
        subnet = wanted.spec.subnet or wanted.status.subnet
        await surroundings.check(
            wanted.spec.kind, subnet=ipaddress.IPv4Network(subnet) if subnet else None, uid=wanted.uid
        )

    async def ensure(self, wanted: ground.Network) -> ground.Network:
        """Make a network, or what is missing of it, and write its status."""
        async with self._locks[wanted.uid], self._telling(wanted):
            if wanted.spec.kind == "user":
                backend = (await user.plan()).backend
                return await self._write(wanted, ground.NetworkStatus(state="ready", backend=backend))
            return await self._make(wanted)

    async def remove(self, unwanted: ground.Network) -> None:
        """Take a network down: nothing of it stays."""
        if cards.bridged(unwanted):
            name = network.interface_of(unwanted.uid)
            async with self._locks[unwanted.uid]:
                for left in await tap.idle(name) if kernel.present(name) else []:
                    await tap.remove(left)
                await bridge.remove(unwanted.uid, self._state(unwanted.uid))
        self._ledger.forget(unwanted.uid)

    async def connect(self, machine: vm.VM, process_uid: int | None) -> dict[str, engine.Backend]:
        """Make what carries each NIC; raises what keeps one from being carried. `disconnect` takes it away again."""
        nets = await self._networks(machine, machine.spec, required=True)
        plugged = [cards.card(machine, nic, nets[nic.name]) for nic in machine.spec.nics]
        self._ledger.plug(machine.uid, machine.name, plugged)
        published = [one for card in plugged for one in card.publish]
        low_ports = os.geteuid() == 0 and (any(card.tap for card in plugged) or network.find("passt") is not None)
        await asyncio.to_thread(user.check_ports, published, low_ports=low_ports)
        for nic, card in zip(machine.spec.nics, plugged, strict=True):
            if card.tap:
                await self._plug_in(machine, nic, nets[nic.name])
        return await self._carriers_of(machine, nets, process_uid)

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
                await self._publish_again(before.network)
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
            raise cards.NotHeld(nic=nic.name)
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
            await self._publish_again(card.network)

    def is_bridged(self, machine: vm.VM, nic: vm.Nic) -> bool | None:
        """Whether a plugged NIC is on a bridge; None when it is not plugged."""
        card = self._card_of(machine.uid, nic)
        return bool(card.tap) if card else None

    def _card_of(self, uid: str, nic: vm.Nic) -> ledger.Card | None:
        return next((one for one in self._ledger.plugged(uid) if one.mac == nic.mac), None)

    async def _publish_again(self, *uids: str) -> None:
        for net in await self._known(set(uids)):
            async with self._locks[net.uid]:
                if net.status.state == "ready":
                    await bridge.publish(self._bridge(net), self._ledger.forwards(net.uid))

    async def describe(self, machine: vm.VM, process_uid: int | None = None) -> dict[str, engine.Backend]:
        """What carries each NIC, without making anything."""
        return await self._carriers_of(machine, await self._networks(machine, machine.spec, required=True), process_uid)

    async def disconnect(self, machine: vm.VM) -> None:
        """Take away what carried a VM's NICs; what it reserved stays while the VM is there."""
        plugged = self._ledger.unplug(machine.uid)
        for card in plugged:
            if card.tap:
                async with self._locks[card.network]:
                    await tap.remove(card.tap)
        await self._publish_again(*{card.network for card in plugged if card.tap and card.publish})

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
            if net.status.state == "ready":
                known = await neighbours.addresses(self._bridge(net))
                found |= {mac: tuple(some) for mac, some in known.items()}
        return found

    async def carriers(self, machine: vm.VM) -> dict[str, str]:
        """By NIC name: what carries it, for people."""
        nets = await self._networks(machine, machine.spec)
        return {name: net.status.bridge or net.status.backend for name, net in nets.items()}

    async def look_after(self) -> None:
        """Make again what is gone of the networks that running VMs have a NIC on."""
        nets = await self._known(self._ledger.in_use())
        tables = await rules.tables() if nets else set()
        for net in nets:
            made = self._bridge(net)
            if bridge.stands(made) and {made.table, *self._ports_table(net)} <= tables:
                continue
            await self.ensure(net)
            note = notes.NetworkMended(name=net.name)
            await self._ground.events.record(note, severity=base.Severity.WARNING, subject=net.ref)

    async def sweep(self) -> None:
        """Take away what is left of networks and VMs that are no more: of a lost database, of a start cut off."""
        known = {net.uid: net for net in (await self._ground.resources.list(ground.Network)).items}
        for uid in await asyncio.to_thread(self._present):
            name = network.interface_of(uid)
            plugged = {card.tap for card in self._ledger.cards(uid)}
            async with self._locks[uid]:
                for left in set(await tap.idle(name) if kernel.present(name) else []) - plugged:
                    await tap.remove(left)
                if uid not in known and not (kernel.present(name) and await tap.present(name)):
                    await bridge.remove(uid, self._state(uid))

    async def rest(self) -> None:
        """The daemon ends: take down the bridges that nothing is plugged into. They are made again when needed."""
        for uid in await asyncio.to_thread(self._present):
            name = network.interface_of(uid)
            async with self._locks[uid]:
                if not self._ledger.cards(uid) and not (kernel.present(name) and await kernel.links("master", name)):
                    await bridge.remove(uid, self._state(uid))

    def lease_times(self) -> dict[str, int]:
        """By network: when a lease was last given or ended (nanoseconds), of those with VMs in them."""
        times: dict[str, int] = {}
        for uid in self._ledger.in_use():
            with contextlib.suppress(OSError):
                times[uid] = (self._state(uid) / "leases").stat().st_mtime_ns
        return times

    async def _make(self, wanted: ground.Network) -> ground.Network:
        chosen = await self._with_subnet(wanted)
        made = self._bridge(chosen)
        made.state.mkdir(parents=True, exist_ok=True, mode=0o711)
        await bridge.set_hosts(made, self._ledger.hosts(wanted.uid))
        await bridge.ensure(made)
        for card in self._ledger.cards(wanted.uid):
            if card.tap and kernel.present(card.tap):
                await self._plug(card, made)
        await bridge.publish(made, self._ledger.forwards(wanted.uid))
        status = ground.NetworkStatus(state="ready", backend="bridge", bridge=made.interface, subnet=str(made.subnet))
        return await self._write(wanted, status)

    async def _with_subnet(self, wanted: ground.Network) -> ground.Network:
        """The network with a subnet of its own; one that was chosen is written down before anything is made."""
        async with self._choosing:
            listed = (await self._ground.resources.list(ground.Network)).items
            present = next((one for one in listed if one.uid == wanted.uid), wanted)
            others = {
                one.name: ipaddress.IPv4Network(one.status.subnet)
                for one in listed
                if one.uid != wanted.uid and one.status.subnet
            }
            if wanted.spec.subnet:
                subnet = ipaddress.IPv4Network(wanted.spec.subnet)
                for name, other in others.items():
                    if subnet.overlaps(other):
                        raise network.SubnetTaken(subnet=str(subnet), route=str(other), interface=name)
            elif present.status.subnet:
                subnet = ipaddress.IPv4Network(present.status.subnet)
            else:
                own = network.interface_of(wanted.uid)
                routed = [route.subnet for route in await kernel.routes() if route.interface != own]
                subnet = addresses.choose_subnet(wanted.uid, others.values(), routed)
            status = present.status.model_copy(update={"subnet": str(subnet)})
            return await self._write(wanted, status)

    async def _plug_in(self, machine: vm.VM, nic: vm.Nic, net: ground.Network) -> None:
        async with self._locks[net.uid]:
            if net.status.state != "ready" or not bridge.stands(self._bridge(net)):
                async with self._telling(net):
                    net = await self._make(net)
            made = self._bridge(net)
            await self._keep_address(machine, nic, net)
            await self._plug(cards.card(machine, nic, net), made)
            if nic.publish:
                await bridge.publish(made, self._ledger.forwards(net.uid))

    async def _plug(self, card: ledger.Card, made: network.Bridge) -> None:
        # Root's own: QEMU gets a descriptor, and no other user's process may take the tap while it is free.
        await tap.ensure(card.tap, bridge=made.interface, owner=os.geteuid(), guest_mac=card.mac)

    async def _keep_address(
        self, machine: vm.VM, nic: vm.Nic, net: ground.Network, *, wish: ipaddress.IPv4Address | None = None
    ) -> None:
        """Have an address reserved for a NIC, and written down: the one it had, else `wish`, else a free one."""
        made = self._bridge(net)
        known = self._ledger.reserved(net.uid, nic.mac)
        if known and known.host.address in made.subnet and known.host.name == machine.name:
            return
        taken = self._ledger.taken(net.uid, besides=nic.mac)
        taken |= {address for mac, address in (await bridge.leases(made)).items() if mac != nic.mac}
        wishes = [known.host.address if known else None, cards.reserved(machine, nic, net), wish]
        fitting = [one for one in wishes if one and addresses.reservable(made.subnet, one) and one not in taken]
        address = fitting[0] if fitting else addresses.allocate(made.subnet, taken, nic.mac)
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

    async def _known(self, uids: set[str]) -> list[ground.Network]:
        if not uids:
            return []
        listed = await self._ground.resources.list(ground.Network)
        return [net for net in listed.items if net.uid in uids]

    async def _tell_hosts(self, uids: set[str]) -> None:
        for net in await self._known(uids):
            if net.status.subnet:
                async with self._locks[net.uid]:
                    await bridge.set_hosts(self._bridge(net), self._ledger.hosts(net.uid))

    @contextlib.asynccontextmanager
    async def _telling(self, net: ground.Network) -> AsyncIterator[None]:
        """What keeps a network from being made is said in its status."""
        try:
            yield
        except errors.Problem as problem:
            said = base.Saying.of(problem)
            with contextlib.suppress(resources.Missing):
                await self._ground.resources.change_status(
                    ground.Network,
                    net.metadata.project,
                    net.uid,
                    lambda present: present.status.model_copy(update={"state": "failed", "reason": said}),
                )
            raise

    async def _write(self, net: ground.Network, status: ground.NetworkStatus) -> ground.Network:
        return await self._ground.resources.change_status(
            ground.Network, net.metadata.project, net.uid, lambda _: status
        )

    def _ports_table(self, net: ground.Network) -> set[str]:
        return {rules.ports_name(net.uid)} if self._ledger.forwards(net.uid) else set()

    def _bridge(self, net: ground.Network) -> network.Bridge:
        subnet = net.status.subnet or net.spec.subnet
        assert subnet
        return network.Bridge(
            uid=net.uid,
            name=net.name,
            subnet=ipaddress.IPv4Network(subnet),
            nat=net.spec.kind == "nat",
            state=self._state(net.uid),
        )

    def _present(self) -> list[str]:
        """The uids of the networks that something was made for since the machine started."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(os.listdir(self._ground.home.runtime / "networks"))
        return []

    def _state(self, uid: str) -> pathlib.Path:
        return self._ground.home.runtime / "networks" / uid
