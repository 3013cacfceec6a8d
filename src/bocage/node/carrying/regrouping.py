"""The firewall groups of a VM that comes in: those of that name here, or made again as they were.

A definition refers to them by name, and means the one of that name wherever it is: `web` here is `web` there.
"""

from __future__ import annotations

from collections.abc import Iterable

from bocage.model import base, firewall
from bocage.node.shop import Shop
from bocage.store import resources


async def make(shop: Shop, wanted: Iterable[firewall.FirewallGroup], project: str) -> list[firewall.FirewallGroup]:
    """Make those that are not here, with an identity of their own; returns them."""
    made = []
    for one in wanted:
        about = one.metadata
        group = firewall.FirewallGroup(
            metadata=base.Metadata(
                name=about.name, project=project, title=about.title, notes=about.notes, tags=about.tags
            ),
            spec=one.spec,
        )
        try:
            await shop.ground.resources.create(group)
        except resources.NameTaken:
            continue
        made.append(group)
    return made


async def forget(shop: Shop, made: Iterable[firewall.FirewallGroup]) -> None:
    """Take them away again: the VM could not come in."""
    for one in made:
        try:
            present = await shop.ground.resources.get(firewall.FirewallGroup, one.metadata.project, one.uid)
        except resources.Missing:
            continue
        await shop.ground.resources.delete(present)
