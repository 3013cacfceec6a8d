"""The steps of `planner.lifecycle`, done to one VM. Each can be cut off anywhere and done again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from bocage import errors, files, reach
from bocage.engine import base as engine
from bocage.model import base, vm
from bocage.node import clock, notes, tasks
from bocage.node.life import adapting, clocks, freeing, launching, resizing, stopping
from bocage.node.life.standing import Gone, Standing
from bocage.node.place import saved, trash
from bocage.node.place.preparation import Preparation
from bocage.planner.lifecycle import Do

_STEADY = 60.0  # seconds after which a guest that meets a full storage meets it anew


async def prepare(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    runs = standing.asked("vm.create", "vm.clone")

    def told(done: int, total: int) -> None:
        for run in runs:
            run.progress(done, total)

    await preparation.make(machine, report=lambda step: standing.report(step, "vm.create", "vm.clone"), progress=told)
    if not launching.starts_at_once(machine):
        await launching.define(standing, preparation, machine)
    note = notes.Created(name=machine.name)
    await standing.turn(machine, machine.status.state, note, ready=True, reason=None, problem=None)


async def forget_restarts(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    await standing.show(restarts=0)


async def pause(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    assert standing.machine
    await standing.machine.pause()
    await standing.tell(machine, notes.Paused(name=machine.name))


async def resume(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    """Let the vCPUs go on; also those that a start left standing which was cut off."""
    assert standing.machine
    full = standing.machine.run is engine.Run.STORAGE_FULL
    await launching.define(standing, preparation, machine)
    await preparation.plug_in(machine)
    await launching.drop_saved(await preparation.place(machine))
    await standing.machine.resume()
    clocks.set_after_pause(standing, machine)
    now = clock.boottime()
    if full:
        lately = standing.resumed is not None and now - standing.resumed < _STEADY
        standing.stalls = standing.stalls + 1 if lately else 0
        standing.resumed = now
    if standing.stalls == 0:  # not each time while the storage is as good as full
        await standing.tell(machine, notes.Resumed(name=machine.name))


async def save(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    """Write the memory and end the process; when it cannot be written, the VM goes on and the wish is taken back."""
    running = standing.machine
    assert running
    place = await preparation.place(machine)
    ran = running.run is not engine.Run.PAUSED
    for run in standing.asked("vm.save"):  # it stands meanwhile, and also when that is broken off near its end
        ran = run.remembered.get("ran", ran)
        await run.remember(ran=ran)
    standing.report(notes.Saving(name=machine.name), "vm.save")

    def told(done: int, total: int) -> None:
        for run in standing.asked("vm.save"):
            run.progress(done, total)

    try:
        await preparation.disks.refuse(machine.spec.storage, "vm.save")
        built = await resizing.to_be_saved(standing.ground.home.vm_runtime(machine.uid), machine, running)
        note = (place.saved_definition, built, running.started_generation)
        await reach.Way(place.storage).call(saved.note, *note)
        await running.save(place.saved, report=told)
    except (errors.Problem, OSError) as error:
        problem = error if isinstance(error, errors.Problem) else tasks.from_os(error)
        if standing.machine is None:
            raise  # it ended meanwhile, which the next look judges
        standing.concluding = True
        await standing.follow(machine, vm.Power.RUNNING if ran else vm.Power.PAUSED)
        await standing.show(problem=base.Saying.of(problem))
        await standing.fail(problem, "vm.save")
        return
    standing.concluding = True
    await running.quit()
    await standing.until_ended()
    await stopping.is_off(standing, preparation, machine, notes.Saved(name=machine.name), state=vm.State.SAVED)


async def drop_saved(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    await launching.drop_saved(await preparation.place(machine))
    await standing.follow(machine, vm.Power.STOPPED)
    await stopping.is_off(standing, preparation, machine, notes.SavedDropped(name=machine.name))


async def keep_saved(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    await standing.follow(machine, vm.Power.SAVED)


async def leave_rescue(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    await standing.change(lambda spec: {"rescue": None} if spec.power is vm.Power.STOPPED else {})
    await standing.tell(machine, notes.RescueEnded(name=machine.name))


async def nothing_to_save(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    await standing.follow(machine, vm.Power.STOPPED)
    await standing.fail(engine.NotRunning(name=machine.name), "vm.save")
    await standing.tell(machine, notes.NothingToSave(name=machine.name), base.Severity.WARNING)


async def to_trash(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    await preparation.check_storage(machine)  # what cannot be seen is not taken for gone
    await freeing.settle_all(standing, preparation, machine)
    place, bin_ = await preparation.place(machine), await preparation.trash(machine)
    await trash.put(place.path, bin_)
    await asyncio.to_thread(preparation.unlink, machine)
    await preparation.forget(machine)
    if not bin_.exists():
        await purge(standing, preparation, machine)
    note = notes.Trashed(name=machine.name, span=vm.TRASH_KEPT.total_seconds())
    await stopping.is_off(standing, preparation, machine, note, ready=machine.status.ready)


async def from_trash(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    await preparation.check_storage(machine)
    place = await preparation.place(machine)
    await trash.take_back(await preparation.trash(machine), place.path)
    await preparation.link(machine)
    standing.defined, standing.expired = None, False
    if machine.status.ready:
        await launching.define(standing, preparation, machine)
    await standing.tell(machine, notes.Untrashed(name=machine.name))


async def purge(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    """Remove it for good. Raises Gone: nothing is left to look at."""
    await preparation.purge(machine)
    await standing.tell(machine, notes.Purged(name=machine.name))
    raise Gone(kind="vm", name=machine.name)


async def undo_making(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    """Nobody wants any more what is half made: it goes as if it had never been asked for. Raises Gone."""
    place = await preparation.place(machine)
    await asyncio.to_thread(files.remove_tree, place.path)
    await asyncio.to_thread(preparation.unlink, machine)
    await preparation.forget(machine)
    await preparation.purge(machine)
    raise Gone(kind="vm", name=machine.name)


WITHOUT_STORAGE = frozenset(
    {
        Do.FORGET_RESTARTS,
        Do.ASK_TO_STOP,
        Do.QUIT,
        Do.KILL,
        Do.GIVE_UP_STOPPING,
        Do.FORGET_STOPPING,
        Do.ASK_TO_REBOOT,
        Do.GIVE_UP_REBOOTING,
        Do.PAUSE,
        Do.KEEP_SAVED,
        Do.NOTHING_TO_SAVE,
        Do.NOTE_SWITCHED_OFF,
        Do.NOTE_OFF,
        Do.NOTE_CRASH,
        Do.LEAVE_RESCUE,
    }
)
"""Those by which nothing is written there."""
Doer = Callable[[Standing, Preparation, vm.VM], Awaitable[None]]

DOERS: dict[Do, Doer] = {
    Do.PREPARE: prepare,
    Do.ADAPT: adapting.adapt,
    Do.START: launching.start,
    Do.START_PAUSED: launching.start,
    Do.FORGET_RESTARTS: forget_restarts,
    Do.ASK_TO_STOP: stopping.ask_to_stop,
    Do.QUIT: stopping.quit_,
    Do.KILL: stopping.kill,
    Do.GIVE_UP_STOPPING: stopping.give_up_stopping,
    Do.FORGET_STOPPING: stopping.forget_stopping,
    Do.ASK_TO_REBOOT: stopping.ask_to_reboot,
    Do.GIVE_UP_REBOOTING: stopping.give_up_rebooting,
    Do.PAUSE: pause,
    Do.RESUME: resume,
    Do.SAVE: save,
    Do.DROP_SAVED: drop_saved,
    Do.KEEP_SAVED: keep_saved,
    Do.NOTHING_TO_SAVE: nothing_to_save,
    Do.NOTE_SWITCHED_OFF: stopping.note_switched_off,
    Do.NOTE_OFF: stopping.note_off,
    Do.NOTE_CRASH: stopping.note_crash,
    Do.LEAVE_RESCUE: leave_rescue,
    Do.TRASH: to_trash,
    Do.UNTRASH: from_trash,
    Do.PURGE: purge,
}
