"""Where the VMs of some hosts start when these die: one proof, made VM by VM."""

from __future__ import annotations

import dataclasses
import heapq

from bocage.planner import filters, patience
from bocage.planner.occupancy import NOWHERE, Occupancy
from bocage.words import N_

_TRIES = 2_000  # places that are tried for the VMs of one set of hosts, before one is said to have none


class Unreached(filters.Refused):
    type = "survive-unreached"
    text = N_("no other host may have it: its storage, its networks, its CPU or its tags are on {hosts} alone")
    hint = N_("give it a replica, or put it on storage that several hosts reach")
    hosts: str


class ReplicaDead(filters.Refused):
    type = "survive-replica-not-ready"
    text = N_("its replica is on {replica}, which cannot start it")
    replica: str


class NoRoomLeft(filters.Refused):
    type = "survive-no-room"
    text = N_("it needs {needed:size}, and no host that may have it has that left then: {missing:size} are missing")
    hint = N_("stop or shrink a VM, or add a host")
    needed: int
    missing: int


class NoCpusLeft(filters.Refused):
    type = "survive-no-cpus"
    text = N_("it needs {vcpus} vCPUs, and no host that may have it and has {needed:size} left has these left then")
    hint = N_("stop or shrink a VM, or add a host")
    needed: int
    vcpus: int


class KeptApart(filters.Refused):
    type = "survive-kept-apart"
    text = N_("every host that has room then has what it stands apart from, or lacks what it stands with: {groups}")
    hint = N_("add a host, or take a VM out of the group")
    groups: str


@dataclasses.dataclass(slots=True)
class Proof:
    """What becomes of the VMs of some hosts when these die."""

    failed: tuple[int, ...]
    memory: list[int]  # that they take then, by host
    vcpus: list[int]
    cpus: list[float]
    where: dict[int, int] = dataclasses.field(default_factory=dict)  # host by VM
    lost: dict[int, filters.Refused] = dataclasses.field(default_factory=dict)  # that nothing here could help
    short: dict[int, filters.Refused] = dataclasses.field(default_factory=dict)  # that have no room

    @classmethod
    def empty(cls, failed: tuple[int, ...], hosts: int) -> Proof:
        return cls(failed, [0] * hosts, [0] * hosts, [0.0] * hosts)

    def copy(self) -> Proof:
        """One that can be changed by itself."""
        sums = (self.memory.copy(), self.vcpus.copy(), self.cpus.copy())
        return Proof(self.failed, *sums, self.where.copy(), self.lost.copy(), self.short.copy())

    def put(self, held: Occupancy, vm: int, host: int) -> None:
        """Have a VM start on a host; NOWHERE takes it out."""
        sign = 1
        if host == NOWHERE:
            host, sign = self.where.pop(vm), -1
        else:
            self.where[vm] = host
        self.memory[host] += sign * held.needs[vm]
        self.vcpus[host] += sign * held.asks[vm]
        self.cpus[host] += sign * held.reserves[vm]

    def fits(self, held: Occupancy, vm: int, host: int) -> bool:
        """Whether a host has room for one VM more, with all that start there."""
        memory, vcpus, cpus = self.memory[host], self.vcpus[host], self.cpus[host]
        return held.has_room(host, memory + held.needs[vm], vcpus + held.asks[vm], cpus + held.reserves[vm])

    def holds_on(self, held: Occupancy, host: int) -> bool:
        """Whether what starts there still fits."""
        return held.has_room(host, self.memory[host], self.vcpus[host], self.cpus[host])


class Prover:
    """Makes proofs for what stands at that moment. What it is given to look at ends them by what it raises."""

    def __init__(self, held: Occupancy, check: patience.Check) -> None:
        self._held, self.check = held, check
        self._ready = [host.state == "ready" for host in held.hosts]
        self._later = [(-vm.priority, -held.needs[index], index) for index, vm in enumerate(held.vms)]
        self._reach = [sum(allowed) for allowed in held.allowed]

    def prove(self, failed: tuple[int, ...], tries: int = _TRIES) -> Proof:
        """A proof for what stands now."""
        self.check()
        held = self._held
        proof = Proof.empty(failed, len(held.hosts))
        movable: list[int] = []
        for host in failed:
            for vm in sorted(held.on[host], key=self._later.__getitem__):
                if not held.runs[vm]:
                    continue
                replica = held.replica[vm]
                if replica == NOWHERE and self._may(vm, failed):
                    movable.append(vm)
                elif replica == NOWHERE:
                    proof.lost[vm] = Unreached(hosts=", ".join(held.hosts[one].name for one in failed))
                elif replica in failed or not self._ready[replica]:
                    proof.lost[vm] = ReplicaDead(replica=held.hosts[replica].name)
                elif self.starts(proof, vm, replica):
                    proof.put(held, vm, replica)
                else:
                    proof.short[vm] = self._no_room(proof, vm)
        return self._spread(proof, movable, tries)

    def _may(self, vm: int, failed: tuple[int, ...]) -> bool:
        """Whether any host is left that reaches all it needs."""
        allowed = self._held.allowed[vm]
        return self._reach[vm] > sum(allowed[host] for host in failed)

    def _spread(self, proof: Proof, vms: list[int], tries: int) -> Proof:
        """With all of them somewhere: the large ones first where most is left; else where least is; else by search."""
        held = self._held
        large = sorted(vms, key=lambda vm: (not held.grouped[vm], -held.needs[vm], -held.asks[vm], vm))
        if self._fill(proof, large):
            return proof
        if not self._hopeless(proof, vms):
            trial = proof.copy()
            if all(self._place_one(trial, vm, self._tightest(trial, vm)) for vm in large):
                return trial
            trial = proof.copy()
            if self._search(trial, sorted(large, key=lambda vm: (self._reach[vm], -held.needs[vm], vm)), tries):
                return trial
        for vm in sorted(vms, key=self._later.__getitem__):
            if not self._place_one(proof, vm, self.roomiest(proof, vm)):
                proof.short[vm] = self._no_room(proof, vm)
        return proof

    def _hopeless(self, proof: Proof, vms: list[int]) -> bool:
        """Whether no order could help: one fits nowhere by itself, or all have not enough memory together."""
        ready = (host for host, one in enumerate(self._ready) if one and host not in proof.failed)
        left = sum(max(self._left(proof, host), 0) for host in ready)
        return sum(self._held.needs[vm] for vm in vms) > left or not all(self._fitting(proof, vm) for vm in vms)

    def _fill(self, proof: Proof, vms: list[int]) -> bool:
        """Each to the host with most memory left; when one fits nowhere, all is as it was."""
        held, put = self._held, list[int]()
        ready = [host for host, one in enumerate(self._ready) if one and host not in proof.failed]
        left = [(-self._left(proof, host), host) for host in ready]
        heapq.heapify(left)
        for vm in vms:
            taken, host = left[0] if left else (0, NOWHERE)
            if host != NOWHERE and not held.grouped[vm] and held.allowed[vm][host] and proof.fits(held, vm, host):
                proof.put(held, vm, host)
                heapq.heapreplace(left, (taken + held.needs[vm], host))
            elif self._place_one(proof, vm, self.roomiest(proof, vm)):
                left = [(-self._left(proof, host), host) for host in ready]
                heapq.heapify(left)
            else:
                for one in put:
                    proof.put(held, one, NOWHERE)
                return False
            put.append(vm)
        return True

    def _place_one(self, proof: Proof, vm: int, host: int) -> bool:
        if host == NOWHERE:
            return False
        proof.put(self._held, vm, host)
        return True

    def roomiest(self, proof: Proof, vm: int) -> int:
        """The host with most memory left that can start a VM; NOWHERE when none can."""
        held = self._held
        left = [
            room - given - more for room, given, more in zip(held.memory_room, held.memory, proof.memory, strict=True)
        ]
        first = left.index(max(left))  # mostly it can, and no other need be looked at
        if held.allowed[vm][first] and self.starts(proof, vm, first):
            return first
        return max(self._fitting(proof, vm), key=lambda host: (left[host], -host), default=NOWHERE)

    def _tightest(self, proof: Proof, vm: int) -> int:
        return min(self._fitting(proof, vm), key=lambda host: (self._left(proof, host), host), default=NOWHERE)

    def _left(self, proof: Proof, host: int) -> int:
        held = self._held
        return held.memory_room[host] - held.memory[host] - proof.memory[host]

    def _fitting(self, proof: Proof, vm: int) -> list[int]:
        self.check()
        allowed = self._held.allowed[vm]
        return [host for host, may in enumerate(allowed) if may and self.starts(proof, vm, host)]

    def starts(self, proof: Proof, vm: int, host: int) -> bool:
        """Whether a host that lives can start a VM there and then."""
        if host in proof.failed or not self._ready[host] or not proof.fits(self._held, vm, host):
            return False
        return not self._held.grouped[vm] or self._keeps_groups(proof, vm, host)

    def _keeps_groups(self, proof: Proof, vm: int, host: int) -> bool:
        held = self._held
        one = held.vms[vm]

        def then(other: int) -> int:
            return proof.where.get(other, NOWHERE if held.at[other] in proof.failed else held.at[other])

        for group in one.apart:
            others = (other for other in held.groups[group] if other != vm and group in held.vms[other].apart)
            if any(then(other) == host for other in others):
                return False
        for group in one.together:
            others = (other for other in held.groups[group] if other != vm and group in held.vms[other].together)
            standing = [where for where in map(then, others) if where != NOWHERE]
            if standing and host not in standing:
                return False
        return True

    def _search(self, proof: Proof, vms: list[int], tries: int) -> bool:
        """Depth first, every VM to every host that could have it, within a bound on tries and on time."""
        held = self._held
        stack: list[list[int]] = [self._options(proof, vms[0])]
        while stack:
            depth = len(stack) - 1
            vm = vms[depth]
            if vm in proof.where:
                proof.put(held, vm, NOWHERE)
            if not stack[-1] or tries <= 0 or self.check():
                stack.pop()
                continue
            tries -= 1
            proof.put(held, vm, stack[-1].pop(0))
            if len(stack) == len(vms):
                return True
            stack.append(self._options(proof, vms[depth + 1]))
        return False

    def _options(self, proof: Proof, vm: int) -> list[int]:
        """The hosts that could have it, the tightest first."""
        return sorted(self._fitting(proof, vm), key=lambda host: (self._left(proof, host), host))

    def _no_room(self, proof: Proof, vm: int) -> filters.Refused:
        """What keeps a VM from every host."""
        held, one = self._held, self._held.vms[vm]
        may = [host for host, allowed in enumerate(held.allowed[vm]) if allowed and host not in proof.failed]
        if held.replica[vm] != NOWHERE:
            may = [held.replica[vm]]
        if held.grouped[vm] and any(proof.fits(held, vm, host) for host in may):
            return KeptApart(groups=", ".join(dict.fromkeys((*one.apart, *one.together))))
        needed, most = held.needs[vm], max((max(self._left(proof, host), 0) for host in may), default=0)
        if most >= needed:
            return NoCpusLeft(needed=needed, vcpus=held.asks[vm])
        return NoRoomLeft(needed=needed, missing=needed - most)
