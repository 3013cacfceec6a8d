"""Networks of this host: made at once, so that what the machine lacks is said then and not at a VM's start."""

from __future__ import annotations

import contextlib
from typing import Any

from bocage import errors
from bocage.model import ground, vm
from bocage.node import tasks
from bocage.node.shop import Shop
from bocage.planner import usage
from bocage.store import resources


class Error(errors.Problem):
    """Anything that goes wrong with networks on this host."""


async def create(shop: Shop, run: tasks.Run) -> dict[str, Any]:
    """Make a network; when the machine cannot, the resource goes again and the task says why."""
    network = await _subject(shop, run)
    try:
        await shop.wires.check(network)
        if network.spec.kind == "bridge":
            await shop.wires.begin(network)
        await shop.wires.ensure(network)
    except errors.Problem:
        with contextlib.suppress(errors.Problem):  # what could not be made cannot always be looked for
            await shop.wires.remove(network)
        await _forget(shop, network)
        raise
    return {"network": network.name}


async def confirm(shop: Shop, run: tasks.Run) -> dict[str, Any]:
    """Let a network stay on the NIC that it was put onto."""
    network = await _subject(shop, run)
    await shop.wires.confirm(network)
    return {"network": network.name}


async def delete(shop: Shop, run: tasks.Run) -> None:
    """Take a network down that no VM has."""
    try:
        network = await _subject(shop, run)
    except resources.Missing:
        return
    machines = (await shop.ground.resources.list(vm.VM, network.metadata.project, trash=True)).items
    if users := usage.of_network(network, machines):
        raise usage.NetworkInUse(name=network.name, users=users)
    await shop.wires.remove(network)
    await _forget(shop, network)


async def _forget(shop: Shop, network: ground.Network) -> None:
    await shop.ground.resources.delete(
        await shop.ground.resources.get(ground.Network, network.metadata.project, network.uid)
    )


async def _subject(shop: Shop, run: tasks.Run) -> ground.Network:
    subject = run.task.spec.subject
    assert subject
    return await shop.ground.resources.get(ground.Network, subject.project, subject.uid)
