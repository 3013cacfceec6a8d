"""Text as `nft -f` takes it: chains, sets and maps of a table."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

from bocage.model.firewall import Prefix


def by_version(prefixes: Iterable[Prefix]) -> tuple[list[ipaddress.IPv4Network], list[ipaddress.IPv6Network]]:
    """Sorted, each once, none within another."""
    prefixes = list(prefixes)
    four = [one for one in prefixes if isinstance(one, ipaddress.IPv4Network)]
    six = [one for one in prefixes if isinstance(one, ipaddress.IPv6Network)]
    return list(ipaddress.collapse_addresses(four)), list(ipaddress.collapse_addresses(six))


def raw(prefix: ipaddress.IPv6Network) -> str:
    """As a number, for a field that has no name in nft."""
    first, last = f"{int(prefix.network_address):#034x}", f"{int(prefix.broadcast_address):#034x}"
    return first if first == last else f"{first}-{last}"


def set_of(values: Iterable[object]) -> str:
    """A set without a name."""
    return f"{{ {', '.join(str(one) for one in values)} }}"


def verdicts(name: str, pairs: Mapping[str, str]) -> str:
    """A map from interfaces to what becomes of their packets."""
    listed = ", ".join(f'"{interface}" : {verdict}' for interface, verdict in pairs.items())
    elements = f"    elements = {{ {listed} }}\n" if listed else ""
    return f"  map {name} {{\n    type ifname : verdict\n{elements}  }}\n"


def hooked(name: str, hook: str, *rules: str) -> str:
    """A chain that packets come to by themselves."""
    return chain(name, [f"type filter hook {hook} priority 0; policy accept;", *rules])


def chain(name: str, rules: Iterable[str]) -> str:
    """A chain that packets are sent to."""
    body = "".join(f"    {rule}\n" for rule in rules)
    return f"  chain {name} {{\n{body}  }}\n"
