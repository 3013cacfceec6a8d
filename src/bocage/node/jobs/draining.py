"""All VMs of a host go to others, some at a time. Which have to stay, and why, is said before the first one goes."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from bocage import errors, words
from bocage.model import base, ground, plan, vm, work
from bocage.node import notes, tasks
from bocage.node.shop import Shop
from bocage.planner import passage, snapshot
from bocage.store import resources
from bocage.words import N_

_LOOK = 0.3  # seconds
_UP = (vm.State.STARTING, vm.State.RUNNING, vm.State.PAUSED, vm.State.STOPPING)


class HasToStay(notes.Note):
    type = "drain-has-to-stay"
    text = N_("{name} has to stay: {reason}")
    name: str
    reason: str


class Goes(notes.Note):
    type = "drain-goes"
    text = N_("{name} goes to {host}")
    name: str
    host: str


class LeftOver(tasks.Error, errors.Conflict):
    type = "drain-left-over"
    text = N_("{host} gets no VMs any more, and {count} are on it still: {names}")
    hint = N_(
        "the task's log says of each why; 'bocage host drain {host}' tries again, 'bocage host undrain {host}' ends it"
    )
    host: str
    count: int
    names: list[str]


async def drain(shop: Shop, run: tasks.Run) -> dict[str, Any]:
    """Raises LeftOver."""
    kept = shop.ground.resources
    here = await kept.get(ground.Host, None, shop.ground.uid)
    machines, stay = await _mine(shop), dict[str, words.Message]()
    world = await _world(shop)
    for machine in machines:
        try:
            await _target(shop, machine, world)
        except passage.Error as problem:
            stay[machine.uid] = problem
            run.report(HasToStay(name=machine.name, reason=words.say(problem)))
    going = [one for one in machines if one.uid not in stay]
    slots, done = asyncio.Semaphore(int(run.params.get("at_once", 2))), 0

    async def go(machine: vm.VM) -> None:
        nonlocal done
        async with slots:
            try:
                target = await _target(shop, machine, await _world(shop))
                run.report(Goes(name=machine.name, host=target.name))
                await _go(shop, machine, target, run)
            except (passage.Error, resources.Missing) as problem:
                run.report(HasToStay(name=machine.name, reason=words.say(problem)))
        done += 1
        run.progress(done, len(going), unit="VMs")

    async with asyncio.TaskGroup() as group:
        for machine in going:
            group.create_task(go(machine))
    if left := [one.name for one in await _mine(shop)]:
        raise LeftOver(host=here.name, count=len(left), names=left)
    return {"moved": len(going)}


async def _go(shop: Shop, machine: vm.VM, target: ground.Host, run: tasks.Run) -> None:
    """Have one go, by a task of its own, and wait for that; it is cancelled with this one."""
    kept = shop.ground.resources
    asked = work.task(
        "vm.migrate", subject=machine.ref, host=shop.ground.uid, asked_by=run.task.spec.asked_by, to=target.uid
    )
    transaction = resources.Transaction()
    transaction.create(asked)
    await kept.commit(transaction)
    project = asked.metadata.project
    try:
        now = asked
        while not now.status.state.ended:
            await asyncio.sleep(_LOOK)
            now = await kept.get(work.Task, project, asked.uid)
    except asyncio.CancelledError:
        if run.unwanted:
            with contextlib.suppress(errors.Problem):
                await kept.change(
                    work.Task, project, asked.uid, lambda present: resources.with_spec(present, cancel=True)
                )
        raise
    if now.status.problem is not None:
        run.report(HasToStay(name=machine.name, reason=words.say(now.status.problem.message)))


async def _mine(shop: Shop) -> list[vm.VM]:
    listing = await shop.ground.resources.list(vm.VM)
    return sorted((one for one in listing.items if one.status.host == shop.ground.uid), key=lambda one: one.name)


async def _target(shop: Shop, machine: vm.VM, world: plan.World) -> ground.Host:
    """Where it can go. Raises passage.Error."""
    kept = shop.ground.resources
    key = snapshot.key(machine.metadata.project, machine.name)
    planned = next(one for one in world.vms if one.key == key)
    on = [one for one in (await kept.list(ground.Storage)).items if one.name in planned.storages]
    for obstacle in passage.obstacles(machine, on, running=machine.status.state in _UP):
        raise obstacle
    name = passage.choose(machine.name, key, world, None)
    return next(one for one in (await kept.list(ground.Host)).items if one.name == name)


async def _world(shop: Shop) -> plan.World:
    kept = shop.ground.resources
    beside: list[ground.Volume | ground.Image] = list((await kept.list(ground.Volume)).items)
    beside += (await kept.list(ground.Image)).items
    return snapshot.world(
        (await kept.list(ground.Host)).items,
        (await kept.list(ground.Storage)).items,
        (await kept.list(ground.Network)).items,
        (await kept.list(vm.VM)).items,
        beside=beside,
        now=base.now(),
    )
