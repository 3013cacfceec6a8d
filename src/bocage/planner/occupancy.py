"""Who stands on which host, and what is left there: what all questions of placement are asked of.

Hosts and VMs go by their number in the world. What changes is kept here alone; sizes are bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from bocage import words
from bocage.model import plan
from bocage.planner import admission, filters
from bocage.words import N_

NOWHERE = -1
_LEAST = 1e-9  # what fractions of CPUs may be amiss by, added up


class Apart(filters.Refused):
    type = "host-has-what-stays-apart"
    text = N_("{other} is on {host}, and VMs of the group {group} stand apart")
    host: str
    group: str
    other: str


class Together(filters.Refused):
    type = "host-lacks-what-stays-together"
    text = N_("{other} is on {elsewhere}, and VMs of the group {group} stand together")
    host: str
    group: str
    other: str
    elsewhere: str


class NoDisk(filters.Refused):
    type = "host-lacks-disk"
    text = N_("{needed:size} of local disk are asked for and {left:size} are left on {host}")
    host: str
    needed: int
    left: int


class ReplicaHere(filters.Refused):
    type = "host-has-its-replica"
    text = N_("{host} has the replica of {vm}, which is to be elsewhere than its disks")
    host: str
    vm: str


class CpuKind(filters.Refused):
    type = "host-of-another-cpu-kind"
    text = N_("{vm} sees the CPU of {origin}, and that of {host} is another: it cannot go there while it runs")
    hint = N_("move it while it is off, or give it a model that both have: 'bocage vm set NAME --cpu-model baseline'")
    host: str
    vm: str
    origin: str


class Occupancy:
    """The world, with VMs that can be put elsewhere."""

    def __init__(self, world: plan.World) -> None:
        self.world = world
        self.hosts, self.vms = world.hosts, world.vms
        self.number = {host.name: index for index, host in enumerate(world.hosts)}
        self.capacity = [_capacity(host) for host in world.hosts]
        self.memory_room = [one.memory_room for one in self.capacity]
        self.vcpus_room = [math.inf if one.vcpus_room is None else one.vcpus_room for one in self.capacity]
        self.cpus_room = [one.cpus + _LEAST for one in self.capacity]
        self.disk_room = [host.disk - host.disk_own if host.disk else math.inf for host in world.hosts]
        count = len(world.hosts)
        self.memory, self.vcpus, self.disk = [0] * count, [0] * count, [0] * count
        self.cpus = [0.0] * count
        self.on: list[set[int]] = [set() for _ in world.hosts]
        self.replicas: list[set[int]] = [set() for _ in world.hosts]
        self.at, self.replica = [NOWHERE] * len(world.vms), [NOWHERE] * len(world.vms)
        self.runs = [vm.running for vm in world.vms]
        self.needs = [int(vm.memory) if vm.running else 0 for vm in world.vms]
        self.asks = [vm.vcpus if vm.running else 0 for vm in world.vms]
        self.reserves = [vm.cpus_reserved if vm.running else 0.0 for vm in world.vms]
        self.keeps = [int(vm.disk) for vm in world.vms]
        self.groups: dict[str, set[int]] = {}  # of those to be together, and those to be apart
        self.grouped = [bool(vm.apart or vm.together) for vm in world.vms]
        self._allowed: dict[object, list[bool]] = {}
        self.allowed = [self._allow(vm) for vm in world.vms]
        for index, vm in enumerate(world.vms):
            for group in (*vm.together, *vm.apart):
                self.groups.setdefault(group, set()).add(index)
            if vm.host is not None:
                self.put(index, self.number[vm.host])
            if vm.replica is not None:
                self.put_replica(index, self.number[vm.replica])

    def put(self, vm: int, host: int) -> None:
        """Have a VM stand on a host; NOWHERE takes it away."""
        before = self.at[vm]
        for where, sign in ((before, -1), (host, 1)):
            if where != NOWHERE:
                self.memory[where] += sign * self.needs[vm]
                self.vcpus[where] += sign * self.asks[vm]
                self.cpus[where] += sign * self.reserves[vm]
                self.disk[where] += sign * self.keeps[vm]
        if before != NOWHERE:
            self.on[before].discard(vm)
        if host != NOWHERE:
            self.on[host].add(vm)
        self.at[vm] = host

    def put_replica(self, vm: int, host: int) -> None:
        """The same for its replica."""
        before = self.replica[vm]
        if before != NOWHERE:
            self.disk[before] -= self.keeps[vm]
            self.replicas[before].discard(vm)
        if host != NOWHERE:
            self.disk[host] += self.keeps[vm]
            self.replicas[host].add(vm)
        self.replica[vm] = host

    def fits(self, vm: int, host: int) -> bool:
        """Whether there is room for one more that does not stand there yet."""
        return self.has_room(host, self.needs[vm], self.asks[vm], self.reserves[vm]) and (
            not self.keeps[vm] or self.replica[vm] == host or self.has_disk(vm, host)
        )

    def has_room(self, host: int, memory: int, vcpus: int, cpus: float) -> bool:
        """Whether so much fits on a host beside what stands there."""
        return (
            self.memory[host] + memory <= self.memory_room[host]
            and self.vcpus[host] + vcpus <= self.vcpus_room[host]
            and self.cpus[host] + cpus <= self.cpus_room[host]
        )

    def has_disk(self, vm: int, host: int) -> bool:
        """Whether its local disks fit."""
        return self.disk[host] + self.keeps[vm] <= self.disk_room[host]

    def may_be(self, vm: int, host: int) -> bool:
        """Whether a host may have a VM that stands elsewhere, or nowhere, whatever becomes of the rest."""
        return self.allowed[vm][host] and self.fits(vm, host) and self._suits_others(vm, host)

    def neighbours(self, vm: int, host: int) -> Iterator[filters.Refused]:
        """What the others speak against a VM on a host."""
        one, name = self.vms[vm], self.hosts[host].name
        for group in one.apart:
            for other in sorted(self.groups[group] & self.on[host] - {vm}):
                if group in self.vms[other].apart:
                    yield Apart(host=name, group=group, other=self.vms[other].key)
        for group in one.together:
            others = sorted(self.groups[group] - {vm})
            standing = [other for other in others if self.at[other] != NOWHERE and group in self.vms[other].together]
            if standing and not any(self.at[other] == host for other in standing):
                other = standing[0]
                where = self.hosts[self.at[other]].name
                yield Together(host=name, group=group, other=self.vms[other].key, elsewhere=where)

    def wrong(self, vm: int, host: int) -> list[words.Message]:
        """Every reason why a host must not have a VM, whatever room there is."""
        return [*filters.refusals(self.vms[vm], self.hosts[host]), *self.neighbours(vm, host)]

    def refusals(self, vm: int, host: int) -> list[words.Message]:
        """Every reason why a host may not have a VM that stands elsewhere, or nowhere."""
        one, ground, origin = self.vms[vm], self.hosts[host], self.at[vm]
        found = self.wrong(vm, host)
        if origin != NOWHERE and not filters.moves_live(one, self.hosts[origin], ground):
            found.append(CpuKind(host=ground.name, vm=one.key, origin=self.hosts[origin].name))
        if self.replica[vm] == host:
            found.append(ReplicaHere(host=ground.name, vm=one.key))
        elif self.keeps[vm] and not self.has_disk(vm, host):
            left = max(int(self.disk_room[host]) - self.disk[host], 0)
            found.append(NoDisk(host=ground.name, needed=self.keeps[vm], left=left))
        given = admission.Demand(self.memory[host], self.vcpus[host], self.cpus[host])
        asked = admission.Demand(self.needs[vm], self.asks[vm], self.reserves[vm])
        if refusal := admission.admit(ground.name, self.capacity[host], given, asked):
            found.append(refusal)
        return found

    def misplaced(self, vm: int) -> bool:
        """Whether a VM stands where it must not; a silent host's are nobody's to move."""
        host = self.at[vm]
        if host == NOWHERE or self.hosts[host].state == "silent":
            return False
        return not (self.allowed[vm][host] and self._suits_others(vm, host))

    def _suits_others(self, vm: int, host: int) -> bool:
        return not self.grouped[vm] or next(self.neighbours(vm, host), None) is None

    def _allow(self, vm: plan.PlanVM) -> list[bool]:
        wishes = filters.wishes(vm)
        if wishes not in self._allowed:
            self._allowed[wishes] = [next(filters.refusals(vm, host), None) is None for host in self.hosts]
        return self._allowed[wishes]


def _capacity(host: plan.PlanHost) -> admission.Capacity:
    memory = max(int(host.memory) - int(host.memory_own), 0)
    return admission.Capacity(memory, host.cpus, host.memory_overcommit, host.cpu_overcommit)
