"""What the store remembers of hosts and VMs so that nothing runs twice, and the transactions that change it.

Whoever wants to know that nothing has changed compares a key's revision. The incarnation is compared by its value in
every transaction: a store that was restored gives the same revisions again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TypeVar

R = TypeVar("R")

CLUSTER = "cluster"
LEADER = "leader"
RULES = "rules"  # the leader's own beat


def epoch_of(host: str) -> str:
    return f"epoch/{host}"


def beat_of(host: str) -> str:
    return f"beat/{host}"


def owner_of(machine: str) -> str:
    return f"owner/{machine}"


def replica_of(machine: str) -> str:
    return f"replica/{machine}"


def report_of(host: str) -> str:
    return f"report/{host}"


def fence_of(host: str) -> str:
    return f"fence/{host}"


@dataclasses.dataclass(frozen=True, slots=True)
class Cluster:
    """Which store this is. Not settled: it was restored, and nobody may start anything until all is known.

    `floor`: generations up to it may have been given by a store that is lost. Seconds of the wall clock serve: no VM
    changes hands once a second, and a second restoration of the same copy has another floor.
    """

    incarnation: str
    settled: bool = True
    floor: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Bounds:
    """How long a host may run unconfirmed. It changes only together with the epoch. Seconds."""

    self_fence: bool = False
    guard: float = 4.0  # T_guard; without self-fencing it only bounds how late a process may start
    watchdog: float | None = None  # W, as a test that reset this host has shown; None: none has

    @property
    def proves(self) -> bool:
        """Whether time alone can prove that this host writes no more."""
        return self.self_fence and self.watchdog is not None


@dataclasses.dataclass(frozen=True, slots=True)
class Epoch:
    """A host's lives, counted. It lives while `taken` is `number`; raising `number` ends that life."""

    number: int = 0
    taken: int = 0
    gone: int = 0  # the last life of which the host has said that it is over: what runs is of a later one
    bounds: Bounds = Bounds()

    @property
    def lives(self) -> bool:
        return self.taken == self.number

    @property
    def over(self) -> bool:
        """Whether the host has said that nothing of the life that was ended runs."""
        return self.gone >= self.taken


@dataclasses.dataclass(frozen=True, slots=True)
class Beat:
    count: int


@dataclasses.dataclass(frozen=True, slots=True)
class Owner:
    """Who may run a VM. `generation` grows with each change: an instance carries the one it was started under.

    `anew`: what runs of it on that host may be older than its disks; it is ended, and started from them.
    """

    host: str | None = None
    generation: int = 0
    anew: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Leader:
    host: str
    term: int


@dataclasses.dataclass(frozen=True, slots=True)
class Replica:
    """The second copy of a VM's local disks. Only one that is in sync may be started from."""

    host: str
    in_sync: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Fence:
    """The arrays let nothing of this host in, from before its epoch became `number` until it has taken that one."""

    number: int


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """What a host has, told to a restored store: generations by VM."""

    incarnation: str
    runs: Mapping[str, int]
    started: Mapping[str, int] = dataclasses.field(default_factory=dict)  # as the VMs' own directories say


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    record: object
    revision: int


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """All records as of one revision, read through the majority. What is not there has revision 0."""

    entries: Mapping[str, Entry]

    def revision(self, key: str) -> int:
        entry = self.entries.get(key)
        return entry.revision if entry else 0

    def get(self, kind: type[R], key: str) -> R | None:
        entry = self.entries.get(key)
        return entry.record if entry and isinstance(entry.record, kind) else None


def settled(view: View, incarnation: str | None = None) -> bool:
    """Whether the store (this incarnation of it) knows who runs what; else nothing may start or go on."""
    cluster = view.get(Cluster, CLUSTER)
    return cluster is not None and cluster.settled and incarnation in (None, cluster.incarnation)


def hosts(view: View) -> list[str]:
    """All hosts that the store knows."""
    return sorted(key.removeprefix("epoch/") for key in view.entries if key.startswith("epoch/"))


@dataclasses.dataclass(frozen=True, slots=True)
class Life:
    """One life of a host: from the transaction that took an epoch (it left the key at `revision`) to its end."""

    host: str
    incarnation: str
    epoch: int
    revision: int


@dataclasses.dataclass(frozen=True, slots=True)
class Transaction:
    """All or nothing: the incarnation and every compared revision hold, then all puts are written."""

    incarnation: str
    compare: Mapping[str, int]
    puts: Mapping[str, object]  # None: the key is deleted


@dataclasses.dataclass(frozen=True, slots=True)
class Applied:
    revision: int


@dataclasses.dataclass(frozen=True, slots=True)
class Refused:
    """A compare did not hold; nothing was written. `key` is CLUSTER where the incarnation is another one."""

    key: str


Answer = Applied | Refused


@dataclasses.dataclass(frozen=True, slots=True)
class Ask:
    """A transaction that a machine wants done; its answer comes back to it under `attempt`, however late."""

    attempt: int
    transaction: Transaction
