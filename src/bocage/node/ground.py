"""What every part of the node works with."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import pathlib
from typing import Protocol

from bocage import home as homes
from bocage import words
from bocage.engine import base as engine
from bocage.model import ground as ground_model
from bocage.model import standstill, vm
from bocage.node import clustered, events, rights
from bocage.storage import images
from bocage.store import resources

_UNHURRIED = 1  # VM whose round nobody waits for, at a time


class Arrival(Protocol):
    """A VM that comes from another host while it runs."""

    async def taken(self, listener: engine.Listener) -> engine.Machine | None:
        """Its process, once the records say that it is this host's; None when it has not come to run here."""


@dataclasses.dataclass(slots=True)
class Ground:
    """One host's things: its home, its store, its engine."""

    home: homes.Home
    identity: homes.Identity
    resources: resources.Resources
    events: events.Events
    engine: engine.Engine
    accelerator: str = "tcg"
    accelerator_reason: words.Message | None = None
    qemu: str = ""  # the installed version
    boot_id: str = ""  # of the machine's present run
    rebooted: bool = False  # the machine was started anew since its VMs were last looked at
    cgroups: bool = True
    leave_from: int | None = None  # the autostart order from which on VMs are to be off, since this host goes down
    standstill: standstill.Standstill | None = None  # the cluster was shut down on purpose
    rights: rights.Rights = dataclasses.field(default_factory=rights.Alone)
    cluster: clustered.Cluster | None = None  # that this host is part of
    arrivals: dict[str, Arrival] = dataclasses.field(default_factory=dict)  # VMs on their way here
    replicas: dict[str, asyncio.Lock] = dataclasses.field(default_factory=lambda: collections.defaultdict(asyncio.Lock))
    """By VM: its files here are served as a replica, or are its disks, and never both."""
    libraries: dict[str, images.Library] = dataclasses.field(default_factory=dict)  # by storage
    unhurried: asyncio.Semaphore = dataclasses.field(default_factory=lambda: asyncio.Semaphore(_UNHURRIED))
    roots: dict[str, pathlib.Path] = dataclasses.field(default_factory=dict)  # by storage, which never moves

    @property
    def uid(self) -> str:
        """The host's."""
        return self.identity.uid

    def cgroup_of(self, vm_uid: str) -> str:
        """The control group of a VM; empty where there are none."""
        return f"bocage/{self.home.runtime.name}/{vm_uid}" if self.cgroups else ""

    def leaves(self, machine: vm.VM) -> bool:
        """Whether a VM is to be off because this host, or the whole cluster, is about to go down."""
        return (self.leave_from is not None and machine.spec.autostart.order >= self.leave_from) or self.stands(machine)

    def stands(self, machine: vm.VM) -> bool:
        """Whether a VM is to be off because the cluster was shut down on purpose."""
        return self.standstill is not None and self.standstill.holds(machine.uid)

    def library(self, storage: ground_model.Storage) -> images.Library:
        """The images of a storage: one library each, since it knows what is coming in just now."""
        if storage.uid not in self.libraries:
            self.libraries[storage.uid] = images.Library(pathlib.Path(storage.spec.path), host=self.opens_as(storage))
        return self.libraries[storage.uid]

    def opens_as(self, storage: ground_model.Storage) -> str:
        """What this host calls itself in a storage that others have open too; empty in one that it has alone."""
        return self.uid if storage.shared else ""

    def forget_storage(self, uid: str) -> None:
        """A storage was let go of; of its uid there may be one again, elsewhere."""
        self.roots.pop(uid, None)
        self.libraries.pop(uid, None)

    async def storage_root(self, uid: str) -> pathlib.Path:
        """Where a storage of this host lies; raises resources.Missing."""
        if uid not in self.roots:
            storage = await self.resources.get(ground_model.Storage, None, uid)
            self.roots[uid] = pathlib.Path(storage.spec.path)
        return self.roots[uid]
