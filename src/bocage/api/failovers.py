"""Failovers: what was done about hosts that fell silent, what would be, and a person's word for one that is off."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Annotated

from fastapi import Query
from pydantic import BaseModel
from starlette.responses import Response

from bocage import errors, ledger
from bocage.api import answers, calls, paging, plans, problems, routing
from bocage.model import base, ground, plan, standing, vm
from bocage.model.failover import Confirmed, Failover, State
from bocage.planner import failing, forecast, order, outages, snapshot
from bocage.protocol import records, timing
from bocage.store import resources
from bocage.words import N_

router = routing.router("failover", "/failovers")

_THINKS = 30.0  # seconds
_RUNS = (vm.Power.RUNNING, vm.Power.PAUSED)
Reading = Annotated[calls.Call, calls.may("failover:read")]


class NothingToConfirm(problems.Error, errors.Conflict):
    type = "failover-nothing-to-confirm"
    text = N_("nobody waits for a word about {host}: its life has not been ended, or its death is proven already")
    hint = N_("'bocage host list' says who beats; a host that beats is not dead, whatever else is wrong with it")
    host: str


class Confirm(base.Part):
    """A person's word that a host has no power. If it is not true, VMs may run twice and lose what they hold."""

    host: base.Name
    off: bool
    """That it is switched off, or was reset since it fell silent: true, or nothing is done."""


class NotSaid(problems.Error, errors.Invalid):
    type = "failover-not-said"
    text = N_("it must be said that {host} has no power: `off: true`")
    host: str


class StillOn(problems.Error, errors.Conflict):
    type = "failover-still-on"
    text = N_("the BMC of {host} says that it has power")
    hint = N_("switch off this very server, at its button or its plug, and confirm when its BMC has seen that")
    host: str


class HostLook(standing.HostStanding):
    """How one host stands, and what could prove its death."""

    proofs: tuple[standing.Proof, ...] = ()


class Standings(BaseModel):
    leader: str | None
    """The host that leads; null: this host is one by itself, or nobody leads."""
    since: datetime.datetime | None = None
    hosts: list[HostLook] = []


class Would(base.Part):
    """What would become of one VM."""

    vm: base.Ref
    runs: bool
    """Whether it would be started there."""
    to: str | None
    """The host; null: it would have none."""
    reason: base.Saying | None = None
    """Why it would have none."""
    stage: int | None = None
    """Those of the first stage, 1, start before those of the second; null: it is not started."""


class Simulated(BaseModel):
    host: str
    proofs: list[standing.Proof]
    forecast: forecast.Forecast
    vms: list[Would]
    """In the order in which they start."""


@router.get("", name="list", response_model=answers.Listed[Failover])
async def list_(call: Reading, limit: paging.Limit = 100) -> Response:
    """The newest failovers, the newest last."""
    return await call.api.views.newest_page(Failover, None, limit=limit)


@router.get("/standing", name="standing", response_model=Standings)
async def standing_(call: Reading) -> Response:
    """Who leads, which hosts beat, since when one is silent, and what could prove its death."""
    entry = await call.resources.store.get(standing.KEY)
    if entry is None:
        return answers.json(Standings(leader=None).model_dump_json())
    told = standing.Standing.model_validate_json(entry.value)
    hosts = {one.uid: one for one in (await call.api.index.fresh()).ground.every(ground.Host)}
    looks = [
        HostLook(**dict(one), proofs=tuple(await _proofs(call, hosts[one.host])))
        for one in told.hosts
        if one.host in hosts
    ]
    found = Standings(leader=told.leader, since=told.since, hosts=looks)
    return answers.json(found.model_dump_json(context=base.WORDS))


@router.get("/simulation", name="simulate", response_model=Simulated, responses=routing.problem_responses(404))
async def simulate(
    call: Reading, host: Annotated[str, Query(max_length=80, description="The host that would die, by name or uid.")]
) -> Response:
    """What would become of a host's VMs if it died now, and by what its death would be proven. Nothing is done."""
    dead = await call.resources.find(ground.Host, None, host)
    world = await plans.present(call)
    its = [
        one
        for one in (await call.resources.list(vm.VM)).items
        if one.status.host == dead.uid and not one.metadata.deleted
    ]
    world = _without(world, dead.name)
    keys = [snapshot.key(one.metadata.project, one.name) for one in its]
    homes = await plans.computed(call, lambda check: failing.homes(world, keys, check=check))
    epoch, shown = await _epoch(call, dead.uid), await _proofs(call, dead)
    bounds = epoch.bounds if epoch is not None and epoch.bounds.proves else None
    bound = bounds.guard + (bounds.watchdog or 0.0) + timing.LAN.drain if bounds else None
    past = (await call.resources.list(Failover)).items
    takes = forecast.forecast(dead.uid, shown, past, silence=timing.LAN.silence, bound=bound)
    found = Simulated(host=dead.name, proofs=shown, forecast=takes, vms=_would(its, keys, homes))
    return answers.json(found.model_dump_json(context=base.WORDS))


@router.post("/confirm", name="confirm", response_model=Failover, responses=routing.problem_responses(404, 409))
async def confirm(request: Confirm, call: Annotated[calls.Call, calls.may("failover:confirm")]) -> Response:
    """Answer for it that a host has no power: then its VMs are started elsewhere. The word is kept with the name."""
    host = await call.resources.find(ground.Host, None, request.host)
    if not request.off:
        raise NotSaid(host=host.name)
    waiting = [
        one
        for one in (await call.resources.list(Failover)).items
        if one.spec.host == host.uid and one.status.state is State.PROVING
    ]
    if not waiting:
        raise NothingToConfirm(host=host.name)
    newest = max(waiting, key=lambda one: one.spec.epoch)
    if _reads_on(newest):
        raise StillOn(host=host.name)
    word = Confirmed(by=call.asker.name, when=base.now())
    changed = await call.resources.change(
        Failover,
        None,
        newest.uid,
        lambda one: one if one.spec.confirmed else resources.with_spec(one, confirmed=word),
    )
    return answers.one(changed)


def _reads_on(failover: Failover) -> bool:
    """Whether the last that its BMC has said is that it has power. One that does not answer says nothing."""
    said = [
        step.said.type
        for step in failover.status.steps
        if step.said.type in (outages.PowerStillOn.type, outages.PowerRead.type, outages.BmcFailed.type)
    ]
    return said[-1:] == [outages.PowerStillOn.type]


@router.get("/{name}", name="get", response_model=Failover, responses=routing.problem_responses(404))
async def get(name: calls.Name, call: Reading) -> Response:
    """One failover: silent since when, by what proof, decided what, started when, step by step."""
    return answers.one(await call.resources.find(Failover, None, name))


async def _proofs(call: calls.Call, host: ground.Host) -> list[standing.Proof]:
    return outages.proofs(host, by_time=await proven_by_time(call, host.uid))


async def proven_by_time(call: calls.Call, host: str | None) -> bool:
    """Whether time alone can prove a host's death."""
    epoch = await _epoch(call, host) if host else None
    return epoch is not None and epoch.bounds.proves


async def _epoch(call: calls.Call, host: str) -> records.Epoch | None:
    key = records.epoch_of(host)
    entry = await call.resources.store.get(ledger.ROOT + key)
    epoch = ledger.decoded(key, entry.value) if entry else None
    return epoch if isinstance(epoch, records.Epoch) else None


async def homes_without(call: calls.Call, machine: vm.VM) -> failing.Homes:
    """Where a VM would be if its host died now: it and all that this host has, together."""
    world = await plans.present(call)
    its = [one for one in (await call.resources.list(vm.VM)).items if one.status.host == machine.status.host]
    dead = await _name_of(call, machine.status.host)
    keys = [snapshot.key(one.metadata.project, one.name) for one in its if not one.metadata.deleted]
    world = _without(world, dead)
    return await plans.in_thread(lambda check: failing.homes(world, keys, check=check), within=_THINKS)


async def _name_of(call: calls.Call, host: str | None) -> str:
    found = (await call.api.index.fresh()).ground.get(ground.Host, None, host) if host else None
    return found.name if found else ""


def _without(world: plan.World, host: str) -> plan.World:
    """The world with a host that is silent."""
    hosts = tuple(one.model_copy(update={"state": "silent"}) if one.name == host else one for one in world.hosts)
    return world.model_copy(update={"hosts": hosts})


def _would(machines: Sequence[vm.VM], keys: Sequence[str], homes: failing.Homes) -> list[Would]:
    by_uid = {machine.uid: key for machine, key in zip(machines, keys, strict=True)}
    starts = [one for one in machines if one.spec.power in _RUNS and by_uid[one.uid] in homes.where]
    stages = {one.uid: number for number, stage in enumerate(order.stages(starts), 1) for one in stage}
    found = []
    for machine in sorted(machines, key=lambda one: (stages.get(one.uid, len(stages) + 1), one.name)):
        key = by_uid[machine.uid]
        why = homes.nowhere.get(key)
        found.append(
            Would(
                vm=machine.ref,
                runs=machine.spec.power in _RUNS,
                to=homes.where.get(key),
                reason=base.Saying.of(why) if why else None,
                stage=stages.get(machine.uid),
            )
        )
    return found
