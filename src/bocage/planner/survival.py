"""Whether all VMs run again when hosts die: a proof for each set of hosts that may.

They hold for what stands now. While VMs are put elsewhere, only those parts of them are made anew that it touches.
"""

from __future__ import annotations

import itertools

from bocage.model import base, plan
from bocage.planner import filters, occupancy, patience, proofs
from bocage.planner.occupancy import NOWHERE, Occupancy
from bocage.words import N_

_FEW = 100  # places that are tried while a move is thought of: another may do as well


class WouldNotRunAgain(filters.Refused):
    type = "host-breaks-survival"
    text = N_("with it on {host}, {vm} could not start again if {failed} died: {reason:saying}")
    host: str
    vm: str
    failed: str
    reason: dict[str, object]


def broken_by_start(world: plan.World, key: str, *, check: patience.Check = patience.endless) -> list[plan.Unsurvived]:
    """Who could run again now when hosts die, for want of room, and could not any more if this VM ran where it is.

    Raises TookTooLong.
    """

    def short(*, running: bool) -> dict[str, plan.Unsurvived]:
        vms = tuple(one.model_copy(update={"running": running}) if one.key == key else one for one in world.vms)
        state = Survival(occupancy.Occupancy(world.model_copy(update={"vms": vms})), check)
        return {one.vm: one for one in state.unsurvived(lost=False)}

    before = short(running=False)
    return [one for vm, one in short(running=True).items() if vm not in before]


class Survival:
    """The proofs for every set of hosts that may die at once. Raises TookTooLong when not all can be made in time."""

    def __init__(self, held: Occupancy, check: patience.Check = patience.endless) -> None:
        self._held, self._prover = held, proofs.Prover(held, patience.required(check))
        alive = [index for index, host in enumerate(held.hosts) if host.state != "silent"]
        count = min(held.world.survive, len(alive))
        sets = itertools.combinations(alive, count) if count else ()
        self.proofs = [self._prover.prove(failed) for failed in sets]
        self._prover.check = check  # from now on there is something to be told
        self._peaks: dict[int, tuple[int, int, float]] = {}

    def unsurvived(self, *, lost: bool = True) -> list[plan.Unsurvived]:
        """Who would not run again: those without room first, each with the first set of hosts that ends it.

        Without `lost` only those: no room would help the others.
        """
        held, found = self._held, dict[int, plan.Unsurvived]()
        for kind in ("short", "lost") if lost else ("short",):
            for proof in self.proofs:
                for vm, reason in sorted(getattr(proof, kind).items()):
                    failed = tuple(held.hosts[host].name for host in proof.failed)
                    one = plan.Unsurvived(vm=held.vms[vm].key, hosts=failed, reason=base.Saying.of(reason))
                    found.setdefault(vm, one)
        return list(found.values())

    def after(self, vm: int, host: int, replica: int) -> list[proofs.Proof] | proofs.Proof:
        """The proofs that take others' place when a VM, or its replica, goes elsewhere; else the one that lacks room.

        Nothing changes here until they are given to `take`.
        """
        held = self._held
        origin, copy, changed = held.at[vm], held.replica[vm], list[proofs.Proof]()
        if not (held.runs[vm] or held.grouped[vm]):
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

    def take(self, changed: list[proofs.Proof]) -> None:
        """Have these take the place of those about the same hosts."""
        by_failed = {proof.failed: proof for proof in changed}
        self.proofs = [by_failed.get(proof.failed, proof) for proof in self.proofs]
        self._peaks.clear()

    def refusal(self, proof: proofs.Proof, asked: int, host: int) -> WouldNotRunAgain:
        """In words, why a VM is not to go to a host."""
        held = self._held
        before = next(one for one in self.proofs if one.failed == proof.failed)
        short = proof.short.keys() - before.short.keys()
        vm = asked if asked in short else min(short)
        failed = ", ".join(held.hosts[one].name for one in proof.failed)
        reason = base.Saying.of(proof.short[vm]).model_dump()
        return WouldNotRunAgain(host=held.hosts[host].name, vm=held.vms[vm].key, failed=failed, reason=reason)

    def _eases(self, host: int) -> bool:
        """Whether a host holds whatever starts there, whoever dies."""
        held = self._held
        if host not in self._peaks:
            self._peaks[host] = (
                max((proof.memory[host] for proof in self.proofs), default=0),
                max((proof.vcpus[host] for proof in self.proofs), default=0),
                max((proof.cpus[host] for proof in self.proofs), default=0.0),
            )
        return held.has_room(host, *self._peaks[host])

    def _anew(self, proof: proofs.Proof, vm: int, origin: int, host: int) -> proofs.Proof:
        """The proof once a VM, which by now stands on `host`, has come from `origin`; itself while it holds."""
        held = self._held
        comes, was = host in proof.failed, origin in proof.failed
        if held.grouped[vm] and not comes and not self._suits(proof, vm, host):
            return self._prover.prove(proof.failed, _FEW)
        if not held.runs[vm]:
            return proof  # nothing starts for it, but it is in the way of those that are to be apart from it
        if not comes and not was:
            return proof if proof.holds_on(held, host) else self._prover.prove(proof.failed, _FEW)
        new = proof.copy()
        new.lost.pop(vm, None)
        new.short.pop(vm, None)
        if vm in new.where:
            new.put(held, vm, NOWHERE)
        if comes:
            target = held.replica[vm]
            if target == NOWHERE:  # where it came from has what it took there, and most likely still has room
                may = origin != NOWHERE and held.allowed[vm][origin]  # it may have stood where it must not
                stays = may and self._prover.starts(new, vm, origin)
                target = origin if stays else self._prover.roomiest(new, vm)
            if target == NOWHERE or not self._prover.starts(new, vm, target):
                return self._prover.prove(proof.failed, _FEW)
            new.put(held, vm, target)
        elif not new.holds_on(held, host):
            return self._prover.prove(proof.failed, _FEW)
        return new

    def _suits(self, proof: proofs.Proof, vm: int, host: int) -> bool:
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
