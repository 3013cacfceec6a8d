"""What keeps a NIC on a bridge from passing for another, and strangers from it: one nftables table a network.

It stands in the family `bridge`, so that neighbours on one bridge are kept apart too, and is the same in every
kernel: what the guest itself asked for is let back in by sets that its own packets fill, since the kernel's
connection tracking knows bridges only where a module for it is there. A table is replaced in one transaction;
those sets stay, and so do connections.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Collection, Mapping, Sequence

from bocage.model.firewall import FirewallRule, Prefix
from bocage.network import base, guards, nft, passages
from bocage.network.guards import Port, link_local, made_of

__all__ = ["Names", "Port", "apply", "link_local", "made_of", "remove", "ruleset", "table_of", "tables"]

Names = frozenset[tuple[str, str]]
"""What a table has: kind and name of each."""

_NAMED = re.compile(r"^\s*(chain|set|map) (\S+) \{$", re.MULTILINE)


def table_of(uid: str) -> str:
    """The table, of the family `bridge`, of the network `uid`."""
    return base.table_of(uid)


async def apply(
    uid: str,
    ports: Sequence[Port],
    known: Collection[Prefix],
    groups: Mapping[str, Sequence[FirewallRule]],
    *,
    others: bool = False,
    present: Names | None = None,
) -> Names:
    """Have these ports held to their rules; what the table has then. What was in force stays when it is refused.

    `known` are the addresses that the network knows to be somebody's. `others`: there are ports beside these, whose
    rules stay as they are. `present`: what the table has by now, as far as is known. Raises base.Refused.
    """
    text = ruleset(uid, ports, known, groups)
    if present is not None:
        with contextlib.suppress(base.Refused):  # somebody else may have changed it
            return await _replace(uid, present, text, others=others)
    return await _replace(uid, await _present(uid), text, others=others)


async def _replace(uid: str, present: Names, text: str, *, others: bool) -> Names:
    await base.run("nft", "-f", "-", stdin=_beside(uid, present, text) if others else _over(uid, present, text))
    return frozenset(_NAMED.findall(text)) | (present if others else frozenset())


async def remove(uid: str) -> None:
    """Take the table away; not an error when there is none."""
    name = table_of(uid)
    await base.run("nft", "-f", "-", stdin=f"table bridge {name}\ndelete table bridge {name}\n")


async def tables() -> set[str]:
    """The names of all tables of the family `bridge`. Raises base.Refused."""
    listed = await base.run("nft", "list", "tables", "bridge")
    return {line.split()[-1] for line in listed.decode().splitlines() if line.startswith("table ")}


async def _present(uid: str) -> Names:
    if table_of(uid) not in await tables():
        return frozenset()
    listed = await base.run("nft", "--terse", "list", "table", "bridge", table_of(uid))
    return frozenset(_NAMED.findall(listed.decode()))


def _over(uid: str, present: Names, text: str) -> str:
    """The transaction from what is there to `text`: all goes, but for the sets of connections that stay wanted."""
    name = table_of(uid)
    stays = {found for kind, found in _NAMED.findall(text) if kind == "set"}
    chains = [found for kind, found in present if kind == "chain"]
    maps = [found for kind, found in present if kind == "map"]
    lines = [f"table bridge {name}"]
    lines += [f"flush chain bridge {name} {one}" for one in chains]
    lines += [f"delete map bridge {name} {one}" for one in maps]
    lines += [f"delete chain bridge {name} {one}" for one in chains]
    lines += [f"delete set bridge {name} {one}" for kind, one in present if kind == "set" and one not in stays]
    return "".join(f"{line}\n" for line in lines) + text


def _beside(uid: str, present: Names, text: str) -> str:
    """The transaction that adds `text` to what is there: a chain of the same name is another now, all else stays."""
    name, wanted = table_of(uid), set(_NAMED.findall(text))
    lines = [f"table bridge {name}"]
    lines += [f"flush chain bridge {name} {one}" for kind, one in present if kind == "chain" and (kind, one) in wanted]
    return "".join(f"{line}\n" for line in lines) + text


def ruleset(
    uid: str, ports: Sequence[Port], known: Collection[Prefix], groups: Mapping[str, Sequence[FirewallRule]]
) -> str:
    """The table as `nft -f` takes it. A group that is not among `groups` lets nothing through."""
    ports = sorted(ports, key=lambda one: one.tap)
    guarded = [one for one in ports if not one.free]
    fenced = [one for one in ports if one.groups is not None]
    everybody = {*known, *(ipaddress.ip_network(one) for port in ports for one in (port.link_local, *port.made))}
    leaving = {one.tap: f"goto leaves_{one.tap}" for one in fenced}
    leaving |= {one.tap: f"goto sent_{one.tap}" for one in guarded}
    body = [
        nft.verdicts("leaving", leaving),
        nft.verdicts("coming", {one.tap: f"goto comes_{one.tap}" for one in fenced}),
        guards.routers(),
        nft.hooked("left", "prerouting", "iifname vmap @leaving", guards.HEARD_OF_ROUTERS),
        *([nft.hooked("came", "postrouting", "oifname vmap @coming")] if fenced else []),  # it costs each packet
        *guards.claims(everybody),
        *passages.shared((name for one in fenced for name in one.groups or ()), groups),
    ]
    for port in guarded:
        body += guards.of(port)
    for port in fenced:
        body += passages.of(port.tap, port.groups or (), groups)
    return f"table bridge {table_of(uid)} {{\n{''.join(body)}}}\n"
