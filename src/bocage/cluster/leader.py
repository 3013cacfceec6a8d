"""The leader: gives every VM that nobody owns to a host. With one host there is nobody to lead but itself."""

from __future__ import annotations

import contextlib
import logging

from bocage import words
from bocage.model import ground, keys, vm
from bocage.planner import placement
from bocage.store import contract, resources

log = logging.getLogger(__name__)


class Leader:
    """Sees new VMs and writes their owner records."""

    def __init__(self, store: resources.Resources) -> None:
        self._resources = store

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            listing = await self._resources.list(vm.VM, trash=True)
            for machine in listing.items:
                if machine.status.host is None:
                    await self._place(machine)
            watch = self._resources.store.watch(keys.prefix(vm.VM.kind), since=listing.revision)
            with contextlib.suppress(contract.Compacted):
                async with contextlib.aclosing(watch) as changes:
                    async for batch in changes:
                        for change in batch:
                            if (
                                change.entry
                                and change.entry.created == change.revision
                                and change.key.endswith("/spec")
                            ):
                                await self._see(change)

    async def _see(self, change: contract.Change) -> None:
        project = change.key.removeprefix(keys.prefix(vm.VM.kind)).split("/")[0]
        with contextlib.suppress(resources.Missing):
            machine = await self._resources.get(vm.VM, project, keys.uid_of(change.key))
            if machine.status.host is None:
                await self._place(machine)

    async def _place(self, machine: vm.VM) -> None:
        hosts = await self._resources.list(ground.Host)
        storages = await self._resources.list(ground.Storage)
        world = placement.World(hosts=tuple(hosts.items), storages={storage.uid: storage for storage in storages.items})
        decided = placement.place(machine, world)
        if isinstance(decided, list):
            log.warning("%s has no host: %s", machine.name, "; ".join(map(words.say, decided)))
            return
        transaction = resources.Transaction()
        transaction.set_owner(machine, vm.Owner(host=decided.host, generation=1), expected=0)
        with contextlib.suppress(resources.Changed, resources.Missing):
            await self._resources.commit(transaction)
