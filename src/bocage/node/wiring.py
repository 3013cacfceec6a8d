"""The wires of this host: networks made and taken down, and each VM's NICs connected to them."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import os
import pathlib

from bocage import errors
from bocage.engine import base as engine
from bocage.model import base, ground, vm
from bocage.network import addresses, bridge, kernel, tap, user
from bocage.network import base as network
from bocage.network import machine as surroundings
from bocage.node.ground import Ground
from bocage.store import resources

_BRIDGED = ("nat", "isolated")


class Wires:
    """The networks of one host."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._lock = asyncio.Lock()  # one change of the kernel's tables at a time
        self._hosts: dict[str, dict[str, network.Host]] = {}
        self._forwards: dict[str, dict[str, list[network.Forward]]] = {}

    async def ensure(self, wanted: ground.Network) -> None:
        """Make a network, or what is missing of it, and write its status."""
        try:
            status = await self._made(wanted)
        except errors.Problem as problem:
            failed = wanted.status.model_copy(update={"state": "failed", "reason": base.Saying.of(problem)})
            await self._write(wanted, failed)
            raise
        await self._write(wanted, status)

    async def remove(self, unwanted: ground.Network) -> None:
        """Take a network down: nothing of it stays."""
        if unwanted.spec.kind in _BRIDGED:
            async with self._lock:
                await bridge.remove(unwanted.uid, self._state(unwanted.uid))
        self._hosts.pop(unwanted.uid, None)
        self._forwards.pop(unwanted.uid, None)

    async def connect(self, machine: vm.VM, process_uid: int | None) -> dict[str, engine.Backend]:
        """Make what carries each NIC; raises what keeps one from being carried."""
        backends: dict[str, engine.Backend] = {}
        cards = 0
        for nic in machine.spec.nics:
            net = await self._ground.resources.get(ground.Network, machine.metadata.project, nic.network)
            if net.spec.kind == "user":
                backends[nic.name] = self._carried(machine, nic, await user.plan(_published(nic), card=cards))
                cards += 1
            else:
                backends[nic.name] = await self._plug_in(machine, nic, net, process_uid)
        return backends

    async def describe(self, machine: vm.VM) -> dict[str, engine.Backend]:
        """What carries each NIC, without making anything."""
        backends: dict[str, engine.Backend] = {}
        cards = 0
        for nic in machine.spec.nics:
            net = await self._ground.resources.get(ground.Network, machine.metadata.project, nic.network)
            if net.spec.kind == "user":
                backends[nic.name] = self._carried(machine, nic, await user.plan(card=cards))
                cards += 1
            else:
                backends[nic.name] = _tap(machine, nic, net)
        return backends

    def _carried(self, machine: vm.VM, nic: vm.Nic, planned: user.Plan) -> engine.Backend:
        if planned.backend == "slirp":
            return engine.UserMode(publish=nic.publish)
        return engine.Passt(command=tuple(user.passt_command(planned)))

    async def disconnect(self, machine: vm.VM) -> None:
        """Take away what carried a VM's NICs; what it reserved stays while the VM is there."""
        for nic in machine.spec.nics:
            try:
                net = await self._ground.resources.get(ground.Network, machine.metadata.project, nic.network)
            except resources.Missing:
                continue
            if net.spec.kind not in _BRIDGED:
                continue
            async with self._lock:
                await tap.remove(tap.name_for(machine.uid, nic.name))
                if self._forwards.get(net.uid, {}).pop(nic.mac, None):
                    await self._publish(net)

    async def forget(self, machine: vm.VM) -> None:
        """A VM is gone for good: its addresses and names are free."""
        for nic in machine.spec.nics:
            if self._hosts.get(nic.network, {}).pop(nic.mac, None):
                net = await self._ground.resources.get(ground.Network, machine.metadata.project, nic.network)
                await bridge.set_hosts(self._bridge(net), self._hosts[net.uid])

    async def addresses(self, machine: vm.VM) -> dict[str, tuple[str, ...]]:
        """By NIC name: the addresses that its network knows it by."""
        found: dict[str, tuple[str, ...]] = {}
        for nic in machine.spec.nics:
            net = await self._ground.resources.get(ground.Network, machine.metadata.project, nic.network)
            if net.spec.kind in _BRIDGED and net.status.state == "ready":
                leases = await bridge.leases(self._bridge(net))
                if nic.mac in leases:
                    found[nic.name] = (str(leases[nic.mac]),)
        return found

    async def carriers(self, machine: vm.VM) -> dict[str, str]:
        """By NIC name: what carries it, for people."""
        names: dict[str, str] = {}
        for nic in machine.spec.nics:
            net = await self._ground.resources.get(ground.Network, machine.metadata.project, nic.network)
            names[nic.name] = net.status.bridge or net.status.backend
        return names

    async def _made(self, wanted: ground.Network) -> ground.NetworkStatus:
        await surroundings.check(wanted.spec.kind)
        if wanted.spec.kind == "user":
            return ground.NetworkStatus(state="ready", backend=(await user.plan()).backend)
        async with self._lock:
            subnet = await self._subnet(wanted)
            made = self._bridge(wanted.model_copy(update={"status": ground.NetworkStatus(subnet=subnet)}))
            made.state.mkdir(parents=True, exist_ok=True, mode=0o711)
            await bridge.ensure(made)
            await bridge.set_hosts(made, self._hosts.setdefault(wanted.uid, {}))
        return ground.NetworkStatus(state="ready", backend="bridge", bridge=made.interface, subnet=subnet)

    async def _subnet(self, wanted: ground.Network) -> str:
        if chosen := wanted.spec.subnet or wanted.status.subnet:
            return chosen
        known = await self._ground.resources.list(ground.Network)
        taken = [ipaddress.IPv4Network(one.status.subnet) for one in known.items if one.status.subnet]
        routed = [route.subnet for route in await kernel.routes()]
        return str(addresses.choose_subnet(wanted.uid, taken, routed))

    async def _plug_in(
        self, machine: vm.VM, nic: vm.Nic, net: ground.Network, process_uid: int | None
    ) -> engine.Backend:
        await self.ensure(net)
        net = await self._ground.resources.get(ground.Network, net.metadata.project, net.uid)
        made = self._bridge(net)
        async with self._lock:
            hosts = self._hosts.setdefault(net.uid, {})
            if nic.mac not in hosts:
                taken = [host.address for host in hosts.values()]
                hosts[nic.mac] = network.Host(
                    address=addresses.allocate(made.subnet, taken, nic.mac), name=machine.name
                )
                await bridge.set_hosts(made, hosts)
            name = tap.name_for(machine.uid, nic.name)
            owner = process_uid if process_uid is not None else os.geteuid()
            await tap.ensure(name, bridge=made.interface, owner=owner, guest_mac=nic.mac)
            if nic.publish:
                await user.plan(_published(nic), passt=None)
                self._forwards.setdefault(net.uid, {})[nic.mac] = [
                    network.Forward(address=hosts[nic.mac].address, publish=one) for one in _published(nic)
                ]
                await self._publish(net)
        return _tap(machine, nic, net)

    async def _publish(self, net: ground.Network) -> None:
        await bridge.publish(self._bridge(net), [one for some in self._forwards[net.uid].values() for one in some])

    async def _write(self, net: ground.Network, status: ground.NetworkStatus) -> None:
        await self._ground.resources.change_status(ground.Network, net.metadata.project, net.uid, lambda _: status)

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

    def _state(self, uid: str) -> pathlib.Path:
        return self._ground.home.runtime / "networks" / uid


def _tap(machine: vm.VM, nic: vm.Nic, net: ground.Network) -> engine.Tap:
    name = tap.name_for(machine.uid, nic.name)
    return engine.Tap(name=name, bridge=network.interface_of(net.uid), open=functools.partial(tap.open_queue, name))


def _published(nic: vm.Nic) -> tuple[network.Publish, ...]:
    return tuple(
        network.Publish(
            host_port=one.host_port,
            guest_port=one.guest_port,
            host_address=one.host_address,
            protocol=one.protocol,
        )
        for one in nic.publish
    )
