"""Networks on a Linux bridge: with NAT to the world, or isolated. Made, repaired and taken down.

`ensure` looks at what is there and makes what is missing, in an order in which a network is never open
before its rules are in force; it may be cut off anywhere and called again. One call at a time for a network.
"""

from __future__ import annotations

import asyncio
import ipaddress
import pathlib
from collections.abc import Mapping, Sequence

from bocage import files
from bocage.network import addresses, base, dnsmasq, kernel, rules, tap

_ALIAS = "bocage network "


async def ensure(network: base.Bridge) -> None:
    """Have the network's bridge, address, rules, DHCP and DNS be there.

    Raises base.Error: SubnetTaken, InterfaceForeign, StateHidden, ProgramMissing, KernelLacks, Refused.
    """
    addresses.fit(network.subnet)
    found = await _own(network.uid)
    await refuse_overlap(network.subnet, besides=network.interface)
    await rules.apply(network)
    if found is None:
        await dnsmasq.stop(network.state)  # it is bound to a bridge that is no more
    await kernel.change(_steps(network, found))
    if network.vlans:
        await kernel.set_vlans(network.interface, kernel.Vlans(), itself=True)
    _settings(network)
    await kernel.change(_steps6(network))
    await dnsmasq.ensure(network)


def stands(network: base.Bridge) -> bool:
    """Whether its bridge and its server are there, at a glance: no program is run, and the rules are not seen."""
    return kernel.present(network.interface) and dnsmasq.runs(network)


async def remove(uid: str, state: pathlib.Path) -> None:
    """Take the network `uid` down: server, taps, bridge, rules and its directory. Not an error when it is gone.

    Raises base.Error; what is left then goes with the next call.
    """
    await dnsmasq.stop(state)
    if await _own(uid):
        bridge = base.interface_of(uid)
        for name in await tap.present(bridge):
            await tap.remove(name)
        await kernel.change([f"link delete {bridge}"])
    await rules.remove(uid)
    await asyncio.to_thread(files.remove_tree, state)


async def set_hosts(network: base.Bridge, hosts: Mapping[str, base.Host]) -> None:
    """Make `hosts` (by MAC) all that have a reserved address and a name in the network. Raises base.BadHost."""
    await dnsmasq.set_hosts(network, hosts)


async def publish(network: base.Bridge, forwards: Sequence[base.Forward]) -> None:
    """Make `forwards` all that is published of a NAT network. Raises base.PublishUnfit, base.Refused."""
    for forward in forwards:
        if not network.nat or ipaddress.ip_address(forward.publish.host_address).version != 4:
            raise base.PublishUnfit(port=forward.publish.host_port, network=network.name)
    if forwards:
        kernel.set_sysctl(f"ipv4/conf/{network.interface}/route_localnet", "1")
    await rules.publish(network, forwards)


async def leases(network: base.Bridge) -> dict[str, ipaddress.IPv4Address]:
    """MAC to address of the DHCP leases that hold now."""
    return await asyncio.to_thread(dnsmasq.leases, network)


async def refuse_overlap(subnet: ipaddress.IPv4Network, *, besides: str = "") -> None:
    """Raise base.SubnetTaken when a route of this machine, other than through `besides`, overlaps `subnet`."""
    for route in await kernel.routes():
        if route.interface != besides and subnet.overlaps(route.subnet):
            raise base.SubnetTaken(subnet=str(subnet), route=str(route.subnet), interface=route.interface)


async def _own(uid: str) -> kernel.Link | None:
    """The network's bridge if it is there. Raises base.InterfaceForeign when something else has its name."""
    name = base.interface_of(uid)
    found = await kernel.link(name)
    if found is None:
        return None
    if found.kind != "bridge" or found.alias not in ("", f"{_ALIAS}{uid}"):
        raise base.InterfaceForeign(interface=name, found=found.alias or found.kind or "physical")
    return found


def _steps(network: base.Bridge, found: kernel.Link | None) -> list[str]:
    name = network.interface
    wanted = ipaddress.IPv4Interface(f"{network.gateway}/{network.subnet.prefixlen}")
    steps = []
    if found is None:
        size = f" mtu {network.mtu}" if network.mtu else ""
        kind = f"type bridge {kernel.bridge_options(vlans=network.vlans)}"
        steps.append(f"link add {name} address {network.mac}{size} {kind}")
    elif found.mac != network.mac:
        steps.append(f"link set {name} address {network.mac}")
    if found is None or not found.alias:
        steps.append(f'link set {name} alias "{_ALIAS}{network.uid}"')
    if (found is None or not found.up) and network.ipv6 and kernel.has_ipv6():
        steps.append(f"link set {name} addrgenmode eui64")  # as the fences have it that it does
    present = found.addresses if found else ()
    steps += [f"address delete {other} dev {name}" for other in present if other != wanted]
    if wanted not in present:
        steps.append(f"address add {wanted} broadcast + dev {name}")
    if found is None or not found.up:
        steps.append(f"link set {name} up")
    return steps


def _steps6(network: base.Bridge) -> list[str]:
    """Once its interface takes IPv6 at all."""
    return [f"address replace {network.gateway6}/64 dev {network.interface} nodad"] if network.gateway6 else []


def _settings(network: base.Bridge) -> None:
    ipv6 = f"ipv6/conf/{network.interface}/disable_ipv6"
    if kernel.sysctl(ipv6) is not None:
        # Without a prefix of its own the host gives and takes IPv4 alone there; it never takes a router's word.
        kernel.set_sysctl(f"ipv6/conf/{network.interface}/accept_ra", "0")
        kernel.set_sysctl(ipv6, "0" if network.ipv6 else "1")
    if network.nat:
        kernel.set_sysctl("ipv4/ip_forward", "1")
