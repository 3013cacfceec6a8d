"""The protocol's records as they lie in the store, and the transactions that change them.

`/bocage/p1/KEY` holds a record as JSON. Owners are what the resources know already: a VM's own owner record.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Mapping
from typing import Any

import pydantic

from bocage.model import keys, vm
from bocage.protocol import records
from bocage.store import contract

log = logging.getLogger(__name__)

ROOT = "/bocage/p1/"
_OWNER = "owner/"
_MACHINES = keys.prefix(vm.VM.kind)
_REACH = 0.2  # seconds that the watch has to come as far as a read has shown the store to be; else all is read anew

_KINDS: Mapping[str, pydantic.TypeAdapter[Any]] = {
    records.CLUSTER: pydantic.TypeAdapter(records.Cluster),
    records.LEADER: pydantic.TypeAdapter(records.Leader),
    records.RULES: pydantic.TypeAdapter(records.Beat),
    "epoch": pydantic.TypeAdapter(records.Epoch),
    "beat": pydantic.TypeAdapter(records.Beat),
    "fence": pydantic.TypeAdapter(records.Fence),
    "report": pydantic.TypeAdapter(records.Report),
    "replica": pydantic.TypeAdapter(records.Replica),
}


def encoded(record: object) -> bytes:
    """A record as it is stored."""
    if isinstance(record, records.Owner):
        return vm.Owner(host=record.host, generation=record.generation, anew=record.anew).model_dump_json().encode()
    return pydantic.TypeAdapter(type(record)).dump_json(record)


def decoded(key: str, value: bytes) -> object:
    """The record that lies under a key of the protocol's; None for one that this version cannot read."""
    kind = key.split("/", 1)[0]
    try:
        if key.startswith(_OWNER):
            owner = vm.Owner.model_validate_json(value)
            return records.Owner(owner.host, owner.generation, owner.anew)
        return _KINDS[kind].validate_json(value) if kind in _KINDS else None
    except ValueError:
        log.exception("%s cannot be read", key)
        return None  # its revision stays: nothing is decided on it as if it were not there


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """All records as of one revision, by a read that was sent at `sent` (CLOCK_BOOTTIME)."""

    view: records.View
    sent: float
    revision: int


class Ledger:
    """The records of one store, kept up by a watch; `run` must be under way while they are read."""

    def __init__(self, store: contract.Store, incarnation: str) -> None:
        self.incarnation = incarnation
        self._store = store
        self._entries: dict[str, records.Entry] = {}
        self._projects: dict[str, str] = {}  # by VM
        self._revision = -1  # that the entries are as of
        self._moved = asyncio.Condition()

    async def run(self) -> None:
        """Follow the store until cancelled. Raises what the store does; a watch that is too slow reads all anew."""
        while True:
            with contextlib.suppress(contract.Compacted):
                await self._read_all()
                async with contextlib.aclosing(self._store.watch(keys.ALL, since=self._revision)) as changes:
                    async for batch in changes:
                        await self._take(batch)

    async def read(self) -> Seen:
        """The records as the majority has them now: as of a revision that was the newest after `sent`.

        Raises what the store does.
        """
        sent = time.clock_gettime(time.CLOCK_BOOTTIME)
        newest = await self._store.revision()
        async with self._moved:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_REACH):
                    await self._moved.wait_for(lambda: self._revision >= newest)
        if self._revision < newest:  # the newest one changed nothing, or the watch is behind
            with contextlib.suppress(contract.Compacted):
                await self._read_all()
        return Seen(records.View(dict(self._entries)), sent, self._revision)

    async def look_up(self, *keys: str) -> records.View:
        """These records alone, as the majority has them now; at once, where `read` may wait for the watch.

        Raises what the store does, and ValueError for the owner of a VM that is not known.
        """
        found = await asyncio.gather(*(self._store.get(self._place(key)) for key in keys))
        entries = {
            key: records.Entry(decoded(key, one.value), one.revision)
            for key, one in zip(keys, found, strict=True)
            if one is not None
        }
        return records.View(entries)

    async def write(self, transaction: records.Transaction) -> records.Answer:
        """What the store says to it. Raises contract.Failed and contract.Unsettled where it says nothing."""
        if transaction.incarnation != self.incarnation:
            return records.Refused(records.CLUSTER)
        compare = {self._place(key): revision for key, revision in transaction.compare.items()}
        puts = {self._place(key): encoded(record) for key, record in transaction.puts.items() if record is not None}
        deletes = [self._place(key) for key, record in transaction.puts.items() if record is None]
        try:
            return records.Applied(await self._store.apply(compare=compare, puts=puts, deletes=deletes))
        except contract.Mismatch as mismatch:
            return records.Refused(_key(mismatch.key) or mismatch.key)

    def _place(self, key: str) -> str:
        """Where it lies. Raises ValueError for the owner of a VM that is not known."""
        if not key.startswith(_OWNER):
            return ROOT + key
        machine = key.removeprefix(_OWNER)
        if machine not in self._projects:
            raise ValueError(f"there is no VM {machine}")
        return keys.owner(self._projects[machine], machine)

    async def _read_all(self) -> None:
        page = await self._store.list(ROOT)
        machines = await self._store.list(_MACHINES, at=page.revision)
        async with self._moved:
            if page.revision < self._revision:
                return
            self._entries.clear()
            for entry in [*page.entries, *machines.entries]:
                self._put(entry)
            self._revision = page.revision
            self._moved.notify_all()

    async def _take(self, batch: list[contract.Change]) -> None:
        async with self._moved:
            for change in batch:
                if change.revision <= self._revision:
                    continue
                if change.entry is not None:
                    self._put(change.entry)
                elif (key := _key(change.key)) is not None:
                    self._entries.pop(key, None)
            self._revision = max(self._revision, batch[-1].revision)
            self._moved.notify_all()

    def _put(self, entry: contract.Entry) -> None:
        key = _key(entry.key)
        if key is None:
            return
        if key.startswith(_OWNER):
            self._projects[key.removeprefix(_OWNER)] = entry.key.removeprefix(_MACHINES).split("/")[0]
        self._entries[key] = records.Entry(decoded(key, entry.value), entry.revision)


def _key(stored: str) -> str | None:
    """The protocol's key of what lies there; None where it is no record of its."""
    if stored.startswith(ROOT):
        return stored.removeprefix(ROOT)
    if stored.startswith(_MACHINES) and stored.endswith("/owner"):
        return _OWNER + keys.uid_of(stored)
    return None
