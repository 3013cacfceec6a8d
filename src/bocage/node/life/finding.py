"""Sees, after a start of the daemon, what there is of a VM: its process, or how that ended meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from bocage.engine import base as engine
from bocage.model import base, ground, vm
from bocage.node import clock, notes, rights
from bocage.node.life import departing, launching, replica
from bocage.node.life.standing import Standing
from bocage.node.place.preparation import Preparation
from bocage.store import resources

_AGAIN = 1.0  # seconds before it is seen again whether this host may write
_WAS_UP = (vm.State.RUNNING, vm.State.PAUSED, vm.State.STOPPING, vm.State.UNKNOWN)
_MAY_HAVE_RUN = (*_WAS_UP, vm.State.STARTING)
_TOLD_TO_END = ("vm.stop", "vm.kill", "vm.save", "vm.delete")


async def find(standing: Standing, preparation: Preparation) -> None:
    """Take charge of a process that lives, and note the end of one that does not. Can be done twice.

    Raises rights.Waits where something has to be removed, and this host has no life to do so in.
    """
    machine = await replica.settle_in(standing, preparation)
    place = await preparation.place(machine)
    if not machine.status.ready and not place.exists():
        return  # nothing of it was ever made: to look at all processes of the host would only hold it up
    ground = standing.ground
    runtime = ground.home.vm_runtime(machine.uid)
    arrival = ground.arrivals.get(machine.uid)
    found = (await arrival.taken(standing.heard) if arrival else None) or await ground.engine.find(
        machine.uid,
        machine.name,
        place.path,
        runtime,
        listener=standing.heard,
        cgroup=ground.cgroup_of(machine.uid),
    )
    if found:
        standing.watch(found)
        standing.held = False
        since = clock.since(machine.status.since) if machine.status.state is vm.State.RUNNING else None
        standing.started = since if since is not None else standing.started
        await preparation.note_running(machine)
        if (running := await _to_be_guarded(standing, machine)) is not None:
            await found.show(running.admit)
        await replica.attend(standing, machine)
        await departing.settle(standing, preparation)
        await _if_by_hand(standing, preparation, machine, found)
    elif machine.status.state in _MAY_HAVE_RUN and (before := await preparation.ran_elsewhere(machine)) is not None:
        await _take_over(standing, preparation, machine, before)
    elif machine.status.state in _WAS_UP and not ground.rebooted:
        standing.ended = await ground.engine.post_mortem(runtime) or engine.Ended(
            orderly=machine.spec.power is vm.Power.STOPPED, reason=notes.FoundGone(name=machine.name)
        )
        since = clock.since(machine.status.since)
        standing.ran = clock.boottime() - since if since is not None else None
    else:
        if machine.status.state in _WAS_UP:
            note = notes.HostRestarted(name=machine.name)
            end = vm.End(when=base.now(), reason=base.Saying.of(note))
            await standing.turn(machine, vm.State.STOPPED, note, base.Severity.WARNING, pid=None, last_end=end)
        await preparation.disconnect(machine)
        await ground.engine.forget(runtime)


async def _to_be_guarded(standing: Standing, machine: vm.VM) -> rights.Claim | None:
    replicated = machine.spec.replica is not None
    return await standing.ground.rights.found(machine.uid, machine.spec.storage, replicated=replicated)


async def _take_over(standing: Standing, preparation: Preparation, machine: vm.VM, before: str) -> None:
    """What another host ran is no crash here: it is off, and starts at once where it should run.

    What lies in this host's runtime directory is of an older run, and what is half made in the VM's of that host.
    """
    await preparation.disconnect(machine)
    await standing.ground.engine.forget(standing.ground.home.vm_runtime(machine.uid))
    async with preparation.work(machine):
        await preparation.sweep(machine)
    name = before[:8] or "another host"
    with contextlib.suppress(resources.Missing):
        name = (await standing.ground.resources.get(ground.Host, None, before)).name
    note = notes.TakenOver(name=machine.name, host=name)
    end = vm.End(when=base.now(), reason=base.Saying.of(note))
    none: dict[str, Any] = {"pid": None, "restarts": 0, "problem": None, "next_try": None}
    await standing.turn(machine, vm.State.STOPPED, note, base.Severity.WARNING, last_end=end, **none)


async def _if_by_hand(standing: Standing, preparation: Preparation, machine: vm.VM, found: engine.Machine) -> None:
    """A VM that somebody started by its script while no daemon was there runs because that is wanted."""
    was_up = machine.status.state in (*_WAS_UP, vm.State.STARTING)
    if found.started_generation != 0 or was_up or standing.asked(*_TOLD_TO_END):
        return
    await _drop_saved(preparation, machine)  # its disks have gone on without that memory
    await standing.follow(machine, vm.Power.RUNNING)
    await standing.tell(machine, notes.StartedByHand(name=machine.name, pid=found.pid), base.Severity.WARNING)
    await standing.show(problem=None, restarts=0)


async def _drop_saved(preparation: Preparation, machine: vm.VM) -> None:
    """As soon as this host may: nothing else is done to the VM before; what ends its process knows of it already."""
    while True:
        with contextlib.suppress(rights.Waits):
            async with preparation.work(machine):
                await launching.drop_saved(await preparation.place(machine))
                return
        await asyncio.sleep(_AGAIN)
