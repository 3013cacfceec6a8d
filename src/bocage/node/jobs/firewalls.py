"""Firewall groups: their rules are put in force on every NIC that refers to them."""

from __future__ import annotations

import contextlib

from bocage import errors
from bocage.model import base, firewall, vm, work
from bocage.node import tasks
from bocage.node.shop import Shop
from bocage.store import resources


async def change(shop: Shop, run: tasks.Run) -> None:
    """Put a group's present rules in force; when the kernel refuses them, those before them stay and it is said."""
    subject, kept = run.task.spec.subject, shop.ground.resources
    assert subject
    try:
        group = await kept.get(firewall.FirewallGroup, subject.project, subject.uid)
    except resources.Missing:
        return
    try:
        await shop.wires.refence(subject.project, group.name)
    except errors.Problem as problem:
        reason = base.Saying.of(problem)
        failed = firewall.FirewallGroupStatus(state="failed", reason=reason)
        await kept.change_status(firewall.FirewallGroup, subject.project, subject.uid, lambda _: failed)
        raise
    await kept.change_status(
        firewall.FirewallGroup, subject.project, subject.uid, lambda _: firewall.FirewallGroupStatus()
    )
    await _define(shop, group)


async def follow(shop: Shop, task: work.Task) -> None:
    """What another host was asked to put in force, this one does as well, for what runs here."""
    subject = task.spec.subject
    assert subject
    with contextlib.suppress(resources.Missing):
        group = await shop.ground.resources.get(firewall.FirewallGroup, subject.project, subject.uid)
        await shop.wires.refence(subject.project, group.name)
        await _define(shop, group)


async def _define(shop: Shop, group: firewall.FirewallGroup) -> None:
    """The definitions of this host's VMs say the present rules."""
    for machine in (await shop.ground.resources.list(vm.VM, group.metadata.project)).items:
        mine = machine.status.ready and machine.status.host == shop.ground.uid
        if mine and any(group.name in nic.firewall for nic in machine.spec.nics):
            with contextlib.suppress(errors.Problem, OSError):  # its storage may be away: it is written when it is back
                await shop.preparation.write_definition(machine)
