"""Two VMs that change places, or whose replicas do: what single moves cannot reach.

Only pairs of hosts are looked at that are so far from the average that an exchange could gain enough.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
from collections.abc import Iterator, Sequence
from math import sqrt

from bocage.planner import moves, scores

_TRIED = 4  # of the most promising pairs of VMs of two hosts


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Of:
    """Exchanges between two hosts: of VMs, or of replicas."""

    replicas: bool
    host: int
    other: int


def pairs(state: moves.State, least: float) -> list[Of]:
    """Pairs of hosts whose exchanges could gain `least`, the most promising first; none once the time is over."""
    ledger, found = state.scores, list[tuple[float, Of]]()
    for replicas in (False, True) if ledger.reserved else (False,):
        metrics = [one for one in ledger.metrics if (one.copy if replicas else one.own) and one.count]
        spreads = [list(_deviations(metric)) for metric in metrics]
        total = [sum(spread) for spread in spreads]
        now = [metric.score() for metric in metrics]
        hosts = [host for host in range(len(state.held.hosts)) if metrics and metrics[0].per[host] > 0]
        for one, other in itertools.combinations(hosts, 2):
            if state.check():
                return []
            gain = 0.0
            for spread, whole, score in zip(spreads, total, now, strict=True):
                if whole > 0:
                    gain += score * (1 - sqrt(max(0.0, 1 - (spread[one] + spread[other]) / whole)))
            if gain >= least:
                found.append((-gain, Of(replicas, one, other)))
    return [of for _, of in sorted(found)]


def best(state: moves.State, of: Of, below: float) -> list[moves.Step]:
    """Two steps that bring the score below a bound, the second possible after the first; none when nothing does."""
    replicas, one, other = of.replicas, of.host, of.other
    held = state.held
    where = held.replicas if replicas else held.on
    ours = [vm for vm in sorted(where[one]) if state.movable(vm)]
    theirs = [vm for vm in sorted(where[other]) if state.movable(vm)]
    margin = below - state.score
    found: list[tuple[float, int, int]] = []
    for vm in ours:
        gains = _gains(state.scores.metrics, vm, theirs, one, other, replicas=replicas)
        found += [(gain, vm, partner) for gain, partner in zip(gains, theirs, strict=True) if gain < margin]
    for _, vm, partner in heapq.nsmallest(_TRIED, found):
        if steps := _try(state, vm, partner, below, replicas=replicas):
            return steps
    return []


def _deviations(metric: scores.Metric) -> Iterator[float]:
    """Of every host: the square of what it is from the average."""
    average = metric.sum / metric.count
    for value, per in zip(metric.value, metric.per, strict=True):
        yield (value - average) ** 2 if per > 0 else 0.0


def _gains(
    metrics: Sequence[scores.Metric], vm: int, others: Sequence[int], host: int, there: int, *, replicas: bool
) -> list[float]:
    """What the balance, without what replicas reserve, would change by for each other VM to exchange with."""
    gains = [0.0] * len(others)
    for metric in metrics:
        amounts = metric.copy if replicas else metric.own
        if amounts is None or not metric.count:
            continue
        mine, count, total = amounts[vm], metric.count, metric.sum
        here, its, ours, theirs = metric.per[host], metric.per[there], metric.value[host], metric.value[there]
        weight, now = metric.weight / count, metric.score()
        base, moved = count * metric.square - total * total, [amounts[other] - mine for other in others]
        both = count * (here * here + its * its) - (here - its) ** 2
        slope = 2 * (count * (here * ours - its * theirs) - total * (here - its))
        gains = [
            gain + weight * sqrt(abs(base + more * (slope + more * both))) - now if more else gain
            for gain, more in zip(gains, moved, strict=True)
        ]
    return gains


def _try(state: moves.State, vm: int, other: int, below: float, *, replicas: bool) -> list[moves.Step]:
    """Both steps, one or the other first, when they are possible and gain enough."""
    held = state.held
    at, copies = held.at, held.replica
    goals = {
        vm: (at[vm], copies[other]) if replicas else (at[other], copies[vm]),
        other: (at[other], copies[vm]) if replicas else (at[vm], copies[other]),
    }
    back = {one: moves.Step(0.0, one, at[one], copies[one]) for one in (vm, other)}
    for order in ((vm, other), (other, vm)):
        steps = list[moves.Step]()
        for one in order:
            if (step := state.step(one, *goals[one])) is None:
                break
            state.do(step)
            steps.append(step)
        done = len(steps) == len(order) and state.score < below
        for step in reversed(steps):
            state.do(back[step.vm])
        if done:
            return steps
    return []
