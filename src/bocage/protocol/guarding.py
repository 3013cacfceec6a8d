"""The guard: it lets a host's VMs run for so long as the store has confirmed that host, and not a moment more.

It has no network. It hears from the beat process alone, holds every process that can write a disk which another host
may open, and feeds the hardware watchdog. VMs that nobody else may start are none of its business.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable

from bocage.protocol import records

_REMEMBERED = 16


class Act(enum.Enum):
    """What the guard has done to the host. FREEZE, DROP are read back and told by `held`; SEVER by `severed`."""

    FREEZE = "freeze the VMs' cgroups"
    DROP = "drop the packets to the storage"
    THAW = "thaw the cgroups"
    LET_PASS = "let the packets pass again"  # noqa: S105
    KILL = "kill the cgroups"
    SEVER = "destroy the sockets to the storage"
    GONE = "say that nothing of this life runs"
    FEED = "feed the watchdog"


class Phase(enum.Enum):
    OPEN = "confirmed, or not yet overdue"
    HELD = "overdue: frozen and cut off until a fresh confirmation"
    ENDING = "the life was ended: killed, not yet known to be gone"
    OVER = "nothing of that life runs"


@dataclasses.dataclass(frozen=True, slots=True)
class Standing:
    """All that a guard knows: what its successor is given, with the descriptors."""

    life: records.Life | None
    bounds: records.Bounds
    confirmed: float | None  # when the newest confirmed beat was sent
    phase: Phase
    processes: frozenset[str]
    remains: frozenset[str]  # processes that are over, and what they left in sockets is not
    frozen: bool
    dropped: bool
    severed: bool
    since: float | None  # a guard without predecessor: only beats sent after this count
    complete: bool  # every cgroup of the host is known
    past: tuple[records.Life, ...] = ()  # lives that are over: a late word about them is nothing new


class Guard:
    """One host's guard. Every event gives what is to be done now, in order."""

    def __init__(self, standing: Standing, *, kernel_disks: bool = False) -> None:
        self._life = standing.life
        self.bounds = standing.bounds
        self._confirmed = standing.confirmed
        self.phase = standing.phase
        self.processes, self._remains = set(standing.processes), set(standing.remains)
        self._frozen, self._dropped, self._severed = standing.frozen, standing.dropped, standing.severed
        self._since, self._complete = standing.since, standing.complete
        self._past = standing.past
        self._kernel_disks = kernel_disks  # writes of the kernel outlive the freeze: only a reset ends them
        self._released = False  # the killed were thawed, so that they can die

    @classmethod
    def first(cls, *, kernel_disks: bool = False) -> Guard:
        """The guard of a host that has just booted: nothing runs, no life is taken."""
        nothing: frozenset[str] = frozenset()
        return cls(
            Standing(None, records.Bounds(), None, Phase.OVER, nothing, nothing, False, False, True, None, True),
            kernel_disks=kernel_disks,
        )

    @classmethod
    def alone(
        cls, life: records.Life | None, bounds: records.Bounds, now: float, *, kernel_disks: bool = False
    ) -> Guard:
        """A guard that finds no predecessor: it holds everything, and does not feed until it knows where it stands.

        `life` is the one that its predecessor was given last: a file of the home has it. None: nobody knows.
        """
        nothing: frozenset[str] = frozenset()
        return cls(
            Standing(life, bounds, None, Phase.HELD, nothing, nothing, False, False, False, now, False),
            kernel_disks=kernel_disks,
        )

    @property
    def standing(self) -> Standing:
        return Standing(
            self._life,
            self.bounds,
            self._confirmed,
            self.phase,
            frozenset(self.processes),
            frozenset(self._remains),
            self._frozen,
            self._dropped,
            self._severed,
            self._since,
            self._complete,
            self._past,
        )

    @property
    def life(self) -> records.Life | None:
        """The life that it was given last."""
        return self._life

    def taken(self, life: records.Life, bounds: records.Bounds) -> list[Act]:
        """The host has taken a new epoch: what ran in the one before is gone, or a settled store has given it to this
        life, and goes on as it stands until this life is confirmed. To be said again until `life` is that one."""
        if life == self._life or life in self._past or self.phase is Phase.ENDING:
            return []
        if self._life is not None:
            self._past = (*self._past[-_REMEMBERED:], self._life)
        self._life, self.bounds, self._confirmed = life, bounds, None
        if self.phase is Phase.OVER:
            self.phase = Phase.OPEN
        elif self.phase is Phase.HELD and self._complete and not self._holds:
            self.phase = Phase.OPEN
            self._frozen = self._dropped = False
            return [Act.LET_PASS, Act.THAW]
        return []

    def narrow(self, bounds: records.Bounds) -> None:
        """Tighter bounds hold before the store knows of them; wider ones only when an epoch was taken with them."""
        watchdogs = [each for each in (self.bounds.watchdog, bounds.watchdog) if each is not None]
        self.bounds = records.Bounds(
            self.bounds.self_fence or bounds.self_fence,
            min(self.bounds.guard, bounds.guard) if self.bounds.self_fence else bounds.guard,
            min(watchdogs, default=None),
        )

    def admit(self, process: str, now: float) -> bool:
        """Take charge of a process, which is stopped, before it is executed. False: it must not run."""
        if self.phase is not Phase.OPEN or not self._fresh(now):
            return False
        self.processes.add(process)
        return True

    def found(self, processes: Iterable[str], *, complete: bool) -> None:
        """Processes that a guard without predecessor has found; `complete` when there are no others."""
        self.processes.update(processes)
        self._complete = self._complete or complete
        self._frozen = self._dropped = False  # they too must be read back

    def confirmed(self, life: records.Life, sent: float, now: float) -> list[Act]:
        """The store has confirmed a beat of `life` that was sent at `sent`."""
        if life != self._life or (self._since is not None and sent < self._since):
            return []
        if self._confirmed is None or sent > self._confirmed:
            self._confirmed = sent
        if self.phase is not Phase.HELD or not self._complete or not self._fresh(now):
            return []
        self._since = None
        self.phase = Phase.OPEN
        self._frozen = self._dropped = False
        return [Act.LET_PASS, Act.THAW]

    def raised(self, life: records.Life) -> list[Act]:
        """The store has said that `life` was ended: kill, then thaw with the packets still dropped.

        It may be a life that this guard was not given yet: what it holds is older, and over all the more.
        """
        if life in self._past or self.phase is Phase.ENDING:
            return []
        self._past = (*self._past[-_REMEMBERED:], life)
        if self.phase is Phase.OVER:
            return [Act.GONE]
        self.phase = Phase.ENDING
        self._severed = self._released = False
        return [Act.KILL, Act.DROP, *self._go_on()]

    def held(self, *, frozen: bool | None = None, dropped: bool | None = None) -> list[Act]:
        """What was read back of a freeze or a drop."""
        if self.phase in (Phase.HELD, Phase.ENDING):
            self._frozen = self._frozen if frozen is None else frozen
            self._dropped = self._dropped if dropped is None else dropped
        return self._go_on()

    def ended(self, process: str) -> list[Act]:
        """A process is no more (its pidfd says so); what it has in sockets may be."""
        if process in self.processes:
            self.processes.discard(process)
            self._remains.add(process)
        return [Act.SEVER] if self.phase in (Phase.OPEN, Phase.HELD) and self._remains else self._go_on()

    def left(self, process: str) -> list[Act]:
        """The same of one whose remains somebody else sees to, before this host's word is given."""
        self.processes.discard(process)
        return self._go_on()

    def severed(self) -> list[Act]:
        """No socket to the storage is left of the processes that are over."""
        self._remains.clear()
        self._severed = not self.processes
        return self._go_on()

    def tick(self, now: float) -> list[Act]:
        """What is due. To be called several times a second."""
        acts: list[Act] = []
        if self.phase is Phase.OPEN and self.bounds.self_fence and self._holds and not self._fresh(now):
            self.phase = Phase.HELD
            self._frozen = self._dropped = False
        if self.phase is Phase.HELD:
            acts += [Act.FREEZE] if not self._frozen else []
            acts += [Act.DROP] if not self._dropped else []
        elif self.phase is Phase.ENDING:
            acts += [Act.KILL] if self.processes else []
            acts += [Act.DROP] if not self._dropped else []
            acts += self._go_on()
        if self._remains and self.phase in (Phase.OPEN, Phase.HELD):
            acts.append(Act.SEVER)
        if self._may_feed(now):
            acts.append(Act.FEED)
        return acts

    @property
    def _holds(self) -> bool:
        return bool(self.processes or self._remains)

    def _fresh(self, now: float) -> bool:
        return self._confirmed is not None and now < self._confirmed + self.bounds.guard

    def _go_on(self) -> list[Act]:
        """The next step of an ending: thaw the killed, see them die, destroy what they left in sockets, let pass."""
        if self.phase is not Phase.ENDING or not self._dropped:
            return []
        if self.processes or not self._complete:
            if self._released:
                return []
            self._released = True
            return [Act.THAW]
        if not self._severed or self._remains:
            return [Act.SEVER]
        if self._kernel_disks:
            return []  # what the kernel still writes ends with a reset, and with nothing else
        self.phase = Phase.OVER
        self._frozen = self._dropped = False
        return [Act.LET_PASS, Act.GONE]

    def _may_feed(self, now: float) -> bool:
        if not self.bounds.self_fence or self.phase is Phase.OVER:
            return True
        if self._since is not None or not self._complete or self.phase is Phase.ENDING:
            return False
        if self.phase is Phase.OPEN:
            return not self._holds or self._fresh(now)
        return self._frozen and self._dropped and not self._kernel_disks
