"""What a host is asked to do beside its VMs, one noun a module. Each handler can be cut off and done again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from bocage.model import work
from bocage.node import tasks
from bocage.node.jobs import adopt, draining, firewalls, hosts, images, networks, storages, templates, volumes
from bocage.node.shop import Shop

Job = Callable[[Shop, tasks.Run], Awaitable[dict[str, Any] | None]]

AT_ONCE = ("host.stop-vms", "host.start-vms", "host.drain")
"""What waits for no other job: a machine that goes down does not wait for long either."""
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
