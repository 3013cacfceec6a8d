"""The IP addresses behind a MAC on a bridge: what DHCP gave, and what the kernel has seen."""

from __future__ import annotations

from bocage.network import base, bridge, kernel


async def addresses(network: base.Bridge) -> dict[str, list[str]]:
    """MAC to IP addresses in the network, the leased one first. What the host never spoke to is not seen."""
    found: dict[str, list[str]] = {mac: [str(address)] for mac, address in (await bridge.leases(network)).items()}
    for mac, address in await kernel.neighbours(network.interface):
        known = found.setdefault(mac, [])
        if address not in known:
            known.append(address)
    return found
