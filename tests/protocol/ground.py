"""A simulated ground: true time, a store, an array and BMCs. Each may be late, and may do what its client gave up."""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import random
from collections.abc import Callable
from typing import Any

from bocage.protocol import census, records

DRAIN = 2.4  # seconds that a write may lie in the array's queue, at most


NOT_COMPARED = ""  # an incarnation: only mutants write that


class Violation(AssertionError):
    """Something ran twice, was lost, or did not run in the end."""


class Time:
    """True time, which nobody in the simulation can read, and what happens in it."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.random = random.Random(seed)
        self.steps = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self.story: list[str] = []

    def after(self, delay: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + delay, next(self._count), event))

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, event = heapq.heappop(self._events)
            self.steps += 1
            event()
        self.now = until

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def tell(self, *words: object) -> None:
        self.story.append(f"{self.now:8.3f}  {' '.join(map(str, words))}")


class Store:
    """Linearizable, whatever its clients believe: it commits what it was sent even when nobody waits any more."""

    def __init__(self, time: Time, check: Callable[[records.Transaction, Store], None]) -> None:
        self.time = time
        self._check = check
        self.entries: dict[str, records.Entry] = {records.CLUSTER: records.Entry(records.Cluster("first"), 1)}
        self.revision = 1
        self.up, self.up_since = True, 0.0
        self.slow: dict[int, records.Transaction] = {}  # transactions that lie about before they are done
        self.slow_hosts: set[str] = set()
        self._waiting: list[Callable[[], None]] = []
        self.copies: list[tuple[float, dict[str, records.Entry], int]] = []
        self.watched: dict[str, float] = {}  # when a key was written last

    def view(self) -> records.View:
        return records.View(dict(self.entries))

    def arrive(self, transaction: records.Transaction | None, answer: Callable[[Any], None]) -> None:
        """A transaction has arrived, or a read (None); `answer` takes what is said on its way back."""
        if not self.up:
            if self.time.chance(0.6):  # a member without a leader: it lies there and is done in the end
                self._waiting.append(lambda: self.arrive(transaction, answer))
        elif transaction is None:
            answer(self.view())
        elif self.time.chance(0.9 if id(transaction) in self.slow else 0.03):  # it lies somewhere and is done late
            self.time.after(self.time.random.uniform(0.3, 4.0), lambda: self._late(transaction, answer))
        else:
            answer(self.apply(transaction))

    def _late(self, transaction: records.Transaction, answer: Callable[[Any], None]) -> None:
        said = self.apply(transaction)
        if self.time.chance(0.7):
            answer(said)

    def apply(self, transaction: records.Transaction) -> records.Answer:
        cluster = self.entries[records.CLUSTER].record
        assert isinstance(cluster, records.Cluster)
        if transaction.incarnation not in (cluster.incarnation, NOT_COMPARED):
            return records.Refused(records.CLUSTER)
        for key, revision in transaction.compare.items():
            found = self.entries[key].revision if key in self.entries else 0
            if found != revision:
                return records.Refused(key)
        self._check(transaction, self)
        self.revision += 1
        for key, record in transaction.puts.items():
            self.watched[key] = self.time.now
            if record is None:
                self.entries.pop(key, None)
            else:
                self.entries[key] = records.Entry(record, self.revision)
        return records.Applied(self.revision)

    def set_up(self, up: bool) -> None:
        if up and not self.up:
            self.up_since = self.time.now
        self.up = up
        if up:
            waiting, self._waiting = self._waiting, []
            for each in waiting:
                self.time.after(self.time.random.uniform(0, 0.5), each)

    def copy(self) -> None:
        """A snapshot is taken, for `restore`."""
        self.copies.append((self.time.now, dict(self.entries), self.revision))

    def restore(self, *, latest: bool = False) -> None:
        """An older copy, under a new incarnation that was written before any client may speak to it."""
        _, entries, revision = self.copies[-1] if latest else self.time.random.choice(self.copies)
        self._waiting.clear()
        self.entries, self.revision = dict(entries), revision + 1
        written = census.restored(self.view(), f"restored at {self.time.now:.3f}", int(self.time.now * 1000))
        self.entries |= {key: records.Entry(record, self.revision) for key, record in written.items()}


@dataclasses.dataclass
class Disk:
    """What an array knows of one VM's disk."""

    opened: int = 0  # the highest generation that has opened it
    by: str = ""


class Array:
    """Central storage. It has no lock: whoever is let in and sends a write has written."""

    def __init__(self, time: Time) -> None:
        self.time = time
        self.disks: dict[str, Disk] = {}
        self.shut_out: set[str] = set()
        self.slow = False
        self.only_clients: dict[str, set[str]] = {}  # a fence that knows only the clients of its moment
        self._queue: list[tuple[str, str, str, int]] = []

    def lets_in(self, host: str, client: str) -> bool:
        return host not in self.shut_out and client not in self.only_clients.get(host, ())

    def opens(self, machine: str, generation: int, who: str) -> None:
        disk = self.disks.setdefault(machine, Disk())
        if generation <= disk.opened:
            raise Violation(
                f"{who} opens the disk of {machine} under {generation}, {disk.by} had it under {disk.opened}"
            )
        disk.opened, disk.by = generation, who

    def takes(self, host: str, client: str, machine: str, generation: int) -> None:
        """A write has reached the array; it lands a while later."""
        entry = (host, client, machine, generation)
        self._queue.append(entry)
        late = self.time.random.uniform(0.7 * DRAIN if self.slow else 0.0, DRAIN)
        self.time.after(late if self.slow or self.time.chance(0.3) else 0.001, lambda: self._land(entry))

    def _land(self, entry: tuple[str, str, str, int]) -> None:
        if entry not in self._queue:
            return
        self._queue.remove(entry)
        _, client, machine, generation = entry
        disk = self.disks[machine]
        if generation < disk.opened:
            raise Violation(
                f"a write of {client} (under {generation}) to {machine} landed after {disk.by} had opened it"
                f" under {disk.opened}"
            )

    def holds(self, client: str) -> bool:
        return any(entry[1] == client for entry in self._queue)

    def end_sessions(self, host: str) -> None:
        self._queue = [entry for entry in self._queue if entry[0] != host]

    def end_client(self, client: str) -> None:
        self._queue = [entry for entry in self._queue if entry[1] != client]
