"""The steps of `planner.lifecycle`, done to one VM. Each can be cut off anywhere and done again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from bocage import errors, words
from bocage.model import base, vm
from bocage.node import clock, edits, notes, tasks, trash
from bocage.node.preparation import Preparation
from bocage.node.standing import Standing
from bocage.planner import lifecycle
from bocage.planner.lifecycle import Do
from bocage.store import resources
from bocage.words import N_

_STARTS = ("vm.create", "vm.start", "vm.resume")


class WouldNotStop(tasks.Error, errors.TimedOut):
    """The guest ignored an orderly stop until its bound."""

    type = "vm-did-not-stop"
    text = N_("the guest of {name} did not switch off within {bound:seconds}; it was left running")
    hint = N_("'bocage vm console {name}' shows what it waits for; 'bocage vm kill {name}' pulls the plug")
    name: str


async def prepare(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    await preparation.make(machine)
    await standing.show(ready=True, since=base.now(), problem=None)
    await standing.tell(machine, notes.Created(name=machine.name))


async def start(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    """Start the process; a failure of a start that a person asked for takes the wish back, others are tried again."""
    by_person = bool(standing.asked("vm.start"))
    if standing.failed is not None and not by_person:
        machine = await standing.show(restarts=machine.status.restarts + 1)
    showing = asyncio.create_task(standing.set_state(vm.State.STARTING))
    try:
        await _launch(standing, preparation, machine)
    except (errors.Problem, OSError) as error:
        await asyncio.wait([showing])
        await _could_not_start(
            standing, preparation, machine, error if isinstance(error, errors.Problem) else tasks.from_os(error)
        )
    else:
        await asyncio.wait([showing])


async def _launch(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    await preparation.check_room(machine)
    plan = await preparation.plan(machine)
    await define(standing, preparation, machine)
    edits.note_started(plan.runtime, machine)
    place = await preparation.place(machine)
    saved = place.saved if place.saved.exists() else None
    paused = machine.spec.power is vm.Power.PAUSED
    running = await standing.ground.engine.start(
        plan,
        generation=machine.metadata.generation,
        listener=standing.heard,
        paused=paused or saved is not None,
        saved=saved,
    )
    standing.watch(running)
    standing.failed = None
    await preparation.note_running(machine)
    if saved:
        saved.unlink()  # before the vCPUs run: these memories fit these disks only once
        if not paused:
            await running.resume()
        await standing.tell(machine, notes.Restored(name=machine.name))
    if machine.spec.boot.once:
        await standing.change(lambda spec: {"boot": spec.boot.model_copy(update={"once": None})})


async def _could_not_start(
    standing: Standing, preparation: Preparation, machine: vm.VM, problem: errors.Problem
) -> None:
    standing.failed = clock.boottime()
    if problem.type != "vm-already-running":
        await preparation.disconnect(machine)
    note = notes.StartFailed(name=machine.name, reason=words.say(problem))
    await standing.tell(machine, note, base.Severity.ERROR)
    said = base.Saying.of(problem)
    if standing.asked(*_STARTS):
        standing.failed = None
        await standing.change(lambda _: {"power": vm.Power.STOPPED})
        await standing.set_state(vm.State.STOPPED, reason=note, problem=said)
        await standing.fail(problem, *_STARTS)
    else:
        await standing.set_state(vm.State.CRASHED, reason=note, problem=said)


async def define(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    """Make `vm.yaml`, the link by name and the line to start it by hand say what the store says."""
    says = (machine.metadata.revision, machine.status.owner_generation)
    if standing.defined != says:
        await preparation.write_definition(machine)
        await preparation.link(machine)
        await preparation.agree(machine)
        standing.defined = says


async def ask_to_stop(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    assert standing.machine
    if standing.stopping is None:
        standing.stopping = clock.boottime()
    standing.presses += 1
    asked = standing.presses == 1 and await standing.machine.ask_agent_to_shut_down()
    if not asked:
        await standing.machine.press_power_button()
    standing.report(notes.AskingGuest(way="guest agent" if asked else "power button"), "vm.stop")


async def quit_(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    assert standing.machine
    await standing.machine.quit()
    await standing.until_ended()


async def kill(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    assert standing.machine
    await standing.machine.kill()
    await standing.until_ended()
    await _is_off(standing, preparation, machine, notes.PluggedOut(name=machine.name))


async def give_up_stopping(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    span = clock.boottime() - (standing.stopping or 0.0)
    standing.stopping, standing.presses = None, 0
    await standing.change(lambda _: {"power": vm.Power.RUNNING})
    await standing.set_state(vm.State.RUNNING)
    await standing.fail(WouldNotStop(what=machine.name, bound=span, name=machine.name), "vm.stop")
    await standing.tell(machine, notes.WouldNotStop(name=machine.name, span=span), base.Severity.WARNING)


async def pause(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    assert standing.machine
    await standing.machine.pause()
    await standing.tell(machine, notes.Paused(name=machine.name))


async def resume(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    assert standing.machine
    place = await preparation.place(machine)
    place.saved.unlink(missing_ok=True)  # left by a restore that was cut off just before its vCPUs ran
    await standing.machine.resume()
    await standing.tell(machine, notes.Resumed(name=machine.name))


async def save(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    assert standing.machine
    place = await preparation.place(machine)
    standing.report(notes.Saving(name=machine.name), "vm.save")

    def told(done: int, total: int) -> None:
        for run in standing.asked("vm.save"):
            run.progress(done, total)

    await standing.machine.save(place.saved, report=told)
    await standing.machine.quit()
    await standing.until_ended()
    await _is_off(standing, preparation, machine, notes.Saved(name=machine.name), state=vm.State.SAVED)


async def drop_saved(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    place = await preparation.place(machine)
    place.saved.unlink(missing_ok=True)
    await _is_off(standing, preparation, machine, notes.SavedDropped(name=machine.name))


async def nothing_to_save(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    await standing.change(lambda _: {"power": vm.Power.STOPPED})
    await standing.tell(machine, notes.NothingToSave(name=machine.name), base.Severity.WARNING)


async def note_switched_off(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    if machine.spec.power is vm.Power.SAVED and (await preparation.place(machine)).saved.exists():
        # its memory was written and its process told to quit, then nobody was there to note it
        await _is_off(standing, preparation, machine, notes.Saved(name=machine.name), state=vm.State.SAVED)
        return
    note: notes.Note = notes.Stopped(name=machine.name)
    if machine.spec.power in (vm.Power.RUNNING, vm.Power.PAUSED):
        await standing.change(lambda _: {"power": vm.Power.STOPPED})
        note = notes.SwitchedOff(name=machine.name)
    await _is_off(standing, preparation, machine, note)


async def note_crash(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    assert standing.ended
    ended = standing.ended
    ran_since = clock.since(machine.status.since)
    steady = ran_since is not None and clock.boottime() - ran_since >= lifecycle.STEADY
    wanted_off = machine.spec.power is vm.Power.STOPPED
    note = notes.Crashed(name=machine.name, reason=words.say(ended.reason), last_lines=list(ended.last_lines[-5:]))
    await _is_off(
        standing,
        preparation,
        machine,
        note,
        state=vm.State.STOPPED if wanted_off else vm.State.CRASHED,
        severity=base.Severity.ERROR,
        restarts=0 if steady or wanted_off else machine.status.restarts,
    )
    standing.failed = clock.boottime()


async def to_trash(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    place, bin_ = await preparation.place(machine), await preparation.trash(machine)
    await trash.put(place.path, bin_)
    await asyncio.to_thread(preparation.unlink, machine)
    await preparation.forget(machine)
    purged = standing.asked("vm.delete") and standing.asked("vm.delete")[0].params.get("purge")
    if purged or not bin_.exists():
        await trash.purge(standing.ground.resources, machine, bin_)
        await standing.tell(machine, notes.Purged(name=machine.name))
        raise resources.Missing(kind="vm", name=machine.name)
    await _is_off(
        standing, preparation, machine, notes.Trashed(name=machine.name, span=trash.KEPT), ready=machine.status.ready
    )


async def from_trash(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    place = await preparation.place(machine)
    await trash.take_back(await preparation.trash(machine), place.path)
    standing.defined = (0, 0)
    await standing.tell(machine, notes.Untrashed(name=machine.name))


async def _is_off(
    standing: Standing,
    preparation: Preparation,
    machine: vm.VM,
    note: notes.Note,
    *,
    state: vm.State = vm.State.STOPPED,
    severity: base.Severity = base.Severity.INFO,
    restarts: int = 0,
    ready: bool = True,
) -> None:
    """The process is gone: take its wires down, forget how it was stopped, say it."""
    standing.ended, standing.stopping, standing.presses, standing.failed = None, None, 0, None
    await preparation.disconnect(machine)
    nics = tuple(nic.model_copy(update={"addresses": ()}) for nic in machine.status.nics)
    await standing.turn(machine, state, note, severity, pid=None, restarts=restarts, ready=ready, nics=nics)


Doer = Callable[[Standing, Preparation, vm.VM], Awaitable[None]]

DOERS: dict[Do, Doer] = {
    Do.PREPARE: prepare,
    Do.START: start,
    Do.START_PAUSED: start,
    Do.ASK_TO_STOP: ask_to_stop,
    Do.QUIT: quit_,
    Do.KILL: kill,
    Do.GIVE_UP_STOPPING: give_up_stopping,
    Do.PAUSE: pause,
    Do.RESUME: resume,
    Do.SAVE: save,
    Do.DROP_SAVED: drop_saved,
    Do.NOTHING_TO_SAVE: nothing_to_save,
    Do.NOTE_SWITCHED_OFF: note_switched_off,
    Do.NOTE_CRASH: note_crash,
    Do.TRASH: to_trash,
    Do.UNTRASH: from_trash,
}
