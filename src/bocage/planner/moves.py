"""What can be done with one VM: the best of all single moves of it or its replica, and what becomes of the score.

As Ganeti's hbal(1) has it: one of the two hosts of a VM with a replica changes, perhaps with their parts exchanged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from bocage.planner import filters, patience, proofs, scores, survival
from bocage.planner.occupancy import NOWHERE, Occupancy

Candidate = tuple[float, int, int]  # the balance then, the host, the replica's


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One VM to other hosts; `score` is the whole's after it."""

    score: float
    vm: int
    host: int
    replica: int


class State:
    """What stands, its score, and who would survive: all three change together."""

    def __init__(self, held: Occupancy, check: patience.Check = patience.endless) -> None:
        self.held, self.check = held, check
        self.scores = scores.Scores(held)
        self.survival = survival.Survival(held, check)
        self._counted = self.scores.counted()
        self._live = [vm.running and vm.hardware.cpu_model == "host" for vm in held.vms]
        found: dict[object, tuple[int, ...]] = {}  # one for all VMs of the same groups: large groups have many
        for vm, one in enumerate(held.vms):
            if (one.apart, one.together) not in found:
                found[one.apart, one.together] = self._mates_of(vm)
        self._mates = [found[one.apart, one.together] for one in held.vms]

    @property
    def score(self) -> float:
        return self.scores.balance() + self._counted

    def movable(self, vm: int) -> bool:
        """Whether a VM may be moved at all."""
        held = self.held
        if held.vms[vm].stays or held.at[vm] == NOWHERE:
            return False
        return all(where == NOWHERE or held.hosts[where].state != "silent" for where in (held.at[vm], held.replica[vm]))

    def do(self, step: Step) -> None:
        """Carry out one step that `best` gave, or undo it."""
        vm = step.vm
        changed = self.survival.after(vm, step.host, step.replica)
        self._counted += self._mended(vm, step.host) + (self.readied(vm, step.host, step.replica) or 0.0)
        self._go(vm, step.host, step.replica)
        self.survival.take([changed] if isinstance(changed, proofs.Proof) else changed)
        self.scores.settle()

    def best(self, vm: int, below: float) -> Step | None:
        """The best move of a VM that was found in time, when it brings the score below a bound."""
        found = None
        bound = self._counted + self._mended_at_most(vm) + self._readied_at_most(vm)
        for balance, host, replica in sorted(self._candidates(vm, below - bound)):
            if balance + bound >= below or self.check():
                break
            if not self._possible(vm, host, replica):
                continue
            readied = self.readied(vm, host, replica)
            if readied is None:
                continue
            score = balance + self._counted + self._mended(vm, host) + readied
            if score < below and isinstance(self.survival.after(vm, host, replica), list):
                found, below = Step(score, vm, host, replica), score
        return found

    def step(self, vm: int, host: int, replica: int) -> Step | None:
        """This move of a VM, when it is possible; its score is not known yet."""
        if not self._possible(vm, host, replica) or self.readied(vm, host, replica) is None:
            return None
        if isinstance(self.survival.after(vm, host, replica), proofs.Proof):
            return None
        return Step(0.0, vm, host, replica)

    def score_with(self, vm: int, host: int, replica: int) -> float:
        """What a move would make of the score, possible or not."""
        held = self.held
        counted = self._counted + self._mended(vm, host) + (self.readied(vm, host, replica) or 0.0)
        origin, copy = held.at[vm], held.replica[vm]
        self._go(vm, host, replica)
        balance = self.scores.balance()
        self._go(vm, origin, copy)
        return balance + counted

    def replicas_for(self, vm: int, host: int) -> Iterator[int]:
        """The hosts that could have the replica of a VM that would stand on `host`, the best first."""
        ledger = self.scores
        ledger.put(vm, host, 1)
        scored = ledger.with_replica(vm)
        ledger.put(vm, host, -1)
        if ledger.reserved:
            scored = ledger.reserved.with_replica(vm, host, scored)
        for _, to in sorted(zip(scored, range(len(scored)), strict=True)):
            if self._possible(vm, host, to) and self.readied(vm, host, to) is not None:
                yield to

    def _go(self, vm: int, host: int, replica: int) -> None:
        """Stand there, in all sums."""
        held = self.held
        self._sum(vm, -1)
        held.put(vm, host)
        held.put_replica(vm, replica)
        self._sum(vm, 1)

    def _sum(self, vm: int, sign: int) -> None:
        """Add a VM and its replica, where they are by now, to the sums of the score, or take them out."""
        held, ledger = self.held, self.scores
        host, replica = held.at[vm], held.replica[vm]
        if host != NOWHERE:
            ledger.put(vm, host, sign)
        if replica != NOWHERE:
            ledger.put_replica(vm, replica, sign)
            if ledger.reserved and host != NOWHERE:
                ledger.reserved.put(vm, host, replica, sign)

    def _candidates(self, vm: int, below: float) -> list[Candidate]:
        """All moves that bring the balance below a bound, possible or not."""
        ledger = self.scores
        host, replica = self.held.at[vm], self.held.replica[vm]
        self._sum(vm, -1)
        found: list[Candidate] = []
        if replica == NOWHERE:
            more = ledger.reserved.score() if ledger.reserved else 0.0
            below -= more
            found = [(score + more, to, NOWHERE) for to, score in enumerate(ledger.with_vm(vm)) if score < below]
        else:
            assert ledger.reserved
            for stays in (replica, host):
                ledger.put_replica(vm, stays, 1)
                scored = ledger.reserved.with_vm(vm, stays, ledger.with_vm(vm))
                ledger.put_replica(vm, stays, -1)
                found += [(score, to, stays) for to, score in enumerate(scored) if score < below]
            for stays in (host, replica):
                ledger.put(vm, stays, 1)
                scored = ledger.reserved.with_replica(vm, stays, ledger.with_replica(vm))
                ledger.put(vm, stays, -1)
                found += [(score, stays, to) for to, score in enumerate(scored) if score < below]
        self._sum(vm, 1)
        return found

    def _possible(self, vm: int, host: int, replica: int) -> bool:
        held = self.held
        origin, copy = held.at[vm], held.replica[vm]
        if host == replica or (host, replica) == (origin, copy):
            return False
        if host != origin:
            lives = self._live[vm] and origin != NOWHERE
            if lives and not filters.moves_live(held.vms[vm], held.hosts[origin], held.hosts[host]):
                return False
            if not held.may_be(vm, host):
                return False
        if replica not in (copy, origin):
            return held.allowed[vm][replica] and held.has_disk(vm, replica)
        return replica == copy or held.allowed[vm][replica]

    def _mates_of(self, vm: int) -> tuple[int, ...]:
        """All VMs of its groups, itself too; none when it is in no group."""
        one = self.held.vms[vm]
        return tuple(sorted({other for group in (*one.apart, *one.together) for other in self.held.groups[group]}))

    def _mended_at_most(self, vm: int) -> float:
        if mates := self._mates[vm]:
            return -self.scores.misplaced * len(mates)
        return -self.scores.misplaced if self.held.misplaced(vm) else 0.0

    def _mended(self, vm: int, host: int) -> float:
        """What a move changes in the count of VMs that stand where they must not."""
        held, origin = self.held, self.held.at[vm]
        concerned = self._mates[vm] or (vm,)
        before = sum(map(held.misplaced, concerned))
        held.put(vm, host)
        after = sum(map(held.misplaced, concerned))
        held.put(vm, origin)
        return self.scores.misplaced * (after - before)

    def _readied_at_most(self, vm: int) -> float:
        reserved = self.scores.reserved
        if not reserved:
            return 0.0
        return -sum(reserved.counted(where) for where in (self.held.at[vm], self.held.replica[vm]) if where != NOWHERE)

    def readied(self, vm: int, host: int, replica: int) -> float | None:
        """What a move changes in the count against hosts where not all replicas would start.

        None when a host would become such a one, or one that is would lack more.
        """
        held, reserved = self.held, self.scores.reserved
        if not reserved:
            return 0.0
        origin, copy = held.at[vm], held.replica[vm]
        concerned = [where for where in dict.fromkeys((origin, copy, host, replica)) if where != NOWHERE]
        margins = [reserved.margin(where) for where in concerned]
        before = sum(map(reserved.counted, concerned))
        self._stand(vm, host, replica)
        worse = any(
            after < 0 and after < margin for margin, after in zip(margins, map(reserved.margin, concerned), strict=True)
        )
        change = sum(map(reserved.counted, concerned)) - before
        self._stand(vm, origin, copy)
        return None if worse else change

    def _stand(self, vm: int, host: int, replica: int) -> None:
        """Have it be there for what is held and what is reserved, and not yet for the sums of the score."""
        held, reserved = self.held, self.scores.reserved
        assert reserved
        if NOWHERE not in (held.at[vm], held.replica[vm]):
            reserved.put(vm, held.at[vm], held.replica[vm], -1)
        held.put(vm, host)
        held.put_replica(vm, replica)
        if NOWHERE not in (host, replica):
            reserved.put(vm, host, replica, 1)
