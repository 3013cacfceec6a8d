"""A VM's NICs as the network room and the engine see them."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterator

from bocage.engine import base as engine
from bocage.model import ground, vm
from bocage.model.firewall import Prefix
from bocage.network import base as network
from bocage.network import tap, uplink, user
from bocage.node.wires import ledger
from bocage.words import N_

_BRIDGED = ("nat", "isolated", "bridge")
_LOWEST_OF_USERS = 1024


class NotHeld(engine.CannotHold):
    type = "nic-rate-needs-bridge"
    text = N_("a user-mode network knows no rates: {nic} would need one of kind 'nat', 'isolated' or 'bridge'")
    hint = N_("'bocage vm nic set {name} {nic} --network NETWORK'")
    name: str
    nic: str


def bridged(net: ground.Network) -> bool:
    """Whether it is on a bridge of its own."""
    return net.spec.kind in _BRIDGED


def interface(net: ground.Network) -> str:
    """Its bridge."""
    return uplink.interface_of(net.uid) if net.spec.kind == "bridge" else network.interface_of(net.uid)


def card(machine: vm.VM, nic: vm.Nic, net: ground.Network) -> ledger.Card:
    """A NIC as it is plugged in."""
    name = tap.name_for(machine.uid, nic.name) if bridged(net) else ""
    return ledger.Card(
        network=net.uid,
        mac=nic.mac,
        tap=name,
        publish=published(nic),
        addresses=tuple(own_addresses(machine, nic)),
        free=nic.spoofing == "allow",
        vlan=nic.vlan,
        trunk=nic.trunk,
        groups=nic.firewall,
    )


def own_addresses(machine: vm.VM, nic: vm.Nic) -> Iterator[Prefix]:
    """The addresses that a definition says are a NIC's own: listed, kept for it, or told to its guest at the start."""
    yield from (ipaddress.ip_network(one) for one in nic.allowed)
    if nic.ip:
        yield ipaddress.ip_network(nic.ip)
    for static in machine.spec.seed.network if machine.spec.seed else ():
        if static.nic == nic.name:
            yield ipaddress.ip_network(static.address.split("/")[0])


def on_bridge(machine: vm.VM, nic: vm.Nic, net: ground.Network) -> engine.Tap:
    """What carries a NIC on a bridge."""
    name = tap.name_for(machine.uid, nic.name)
    return engine.Tap(name=name, bridge=interface(net), alias=tap.ALIAS, open=functools.partial(tap.open_queue, name))


def in_user_mode(nic: vm.Nic, planned: user.Plan, process_uid: int | None) -> engine.Backend:
    """What carries a NIC of a user-mode network."""
    if planned.backend == "slirp":
        return engine.UserMode(publish=nic.publish)
    # Only root may take the low ports; passt lets go of it once it has them.
    as_root = process_uid is not None and any(one.host_port < _LOWEST_OF_USERS for one in nic.publish)
    run_as = (process_uid, process_uid) if process_uid is not None and as_root else None
    return engine.Passt(command=tuple(user.passt_command(planned, run_as=run_as)), as_root=as_root)


def reserved(machine: vm.VM, nic: vm.Nic, net: ground.Network) -> ipaddress.IPv4Address | None:
    """The address that is written down for a NIC, if it is one of this network."""
    if not net.status.subnet:
        return None
    subnet = ipaddress.IPv4Network(net.status.subnet)
    kept = [ipaddress.IPv4Address(one.reserved) for one in machine.status.nics if one.mac == nic.mac and one.reserved]
    return next((address for address in kept if address in subnet), None)


def with_reserved(machine: vm.VM, nic: vm.Nic, address: ipaddress.IPv4Address) -> vm.VMStatus:
    """The status with that address written down."""
    known = {one.name: one for one in machine.status.nics}
    present = known.get(nic.name)
    if present is None or present.mac != nic.mac:
        present = vm.NicStatus(name=nic.name, mac=nic.mac)
    known[nic.name] = present.model_copy(update={"reserved": str(address)})
    return machine.status.model_copy(update={"nics": tuple(known.values())})


def published(nic: vm.Nic) -> tuple[network.Publish, ...]:
    """Its published ports."""
    return tuple(
        network.Publish(
            host_port=one.host_port,
            guest_port=one.guest_port,
            host_address=one.host_address,
            protocol=one.protocol,
        )
        for one in nic.publish
    )
