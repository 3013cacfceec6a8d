"""A simulated pair of hosts with a VM on local disks and its replica: what was acknowledged must be there after a
failover, whenever it comes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from bocage.protocol import records, replicating
from tests.protocol import ground
from tests.protocol.profile import PROFILE


@dataclasses.dataclass
class PairKinds:
    """The parts that a mutant changes."""

    replicating: type[replicating.Replicating] = replicating.Replicating


class Pair:
    """Host `a` runs the VM, `b` holds the copy. One round ends with the death of `a`."""

    def __init__(self, seed: int, kinds: PairKinds | None = None) -> None:
        self.kinds = kinds or PairKinds()
        self.time = ground.Time(seed)
        self.store = ground.Store(self.time, lambda transaction, store: None)
        for key, record in (
            (records.owner_of("erp"), records.Owner("a", 1)),
            (records.replica_of("erp"), records.Replica("b")),
            (records.epoch_of("a"), records.Epoch(1, 1)),
            (records.LEADER, records.Leader("c", 1)),
        ):
            self.store.entries[key] = records.Entry(record, 1)
        self.life = records.Life("a", "first", 1, 1)
        self.machine = self.kinds.replicating("erp", "b", PROFILE)
        self.here: set[int] = set()  # writes that `a`'s disk has
        self.there: set[int] = set()  # that `b`'s has
        self.lacks: set[int] = set()  # the bitmap
        self.acknowledged: set[int] = set()
        self.joined = False
        self.runs, self.alive = False, True
        self.pending: int | None = None
        self.next = 0
        self.linked, self.storeward = True, True
        self.taken_over = False

    def run(self) -> bool:
        """True where the VM could be started from its copy."""
        self.time.after(0.1, self._tick)
        self.time.after(0.2, self._guest)
        self.time.after(0.5, self._trouble)
        self.time.run(self.time.random.uniform(3, 40))
        self.alive = False
        self.time.tell("a is off")
        self.time.run(self.time.now + self.time.random.uniform(0.0, 6))
        self.store.set_up(True)
        self.time.run(self.time.now + 6)  # what was under way to the store has come or never will
        return self._fail_over()

    def _fail_over(self) -> bool:
        view = self.store.view()
        raised = self.store.apply(records.Transaction("first", {}, {records.epoch_of("a"): records.Epoch(2, 1)}))
        assert isinstance(raised, records.Applied)
        taking = replicating.taking_over("erp", view, raised.revision, 1, "first", "a")
        if taking is None:
            return False
        assert isinstance(self.store.apply(taking), records.Applied)
        lost = self.acknowledged - self.there
        if lost:
            story = "\n".join(self.time.story[-30:])
            raise ground.Violation(f"{story}\nof what was acknowledged the copy lacks {sorted(lost)[:5]}")
        return True

    def _trouble(self) -> None:
        random = self.time.random
        if self.time.chance(0.15):
            self._anew(vm=self.time.chance(0.5))
        name, most = random.choice((("linked", 4.0), ("linked", 0.5), ("storeward", 3.0), ("store", 3.0)))
        seconds = random.uniform(0.05, most)
        self.time.tell(f"not {name} for {seconds:.2f} s")
        if name == "store":
            self.store.set_up(False)
            self.time.after(seconds, lambda: self.store.set_up(True))
        else:
            setattr(self, name, False)
            self.time.after(seconds, lambda: setattr(self, name, True))
        self.time.after(random.uniform(1, 6), self._trouble)

    def _anew(self, *, vm: bool) -> None:
        """The daemon is started anew, or the VM on its own host: nobody knows any more what its quorum was."""
        self.time.tell("the VM is started anew" if vm else "the daemon is started anew")
        self.machine = self.kinds.replicating("erp", "b", PROFILE)
        self.runs = False
        self.lacks |= self.here  # a pass under way is cancelled, a bitmap goes with its process
        self.joined = self.joined and not vm

    def _ask(self, transaction: records.Transaction | None, reply: Callable[[Any], None]) -> None:
        if self.storeward:
            self.time.after(self._delay(), lambda: self.store.arrive(transaction, back))

        def back(said: object) -> None:
            self.time.after(self._delay(), lambda: reply(said) if self.alive else None)

    def _delay(self) -> float:
        return self.time.random.uniform(0.001, 0.05)

    def _tick(self) -> None:
        if not self.alive:
            return
        sent = self.time.now
        self._ask(None, lambda view: self._viewed(view, sent))
        if self.linked:
            self._do(self.machine.reachable())
        self.time.after(0.1, self._tick)

    def _viewed(self, view: records.View, sent: float) -> None:
        for ask in self.machine.seen(view, self.life, sent, self.time.now):
            self._ask(ask.transaction, functools.partial(self._answered, self.machine, ask.attempt))

    def _answered(self, machine: replicating.Replicating, attempt: int, said: records.Answer) -> None:
        if machine is self.machine:
            self._do(machine.answered(attempt, said))

    def _do(self, acts: list[replicating.Act | replicating.Copy]) -> None:
        for act in acts:
            self.time.tell(act)
            match act:
                case replicating.Act.LET_GO:
                    self.joined = False
                case replicating.Act.CONTINUE:
                    self.runs = True
                    self._try()
                case replicating.Act.PAUSE:
                    self.runs = False
                case replicating.Act.JOIN:
                    self.joined = True
                case replicating.Copy(number):
                    taken, self.lacks = self.lacks, set()
                    delay = self.time.random.uniform(0.05, 0.8)
                    self.time.after(delay, functools.partial(self._copied, self.machine, number, taken))

    def _copied(self, machine: replicating.Replicating, number: int, taken: set[int]) -> None:
        if not self.alive or machine is not self.machine:
            return
        if not self.linked:
            self.lacks |= taken  # a pass that failed gives the bitmap back
            self._do(self.machine.failed())
            return
        self.there |= taken
        self._do(self.machine.copied(number, left=len(self.lacks)))

    def _guest(self) -> None:
        if not self.alive:
            return
        if self.runs and self.pending is None:
            self.pending, self.next = self.next, self.next + 1
            self._try()
        self.time.after(self.time.random.uniform(0.02, 0.2), self._guest)

    def _try(self) -> None:
        """The guest's write goes to every child of the quorum."""
        number = self.pending
        if number is None or not self.runs:
            return
        self.here.add(number)
        if not self.joined:
            self.lacks.add(number)
            self.acknowledged.add(number)
            self.pending = None
            return
        if not self.linked:
            self.runs = False  # werror=stop
            self.lacks.add(number)
            self.time.tell(f"write {number} stops the guest")
            self._do(self.machine.failed())
            return
        self.there.add(number)
        self.acknowledged.add(number)
        self.pending = None


class _MarksLate(replicating.Replicating):
    """Goes on at once, and tells the store after."""

    def failed(self) -> list[replicating.Act | replicating.Copy]:
        before = self.phase
        acts = super().failed()
        went = before in (replicating.Phase.JOINING, replicating.Phase.IN_SYNC)
        return [replicating.Act.LET_GO, replicating.Act.CONTINUE] if went else acts


class _SyncTooEarly(replicating.Replicating):
    """Tells the store before the last pass is over."""

    def copied(self, number: int, *, left: int) -> list[replicating.Act | replicating.Copy]:
        if self.phase is replicating.Phase.COPYING:
            self.phase, self._asked = replicating.Phase.JOINING, None
            return [replicating.Copy(number)]
        if self.phase in (replicating.Phase.JOINING, replicating.Phase.IN_SYNC):
            return [replicating.Act.JOIN]
        return super().copied(number, left=left)


MUTANTS: dict[str, Callable[[], PairKinds]] = {
    "stale marked after the acknowledgement": lambda: PairKinds(_MarksLate),
    "replica in sync too early": lambda: PairKinds(_SyncTooEarly),
}
