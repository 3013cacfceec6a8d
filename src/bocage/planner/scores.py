"""How well VMs are spread over hosts, as one number: the lower the better.

A weighted sum: standard deviations of what the hosts have (the same ones that Ganeti's hbal(1) describes under "Cluster
scoring"), the memory that replicas would start in, and counts of what must not be. Sums and sums of squares are kept,
so that all places that one VM could go to are scored at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import sqrt

from bocage.model import plan
from bocage.planner.occupancy import NOWHERE, Occupancy


class Metric:
    """One quantity of every host that counts: a VM adds `own / what the host has` where it stands.

    `copy` is what it adds where its replica is. Hosts that do not count have `per` 0.
    """

    __slots__ = ("_rises", "copy", "count", "has", "own", "per", "square", "sum", "value", "weight")

    def __init__(
        self, weight: float, per: list[float], own: list[float], copy: list[float] | None, has: list[float]
    ) -> None:
        self.weight, self.per, self.own, self.copy, self.has = weight, per, own, copy, has
        self.count = sum(one > 0 for one in per)
        self._rises: dict[float, list[float]] = {}
        self.settle()

    def settle(self) -> None:
        """Add up anew."""
        self.value = [has * per for has, per in zip(self.has, self.per, strict=True)]
        self.sum, self.square = sum(self.value), sum(value * value for value in self.value)

    def add(self, host: int, amount: float) -> None:
        """To what one host has."""
        self.has[host] += amount
        old, new = self.value[host], self.has[host] * self.per[host]
        self.value[host] = new
        self.sum += new - old
        self.square += new * new - old * old

    def score(self) -> float:
        """Of what is."""
        spread = abs(self.count * self.square - self.sum * self.sum)
        return self.weight * sqrt(spread) / self.count if self.count else 0.0

    def scores(self, amount: float, scores: list[float]) -> list[float]:
        """`scores`, one for each host, and this one's for each, were `amount` added there."""
        if not self.count:
            return scores
        rises = self._rises.get(amount)
        if rises is None:
            rises = self._rises[amount] = [amount * per for per in self.per]
        count, total, weight = self.count, self.sum, self.weight / self.count
        base, twice, fewer, both = count * self.square - total * total, 2 * count, count - 1, 2 * total
        return [
            score + weight * sqrt(abs(base + rise * (twice * value - both + fewer * rise)))
            for score, value, rise in zip(scores, self.value, rises, strict=True)
        ]


class Scores:
    """The score of what stands, and of what it would be."""

    def __init__(self, held: Occupancy) -> None:
        self.held = held
        self._counts = [host.state == "ready" for host in held.hosts]
        self._constant = 0.0
        self.metrics = self._metrics(held.world.weights)
        self.reserved = Reserved(held, self._counts) if any(vm.replica or vm.replicated for vm in held.vms) else None
        self.misplaced = held.world.weights.misplaced

    def settle(self) -> None:
        """Add up anew, so that no error grows."""
        for metric in self.metrics:
            metric.settle()
        if self.reserved:
            self.reserved.metric.settle()

    def balance(self) -> float:
        """The score without what is counted."""
        reserved = self.reserved.score() if self.reserved else 0.0
        return self._constant + sum(metric.score() for metric in self.metrics) + reserved

    def counted(self) -> float:
        """What is counted: VMs that stand where they must not, or where not all would start."""
        held = self.held
        misplaced = sum(held.misplaced(vm) for vm in range(len(held.vms)))
        return self.misplaced * misplaced + (self.reserved.unready() if self.reserved else 0.0)

    def put(self, vm: int, host: int, sign: int) -> None:
        """Add a VM to a host, or take it away, in what is summed up."""
        for metric in self.metrics:
            if amount := metric.own[vm]:
                metric.add(host, sign * amount)

    def put_replica(self, vm: int, host: int, sign: int) -> None:
        """The same for its replica; what that reserves is `Reserved.put`'s."""
        for metric in self.metrics:
            if metric.copy and (amount := metric.copy[vm]):
                metric.add(host, sign * amount)

    def with_vm(self, vm: int) -> list[float]:
        """The balance for each host, were a VM there that stands nowhere; its replica stays."""
        scores = [self._constant] * len(self.held.hosts)
        for metric in self.metrics:
            amount = metric.own[vm]
            scores = metric.scores(amount, scores) if amount else _plus(scores, metric.score())
        return scores

    def with_replica(self, vm: int) -> list[float]:
        """The same were its replica there, which is nowhere; without what that reserves."""
        scores = [self._constant] * len(self.held.hosts)
        for metric in self.metrics:
            amount = metric.copy[vm] if metric.copy else 0.0
            scores = metric.scores(amount, scores) if amount else _plus(scores, metric.score())
        return scores

    def _metrics(self, weights: plan.Weights) -> list[Metric]:
        """Those that VMs make a difference to; equal ones are one."""
        held, found = self.held, dict[object, Metric]()
        for weight, per, own, copy, first in self._described(weights):
            has, differs = first.copy(), any(own)
            for places, amounts in ((held.at, own if differs else []), (held.replica, copy or [])):
                for host, amount in zip(places, amounts, strict=False):
                    if host != NOWHERE:
                        has[host] += amount
            metric = Metric(weight, per, own, copy, has)
            if differs:
                key = (tuple(per), tuple(own), tuple(copy) if copy else None, tuple(has))
                if key in found:
                    found[key].weight += weight
                else:
                    found[key] = metric
            else:
                self._constant += metric.score()
        return list(found.values())

    def _described(
        self, weights: plan.Weights
    ) -> Iterator[tuple[float, list[float], list[float], list[float] | None, list[float]]]:
        """Each metric: its weight, what one of it is of a host, what each VM and its replica add, what is there."""
        held, hosts, copies = self.held, self.held.hosts, [bool(vm.replica or vm.replicated) for vm in self.held.vms]

        def per(size: Callable[[plan.PlanHost], float]) -> list[float]:
            counted = zip(hosts, self._counts, strict=True)
            return [1.0 / size(host) if counts and size(host) else 0.0 for host, counts in counted]

        def of_copies(amounts: list[float]) -> list[float] | None:
            if not any(copies):
                return None
            return [amount if copy else 0.0 for amount, copy in zip(amounts, copies, strict=True)]

        memory, disks, vcpus = ([float(one) for one in what] for what in (held.needs, held.keeps, held.asks))
        yield weights.memory, per(lambda host: host.memory), memory, None, [float(host.memory_own) for host in hosts]
        taken = [float(host.disk_own) for host in hosts]
        yield weights.disk, per(lambda host: host.disk), disks, of_copies(disks), taken
        yield weights.vcpus, per(lambda host: host.cpus), vcpus, None, [float(host.cpus_own) for host in hosts]
        power, idle, loads = per(lambda host: host.power), [0.0] * len(hosts), [vm.load for vm in held.vms]
        yield weights.cpu_load, power, [load.cpu for load in loads], None, idle
        yield weights.memory_load, power, [load.memory for load in loads], None, idle
        disk = [load.disk for load in loads]
        yield weights.disk_load, power, disk, of_copies(disk), idle
        yield weights.net_load, power, [load.net for load in loads], None, idle


class Reserved:
    """What hosts must keep free, since the replicas there would start if the one host died that most of them are of."""

    def __init__(self, held: Occupancy, counts: list[bool]) -> None:
        self._held, self._hosts = held, range(len(held.hosts))
        count = len(held.hosts)
        self.of = [[0] * count for _ in self._hosts]  # bytes on a host, by the host that would have died
        self.by = [[0] * count for _ in self._hosts]  # the same the other way round
        for vm, host in enumerate(held.replica):
            if host != NOWHERE and held.at[vm] != NOWHERE:
                self._add(vm, held.at[vm], host, 1)
        weights = held.world.weights
        self._sum, self._unready = weights.reserved_sum, weights.unready
        self.most = [max(row, default=0) for row in self.of]
        per = [1.0 / host.memory if one and host.memory else 0.0 for host, one in zip(held.hosts, counts, strict=True)]
        self.metric = Metric(weights.reserved, per, [], None, [float(most) for most in self.most])

    def score(self) -> float:
        """Its part of the balance."""
        return self.metric.score() + self._sum * self.metric.sum

    def put(self, vm: int, host: int, replica: int, sign: int) -> None:
        """A VM of `host` has its replica on another, or has it no more."""
        self._add(vm, host, replica, sign)
        most = max(self.of[replica])
        self.metric.add(replica, most - self.most[replica])
        self.most[replica] = most

    def _add(self, vm: int, host: int, replica: int, sign: int) -> None:
        needs = sign * self._held.needs[vm]
        self.of[replica][host] += needs
        self.by[host][replica] += needs

    def with_replica(self, vm: int, host: int, scores: Sequence[float]) -> list[float]:
        """`scores`, and this one's for each host that could have the replica of a VM of `host`."""
        needs, metric, share = self._held.needs[vm], self.metric, self._sum
        count, total, weight = metric.count or 1, metric.sum, metric.weight / (metric.count or 1)
        base, twice, fewer, both = count * metric.square - total * total, 2 * count, count - 1, 2 * total
        found = []
        for score, most, taken, value, per in zip(
            scores, self.most, self.by[host], metric.value, metric.per, strict=True
        ):
            over = taken + needs - most
            if over > 0:
                rise = over * per
                spread = base + rise * (twice * value - both + fewer * rise)
                found.append(score + weight * sqrt(abs(spread)) + share * (total + rise))
            else:
                found.append(score + weight * sqrt(abs(base)) + share * total)
        return found

    def with_vm(self, vm: int, replica: int, scores: Sequence[float]) -> list[float]:
        """`scores`, and this one's for each host that could have a VM whose replica is on `replica`."""
        needs, most, metric, share = self._held.needs[vm], self.most[replica], self.metric, self._sum
        count, total, weight = metric.count or 1, metric.sum, metric.weight / (metric.count or 1)
        base, value, per = count * metric.square - total * total, metric.value[replica], metric.per[replica]
        slope = 2 * (count * value - total)
        usual = weight * sqrt(abs(base)) + share * total
        found = []
        for score, taken in zip(scores, self.of[replica], strict=True):
            over = taken + needs - most
            if over > 0:
                rise = over * per
                spread = base + rise * (slope + (count - 1) * rise)
                found.append(score + weight * sqrt(abs(spread)) + share * (total + rise))
            else:
                found.append(score + usual)
        return found

    def margin(self, host: int) -> int:
        """The bytes that a host has left when all that would start there has; below 0 not all of it would."""
        return self._held.memory_room[host] - self._held.memory[host] - self.most[host]

    def unready(self) -> float:
        """What counts against hosts where not all would start."""
        return sum(self.counted(host) for host in self._hosts)

    def counted(self, host: int) -> float:
        """What counts against one host: every VM, and every replica, that is there."""
        if self.margin(host) >= 0:
            return 0.0
        return self._unready * (len(self._held.on[host]) + len(self._held.replicas[host]))


def _plus(scores: list[float], more: float) -> list[float]:
    return [score + more for score in scores]
