"""Whether all VMs run again when hosts die: for each set of hosts that may, a proof, VM by VM, of where.

A proof holds for what stands now. While VMs are put elsewhere, only those parts of it are made anew that it touches.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools

from bocage.model import base, plan
from bocage.planner import filters, patience
from bocage.planner.occupancy import NOWHERE, Occupancy
from bocage.words import N_

_TRIES = 2_000  # places that are tried for the VMs of one set of hosts, before one is said to have none
_FEW = 100  # the same while a move is thought of: another may do as well


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
    text = N_("it needs {needed:size} and {vcpus} vCPUs, and no host that may have it has that left then")
    hint = N_("stop or shrink a VM, or add a host")
    needed: int
    vcpus: int


class KeptApart(filters.Refused):
    type = "survive-kept-apart"
    text = N_("every host that has room then has what it stands apart from, or lacks what it stands with: {groups}")
    hint = N_("add a host, or take a VM out of the group")
    groups: str


class WouldNotRunAgain(filters.Refused):
    type = "host-breaks-survival"
    text = N_("with it on {host}, {vm} could not start again if {failed} died: {reason:saying}")
    host: str
    vm: str
    failed: str
    reason: dict[str, object]


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
        return Proof(
            self.failed,
            self.memory.copy(),
            self.vcpus.copy(),
            self.cpus.copy(),
            self.where.copy(),
            self.lost.copy(),
            self.short.copy(),
        )

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
        return (
            held.memory[host] + self.memory[host] + held.needs[vm] <= held.memory_room[host]
            and held.vcpus[host] + self.vcpus[host] + held.asks[vm] <= held.vcpus_room[host]
            and held.cpus[host] + self.cpus[host] + held.reserves[vm] <= held.cpus_room[host]
        )

    def holds_on(self, held: Occupancy, host: int) -> bool:
        """Whether what starts there still fits."""
        return (
            held.memory[host] + self.memory[host] <= held.memory_room[host]
            and held.vcpus[host] + self.vcpus[host] <= held.vcpus_room[host]
            and held.cpus[host] + self.cpus[host] <= held.cpus_room[host]
        )


class Survival:
    """The proofs for every set of hosts that may die at once. Raises TookTooLong when not all can be made in time."""

    def __init__(self, held: Occupancy, check: patience.Check = patience.endless) -> None:
        self._held, self._check = held, patience.required(check)
        self._ready = [host.state == "ready" for host in held.hosts]
        alive = [index for index, host in enumerate(held.hosts) if host.state != "silent"]
        count = min(held.world.survive, len(alive))
        sets = itertools.combinations(alive, count) if count else ()
        self._later = [(-vm.priority, -held.needs[index], index) for index, vm in enumerate(held.vms)]
        self._reach = [sum(allowed) for allowed in held.allowed]
        self.proofs: list[Proof] = []
        for failed in sets:
            self.proofs.append(self.prove(failed))
        self._check = check  # from now on there is something to be told
        self._peaks: dict[int, tuple[int, int, float]] = {}

    @property
    def holds(self) -> bool:
        """Whether nobody is without room."""
        return not any(proof.short for proof in self.proofs)

    def _eases(self, host: int) -> bool:
        """Whether a host holds whatever starts there, whoever dies."""
        held = self._held
        if host not in self._peaks:
            self._peaks[host] = (
                max((proof.memory[host] for proof in self.proofs), default=0),
                max((proof.vcpus[host] for proof in self.proofs), default=0),
                max((proof.cpus[host] for proof in self.proofs), default=0.0),
            )
        memory, vcpus, cpus = self._peaks[host]
        return (
            held.memory[host] + memory <= held.memory_room[host]
            and held.vcpus[host] + vcpus <= held.vcpus_room[host]
            and held.cpus[host] + cpus <= held.cpus_room[host]
        )

    def unsurvived(self) -> list[plan.Unsurvived]:
        """Who would not run again: those without room first, each with the first set of hosts that ends it."""
        held, found = self._held, dict[int, plan.Unsurvived]()
        for kind in ("short", "lost"):
            for proof in self.proofs:
                for vm, reason in sorted(getattr(proof, kind).items()):
                    failed = tuple(held.hosts[host].name for host in proof.failed)
                    one = plan.Unsurvived(vm=held.vms[vm].key, hosts=failed, reason=base.Saying.of(reason))
                    found.setdefault(vm, one)
        return list(found.values())

    def after(self, vm: int, host: int, replica: int) -> list[Proof] | Proof:
        """The proofs that take others' place when a VM, or its replica, goes elsewhere; else the one that lacks room.

        Nothing changes here until they are given to `take`.
        """
        held = self._held
        origin, copy, changed = held.at[vm], held.replica[vm], list[Proof]()
        if not held.runs[vm]:
            return changed
        held.put(vm, host)
        held.put_replica(vm, replica)
        eased = not held.grouped[vm] and self._eases(host)
        try:
            for proof in self.proofs:
                if eased and origin not in proof.failed and host not in proof.failed:
                    continue
                new = self._anew(proof, vm, origin, host)
                if new is not proof:
                    if len(new.short) > len(proof.short):
                        return new
                    changed.append(new)
        finally:
            held.put(vm, origin)
            held.put_replica(vm, copy)
        return changed

    def take(self, changed: list[Proof]) -> None:
        """Have these take the place of those about the same hosts."""
        by_failed = {proof.failed: proof for proof in changed}
        self.proofs = [by_failed.get(proof.failed, proof) for proof in self.proofs]
        self._peaks.clear()

    def refusal(self, proof: Proof, asked: int, host: int) -> WouldNotRunAgain:
        """In words, why a VM is not to go to a host."""
        held = self._held
        before = next(one for one in self.proofs if one.failed == proof.failed)
        short = proof.short.keys() - before.short.keys()
        vm = asked if asked in short else min(short)
        failed = ", ".join(held.hosts[one].name for one in proof.failed)
        reason = base.Saying.of(proof.short[vm]).model_dump()
        return WouldNotRunAgain(host=held.hosts[host].name, vm=held.vms[vm].key, failed=failed, reason=reason)

    def _anew(self, proof: Proof, vm: int, origin: int, host: int) -> Proof:
        """The proof once a VM, which by now stands on `host`, has come from `origin`; itself while it holds."""
        held = self._held
        comes, was = host in proof.failed, origin in proof.failed
        if held.grouped[vm] and not comes and not self._suits(proof, vm, host):
            return self.prove(proof.failed, _FEW)
        if not comes and not was:
            return proof if proof.holds_on(held, host) else self.prove(proof.failed, _FEW)
        new = proof.copy()
        new.lost.pop(vm, None)
        new.short.pop(vm, None)
        if vm in new.where:
            new.put(held, vm, NOWHERE)
        if comes:
            target = held.replica[vm]
            if target == NOWHERE:  # where it came from has what it took there, and most likely still has room
                target = origin if origin != NOWHERE and self._starts(new, vm, origin) else self._roomiest(new, vm)
            if target == NOWHERE or not self._starts(new, vm, target):
                return self.prove(proof.failed, _FEW)
            new.put(held, vm, target)
        elif not new.holds_on(held, host):
            return self.prove(proof.failed, _FEW)
        return new

    def _suits(self, proof: Proof, vm: int, host: int) -> bool:
        """Whether those of its groups that start anew may do so where they do, with a VM on a host that lives."""
        one, held = self._held.vms[vm], self._held
        starts = [
            (held.vms[other], proof.where[other])
            for group in (*one.apart, *one.together)
            for other in held.groups[group]
            if other in proof.where and other != vm
        ]
        return not any(
            (where == host and not set(one.apart).isdisjoint(mate.apart))
            or (where != host and not set(one.together).isdisjoint(mate.together))
            for mate, where in starts
        )

    def prove(self, failed: tuple[int, ...], tries: int = _TRIES) -> Proof:
        """A proof for what stands now."""
        self._check()
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
                elif self._starts(proof, vm, replica):
                    proof.put(held, vm, replica)
                else:
                    proof.short[vm] = self._no_room(proof, vm)
        self._spread(proof, movable, tries)
        return proof

    def _may(self, vm: int, failed: tuple[int, ...]) -> bool:
        """Whether any host is left that reaches all it needs."""
        allowed = self._held.allowed[vm]
        return self._reach[vm] > sum(allowed[host] for host in failed)

    def _spread(self, proof: Proof, vms: list[int], tries: int) -> None:
        """Put all of them somewhere: the large ones first where most is left; else where least is; else by search."""
        held = self._held
        if not vms:
            return
        large = sorted(vms, key=lambda vm: (not held.grouped[vm], -held.needs[vm], -held.asks[vm], vm))
        if self._fill(proof, large):
            return
        if not self._hopeless(proof, vms):
            for by_search in (False, True):
                trial = proof.copy()
                if by_search:
                    order = sorted(large, key=lambda vm: (self._reach[vm], -held.needs[vm], vm))
                    done = self._search(trial, order, tries)
                else:
                    done = all(self._place_one(trial, vm, self._tightest(trial, vm)) for vm in large)
                if done:
                    proof.where, proof.memory, proof.vcpus, proof.cpus = (
                        trial.where,
                        trial.memory,
                        trial.vcpus,
                        trial.cpus,
                    )
                    return
        for vm in sorted(vms, key=self._later.__getitem__):
            if not self._place_one(proof, vm, self._roomiest(proof, vm)):
                proof.short[vm] = self._no_room(proof, vm)

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
            elif self._place_one(proof, vm, self._roomiest(proof, vm)):
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

    def _roomiest(self, proof: Proof, vm: int) -> int:
        """The host with most memory left that can start a VM; NOWHERE when none can."""
        held = self._held
        left = [
            room - given - more for room, given, more in zip(held.memory_room, held.memory, proof.memory, strict=True)
        ]
        first = left.index(max(left))  # mostly it can, and no other need be looked at
        if held.allowed[vm][first] and self._starts(proof, vm, first):
            return first
        return max(self._fitting(proof, vm), key=lambda host: (left[host], -host), default=NOWHERE)

    def _tightest(self, proof: Proof, vm: int) -> int:
        return min(self._fitting(proof, vm), key=lambda host: (self._left(proof, host), host), default=NOWHERE)

    def _left(self, proof: Proof, host: int) -> int:
        held = self._held
        return held.memory_room[host] - held.memory[host] - proof.memory[host]

    def _fitting(self, proof: Proof, vm: int) -> list[int]:
        self._check()
        allowed = self._held.allowed[vm]
        return [host for host, may in enumerate(allowed) if may and self._starts(proof, vm, host)]

    def _starts(self, proof: Proof, vm: int, host: int) -> bool:
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
            if not stack[-1] or tries <= 0 or self._check():
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
        may = (host for host, allowed in enumerate(held.allowed[vm]) if allowed and host not in proof.failed)
        if held.grouped[vm] and any(proof.fits(held, vm, host) for host in may):
            return KeptApart(groups=", ".join(dict.fromkeys((*one.apart, *one.together))))
        return NoRoomLeft(needed=held.needs[vm], vcpus=held.asks[vm])
