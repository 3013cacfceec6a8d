"""What many clients of three members saw, while these are killed and frozen, is what one register for each key does.

Beyond that: nothing acknowledged is lost, nothing is written twice, what failed is not there, every watch told all.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import itertools
import os
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from bocage.store import contract
from bocage.store.etcd import access, engine, gateway
from tests.store import lane, linear, members, trouble
from tests.store.conformance import following

KEYS = ("a", "b", "c", "d")
CLIENTS = 3
WORKERS = 2  # of each client
SECONDS = 120.0 if os.environ.get("BOCAGE_TEST_EVERY") else 10.0

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
    answered: dict[int, float] = dataclasses.field(default_factory=dict)  # when the writer of a revision knew it


class Worker:
    """One who reads and writes, one operation after the other."""

    def __init__(self, name: str, store: engine.EtcdStore, history: History, dice: random.Random) -> None:
        self._name, self._store, self._history, self._dice = name, store, history, dice
        self._count = 0

    async def work(self, until: float) -> None:
        while time.monotonic() < until:
            with contextlib.suppress(gateway.Silent):  # of a read
                await self._dice.choice([self._read, self._write, self._exchange, self._exchange, self._delete])()

    async def look_on(self, until: float) -> None:
        """Only read, all the time: what is stale is stale for a moment."""
        while time.monotonic() < until:
            with contextlib.suppress(gateway.Silent):
                await self._read()
            await asyncio.sleep(0.01)

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
            self._history.answered[revision] = time.monotonic()
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
async def test_what_many_saw_while_members_died_can_have_happened_in_one_order(dice, monkeypatch, voids, patience):
    monkeypatch.setattr(engine, "PATIENCE", patience)
    await see_through(3, dice, voids, (trouble.killed, trouble.frozen))


async def test_what_many_saw_while_members_were_cut_off_can_have_happened_in_one_order(dice, voids, seats):
    await see_through(seats, dice, voids, (trouble.cut, trouble.cut, trouble.muffled, trouble.unplugged))


async def test_what_many_saw_while_requests_and_answers_came_late_can_have_happened_in_one_order(
    dice, monkeypatch, voids
):
    monkeypatch.setattr(engine, "PATIENCE", 1.0)
    async with contextlib.AsyncExitStack() as stack:
        made = stack.enter_context(members.cluster(3, members.QUICK))
        lanes = [
            [await stack.enter_async_context(lane.lane(member.client)) for member in made.members]
            for _ in range(CLIENTS)
        ]
        holding = [asyncio.ensure_future(hold(own, random.Random(dice.random()))) for own in lanes]

        async def over() -> str:
            for task in holding:
                task.cancel()
            for one in itertools.chain(*lanes):
                one.open()
            return "requests and answers held"

        await see([access.Access(tuple(one.address for one in own)) for own in lanes], made.access(), dice, voids, over)


async def hold(lanes: Sequence[lane.Lane], dice: random.Random) -> None:
    """Hold back one client's requests or answers; what was held back is carried on, whoever still waits for it."""
    while True:
        some = dice.sample(lanes, dice.choice([1, 2, 3, 3]))
        for one in some:
            dice.choice([one.hold_requests, one.hold_requests, one.hold_answers])()
        await asyncio.sleep(dice.uniform(0.2, 1.5))
        for one in dice.sample(some, len(some)):
            one.open()
            await asyncio.sleep(dice.choice([0.0, 0.0, 0.3]))
        await asyncio.sleep(dice.uniform(0.0, 0.5))


async def see_through(
    at: int | Sequence[members.Seat], dice: random.Random, voids: list[int], deeds: Sequence[trouble.Deed]
) -> None:
    """As `see`, while such things are done to members."""
    with members.cluster(at, members.QUICK) as made, trouble.making(made, dice, deeds) as troubles:

        async def over() -> str:
            await asyncio.to_thread(troubles.stop)
            return ", ".join(troubles.log)

        await see([made.access(first=n) for n in range(CLIENTS)], made.access(), dice, voids, over)


async def see(
    ways: Sequence[access.Access],
    plain: access.Access,
    dice: random.Random,
    voids: list[int],
    over: Callable[[], Coroutine[Any, Any, str]],
) -> None:
    """A client for each way, at work until the trouble that is going on is over; then what they saw is checked."""
    history, root = History(), members.new_root()
    await members.found(plain, root)
    stores = [await members.opened(way, root, client=f"client{n}") for n, way in enumerate(ways)]
    lags: list[float] = []
    watching = [asyncio.ensure_future(watch_all(store, history, lags)) for store in stores]
    until = time.monotonic() + SECONDS
    workers = [
        Worker(f"w{n}.{m}", store, history, random.Random(dice.random()))
        for n, store in enumerate(stores)
        for m in range(WORKERS)
    ]
    onlookers = [Worker(f"o{n}", store, history, random.Random(dice.random())) for n, store in enumerate(stores)]
    await asyncio.gather(*(one.work(until) for one in workers), *(one.look_on(until) for one in onlookers))
    done = await over()
    last = await end(stores[0])
    everything = await told(stores[0], last)
    for seen in await asyncio.gather(*watching):
        assert seen == everything
    for store in stores:
        await store.close()
    print(
        f"{done}: {len(history.spans)} operations, the longest {max(history.spans):.2f} s,"
        f" told by a watch {max(lags):.2f} s after the writer at most,"
        f" {len(history.unsettled)} unsettled, {len(voids)} made void"
    )
    check_writes(history, everything)
    for key, operations in history.operations.items():
        said = "\n".join(map(str, sorted(operations, key=lambda one: one.begin)))
        assert linear.explain(operations) is not None, f"no order explains what was seen of {key}:\n{said}"


async def end(store: contract.Store) -> int:
    """The last write; not in vain, however impatient the store is."""
    while True:
        try:
            return await store.apply(compare={"end": 0}, puts={"end": b""})
        except contract.Mismatch as done:
            return done.found
        except (contract.Unsettled, contract.Failed):
            continue


async def watch_all(store: contract.Store, history: History, lags: list[float]) -> list[contract.Change]:
    """What a watch tells from the first change to that of the key `end`, and how long after the writer knew."""
    changes: list[contract.Change] = []
    async for item in store.watch("", since=0):
        now = time.monotonic()
        lags += [now - history.answered.get(change.revision, now) for change in item]
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
