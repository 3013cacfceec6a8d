"""The leader: gives every VM that nobody owns to a host. With one host there is nobody to lead but itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from bocage import errors
from bocage.model import ground, keys, vm
from bocage.planner import placement, snapshot
from bocage.store import contract, resources

log = logging.getLogger(__name__)

_RETRY, _LONGEST_RETRY = 1.0, 30.0  # seconds before a store that failed is asked again
_GROUND = (ground.Host.kind, ground.Storage.kind)


class Leader:
    """Sees new VMs and writes their owner records."""

    def __init__(self, store: resources.Resources) -> None:
        self._resources = store
        self._unplaced: dict[str, str] = {}  # project by uid: VMs that no host took

    async def run(self) -> None:
        """Work until cancelled; a store that fails for a while only delays it."""
        retry = _RETRY
        while True:
            try:
                revision = await self._look_at_all()
                retry = _RETRY
                await self._follow(revision)
            except contract.Closed:
                raise
            except contract.Compacted:
                continue
            except errors.Problem as problem:
                log.warning("the store: %s", problem)
                await asyncio.sleep(retry)
                retry = min(retry * 2, _LONGEST_RETRY)

    async def _look_at_all(self) -> int:
        listing = await self._resources.list(vm.VM, trash=True)
        self._unplaced.clear()
        for machine in listing.items:
            if machine.status.host is None:
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
        if not change.key.endswith("/spec"):
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
            if machine.status.host is None:
                await self._place(machine)

    async def _place(self, machine: vm.VM) -> None:
        hosts = (await self._resources.list(ground.Host)).items
        storages = (await self._resources.list(ground.Storage)).items
        networks = (await self._resources.list(ground.Network)).items
        others = (await self._resources.list(vm.VM)).items if len(hosts) > 1 else []
        world = snapshot.world(hosts, storages, networks, others)
        asked = snapshot.asked(machine, hosts, storages, networks)
        decided = placement.place(asked, world)
        if decided.host is None:  # a host that lacks room only may have it: its start is refused with the numbers
            decided = placement.place(asked.model_copy(update={"running": False}), world)
        if decided.host is None:
            self._unplaced[machine.uid] = machine.metadata.project or ""
            reasons = [reason.text for verdict in decided.verdicts for reason in verdict.reasons]
            log.warning("%s has no host: %s", machine.name, "; ".join(reasons or [decided.because.text]))
            return
        host = next(one for one in hosts if one.name == decided.host)
        transaction = resources.Transaction()
        transaction.set_owner(machine, vm.Owner(host=host.uid, generation=1), expected=0)
        with contextlib.suppress(resources.Changed, resources.Missing):
            await self._resources.commit(transaction)
