"""Which host a VM is to live on: filters, then scores, and every host's answer with its reasons."""

from __future__ import annotations

from bocage import words
from bocage.model import base, plan
from bocage.planner import filters, moves, occupancy, patience, proofs
from bocage.planner.occupancy import NOWHERE
from bocage.words import N_


class NoHosts(filters.Refused):
    type = "no-hosts"
    text = N_("there is no host")


class BestOf(words.Message):
    type = "placed-best"
    text = N_("of {count} hosts that can have it, {host} leaves the cluster best balanced: score {score:.4f}")
    host: str
    count: int
    score: float


class OnlyOne(words.Message):
    type = "placed-only"
    text = N_("{host} is the only host that can have it")
    host: str


class Nowhere(words.Message):
    type = "placed-nowhere"
    text = N_("no host can have it")


class ReplicasLack(filters.Refused):
    type = "host-breaks-replicas"
    text = N_("with it on {host}, VMs whose replicas are there, or its own replica, would not all start any more")
    hint = N_("'bocage plan rebalance' may make room")
    host: str


class NoReplica(filters.Refused):
    type = "host-without-replica-host"
    text = N_("with it on {host}, no other host has the disk, and the memory to start it, that its replica needs")
    host: str


def place(vm: plan.PlanVM, world: plan.World, *, check: patience.Check = patience.endless) -> plan.Placed:
    """Choose a host for a VM as if it were nowhere yet: the one that leaves the best score, and what speaks of each.

    With `replicated` and no host for its replica yet, both are chosen. Raises TookTooLong.
    """
    others = tuple(one for one in world.vms if one.key != vm.key)
    asked = vm.model_copy(update={"host": None})
    state = moves.State(occupancy.Occupancy(world.model_copy(update={"vms": (*others, asked)})), check)
    verdicts = verdicts_of(state, len(others))
    good = [verdict for verdict in verdicts if not verdict.reasons]
    if not good:
        said: words.Message = Nowhere() if verdicts else NoHosts()
        return plan.Placed(vm=vm.key, host=None, because=base.Saying.of(said), verdicts=tuple(verdicts))
    best = good[0]
    chosen = BestOf(host=best.host, count=len(good), score=best.score or 0.0)
    said = chosen if len(good) > 1 else OnlyOne(host=best.host)
    return plan.Placed(
        vm=vm.key, host=best.host, replica=best.replica, because=base.Saying.of(said), verdicts=tuple(verdicts)
    )


def verdicts_of(state: moves.State, vm: int) -> list[plan.Verdict]:
    """Every host, looked at for one VM that stands elsewhere or nowhere: those that could have it first, by score.

    Raises TookTooLong.
    """
    held = state.held
    found = [_verdict(state, vm, host) for host in range(len(held.hosts)) if host != held.at[vm]]
    return sorted(found, key=lambda one: (bool(one.reasons), one.score or 0.0, one.host))


def _verdict(state: moves.State, vm: int, host: int) -> plan.Verdict:
    patience.require(state.check)
    held = state.held
    name = held.hosts[host].name
    if reasons := held.refusals(vm, host):
        return plan.Verdict(host=name, reasons=tuple(map(base.Saying.of, reasons)))
    both = held.replica[vm] == NOWHERE and held.vms[vm].replicated
    last: proofs.Proof | None = None
    for replica in state.replicas_for(vm, host) if both else (held.replica[vm],):
        patience.require(state.check)
        if not both and state.readied(vm, host, replica) is None:
            return plan.Verdict(host=name, reasons=(base.Saying.of(ReplicasLack(host=name)),))
        proven = state.survival.after(vm, host, replica)
        if isinstance(proven, list):
            return plan.Verdict(
                host=name,
                replica=None if replica == NOWHERE else held.hosts[replica].name,
                score=round(state.score_with(vm, host, replica), 8),
                memory_left=held.memory_room[host] - held.memory[host] - held.needs[vm],
                vcpus=held.vcpus[host] + held.asks[vm],
            )
        last = last or proven
    refused: words.Message = state.survival.refusal(last, vm, host) if last else NoReplica(host=name)
    return plan.Verdict(host=name, reasons=(base.Saying.of(refused),))
