"""The networks of this host: made, looked after, taken down."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import datetime
import ipaddress
import logging
import os
import pathlib
from collections.abc import AsyncIterator, Iterable
from typing import TypedDict

from bocage import errors
from bocage.model import base, ground
from bocage.network import addresses, bridge, fences, kernel, rules, tap, uplink, user, watching
from bocage.network import base as network
from bocage.network import machine as surroundings
from bocage.node import clock, notes
from bocage.node.ground import Ground
from bocage.node.wires import cards, fencing, ledger
from bocage.store import resources

log = logging.getLogger(__name__)


class Networks:
    """The networks of one host."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._ledger = ledger.Ledger()
        self._locks: dict[str, asyncio.Lock] = collections.defaultdict(asyncio.Lock)  # by network
        self._choosing = asyncio.Lock()  # of a subnet
        self._onto_nics: set[str] = set()  # networks that were put onto a NIC: the host itself is on them
        self._fencing = fencing.Fencing(ground, self._ledger)
        self._new: set[str] = set()  # taps of VMs that start: made, and not plugged in yet

    async def wire_up(self, networks: Iterable[ground.Network]) -> None:
        """Make again what a reboot took away of networks that were made before; the others wait for their first VM."""
        for net in networks:
            there = kernel.present(cards.interface(net))
            if not cards.bridged(net) or net.status.state != "pending" or there:
                with contextlib.suppress(errors.Problem, OSError):  # told in its status
                    await self.ensure(net)

    async def check(self, wanted: ground.Network) -> None:
        """Raise what this machine lacks for a network, or what is in its way."""
        subnet = wanted.spec.subnet or wanted.status.subnet
        await surroundings.check(
            wanted.spec.kind,
            subnet=ipaddress.IPv4Network(subnet) if subnet else None,
            uid=wanted.uid,
            vlans=wanted.spec.vlans,
        )

    def check_begun(self, wanted: ground.Network) -> None:
        """Raise uplink.NotBegun for a network that no NIC of this host was ever given to."""
        if wanted.spec.kind == "bridge" and uplink.read(self._record(wanted.uid)) is None:
            raise uplink.NotBegun(network=wanted.name)

    async def ensure(self, wanted: ground.Network) -> ground.Network:
        """Make a network, or what is missing of it, and write its status."""
        async with self._locks[wanted.uid], self._telling(wanted):
            if wanted.spec.kind == "user":
                backend = (await user.plan()).backend
                return await self._write(wanted, ground.NetworkStatus(state="ready", backend=backend))
            return await self._make(wanted)

    async def begin(self, wanted: ground.Network) -> None:
        """Put a network onto its NIC of the host, on trial. Raises uplink's errors; then all is as it was."""
        assert wanted.spec.nic
        async with self._locks[wanted.uid]:
            if uplink.read(self._record(wanted.uid)) is None:
                path, mode = self._record(wanted.uid), wanted.spec.bond_mode or "active-backup"
                await uplink.begin(path, wanted.uid, wanted.spec.nic, mode=mode, **_made_so(wanted))

    async def confirm(self, wanted: ground.Network) -> None:
        """Let it stay on its NIC. Raises uplink.NotConfirmed when that was too late, uplink.NothingToConfirm."""
        path = self._record(wanted.uid)
        if wanted.spec.kind != "bridge" or uplink.read(path) is None:
            raise uplink.NothingToConfirm(network=wanted.name)
        await uplink.confirm(path)
        await self.ensure(wanted)  # which says so when it was put back already

    async def remove(self, unwanted: ground.Network) -> None:
        """Take a network down: nothing of it stays."""
        if cards.bridged(unwanted):
            name = cards.interface(unwanted)
            async with self._locks[unwanted.uid]:
                for left in await tap.idle(name) if kernel.present(name) else []:
                    await tap.remove(left)
                if unwanted.spec.kind == "bridge":
                    await uplink.remove(self._record(unwanted.uid))
                    await self._fencing.remove(unwanted.uid)
                else:
                    await self._take_down(unwanted.uid)
                self._onto_nics.discard(unwanted.uid)
        self._ledger.forget(unwanted.uid)

    async def look_after(self) -> None:
        """Make again what is gone of the networks that running VMs, or the host, have a NIC on."""
        nets = await self._known(self._ledger.in_use() | self._onto_nics)
        tables, fenced = (await rules.tables(), await fences.tables()) if nets else (set(), set())
        for net in nets:
            if await self._stands(net, tables) and fences.table_of(net.uid) in fenced:
                if await self._rejoin(net):
                    await self._tell_mended(net)
                if net.uid in self._fencing.refused:
                    async with self._locks[net.uid]:
                        await self._fencing.renew(net, self._made(net))
                continue
            try:
                await self.ensure(net)
            except errors.Problem as problem:  # its status says so, and the others are looked after
                if net.status.reason != base.Saying.of(problem):
                    log.warning("network %s: %s", net.name, problem)
                continue
            if net.status.state != "unconfirmed":
                await self._tell_mended(net)

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
                    await self._take_down(uid)

    async def rest(self) -> None:
        """The daemon ends: take down the bridges that nothing is plugged into. They are made again when needed."""
        for uid in await asyncio.to_thread(self._present):
            name = network.interface_of(uid)
            async with self._locks[uid]:
                if not self._ledger.cards(uid) and not (kernel.present(name) and await kernel.links("master", name)):
                    await self._take_down(uid)

    def lease_times(self) -> dict[str, int]:
        """By network: when a lease was last given or ended (nanoseconds), of those with VMs in them."""
        times: dict[str, int] = {}
        for uid in self._ledger.in_use():
            with contextlib.suppress(OSError):
                times[uid] = (self._state(uid) / "leases").stat().st_mtime_ns
        return times

    async def _tell_mended(self, net: ground.Network) -> None:
        note = notes.NetworkMended(name=net.name)
        await self._ground.events.record(note, severity=base.Severity.WARNING, subject=net.ref)

    async def _rejoin(self, net: ground.Network) -> bool:
        """Have NICs be of its bond that came late; whether there were any."""
        if net.spec.kind != "bridge":
            return False
        try:
            async with self._locks[net.uid]:
                return await uplink.rejoin(self._record(net.uid))
        except network.Refused as refused:  # it stands all the same, on the others
            log.warning("network %s: %s", net.name, refused)
            return False

    async def _stands(self, net: ground.Network, tables: set[str]) -> bool:
        """Whether it is there as it should be, at a glance."""
        if net.spec.kind == "bridge":
            path = self._record(net.uid)
            record = uplink.read(path)
            if record is None or (net.status.state == "unconfirmed") != (record.state == "trial"):
                return False
            return await uplink.stands(record) and (record.state == "confirmed" or watching.watched(path))
        made = self._bridge(net)
        return bridge.stands(made) and {made.table, *self._ports_table(net)} <= tables

    async def _make_onto_nic(self, wanted: ground.Network) -> ground.Network:
        self._onto_nics.add(wanted.uid)
        record = await uplink.ensure(self._record(wanted.uid), **_made_so(wanted))
        if record is None or record.state == "undone":
            self._onto_nics.discard(wanted.uid)
        if record is None:
            raise uplink.NotBegun(network=wanted.name)
        not_confirmed = uplink.NotConfirmed(network=wanted.name, nic=record.nic)
        if record.state == "undone":
            raise not_confirmed
        try:
            await self._plug_all(wanted)
        except network.Refused as refused:
            if record.state == "trial" and not kernel.present(record.interface):  # its watcher puts it back just now
                raise not_confirmed from refused
            raise
        status = ground.NetworkStatus(state="ready", backend="bridge", bridge=record.interface, nic=record.mac)
        if record.state == "trial":
            left = datetime.timedelta(seconds=record.until - clock.boottime())
            status = status.model_copy(update={"state": "unconfirmed", "confirm_by": base.now() + left})
        return await self._write(wanted, status)

    async def _make(self, wanted: ground.Network) -> ground.Network:
        if wanted.spec.kind == "bridge":
            return await self._make_onto_nic(wanted)
        chosen = await self._with_subnet(wanted)
        made = self._bridge(chosen)
        made.state.mkdir(parents=True, exist_ok=True, mode=0o711)
        await bridge.set_hosts(made, self._ledger.hosts(wanted.uid))
        await bridge.ensure(made)
        await self._plug_all(chosen)
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

    async def _plug_all(self, net: ground.Network) -> None:
        """Have its rules be in force, and the taps of VMs that run be its ports again."""
        await self._fencing.apply(net, self._made(net))
        for card in self._ledger.cards(net.uid):
            if card.tap and card.tap not in self._new and kernel.present(card.tap):
                await self._plug(card, net)

    async def _make_tap(self, card: ledger.Card) -> None:
        # Root's own: QEMU gets a descriptor, and no other user's process may take the tap while it is free.
        if await tap.make(card.tap, owner=os.geteuid()) is None:
            self._new.add(card.tap)

    async def _plug(self, card: ledger.Card, net: ground.Network) -> None:
        interface, mtu = cards.interface(net), net.spec.mtu
        vlans = kernel.Vlans(card.vlan or 1, card.trunk) if net.spec.vlans else None
        new = card.tap in self._new
        self._new.discard(card.tap)
        await tap.ensure(
            card.tap, bridge=interface, owner=os.geteuid(), guest_mac=card.mac, mtu=mtu, vlans=vlans, new=new
        )

    async def _known(self, uids: set[str]) -> list[ground.Network]:
        if not uids:
            return []
        listed = await self._ground.resources.list(ground.Network)
        return [net for net in listed.items if net.uid in uids]

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

    async def _take_down(self, uid: str) -> None:
        await bridge.remove(uid, self._state(uid))
        await self._fencing.remove(uid)

    def _ports_table(self, net: ground.Network) -> set[str]:
        return {rules.ports_name(net.uid)} if self._ledger.forwards(net.uid) else set()

    def _made(self, net: ground.Network) -> network.Bridge | None:
        """Its bridge with a subnet of its own; None for one onto a NIC of the host."""
        return None if net.spec.kind == "bridge" else self._bridge(net)

    def _record(self, uid: str) -> pathlib.Path:
        """Where it is written what a NIC of the host was before the network was put onto it."""
        return self._ground.home.path / "uplinks" / f"{uid}.json"

    def _bridge(self, net: ground.Network) -> network.Bridge:
        subnet = net.status.subnet or net.spec.subnet
        assert subnet
        return network.Bridge(
            uid=net.uid,
            name=net.name,
            subnet=ipaddress.IPv4Network(subnet),
            nat=net.spec.kind == "nat",
            state=self._state(net.uid),
            dhcp=net.spec.dhcp,
            mtu=net.spec.mtu,
            vlans=net.spec.vlans,
            ipv6=net.spec.ipv6,
        )

    def _present(self) -> list[str]:
        """The uids of the networks that something was made for since the machine started."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(os.listdir(self._ground.home.runtime / "networks"))
        return []

    def _state(self, uid: str) -> pathlib.Path:
        return self._ground.home.runtime / "networks" / uid


class _MadeSo(TypedDict):
    mtu: int | None
    vlans: bool


def _made_so(net: ground.Network) -> _MadeSo:
    """How its bridge is to be made."""
    return {"mtu": net.spec.mtu, "vlans": net.spec.vlans}
