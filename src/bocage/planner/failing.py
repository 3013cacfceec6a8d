"""Where VMs are to be whose host has died: all of them together, so that none takes another's last room."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from bocage import words
from bocage.model import plan
from bocage.model.units import MiB, Size
from bocage.planner import occupancy, patience, placement, proofs

_NOBODYS = "nobodys"  # the name of a host that is not there, for VMs that have none


@dataclasses.dataclass(frozen=True, slots=True)
class Homes:
    """VMs by their keys."""

    where: dict[str, str] = dataclasses.field(default_factory=dict)  # host by VM
    nowhere: dict[str, words.Message] = dataclasses.field(default_factory=dict)  # why, by VM


def homes(world: plan.World, of: Collection[str], *, check: patience.Check = patience.endless) -> Homes:
    """Hosts for these VMs, wherever the world has them. Those that should run come first, by priority and size.

    Only hosts that are ready get any.
    """
    phantom = plan.PlanHost(name=_free_name(world), state="silent", memory=Size(MiB), cpus=1)
    vms = tuple(one.model_copy(update={"host": phantom.name}) if one.key in of else one for one in world.vms)
    held = occupancy.Occupancy(world.model_copy(update={"hosts": (*world.hosts, phantom), "vms": vms}))
    number = held.number[phantom.name]
    found = Homes()
    proof = proofs.Prover(held, patience.required(check)).prove((number,))
    for vm, host in proof.where.items():
        found.where[held.vms[vm].key] = held.hosts[host].name
        held.put(vm, host)
    for vm, why in (proof.lost | proof.short).items():
        found.nowhere[held.vms[vm].key] = _refused(held, vm) if vm in proof.lost else why
    for vm in sorted(held.on[number], key=lambda one: (-held.vms[one].priority, held.vms[one].key)):
        if not held.runs[vm]:
            _place_off(held, vm, found)
    return found


def _place_off(held: occupancy.Occupancy, vm: int, found: Homes) -> None:
    """One that is off takes no room: it goes where fewest are."""
    ready = [host for host, one in enumerate(held.hosts) if one.state == "ready" and held.may_be(vm, host)]
    if not ready:
        found.nowhere[held.vms[vm].key] = _refused(held, vm)
        return
    host = min(ready, key=lambda one: (len(held.on[one]), one))
    held.put(vm, host)
    found.where[held.vms[vm].key] = held.hosts[host].name


def _refused(held: occupancy.Occupancy, vm: int) -> words.Message:
    """Who alone could have it, and is not there; else what speaks against the first that is."""
    of = held.vms[vm]
    gone = [one.name for one in held.hosts if one.state != "ready" and set(of.storages) <= set(one.storages)]
    there = [host for host, one in enumerate(held.hosts) if one.state == "ready"]
    if of.storages and gone and not any(set(of.storages) <= set(held.hosts[host].storages) for host in there):
        return proofs.Unreached(hosts=", ".join(gone))
    refusals = (refusal for host in there for refusal in held.refusals(vm, host))
    return next(refusals, placement.NoHosts())


def _free_name(world: plan.World) -> str:
    taken = {one.name for one in world.hosts}
    return next(name for name in (_NOBODYS, *(f"{_NOBODYS}{n}" for n in range(len(taken)))) if name not in taken)
