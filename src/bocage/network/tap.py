"""Taps: the host's end of a VM's network card on a bridge. Persistent, so that one outlives the daemon."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import struct

from bocage.network import base, kernel, rate

ALIAS = "bocage tap"
PREFIX = "bt"
"""What the name of each tap begins with."""
_TUNSETIFF, _TUNSETPERSIST, _TUNSETOWNER = 0x400454CA, 0x400454CB, 0x400454CC
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000


def name_for(vm_uid: str, nic: str) -> str:
    """The tap of the card `nic` (its own name within the VM) of a VM: at most 15 characters, always the same."""
    return f"{PREFIX}{hashlib.sha256(f'{vm_uid}/{nic}'.encode()).hexdigest()[:12]}"


async def make(name: str, *, owner: int) -> kernel.Link | None:
    """Have the tap be there for the user id `owner` to open. None: it is new, and plugged in nowhere.

    Raises base.InterfaceForeign, base.KernelLacks, base.Refused.
    """
    found = await _own(name)
    if found and found.owner == owner:
        return found
    if found:
        await kernel.change([f"link delete {name}"])
    try:
        await asyncio.to_thread(_make, name, owner)
    except OSError as error:
        raise base.KernelLacks(what="taps (/dev/net/tun)", said=error.strerror or str(error)) from error
    return None


async def ensure(
    name: str,
    *,
    bridge: str,
    owner: int,
    guest_mac: str,
    apart: bool = False,
    mtu: int | None = None,
    vlans: kernel.Vlans | None = None,
    new: bool = False,
) -> None:
    """Have the tap be there, plugged into `bridge`, for the user id `owner` to open.

    `apart` keeps it from the other taps that are apart: only the host and the world are reached. Nothing passes before
    it is on its `vlans` alone. `new`: `make` has just made it. Raises base.InterfaceForeign, base.KernelLacks,
    base.Refused.
    """
    found = None if new else await make(name, owner=owner)
    steps = []
    if found is None or not found.alias:
        if kernel.has_ipv6():
            steps.append(f"link set {name} addrgenmode none")  # the host itself says nothing there
        steps += [f"link set {name} mtu {mtu}"] if mtu else []
        steps.append(f'link set {name} alias "{ALIAS}"')
    if found is None or found.mac != host_mac(guest_mac):
        steps.append(f"link set {name} address {host_mac(guest_mac)}")
    down = found is None or not found.up
    if found is None or found.master != bridge:
        steps += [] if down else [f"link set {name} down"]
        steps.append(f"link set {name} master {bridge}")
        down = True
    if found is None or found.master != bridge or found.port_isolated != apart:
        steps.append(f"link set {name} type bridge_slave isolated {'on' if apart else 'off'}")
    up = [f"link set {name} up"] if down else []
    if vlans is None:
        await kernel.change([*steps, *up])
        return
    await kernel.change(steps)
    await kernel.set_vlans(name, vlans)
    await kernel.change(up)


async def remove(name: str) -> None:
    """Take the tap away, also from a process that has it open. Not an error when it is gone."""
    if await _own(name):
        await kernel.change([f"link delete {name}"])
    await rate.forget(name)


async def present(bridge: str | None = None) -> list[str]:
    """The names of Bocage's taps: all on this machine (other daemons' too), or those plugged into `bridge`."""
    return [
        link.name
        for link in await kernel.links()
        if link.alias == ALIAS and link.kind == "tun" and bridge in (None, link.master)
    ]


async def idle(bridge: str) -> list[str]:
    """The taps plugged into `bridge` that no process has open."""
    return [link.name for link in await kernel.links("master", bridge) if link.alias == ALIAS and not link.carrier]


def open_queue(name: str) -> int:
    """A descriptor of the tap to hand to QEMU (`-netdev tap,fd=`), whose user may not open /dev/net/tun itself.

    The caller closes it. A tap that is not there is made, for as long as the descriptor is open. Raises OSError.
    """
    with contextlib.ExitStack() as undo:
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        undo.callback(os.close, descriptor)
        request = struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR)
        fcntl.ioctl(descriptor, _TUNSETIFF, request)
        undo.pop_all()
    return descriptor


def _make(name: str, owner: int) -> None:
    descriptor = open_queue(name)
    try:
        fcntl.ioctl(descriptor, _TUNSETOWNER, owner)
        fcntl.ioctl(descriptor, _TUNSETPERSIST, 1)
    finally:
        os.close(descriptor)


def host_mac(guest_mac: str) -> str:
    """The tap's own MAC: the guest's with a first octet that no guest has, so that the two never meet."""
    return f"fe{guest_mac.lower()[2:]}"


async def _own(name: str) -> kernel.Link | None:
    found = await kernel.link(name)
    if found and (found.kind != "tun" or found.alias not in ("", ALIAS)):
        raise base.InterfaceForeign(interface=name, found=found.alias or found.kind or "physical")
    return found
