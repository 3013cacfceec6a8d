"""Gives every new VM to a host, on the one that leads. With one host there is nobody to lead but itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Mapping
from typing import Protocol

from bocage import errors
from bocage.model import ground, keys, policy, vm
from bocage.planner import placement, snapshot
from bocage.store import contract, resources

log = logging.getLogger(__name__)

_RETRY, _LONGEST_RETRY = 1.0, 30.0  # seconds before a store that failed is asked again
_GROUND = (ground.Host.kind, ground.Storage.kind)


class Leads(Protocol):
    """Whether this host leads."""

    async def begun(self) -> None:
        """Wait until it does."""
        ...

    async def over(self) -> None:
        """Wait until it does no more."""
        ...

    @property
    def compare(self) -> Mapping[str, int]:
        """What shows in a transaction that it still does: revisions by key."""
        ...

    def fit(self, hosts: Iterable[str]) -> set[str]:
        """Which of these hosts can be given VMs, by uid."""
        ...


class Alone:
    """One host."""

    compare: Mapping[str, int] = {}

    async def begun(self) -> None:
        return

    async def over(self) -> None:
        await asyncio.Event().wait()

    def fit(self, hosts: Iterable[str]) -> set[str]:
        return set(hosts)


class Leader:
    """Sees new VMs and writes their owner records."""

    def __init__(self, store: resources.Resources, leads: Leads | None = None) -> None:
        self._resources = store
        self._leads = leads or Alone()
        self._unplaced: dict[str, str] = {}  # project by uid: VMs that no host took

    async def run(self) -> None:
        """Work until cancelled, whenever this host leads; a store that fails for a while only delays it."""
        retry = _RETRY
        while True:
            await self._leads.begun()
            try:
                revision = await self._look_at_all()
                retry = _RETRY
                await self._follow_while_leading(revision)
            except contract.Closed:
                raise
            except contract.Compacted:
                continue
            except errors.Problem as problem:
                log.warning("the store: %s", problem)
                await asyncio.sleep(retry)
                retry = min(retry * 2, _LONGEST_RETRY)

    async def _follow_while_leading(self, revision: int) -> None:
        following, over = asyncio.create_task(self._follow(revision)), asyncio.create_task(self._leads.over())
        try:
            await asyncio.wait([following, over], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (following, over):
                task.cancel()
            await asyncio.wait([following, over])
        if not following.cancelled():
            following.result()

    async def _look_at_all(self) -> int:
        listing = await self._resources.list(vm.VM, trash=True)
        self._unplaced.clear()
        for machine in listing.items:
            if _is_new(machine):
                await self._place(machine)
        return listing.revision

    async def _follow(self, revision: int) -> None:
        watch = self._resources.store.watch(keys.ROOT + "/", since=revision)
        async with contextlib.aclosing(watch) as changes:
            async for batch in changes:
                for change in batch:
                    await self._see(change)

    async def _see(self, change: contract.Change) -> None:
        entry, kind = change.entry, keys.kind_of(change.key)
        if not change.key.endswith("/spec") and kind not in _GROUND:
            return
        if kind == vm.VM.kind and entry is not None:
            uid = keys.uid_of(change.key)
            if entry.created == change.revision or uid in self._unplaced:
                await self._look_at(change.key.removeprefix(keys.prefix(kind)).split("/")[0], uid)
        elif kind == vm.VM.kind or kind in _GROUND:  # one goes, or the ground changes: others may find a host
            for uid, project in list(self._unplaced.items()):
                await self._look_at(project, uid)

    async def _look_at(self, project: str, uid: str) -> None:
        self._unplaced.pop(uid, None)
        with contextlib.suppress(resources.Missing, resources.Damaged):
            machine = await self._resources.get(vm.VM, project, uid)
            if _is_new(machine):
                await self._place(machine)

    async def _place(self, machine: vm.VM) -> None:
        hosts = (await self._resources.list(ground.Host)).items
        fit = self._leads.fit(host.uid for host in hosts)
        hosts = [host for host in hosts if host.uid in fit]
        storages = (await self._resources.list(ground.Storage)).items
        networks = (await self._resources.list(ground.Network)).items
        others = [one for one in (await self._resources.list(vm.VM)).items if one.status.host in fit]
        entry = await self._resources.store.get(policy.KEY)
        survive = policy.read(entry.value if entry else None).among(len(hosts))
        world = snapshot.world(hosts, storages, networks, others, survive=survive)
        volumes = await self._resources.list(ground.Volume, machine.metadata.project)
        images = await self._resources.list(ground.Image, machine.metadata.project)
        beside: list[ground.Volume | ground.Image] = [*volumes.items, *images.items]
        if (near := _host_of_source(machine, volumes.items, others)) is not None:
            world = snapshot.world([one for one in hosts if one.uid == near], storages, networks, others)
        asked = snapshot.asked(machine, hosts, storages, networks, beside=beside)
        decided = placement.place(asked, world)
        if decided.host is None:  # a host that lacks room only may have it: its start is refused with the numbers
            decided = placement.place(asked.model_copy(update={"running": False}), world)
        if decided.host is None:
            self._unplaced[machine.uid] = machine.metadata.project or ""
            reasons = [reason.text for verdict in decided.verdicts for reason in verdict.reasons]
            log.warning("%s has no host: %s", machine.name, "; ".join(reasons or [decided.because.text]))
            return
        host = next(one for one in hosts if one.name == decided.host)
        transaction = resources.Transaction(compare=dict(self._leads.compare))
        transaction.set_owner(machine, vm.Owner(host=host.uid, generation=1), expected=0)
        with contextlib.suppress(resources.Changed, resources.Missing, contract.Mismatch):
            await self._resources.commit(transaction)


def _host_of_source(machine: vm.VM, volumes: Iterable[ground.Volume], others: Iterable[vm.VM]) -> str | None:
    """The host of the VM whose disks a new one is copied from: who copies them must know whether that one writes."""
    mine = {disk.volume for disk in machine.spec.disks}
    sources = {one.spec.source for one in volumes if one.uid in mine and one.spec.source}
    keepers = {one.spec.vm for one in volumes if one.uid in sources}
    for other in others:
        if other.uid in keepers or any(disk.volume in sources for disk in other.spec.disks):
            return other.status.host
    return None


def _is_new(machine: vm.VM) -> bool:
    """Whether nobody has ever owned it. One that was taken from a dead host is not given here."""
    return machine.status.host is None and machine.status.owner_generation == 0
