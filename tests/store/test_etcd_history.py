"""What many clients of three members saw, while these are killed and frozen, is what one register for each key does.

Beyond that: nothing acknowledged is lost, nothing is written twice, what failed is not there, every watch told all.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import os
import random
import time
from typing import Any

import pytest

from bocage.store import contract
from bocage.store.etcd import engine
from tests.store import linear, members, trouble
from tests.store.conformance import following

KEYS = ("a", "b", "c", "d")
CLIENTS = 3
WORKERS = 2  # of each client
SECONDS = 120.0 if os.environ.get("BOCAGE_TEST_EVERY") else 15.0

pytestmark = [pytest.mark.slow, pytest.mark.fault]


@dataclasses.dataclass
class History:
    """What was asked and answered, as it was seen."""

    operations: dict[str, list[linear.Operation]] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(list)
    )
    revisions: dict[str, int] = dataclasses.field(default_factory=dict)  # of each value that was acknowledged
    refused: set[str] = dataclasses.field(default_factory=set)
    unsettled: set[str] = dataclasses.field(default_factory=set)
    spans: list[float] = dataclasses.field(default_factory=list)


class Worker:
    """One who reads and writes, one operation after the other."""

    def __init__(self, name: str, store: engine.EtcdStore, history: History, dice: random.Random) -> None:
        self._name, self._store, self._history, self._dice = name, store, history, dice
        self._count = 0

    async def work(self, until: float) -> None:
        while time.monotonic() < until:
            await self._dice.choice([self._read, self._write, self._exchange, self._exchange, self._delete])()

    def _value(self) -> str:
        self._count += 1
        return f"{self._name}.{self._count}"

    def _saw(self, key: str, operation: linear.Operation) -> None:
        self._history.spans.append(time.monotonic() - operation.begin)
        self._history.operations[key].append(dataclasses.replace(operation, client=self._name))

    async def _read(self) -> contract.Entry | None:
        return await self._get(self._dice.choice(KEYS))

    async def _get(self, key: str) -> contract.Entry | None:
        begin = time.monotonic()
        entry = await self._store.get(key)
        seen = entry.value.decode() if entry else None
        self._saw(key, linear.Operation("read", begin, time.monotonic(), seen))
        return entry

    async def _write(self) -> None:
        key, value, begin = self._dice.choice(KEYS), self._value(), time.monotonic()
        done = await self._apply(value, puts={key: value.encode()})
        if done is not False:
            self._saw(key, linear.Operation("write", begin, self._end(done), value))

    async def _exchange(self) -> None:
        """Read, then write if it is still the same: a value has one revision, and none has the same value twice."""
        key = self._dice.choice(KEYS)
        entry = await self._get(key)
        expected, revision = (entry.value.decode(), entry.revision) if entry else (None, 0)
        value, begin = self._value(), time.monotonic()
        try:
            done = await self._apply(value, compare={key: revision}, puts={key: value.encode()})
        except contract.Mismatch:
            self._saw(key, linear.Operation("exchange", begin, time.monotonic(), value, expected, done=False))
            self._history.refused.add(value)
        else:
            if done is not False:
                self._saw(key, linear.Operation("exchange", begin, self._end(done), value, expected, done))

    async def _delete(self) -> None:
        key, begin = self._dice.choice(KEYS), time.monotonic()
        done = await self._apply("", deletes=[key])
        if done is not False:
            self._saw(key, linear.Operation("write", begin, self._end(done), None))

    async def _apply(self, value: str, **wish: Any) -> bool | None:
        """Whether it was written; None when nobody knows."""
        try:
            revision = await self._store.apply(**wish)
        except contract.Unsettled:
            self._history.unsettled.add(value)
            return None
        except contract.Failed:  # never sent
            self._history.refused.add(value)
            return False
        if value:
            self._history.revisions[value] = revision
        return True

    def _end(self, done: bool | None) -> float:
        return time.monotonic() if done else linear.NEVER


async def told(store: contract.Store, until: int) -> list[contract.Change]:
    """All changes up to a revision, as a watch from the first one tells them."""
    watch, changes = store.watch("", since=0), list[contract.Change]()
    while not changes or changes[-1].revision < until:
        changes += await following(watch)
    await watch.aclose()
    return changes


@pytest.mark.parametrize("patience", [10.0, 0.5], ids=["patient", "impatient"])
async def test_what_many_saw_can_have_happened_in_one_order(dice, monkeypatch, patience):
    monkeypatch.setattr(engine, "PATIENCE", patience)
    history = History()
    with members.cluster(3, members.QUICK) as made, trouble.making(made, dice) as troubles:
        root = members.new_root()
        await members.found(made.access(), root)
        stores = [await members.opened(made.access(first=n), root, client=f"client{n}") for n in range(CLIENTS)]
        watching = [asyncio.ensure_future(watch_all(store)) for store in stores]
        until = time.monotonic() + SECONDS
        workers = [
            Worker(f"w{n}.{m}", store, history, random.Random(dice.random()))
            for n, store in enumerate(stores)
            for m in range(WORKERS)
        ]
        await asyncio.gather(*(worker.work(until) for worker in workers))
        await asyncio.to_thread(troubles.stop)
        monkeypatch.undo()
        last = await stores[0].apply(puts={"end": b""})
        everything = await told(stores[0], last)
        for seen in await asyncio.gather(*watching):
            assert seen == everything
        for store in stores:
            await store.close()
    voids = sum(len(store._pen.voids) for store in stores)
    print(
        f"{', '.join(troubles.log)}: {len(history.spans)} operations, the longest {max(history.spans):.2f} s,"
        f" {len(history.unsettled)} unsettled, {voids} made void"
    )
    check_writes(history, everything)
    for key, operations in history.operations.items():
        assert linear.explain(operations) is not None, f"{key}: {operations}"


async def watch_all(store: contract.Store) -> list[contract.Change]:
    """What a watch tells from the first change to that of the key `end`, through all trouble."""
    changes: list[contract.Change] = []
    async for item in store.watch("", since=0):
        changes += item
        if changes[-1].key == "end":
            break
    return changes


def check_writes(history: History, everything: list[contract.Change]) -> None:
    """Each acknowledged value was written once, at its revision; an unsettled one once at most; others never."""
    found: dict[str, list[int]] = collections.defaultdict(list)
    for change in everything:
        if change.entry and change.key != "end":
            found[change.entry.value.decode()].append(change.revision)
    assert {value: [revision] for value, revision in history.revisions.items()} == {
        value: revisions for value, revisions in found.items() if value not in history.unsettled
    }
    assert all(len(revisions) == 1 for revisions in found.values())
    assert not found.keys() & history.refused
