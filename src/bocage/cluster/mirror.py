"""What the leader decides on, kept up by a watch: hosts, what VMs stand on, VMs, and what it has written itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any, TypeVar

from bocage.model import base, failover, ground, keys, vm, work
from bocage.store import contract, held, resources

log = logging.getLogger(__name__)

_DECIDES = (vm.VM.kind, ground.Host.kind, ground.Storage.kind, ground.Network.kind)
_BESIDE = (ground.Volume.kind, ground.Image.kind)
_SETTING = "setting"
_KINDS = (*_DECIDES, *_BESIDE, work.Alarm.kind, failover.Failover.kind, _SETTING)

R = TypeVar("R", bound=base.Resource[Any, Any])


class Mirror:
    """The store's resources of these kinds, as of `revision`; `run` must be under way."""

    def __init__(self, store: contract.Store) -> None:
        self._store = store
        self._held = held.Held()
        self._settings: dict[str, bytes] = {}
        self._projects: dict[str, str] = {}  # of VMs, by uid
        self.revision = 0
        self.changed = 0  # the revision at which anything changed that a placement depends on
        self.whole = asyncio.Event()

    async def run(self) -> None:
        """Follow the store until cancelled. Raises what the store does; a watch that is too slow reads all anew."""
        while True:
            with contextlib.suppress(contract.Compacted):
                await self._read()
                async with contextlib.aclosing(self._store.watch(keys.ROOT + "/", since=self.revision)) as changes:
                    async for batch in changes:
                        self._take(batch)

    def every(self, cls: type[R]) -> list[R]:
        """All of a kind; what is damaged is left out."""
        found = (self.get(cls, uid, project) for project, uid in self._held.known(cls))
        return [one for one in found if one is not None]

    def get(self, cls: type[R], uid: str, project: str | None = None) -> R | None:
        """By uid; None also for what is damaged."""
        try:
            return self._held.get(cls, project, uid)
        except resources.Damaged:
            return None

    def machine(self, uid: str) -> vm.VM | None:
        """A VM by its uid alone."""
        project = self._projects.get(uid)
        return None if project is None else self.get(vm.VM, uid, project)

    def setting(self, key: str) -> bytes | None:
        """One setting of the installation."""
        return self._settings.get(key)

    def owned_since(self, machine: vm.VM) -> int:
        """The revision of its owner record; 0 where it has none."""
        return self._held.revision(keys.owner(machine.metadata.project or "", machine.uid))

    async def _read(self) -> None:
        pages = [await self._store.list(keys.prefix(_KINDS[0]))]
        pages += [await self._store.list(keys.prefix(kind), at=pages[0].revision) for kind in _KINDS[1:]]
        self._held.clear()
        self._settings.clear()
        for page in pages:
            for entry in page.entries:
                self._put(entry)
        self.revision = self.changed = pages[0].revision
        self.whole.set()

    def _take(self, batch: list[contract.Change]) -> None:
        for change in batch:
            kind = keys.kind_of(change.key)
            if kind not in _KINDS:
                continue
            if change.entry is None:
                self._held.forget(change.key)
                self._settings.pop(change.key, None)
            else:
                self._put(change.entry)
            if kind in _DECIDES:
                self.changed = change.revision
        self.revision = batch[-1].revision

    def _put(self, entry: contract.Entry) -> None:
        if keys.kind_of(entry.key) == _SETTING:
            self._settings[entry.key] = entry.value
            return
        if keys.kind_of(entry.key) == vm.VM.kind:
            self._projects[keys.uid_of(entry.key)] = entry.key.removeprefix(keys.prefix(vm.VM.kind)).split("/")[0]
        try:
            self._held.put(entry)
        except (ValueError, KeyError, TypeError):
            log.exception("%s cannot be read", entry.key)
            self._held.forget(entry.key)
