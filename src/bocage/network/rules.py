"""The firewall rules of a bridged network: nftables tables of its own, replaced whole and at once.

A packet must pass the tables of every network and of the machine's own firewall; a table of ours only
takes away. (So another firewall that drops what is forwarded, as Docker's does, has to let ours pass.)
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from bocage.network import base

PREFIX = "bcg-"  # every bridge of every daemon on this machine


async def apply(network: base.Bridge) -> None:
    """Put the network's rules in force, whatever was there. Raises base.Refused."""
    await _load(table(network))


async def publish(network: base.Bridge, forwards: Sequence[base.Forward]) -> None:
    """Put exactly these published ports of the network in force. Raises base.Refused."""
    await _load(ports_table(network, forwards) if forwards else _dropped(ports_name(network.uid)))


async def remove(uid: str) -> None:
    """Take away all rules of the network `uid`; not an error when there are none."""
    await _load(_dropped(base.table_of(uid)) + _dropped(ports_name(uid)))


async def tables() -> set[str]:
    """The names of all tables of the family `inet`. Raises base.Refused."""
    listed = await base.run("nft", "list", "tables", "inet")
    return {line.split()[-1] for line in listed.decode().splitlines() if line.startswith("table ")}


def ports_name(uid: str) -> str:
    """The table of the network's published ports."""
    return f"{base.table_of(uid)}_ports"


def table(network: base.Bridge) -> str:
    """The network's rules as `nft -f` takes them."""
    chains = [_input(network), _forward(network)]
    if network.nat:
        chains.append(_postrouting(network))
    return _replaced(network.table, chains)


def ports_table(network: base.Bridge, forwards: Iterable[base.Forward]) -> str:
    """The network's published ports as `nft -f` takes them."""
    arriving, leaving = [], []
    for forward in forwards:
        address = ipaddress.ip_address(forward.publish.host_address)
        rule = _forwarded(forward, address)
        leaving.append(rule)
        if not address.is_loopback:
            arriving.append(rule)
    bridge, subnet = network.interface, network.subnet
    back = [
        f'oifname "{bridge}" ip saddr 127.0.0.0/8 masquerade',
        f'oifname "{bridge}" ip saddr {subnet} ip daddr {subnet} ct status dnat masquerade',
    ]
    return _replaced(
        ports_name(network.uid),
        [
            _chain("prerouting", "type nat hook prerouting priority -100", arriving),
            _chain("output", "type nat hook output priority -100", leaving),
            _chain("postrouting", "type nat hook postrouting priority 100", back),
        ],
    )


def _forwarded(forward: base.Forward, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    published = forward.publish
    where = "fib daddr type local" if address.is_unspecified else f"ip daddr {address}"
    to = f"{forward.address}:{published.guest_port}"
    return f"meta nfproto ipv4 {where} {published.protocol} dport {published.host_port} dnat ip to {to}"


def _input(network: base.Bridge) -> str:
    bridge, gateway = network.interface, network.gateway
    if network.nat:
        # Published ports on 127.0.0.1 need route_localnet, which would let guests in to the host's loopback.
        return _chain(
            "input",
            "type filter hook input priority 0",
            [f'iifname "{bridge}" ip daddr 127.0.0.0/8 ct state new,invalid,untracked drop'],
        )
    return _chain(
        "input",
        "type filter hook input priority 0",
        [
            f'iifname != "{bridge}" accept',
            "ct state established,related accept",
            "meta nfproto ipv4 udp dport 67 accept",
            f"ip daddr {gateway} meta l4proto {{ tcp, udp }} th dport 53 accept",
            *_input6(network),
            "drop",
        ],
    )


def _input6(network: base.Bridge) -> list[str]:
    """What an isolated network's IPv6 needs of the host: neighbour and router discovery, DHCP, DNS."""
    if not network.prefix:
        return []
    return [
        "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, echo-request } accept",
        "icmpv6 type { mld-listener-report, mld2-listener-report, mld-listener-done } accept",
        "meta nfproto ipv6 udp dport 547 accept",
        f"ip6 daddr {{ {network.gateway6}, fe80::/10 }} meta l4proto {{ tcp, udp }} th dport 53 accept",
    ]


def _forward(network: base.Bridge) -> str:
    bridge, subnet = network.interface, network.subnet
    within = f'iifname "{bridge}" oifname "{bridge}" accept'  # bridged frames pass here too with bridge-nf-call
    if not network.nat:
        rules = [within, f'iifname "{bridge}" drop', f'oifname "{bridge}" drop']
    else:
        rules = [
            within,
            f'iifname "{bridge}" oifname "{PREFIX}*" ct status dnat accept',  # published is published
            f'iifname "{bridge}" oifname "{PREFIX}*" drop',
            f'iifname "{bridge}" ip saddr != {subnet} drop',
            f'iifname "{bridge}" ip6 saddr != {network.prefix} drop' if network.prefix else "",
            f'iifname "{bridge}" tcp flags syn / syn,rst tcp option maxseg size set rt mtu',
            f'oifname "{bridge}" ct state established,related accept',
            f'oifname "{bridge}" ct status dnat accept',
            f'oifname "{bridge}" drop',
        ]
    return _chain("forwarded", "type filter hook forward priority 0", rules)


def _postrouting(network: base.Bridge) -> str:
    rule = f'ip saddr {network.subnet} ip daddr != {network.subnet} oifname != "{network.interface}" masquerade'
    rules = [rule]
    if network.prefix:
        away = f'ip6 daddr != {network.prefix} oifname != "{network.interface}"'
        rules.append(f"ip6 saddr {network.prefix} {away} masquerade")
    return _chain("postrouting", "type nat hook postrouting priority 100", rules)


def _chain(name: str, hook: str, rules: Iterable[str]) -> str:
    body = "".join(f"    {rule}\n" for rule in rules)
    return f"  chain {name} {{\n    {hook}; policy accept;\n{body}  }}\n"


def _dropped(name: str) -> str:
    return f"table inet {name}\ndelete table inet {name}\n"  # declared first: deleting what is not there fails


def _replaced(name: str, chains: Iterable[str]) -> str:
    return f"{_dropped(name)}table inet {name} {{\n{''.join(chains)}}}\n"


async def _load(text: str) -> None:
    await base.run("nft", "-f", "-", stdin=text)


async def probe() -> None:
    """Have the kernel check rules like ours without putting them in force. Raises base.Refused."""
    sample = "table inet bocage_probe {\n" + "".join(
        [
            _chain("forwarded", "type filter hook forward priority 0", ["ct state established,related accept"]),
            _chain("postrouting", "type nat hook postrouting priority 100", ["ip saddr 10.0.0.0/8 masquerade"]),
            _chain("prerouting", "type nat hook prerouting priority -100", ["fib daddr type local accept"]),
        ]
    )
    await base.run("nft", "--check", "-f", "-", stdin=sample + "}\n")
