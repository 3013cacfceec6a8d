"""What a host is asked to do beside its VMs, one noun a module. Each handler can be cut off and done again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from bocage.model import ground, work
from bocage.node import tasks
from bocage.node.jobs import adopt, draining, firewalls, hosts, images, networks, storages, templates, volumes
from bocage.node.shop import Shop

Job = Callable[[Shop, tasks.Run], Awaitable[dict[str, Any] | None]]

AT_ONCE = ("host.stop-vms", "host.start-vms", "host.drain")
"""What waits for no other job: a machine that goes down does not wait for long either."""
_NO_STORAGE = (*AT_ONCE, "network.create", "network.confirm", "network.delete", "firewall-group.change")
BY_ALL: dict[str, Callable[[Shop, work.Task], Coroutine[Any, Any, None]]] = {"firewall-group.change": firewalls.follow}
"""What all hosts do, though one alone is asked, and tells how it went."""
HANDLERS: dict[str, Job] = {
    "image.add": images.add,
    "image.build": images.build,
    "image.delete": images.delete,
    "template.create": templates.create,
    "template.delete": templates.delete,
    "volume.create": volumes.create,
    "volume.delete": volumes.delete,
    "volume.grow": volumes.grow,
    "storage.create": storages.create,
    "storage.delete": storages.delete,
    "storage.repair": storages.repair,
    "network.create": networks.create,
    "network.confirm": networks.confirm,
    "network.delete": networks.delete,
    "firewall-group.change": firewalls.change,
    "host.stop-vms": hosts.stop_vms,
    "host.start-vms": hosts.start_vms,
    "host.drain": draining.drain,
    "adopt": adopt.adopt,
    "vm.import": adopt.import_,
}


async def touched(shop: Shop, run: tasks.Run) -> list[str]:
    """The uids of the storages that a job may write to. Raises errors.Problem."""
    if run.action in _NO_STORAGE:
        return []
    if (named := run.params.get("storage")) and run.action != "adopt":
        return [str(named)]
    return [one.uid for one in (await shop.ground.resources.list(ground.Storage)).items]
