"""What a VM's definition refers to, as it is called here: its file says so, for those who read it elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

from bocage.model import base, firewall, ground, vm
from bocage.store import resources


async def groups(kept: resources.Resources, machine: vm.VM) -> list[firewall.FirewallGroup]:
    """The firewall groups that its NICs refer to."""
    found = []
    for name in dict.fromkeys(name for nic in machine.spec.nics for name in nic.firewall):
        with contextlib.suppress(resources.Missing):
            found.append(await kept.find(firewall.FirewallGroup, machine.metadata.project, name))
    return found


async def things(
    kept: resources.Resources, machine: vm.VM, volumes: Iterable[ground.Volume]
) -> tuple[dict[str, str], tuple[ground.Network, ...]]:
    """What it refers to is called so now, by uid, images under disks by digest; and its networks."""
    names: dict[str, str] = {}
    networks: list[ground.Network] = []
    project = machine.metadata.project
    wanted: list[tuple[type[base.Resource[Any, Any]], str | None, str]] = [(ground.Storage, None, machine.spec.storage)]
    wanted += [(ground.Network, project, nic.network) for nic in machine.spec.nics]
    wanted += [(ground.Image, project, cd.image) for cd in machine.spec.cds if cd.image]
    for kind, of, uid in dict.fromkeys(wanted):
        with contextlib.suppress(resources.Missing):
            found = await kept.get(kind, of, uid)
            names[uid] = found.name
            networks += [found] if isinstance(found, ground.Network) else []
    linked = {volume.spec.image for volume in volumes if volume.spec.linked}
    if linked:
        images = (await kept.list(ground.Image, project)).items
        names |= {image.spec.sha256: image.name for image in images if image.spec.sha256 in linked}
    return names, tuple(networks)
