"""What the planner needs to know for one request: only what the request names is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from bocage import words
from bocage.api import calls, index, systems
from bocage.model import base, device_requests, ground, requests, vm
from bocage.model.firewall import FirewallGroup
from bocage.planner import definition, forewarned, layers, onlun, parts, profiles
from bocage.store import resources

R = TypeVar("R", bound=base.Resource[Any, Any])


async def for_vm(call: calls.Call, project: str, request: requests.VMCreate) -> tuple[parts.Facts, list[words.Message]]:
    """For a new VM, and what is to be said of them. What is not there is left out, for the planner to say so.

    Raises profiles.NoSuchOs and guest.osinfo.NotInstalled.
    """
    system, said = profiles.find(request.os, await systems.known()) if request.os else (None, None)
    held = await call.api.index.fresh()
    storage = _standing(held, ground.Storage, None, [request.storage])
    images = [*request.cds, *request.floppies, *([request.image] if request.image is not None else [])]
    known = parts.Facts(
        system=system,
        host=await host_of(call, storage.get(request.storage)),
        hosts=held.ground.every(ground.Host),
        storage=storage,
        images=_standing(held, ground.Image, project, images),
        networks=_standing(held, ground.Network, project, (nic.network for nic in request.nics)),
        groups=_groups(held, project, (name for nic in request.nics for name in nic.firewall)),
        volumes=(volumes := await _volumes(call, project, request.disks)),
        keepers=_keepers(held, volumes),
        macs=held.macs,
        smbios_uuids=held.smbios_uuids,
        users=held.users,
    )
    return known, [said] if said else []


async def for_disk(call: calls.Call, machine: vm.VM, request: device_requests.DiskRequest) -> parts.Facts:
    """For one more disk."""
    storage = await call.resources.get(ground.Storage, None, machine.spec.storage)
    held = await call.api.index.fresh()
    own = (await call.resources.list(ground.Volume, machine.metadata.project, holding=machine.uid)).items
    return parts.Facts(
        host=await host_of(call, storage),
        storage={storage.name: storage},
        files=set().union(*(layers.disks_of(one.spec) for one in own if one.spec.vm == machine.uid)),
        volumes=(volumes := await _volumes(call, machine.metadata.project or "", [request])),
        keepers=_keepers(held, volumes),
        users=held.users,
    )


async def for_nic(call: calls.Call, machine: vm.VM, network: str | None, groups: Iterable[str] = ()) -> parts.Facts:
    """For one more NIC, or one on another network."""
    storage = await call.resources.get(ground.Storage, None, machine.spec.storage)
    held = await call.api.index.fresh()
    names = [network] if network is not None else []
    return parts.Facts(
        host=await host_of(call, storage),
        storage={storage.name: storage},
        networks=await _named(call, ground.Network, machine.metadata.project, names),
        groups=_groups(held, machine.metadata.project, groups),
        macs=held.macs,
    )


async def warnings_of_room(call: calls.Call, made: definition.Definition) -> list[words.Message]:
    """What to know of the storage that the volumes of a definition are made on."""
    held, uid = await call.api.index.fresh(), made.vm.spec.storage
    return forewarned.of_room(held.ground.get(ground.Storage, None, uid), held.provisioned(uid), made.volumes)


async def host_of(call: calls.Call, storage: ground.Storage | None) -> ground.Host:
    """The host that reaches a storage; this one when there is none. Raises resources.Missing."""
    if storage is None:
        return await call.api.this_host()
    uid = call.api.reaching(storage)
    held = call.api.index.ground.get(ground.Host, None, uid) if uid else None
    return held or (await call.resources.get(ground.Host, None, uid) if uid else await call.api.this_host())


async def storage_named(call: calls.Call, name: str) -> ground.Storage:
    """A storage that a request names for files. Raises parts.NoSuch, parts.StorageUnavailable and onlun.NotThere."""
    storage = parts.named(await _named(call, ground.Storage, None, [name]), "storage", name)
    onlun.refuse(storage, "file")
    if storage.status.state == "unavailable":
        raise parts.StorageUnavailable(storage=name)
    return storage


async def check_networks(call: calls.Call, project: str, names: Iterable[str]) -> None:
    """Raise parts.NoSuch for a network that a request names and that is not there."""
    names = list(names)
    known = await _named(call, ground.Network, project, names)
    for name in names:
        parts.named(known, "network", name)


def only_one_may_have(request: requests.VMCreate) -> bool:
    """Whether it asks for something that no other VM may have."""
    return (
        request.smbios.uuid is not None
        or any(nic.mac for nic in request.nics)
        or any(disk.volume is not None for disk in request.disks)
    )


def _groups(held: index.Index, project: str | None, names: Iterable[str]) -> set[str]:
    """Those firewall groups that are there."""
    return {name for name in names if held.ground.named(FirewallGroup, project, name)}


def _standing(held: index.Index, cls: type[R], project: str | None, names: Iterable[str]) -> dict[str, R]:
    found = {name: held.ground.named(cls, project, name) or held.ground.get(cls, project, name) for name in names}
    return {name: one for name, one in found.items() if one is not None}


def _keepers(held: index.Index, volumes: Mapping[str, ground.Volume]) -> dict[str, str]:
    return {one.uid: keeper for one in volumes.values() if (keeper := held.keeper(one.uid))}


async def _volumes(
    call: calls.Call, project: str, disks: Iterable[device_requests.DiskRequest]
) -> dict[str, ground.Volume]:
    return await _named(call, ground.Volume, project, (disk.volume for disk in disks if disk.volume is not None))


async def _named(call: calls.Call, cls: type[R], project: str | None, names: Iterable[str]) -> dict[str, R]:
    found: dict[str, R] = {}
    for name in dict.fromkeys(names):
        try:
            found[name] = await call.resources.find(cls, project, name)
        except resources.Missing:
            continue
    return found
