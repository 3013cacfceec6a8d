"""Which host a VM is to live on. The owner record that follows from it is the placement."""

from __future__ import annotations

import dataclasses

from bocage import words
from bocage.model import ground, vm
from bocage.words import N_


class Refused(words.Message):
    """Why a host does not take a VM."""


class StorageElsewhere(Refused):
    type = "host-lacks-storage"
    text = N_("{host} does not reach the storage {storage}")
    host: str
    storage: str


class NoSuchStorage(Refused):
    type = "storage-unknown"
    text = N_("the storage of {vm} is not known")
    vm: str


@dataclasses.dataclass(frozen=True, slots=True)
class World:
    hosts: tuple[ground.Host, ...]
    storages: dict[str, ground.Storage]  # by uid


@dataclasses.dataclass(frozen=True, slots=True)
class Placement:
    host: str  # uid


def place(machine: vm.VM, world: World) -> Placement | list[Refused]:
    """Choose a host for a VM that nobody owns; else why each host was refused."""
    storage = world.storages.get(machine.spec.storage)
    if storage is None:
        return [NoSuchStorage(vm=machine.name)]
    refusals: list[Refused] = []
    for host in world.hosts:
        if storage.spec.host == host.uid:
            return Placement(host.uid)
        refusals.append(StorageElsewhere(host=host.name, storage=storage.name))
    return refusals
