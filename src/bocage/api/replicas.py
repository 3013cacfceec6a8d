"""The replica that a VM is to have on another host, as somebody asks for it."""

from __future__ import annotations

from bocage.api import calls
from bocage.model import ground, requests, vm
from bocage.planner import definition, replicas


async def wanted(call: calls.Call, machine: vm.VM, patch: requests.VMPatch) -> dict[str, vm.Replica | None]:
    """The fields of the spec that a patch means. Raises replicas.Error and resources.Missing."""
    asked = patch.replica
    if asked is None:
        return {}
    if isinstance(asked, str):
        return {"replica": None}
    host = await call.resources.find(ground.Host, None, asked.host)
    storages = (await call.resources.list(ground.Storage)).items
    chosen = replicas.chosen(machine, host, asked.storage, storages, mode=asked.mode)
    project = machine.metadata.project
    volumes = [await call.resources.get(ground.Volume, project, disk.volume) for disk in machine.spec.disks]
    for obstacle in replicas.obstacles(definition.change(machine, patch), volumes):
        raise obstacle
    return {"replica": chosen}
