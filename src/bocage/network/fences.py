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
_REFERS = re.compile(r"(?:\b(?:goto|jump) |@)([^\s,}]+)")


def table_of(uid: str) -> str:
    """The table, of the family `bridge`, of the network `uid`."""
    return base.table_of(uid)


async def apply(
    uid: str,
    ports: Sequence[Port],
    known: Collection[Prefix],
    groups: Mapping[str, Sequence[FirewallRule]],
    *,
    others: Collection[str] = (),
    present: Names | None = None,
) -> Names:
    """Have these ports held to their rules; what the table has then. What was in force stays when it is refused.

    `known` are the addresses that the network knows to be somebody's. `others`: taps beside these, whose rules stay as
    they are. `present`: what the table has by now, as far as is known. Raises base.Refused.
    """
    text = ruleset(uid, ports, known, groups)
    if present is not None and not others:
        with contextlib.suppress(base.Refused):  # somebody else may have changed it
            return await _replace(uid, present, text)
    listed = await _listed(uid)
    stays, elements = _of_others(uid, listed, others)
    return await _replace(uid, frozenset(_NAMED.findall(listed)), text + elements, stays)


async def _replace(uid: str, present: Names, text: str, stays: Names = frozenset()) -> Names:
    await base.run("nft", "-f", "-", stdin=_over(uid, present, text, stays))
    return frozenset(_NAMED.findall(text)) | stays


async def remove(uid: str) -> None:
    """Take the table away; not an error when there is none."""
    name = table_of(uid)
    await base.run("nft", "-f", "-", stdin=f"table bridge {name}\ndelete table bridge {name}\n")


async def tables() -> set[str]:
    """The names of all tables of the family `bridge`. Raises base.Refused."""
    listed = await base.run("nft", "list", "tables", "bridge")
    return {line.split()[-1] for line in listed.decode().splitlines() if line.startswith("table ")}


async def _listed(uid: str) -> str:
    if table_of(uid) not in await tables():
        return ""
    return (await base.run("nft", "--terse", "list", "table", "bridge", table_of(uid))).decode()


def _over(uid: str, present: Names, text: str, stays: Names) -> str:
    """The transaction from what is there to `text`: all goes, but for what `stays` and the sets that stay wanted.

    Of what stays, a chain that `text` has, too, is another now.
    """
    name, wanted = table_of(uid), frozenset(_NAMED.findall(text))
    goes = present - stays
    lines = [f"table bridge {name}"]
    lines += [f"flush map bridge {name} {one}" for kind, one in stays if kind == "map"]
    lines += [f"flush chain bridge {name} {one}" for kind, one in goes | (present & wanted) if kind == "chain"]
    lines += [f"delete map bridge {name} {one}" for kind, one in goes if kind == "map"]
    lines += [f"delete chain bridge {name} {one}" for kind, one in goes if kind == "chain"]
    lines += [f"delete set bridge {name} {one}" for kind, one in goes - wanted if kind == "set"]
    return "".join(f"{line}\n" for line in lines) + text


def _of_others(uid: str, listed: str, others: Collection[str]) -> tuple[Names, str]:
    """Of a table as it is listed: what the rules of these taps are made of, and what leads their packets there."""
    _, *parts = _NAMED.split(listed)
    kinds, bodies = dict(zip(parts[1::3], parts[::3], strict=True)), dict(zip(parts[1::3], parts[2::3], strict=True))
    led = {
        "leaving": {tap: next((to for to in (f"sent_{tap}", f"leaves_{tap}") if to in bodies), "") for tap in others},
        "coming": {tap: to for tap in others if (to := f"comes_{tap}") in bodies},
    }
    follow = [to for some in led.values() for to in some.values()] + (["left"] if others else [])
    follow += ["came"] if led["coming"] else []
    needed: set[str] = set()
    while follow:
        if (name := follow.pop()) in bodies and name not in needed:
            needed.add(name)
            follow += _REFERS.findall(bodies[name])
    elements = "".join(
        f'add element bridge {table_of(uid)} {into} {{ "{tap}" : goto {to} }}\n'
        for into, some in led.items()
        for tap, to in some.items()
        if to
    )
    return frozenset((kinds[one], one) for one in needed), elements


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
