"""Whether this machine can carry a network: each thing it needs is tried, not guessed from a version."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import secrets

from bocage.network import addresses, base, bridge, kernel, rules, tap


async def check(
    kind: base.Kind, *, subnet: ipaddress.IPv4Network | None = None, uid: str = "", vlans: bool = False
) -> None:
    """Raise what hinders a network of `kind` here: the first thing found. Leaves nothing behind.

    `subnet` is looked at too; a route of the network `uid` itself does not hinder it. Raises base.NotRoot,
    base.ProgramMissing, base.KernelLacks, base.SubnetTaken, addresses.SubnetUnfit.
    """
    if subnet is not None and kind != "user":
        addresses.fit(subnet)
    if kind == "user":
        return  # passt, or QEMU's own: the one that is there
    if os.geteuid() != 0:
        raise base.NotRoot(kind=kind)
    for program in ("ip", "nft", *(() if kind == "bridge" else ("dnsmasq",))):
        base.need(program)
    await _try_bridge(vlans=vlans)
    await asyncio.to_thread(_try_tap)
    await _try_rules()
    if kind == "nat":
        _try_forwarding()
    if subnet is not None:
        await bridge.refuse_overlap(subnet, besides=base.interface_of(uid) if uid else "")


async def _try_bridge(*, vlans: bool) -> None:
    name = f"bcgp{secrets.token_hex(4)}"
    try:
        await kernel.change([f"link add {name} type bridge {kernel.bridge_options(vlans=vlans)}"])
    except base.Refused as refused:
        raise base.KernelLacks(what="VLANs on bridges" if vlans else "bridges", said=refused.output) from refused
    finally:
        with contextlib.suppress(base.Refused):
            await kernel.change([f"link delete {name}"])


def _try_tap() -> None:
    try:
        os.close(tap.open_queue("bcgp%d"))  # the kernel numbers it, and drops it with its last descriptor
    except OSError as error:
        raise base.KernelLacks(what="taps (/dev/net/tun)", said=error.strerror or str(error)) from error


async def _try_rules() -> None:
    try:
        await rules.probe()
    except base.Refused as refused:
        raise base.KernelLacks(what="nftables with NAT", said=refused.output) from refused


def _try_forwarding() -> None:
    if kernel.sysctl("ipv4/ip_forward") == "1":
        return
    try:
        os.close(os.open("/proc/sys/net/ipv4/ip_forward", os.O_WRONLY | os.O_CLOEXEC))
    except OSError as error:
        raise base.KernelLacks(what="forwarding (net.ipv4.ip_forward)", said=error.strerror or str(error)) from error
