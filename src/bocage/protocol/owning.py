"""Owning: when a host may start a VM that was given to it, and when it must end one.

Each start is a transaction of its own that raises the generation. No answer is neither yes nor no: it is settled by
another transaction, which makes the first one impossible.
"""

from __future__ import annotations

import dataclasses
import enum

from bocage.protocol import records, timing


class Phase(enum.Enum):
    IDLE = "nothing of it runs here"
    CLAIMING = "the store was asked"
    STARTING = "it is ours; its process is being made"
    RUNNING = "it runs"
    COMING = "it is on its way here from another host, paused"
    LEAVING = "its process is over, its writes may not be"


@dataclasses.dataclass(frozen=True, slots=True)
class Start:
    """Its outcome comes back under `attempt`, by `started`."""

    machine: str
    generation: int
    attempt: int


@dataclasses.dataclass(frozen=True, slots=True)
class End:
    """Kill its process, if there is one, and destroy what it left in sockets; told by `left`."""

    machine: str


Act = records.Ask | Start | End


class Owning:
    """One VM on one host."""

    def __init__(self, machine: str, host: str, profile: timing.Timing) -> None:
        self.machine = machine
        self._host = host
        self._profile = profile
        self.phase = Phase.IDLE
        self.generation = 0  # what our instance was started under, or is being started under
        self._attempt = 0
        self._life: records.Life | None = None  # that the newest claim was made in
        self._asked = 0.0
        self._left: float | None = None  # when nothing of it was here any more

    def seen(self, view: records.View, life: records.Life, sent: float, now: float) -> list[Act]:
        """The records, by a read that was sent at `sent`."""
        if not records.settled(view, life.incarnation):
            return []
        key = records.owner_of(self.machine)
        owner = view.get(records.Owner, key)
        ours = owner is not None and owner.host == self._host
        if self.phase in (Phase.STARTING, Phase.RUNNING) and owner is not None and not ours:
            if owner.generation > self.generation:
                return self._end()
            return []
        self.rests(now)
        if self.phase is Phase.RUNNING and owner is not None:
            self.generation = max(self.generation, owner.generation)  # a restored store counts on from another number
            return []
        late = sent > self._asked + self._profile.answer and now >= sent
        if self.phase is Phase.CLAIMING and life == self._life and not late:
            return []
        if self.phase not in (Phase.IDLE, Phase.CLAIMING) or owner is None or not ours:
            return []
        self.phase = Phase.CLAIMING
        self._attempt += 1
        self._life, self._asked = life, now
        self.generation = owner.generation + 1
        compare = {key: view.revision(key), records.epoch_of(self._host): life.revision}
        claim = records.Transaction(life.incarnation, compare, {key: records.Owner(self._host, self.generation)})
        return [records.Ask(self._attempt, claim)]

    def answered(self, attempt: int, answer: records.Answer, life: records.Life | None) -> list[Act]:
        """What the store said to a claim; `life` is the host's now, None where it has none to start anything in.

        Only the newest claim counts: it was made so that no older one can hold. What was granted to a life that is
        over, or in a store that was replaced, may long belong to others.
        """
        if self.phase is not Phase.CLAIMING or attempt != self._attempt:
            return []
        if isinstance(answer, records.Refused) or life != self._life:
            self.phase = Phase.IDLE
            return []
        self.phase = Phase.STARTING
        return [Start(self.machine, self.generation, attempt)]

    def still(self, attempt: int, life: records.Life | None) -> bool:
        """Whether that start is still wanted: to be asked at the last moment before the process is executed.

        Where it is not, `started` is told that nothing runs.
        """
        return self._newest(attempt) and life == self._life

    def _newest(self, attempt: int) -> bool:
        return self.phase is Phase.STARTING and attempt == self._attempt

    def started(self, attempt: int, *, running: bool) -> list[Act]:
        """Whether the process runs; it does not where the guard would not take it. One of an older attempt is ended."""
        if not self._newest(attempt):
            return self._end() if running else []
        if not running:
            return self._end()
        self.phase = Phase.RUNNING
        return []

    def _end(self) -> list[Act]:
        self.phase, self._left = Phase.LEAVING, None
        return [End(self.machine)]

    def found(self, generation: int) -> None:
        """A daemon that was started anew has found an instance."""
        self.phase, self.generation = Phase.RUNNING, generation

    def rests(self, now: float) -> bool:
        """Whether nothing of it is here, and what had reached the array has landed."""
        if (
            self.phase is Phase.LEAVING
            and self._left is not None
            and now > self._left + self._profile.drain * timing.RATE
        ):
            self.phase = Phase.IDLE
        return self.phase is Phase.IDLE

    def comes(self) -> bool:
        """A migration to this host begins; False where something of the VM is here already."""
        if self.phase is not Phase.IDLE:
            return False
        self.phase = Phase.COMING
        return True

    def arrived(self, generation: int) -> None:
        """The migration has made this host the owner, and it runs."""
        if self.phase is Phase.COMING:
            self.phase, self.generation = Phase.RUNNING, generation

    def died(self) -> list[Act]:
        """Its process is over, whyever: what it had sent to the storage may still land, and must not."""
        if self.phase not in (Phase.STARTING, Phase.RUNNING, Phase.COMING):
            return []
        return self._end()

    def left(self, now: float) -> None:
        """Neither process nor socket is left here. What had reached the array lands within T_drain."""
        if self.phase is Phase.LEAVING and self._left is None:
            self._left = now
