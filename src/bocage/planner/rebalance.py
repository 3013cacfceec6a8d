"""A plan of moves from the cluster as it is to a better one, each possible when those before it are done."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Iterator

from bocage import words
from bocage.model import base, plan
from bocage.planner import exchanges, moves, occupancy, patience, placement, survival
from bocage.words import N_

_LEAST, _LEAST_OF_ALL = 0.01, 0.2
EFFORT = 300_000
"""Looks at single VMs, or at pairs of hosts, after which a search ends."""


class Mends(words.Message):
    type = "move-mends"
    text = N_("it must not be on {origin}: {reason:saying}")
    origin: str
    reason: dict[str, object]


class Balances(words.Message):
    type = "move-balances"
    text = N_("the score falls from {before:.4f} to {after:.4f}")
    before: float
    after: float


class Prepares(words.Message):
    type = "move-prepares"
    text = N_("later moves need it; the score is {after:.4f} meanwhile")
    after: float


def rebalance(
    world: plan.World,
    *,
    most: int | None = None,
    least: float | None = None,
    effort: int = EFFORT,
    check: patience.Check = patience.endless,
) -> plan.Rebalanced:
    """Moves that bring the score down, `most` of them, each of which gains `least` or is part of two that do.

    Where it is not given it is the less the more hosts there are: a move changes two of them.
    No step breaks what holds before it: room, wishes of VMs, and who would survive.
    Once the time is over it is what was found by then. Raises TookTooLong when not even the search could begin.
    """
    bound = len(world.vms) * 4 + 4 if most is None else most
    least = min(_LEAST, _LEAST_OF_ALL / max(len(world.hosts), 1)) if least is None else least
    begun = moves.State(occupancy.Occupancy(world), check)
    before, shares = begun.score, _shares(begun)
    search = Search(begun, bound, least, effort)
    complete = search.run()
    state, steps = shorter(world, begun, search.steps)
    found, score = list[plan.Move](), before
    again = occupancy.Occupancy(world)
    for step in steps:
        found.append(_told(again, step, score))
        again.put(step.vm, step.host)
        again.put_replica(step.vm, step.replica)
        score = step.score
    return plan.Rebalanced(
        before=round(before, 8),
        after=round(state.score, 8),
        moves=tuple(found),
        hosts_before=shares,
        hosts_after=_shares(state),
        stuck=tuple(_stuck(state)),
        unsurvived=tuple(survival.Survival(state.held, patience.to_the_end(check)).unsurvived()),
        complete=complete,
    )


class Search:
    """Greedy, the best known move first; what is known of a VM is looked at anew before it is used."""

    def __init__(self, state: moves.State, most: int, least: float, effort: int) -> None:
        self.state, self.left = state, effort
        self.steps: list[moves.Step] = []
        self._most, self._least = most, least
        self._vms = [vm for vm in range(len(state.held.vms)) if state.movable(vm)]

    def run(self) -> bool:
        """Whether it came to its end: nothing is left that gains enough."""
        while self._descend() or self._exchange():
            pass
        return self.left > 0 and len(self.steps) < self._most

    def _descend(self) -> bool:
        """Look at every VM, and move while something gains; False when nothing did."""
        state, begun = self.state, len(self.steps)
        known = [(step.score - state.score, vm) for vm in self._vms if (step := self._best(vm))]
        heapq.heapify(known)
        while known and self.left > 0 and len(self.steps) < self._most:
            _, vm = heapq.heappop(known)
            if (step := self._best(vm)) is None:
                continue
            change = step.score - state.score
            if not known or change <= known[0][0]:
                self._do(step)
                step = self._best(vm)
                change = step.score - state.score if step else 0.0
            if step:
                heapq.heappush(known, (change, vm))
        return len(self.steps) > begun

    def _exchange(self) -> bool:
        """Have VMs change places while that gains; False when nothing did."""
        begun, in_vain = len(self.steps), set[exchanges.Of]()
        while self.left > 0 and len(self.steps) + 2 <= self._most:
            pairs = exchanges.pairs(self.state, 2 * self._least)
            of = next((of for of in pairs if of not in in_vain and self._change_places(of, in_vain)), None)
            if of is None:
                break
            in_vain = {one for one in in_vain if not {one.host, one.other} & {of.host, of.other}}
        return len(self.steps) > begun

    def _change_places(self, of: exchanges.Of, in_vain: set[exchanges.Of]) -> bool:
        if not self._look():
            return False
        steps = exchanges.best(self.state, of, self.state.score - 2 * self._least)
        for step in steps:
            self._do(step)
        if not steps:
            in_vain.add(of)
        return bool(steps)

    def _best(self, vm: int) -> moves.Step | None:
        return self.state.best(vm, self.state.score - self._least) if self._look() else None

    def _look(self) -> bool:
        """Count one look; False when no more are left, or no time."""
        self.left = 0 if self.state.check() else self.left - 1
        return self.left > 0

    def _do(self, step: moves.Step) -> None:
        self.state.do(step)
        self.steps.append(dataclasses.replace(step, score=self.state.score))


def shorter(world: plan.World, end: moves.State, steps: list[moves.Step]) -> tuple[moves.State, list[moves.Step]]:
    """The same end by fewer moves, where VMs that were moved twice can go at once; and the state that it comes to.

    Where the order cannot be found, or not in time, both are as they were.
    """
    try:
        state = moves.State(occupancy.Occupancy(world), end.check)
    except patience.TookTooLong:
        return end, steps
    goals = {step.vm: (end.held.at[step.vm], end.held.replica[step.vm]) for step in steps}
    found, waiting = list[moves.Step](), list(goals)
    while waiting:
        left = list[int]()
        for vm in waiting:
            if end.check():
                return end, steps
            for host, replica in _towards(state.held.at[vm], state.held.replica[vm], *goals[vm]):
                if step := state.step(vm, host, replica):
                    state.do(step)
                    found.append(moves.Step(state.score, vm, host, replica))
                    break
            if (state.held.at[vm], state.held.replica[vm]) != goals[vm]:
                left.append(vm)
        if len(left) == len(waiting) and not (found and found[-1].vm in left):
            break
        waiting = left
    return (end, steps) if waiting or len(found) >= len(steps) else (state, found)


def _towards(host: int, replica: int, to: int, copy: int) -> Iterator[tuple[int, int]]:
    """Single moves that bring a VM to its goal, or nearer: of VM and replica only one goes to a new host."""
    if (host, replica) == (to, copy):
        return
    if to in (host, replica) or copy in (host, replica):
        yield to, copy
    if to != replica:
        yield to, replica
    if copy != host:
        yield host, copy


def _told(held: occupancy.Occupancy, step: moves.Step, before: float) -> plan.Move:
    names = [*(host.name for host in held.hosts), None]  # occupancy.NOWHERE is the last
    vm, origin = step.vm, held.hosts[held.at[step.vm]].name
    said: words.Message = Balances(before=before, after=step.score)
    if step.score >= before:
        said = Prepares(after=step.score)
    if held.at[vm] != step.host and (reasons := _against(held, vm)):
        said = Mends(origin=origin, reason=base.Saying.of(reasons[0]).model_dump())
    return plan.Move(
        vm=held.vms[vm].key,
        origin=origin,
        to=held.hosts[step.host].name,
        replica_from=names[held.replica[vm]],
        replica_to=names[step.replica],
        score=round(step.score, 8),
        because=base.Saying.of(said),
    )


def _against(held: occupancy.Occupancy, vm: int) -> list[words.Message]:
    """Why a VM must not be where it is."""
    return held.wrong(vm, held.at[vm]) if held.misplaced(vm) else []


def _stuck(state: moves.State) -> Iterator[plan.Stuck]:
    held = state.held
    for vm in range(len(held.vms)):
        if reasons := _against(held, vm):
            yield plan.Stuck(
                vm=held.vms[vm].key,
                host=held.hosts[held.at[vm]].name,
                reasons=tuple(map(base.Saying.of, reasons)),
                verdicts=_verdicts(state, vm),
            )


def _verdicts(state: moves.State, vm: int) -> tuple[plan.Verdict, ...]:
    """None once the time is over."""
    try:
        return tuple(placement.verdicts_of(state, vm))
    except patience.TookTooLong:
        return ()


def _shares(state: moves.State) -> tuple[plan.Standing, ...]:
    held = state.held
    return tuple(
        plan.Standing(
            host=host.name,
            vms=len(held.on[index]),
            memory=held.memory[index],
            memory_room=held.memory_room[index],
            vcpus=held.vcpus[index],
        )
        for index, host in enumerate(held.hosts)
    )
