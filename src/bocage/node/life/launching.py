"""Starts one VM: its definition is on the disk before its vCPUs run, and what cannot start leaves nothing."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from typing import Any

from bocage import errors, files, reach, words
from bocage.engine import base as engine
from bocage.engine.qemu import saved as machine_saved
from bocage.model import base, vm
from bocage.node import clock, notes, rights, started, tasks
from bocage.node.life import adapting, clocks, replica
from bocage.node.life.standing import Standing
from bocage.node.place import directory
from bocage.node.place import saved as memory_saved
from bocage.node.place.preparation import Preparation
from bocage.planner import adaptation, rescue
from bocage.planner.adaptation import Built, First

log = logging.getLogger(__name__)

STARTS = ("vm.create", "vm.clone", "vm.start")
"""The tasks that end when it runs."""


def starts_at_once(machine: vm.VM) -> bool:
    """Whether it runs as soon as it is made: then its definition is written while QEMU comes up."""
    return machine.spec.power in (vm.Power.RUNNING, vm.Power.PAUSED)


async def start(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    """Start it; a failure of a start that a person asked for takes the wish back, others are tried again."""
    by_person = bool(standing.asked("vm.start"))
    tries = machine.status.restarts + 1 if standing.failed is not None else machine.status.restarts
    restarts = 0 if by_person else tries
    standing.report(notes.Starting(name=machine.name), *STARTS)
    try:
        claim = await standing.ground.rights.claim(
            machine.uid, machine.spec.storage, replicated=machine.spec.replica is not None
        )
    except rights.Elsewhere:
        return  # the next look says what that means
    except rights.Error as problem:
        await _could_not_start(standing, preparation, machine, problem)
        return
    try:
        if claim.generation is not None:
            machine = await standing.read()  # with the generation that its definition is to say
        await _start(standing, preparation, machine, claim, restarts)
    finally:
        claim.settle()


async def _start(
    standing: Standing, preparation: Preparation, machine: vm.VM, claim: rights.Claim, restarts: int
) -> None:
    anew: dict[str, Any] = {"restarts": restarts, "problem": None, "memory_note": None, "outcomes": ()}
    anew["answers"] = False
    showing = asyncio.create_task(standing.set_state(vm.State.STARTING, **anew))
    try:
        await _launch(standing, preparation, machine, claim)
    except (errors.Problem, OSError) as error:
        await asyncio.wait([showing])
        if standing.machine is not None:
            raise  # its process stands: what is left to do is done at the next look
        problem = error if isinstance(error, errors.Problem) else tasks.from_os(error)
        await _could_not_start(standing, preparation, machine, problem)
    except asyncio.CancelledError:
        await asyncio.shield(asyncio.wait([showing]))
        if standing.machine is None:
            await asyncio.shield(give_back(standing, preparation, machine))
        raise
    else:
        await asyncio.wait([showing])


async def _launch(standing: Standing, preparation: Preparation, machine: vm.VM, claim: rights.Claim) -> None:
    place = await preparation.place(machine)
    saved = place.saved if await preparation.has_saved(machine) else None
    built = await _as_built(preparation, machine, saved=saved is not None)
    await preparation.claim(built)
    await preparation.make_what_waits(built if saved else machine)
    plan = dataclasses.replace(await preparation.plan(built), admit=claim.admit)
    if saved:
        first = await reach.Way(place.storage).call(memory_saved.first, place)
        plan = dataclasses.replace(plan, first=first)
    made = Built(adaptation.bare(built.spec), plan.first or First.of(plan.spec))
    started.begin(plan.runtime, made)
    # While QEMU comes up, paused, its NICs are plugged in and the definition goes to the disk: the vCPUs wait for all.
    plugging = asyncio.create_task(preparation.plug_in(built))
    defining = asyncio.create_task(
        define(standing, preparation, machine, plan=None if saved or machine.spec.rescue else plan)
    )
    try:
        running = await standing.ground.engine.start(
            plan, generation=built.metadata.generation, listener=standing.heard, paused=True, saved=saved
        )
        try:
            await plugging
            await adapting.hold(standing, preparation, machine, running, made)
            await defining
            own = not (saved or machine.spec.rescue)
            if machine.spec.boot.once and own:  # the process has it on its command line
                await standing.change(lambda spec: {"boot": spec.boot.model_copy(update={"once": None})})
        except BaseException:
            await asyncio.shield(running.kill())
            raise
    finally:
        plugging.cancel()
        defining.cancel()
        await asyncio.gather(plugging, defining, return_exceptions=True)
    standing.watch(running)
    standing.failed = None
    await replica.attend(standing, machine)
    going = asyncio.create_task(let_go(standing, preparation, machine, running))
    try:
        await asyncio.shield(going)
    except asyncio.CancelledError:
        await asyncio.wait([going])  # not between the saved memory's end and the vCPUs' first step
        raise


async def _as_built(preparation: Preparation, machine: vm.VM, *, saved: bool) -> vm.VM:
    """The machine that is to run. Raises rescue.SavedFirst, and what keeps it from being this one."""
    if machine.spec.rescue and saved:
        raise rescue.SavedFirst(name=machine.name)
    if machine.spec.rescue:
        return await preparation.as_rescue(machine)
    return await preparation.as_saved(machine) if saved else machine


async def let_go(standing: Standing, preparation: Preparation, machine: vm.VM, running: engine.Machine) -> None:
    """Let the vCPUs of a machine that stands ready run, unless it should be paused."""
    place = await preparation.place(machine)
    restored = await drop_saved(place)
    if machine.spec.power is not vm.Power.PAUSED:
        await running.resume()
    await preparation.note_running(machine)
    if restored:
        clocks.set_(standing, machine)
        await standing.tell(machine, notes.Restored(name=machine.name))


async def drop_saved(place: directory.Directory) -> bool:
    """As `forget_saved`. Raises reach.Hangs."""
    return await reach.Way(place.storage).call(forget_saved, place)


def forget_saved(place: directory.Directory) -> bool:
    """Remove the saved memory, durably and before vCPUs run: it fits these disks only once. False: none was there.

    What says how it was built goes last: while that is there, a removal may still have to be made durable.
    """
    was_there = machine_saved.unlink(place.saved)
    if was_there or place.saved_definition.exists():
        files.sync_directory(place.path)
        place.saved_definition.unlink(missing_ok=True)
    return was_there


async def _could_not_start(
    standing: Standing, preparation: Preparation, machine: vm.VM, problem: errors.Problem
) -> None:
    standing.concluding = True
    standing.failed = clock.boottime()
    if problem.type != "vm-already-running":
        await give_back(standing, preparation, machine)
    note = notes.StartFailed(name=machine.name, reason=words.say(problem))
    said = base.Saying.of(problem)
    await standing.fail(problem, "vm.reboot")
    if standing.asked(*STARTS):
        standing.failed = None
        saved = await preparation.has_saved(machine)
        await standing.follow(machine, vm.Power.SAVED if saved else vm.Power.STOPPED)
        waiting = standing.asked(*STARTS)  # what is asked for once it is shown is another try
        state = vm.State.SAVED if saved else vm.State.STOPPED
        await standing.turn(machine, state, note, base.Severity.ERROR, problem=said)
        await standing.fail_these(problem, waiting)
    else:
        await standing.turn(machine, vm.State.CRASHED, note, base.Severity.ERROR, problem=said)


async def give_back(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    """It did not come to run: what it was given is free, and nothing of it is known."""
    await preparation.disconnect(machine)
    await standing.ground.engine.forget(standing.ground.home.vm_runtime(machine.uid))


async def define(
    standing: Standing, preparation: Preparation, machine: vm.VM, *, plan: engine.Plan | None = None
) -> None:
    """Make `vm.yaml`, the link by name and the script that starts it by hand say what the store says."""
    says = (machine.metadata.revision, machine.status.owner_generation)
    if standing.defined == says:
        return
    written = await preparation.write_definition(machine)
    await preparation.link(machine)
    await preparation.agree(machine)
    line = (machine.metadata.generation, machine.name)
    if plan or (written and standing.scripted != line):
        await _write_by_hand(standing, preparation, machine, plan)
        standing.scripted = line
    standing.defined = says


async def _write_by_hand(
    standing: Standing, preparation: Preparation, machine: vm.VM, plan: engine.Plan | None
) -> None:
    """The script may lag behind where a disk or a network is missing: the next start writes it all the same."""
    place = await preparation.place(machine)
    with contextlib.suppress(errors.Problem):
        plan = plan or await preparation.plan(machine, connect=False)
        if plan.on_lun:  # where no lock of an image keeps a second process out
            await reach.Way(place.storage).call(place.by_hand.unlink, missing_ok=True)
            return
        script = standing.ground.engine.by_hand(plan)
        await reach.Way(place.storage).call(place.write_by_hand, script)
