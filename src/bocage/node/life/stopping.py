"""Brings one VM down, or down and up again, and notes how it ended."""

from __future__ import annotations

import contextlib
import dataclasses

from bocage import errors, words
from bocage.engine import base as engine
from bocage.model import base, vm
from bocage.node import clock, notes, tasks
from bocage.node.life import launching
from bocage.node.life.standing import Standing
from bocage.node.place.preparation import Preparation
from bocage.planner import lifecycle
from bocage.words import N_

_AGENT = "guest agent"
_BUTTON = "power button"


class WouldNotStop(tasks.Error, errors.TimedOut):
    """The guest ignored an orderly stop until its bound."""

    type = "vm-did-not-stop"
    text = N_("the guest of {name} did not switch off within {bound:seconds}; it was left running")
    hint = N_("'bocage vm console {name}' shows what it waits for; 'bocage vm kill {name}' pulls the plug")
    name: str


class DidNotReboot(tasks.Error, errors.TimedOut):
    type = "vm-did-not-reboot"
    text = N_("the guest of {name} did not restart within {bound:seconds}; it was left running")
    hint = N_("'bocage vm reset {name}' presses the reset button")
    name: str


class EndedByItself(tasks.Error, errors.Unavailable):
    type = "vm-ended-by-itself"
    text = N_("{name} ended by itself: {reason}")
    hint = N_("'bocage vm log {name} --qemu' has the last words")
    name: str
    reason: str


async def ask_to_stop(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    way = await _ask(standing)
    standing.report(notes.AskingGuest(way=way), "vm.stop")


async def ask_to_reboot(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    """By its agent within the same process when no change waits, else off, and on again by the next looks."""
    assert standing.machine
    runs = standing.asked("vm.reboot")
    if any(run.remembered.get("way") == _AGENT for run in runs):
        standing.has_rebooted = True  # its agent took that on before the daemon ended
        return
    for run in runs:
        await run.remember(pid=standing.machine.pid)
    by_guest = standing.stopping is None and not standing.changes_wait(machine)
    way = await _ask(standing, reboot=by_guest, agent=by_guest)
    standing.guest_reboots = way == _AGENT
    for run in runs:
        await run.remember(way=way)
        run.report(notes.AskingGuest(way=way))


async def _ask(standing: Standing, *, reboot: bool = False, agent: bool = True) -> str:
    """Ask the guest to go down; how it was asked. One that does not answer runs into the bound of its stop."""
    assert standing.machine
    standing.stopping = standing.stopping if standing.stopping is not None else clock.boottime()
    standing.pressed = clock.boottime()
    standing.presses += 1
    with contextlib.suppress(errors.TimedOut):
        if agent and standing.presses == 1 and await standing.machine.ask_agent_to_shut_down(reboot=reboot):
            return _AGENT
        await standing.machine.press_power_button()
    return _BUTTON


async def quit_(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    """End the process of a guest that is down, or whose kernel gave up: that is a crash, although we end it."""
    assert standing.machine
    panicked = standing.machine.run is engine.Run.PANICKED
    await standing.machine.quit()
    await standing.until_ended()
    if panicked and standing.ended:
        standing.ended = dataclasses.replace(standing.ended, orderly=False, reason=notes.Panicked(name=machine.name))


async def kill(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    assert standing.machine
    await standing.machine.kill()
    await standing.until_ended()
    await is_off(standing, preparation, machine, notes.PluggedOut(name=machine.name))


async def give_up_stopping(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    span = await _left_running(standing, machine)
    await standing.follow(machine, vm.Power.RUNNING)
    await standing.fail(WouldNotStop(what=machine.name, bound=span, name=machine.name), "vm.stop")
    standing.forget_stopping()


async def give_up_rebooting(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    span = await _left_running(standing, machine)
    await standing.fail(DidNotReboot(what=machine.name, bound=span, name=machine.name), "vm.reboot")
    standing.forget_stopping()


async def _left_running(standing: Standing, machine: vm.VM) -> float:
    """Say that the guest did not go down; the seconds that it was given."""
    span = clock.boottime() - (standing.stopping or 0.0)
    note = notes.WouldNotStop(name=machine.name, span=span)
    if machine.status.state is vm.State.STOPPING:
        await standing.set_state(vm.State.RUNNING)
    await standing.tell(machine, note, base.Severity.WARNING)
    return span


async def forget_stopping(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    standing.forget_stopping()


async def note_off(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    """It went off because it was asked to, and should run: the next look starts it."""
    await is_off(standing, preparation, machine, notes.Stopped(name=machine.name))


async def note_switched_off(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    if machine.spec.power is vm.Power.SAVED and await preparation.has_saved(machine):
        # its memory was written and its process told to quit, then nobody was there to note it
        await is_off(standing, preparation, machine, notes.Saved(name=machine.name), state=vm.State.SAVED)
        return
    note: notes.Note = notes.Stopped(name=machine.name)
    if machine.spec.power in (vm.Power.RUNNING, vm.Power.PAUSED):
        await standing.follow(machine, vm.Power.STOPPED)
        note = notes.SwitchedOff(name=machine.name)
    await is_off(standing, preparation, machine, note)


async def note_crash(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    """It ended by itself, and that is counted; also when the guest switched off what should always run."""
    assert standing.ended
    ended, ran = standing.ended, standing.ran
    if machine.metadata.deleted or standing.asked("vm.kill"):
        await is_off(standing, preparation, machine, notes.PluggedOut(name=machine.name))
        return
    if await standing.ground.rights.ends(machine.spec.storage, replicated=machine.spec.replica is not None):
        # No crash of its own: it starts again, whatever its policy says of those, when its host may start it.
        note = notes.EndedWithItsHost(name=machine.name)
        end = vm.End(when=base.now(), reason=base.Saying.of(note))
        restarts = machine.status.restarts
        await is_off(
            standing, preparation, machine, note, severity=base.Severity.WARNING, restarts=restarts, last_end=end
        )
        return
    waiting = standing.asked(*launching.STARTS, "vm.reboot")  # what is asked for once it is shown is another try
    wanted_off = machine.spec.power is vm.Power.STOPPED
    steady = ran is not None and ran >= lifecycle.STEADY
    reason = words.say(ended.reason)
    said: notes.Note = notes.Crashed(name=machine.name, reason=reason, last_lines=list(ended.last_lines[-5:]))
    if ended.orderly:
        said = notes.SwitchedOff(name=machine.name)
    await is_off(
        standing,
        preparation,
        machine,
        said,
        state=vm.State.STOPPED if wanted_off else vm.State.CRASHED,
        severity=base.Severity.INFO if ended.orderly else base.Severity.ERROR,
        restarts=0 if steady or wanted_off else machine.status.restarts,
        last_end=vm.End(when=base.now(), reason=base.Saying.of(said)),
    )
    standing.failed = None if wanted_off else clock.boottime()
    await standing.fail_these(EndedByItself(name=machine.name, reason=reason), waiting)


async def is_off(
    standing: Standing,
    preparation: Preparation,
    machine: vm.VM,
    note: notes.Note,
    *,
    state: vm.State = vm.State.STOPPED,
    severity: base.Severity = base.Severity.INFO,
    restarts: int = 0,
    ready: bool = True,
    last_end: vm.End | None = None,
) -> None:
    """The process is gone: take its wires down, say it, and only then forget how it came to that."""
    await preparation.disconnect(machine)
    nics = tuple(nic.model_copy(update={"addresses": ()}) for nic in machine.status.nics)
    fields = {"pid": None, "restarts": restarts, "ready": ready, "nics": nics, "problem": None, "last_end": last_end}
    fields["usb"] = ()
    await standing.turn(machine, state, note, severity, **fields)
    await standing.ground.engine.forget(standing.ground.home.vm_runtime(machine.uid))
    standing.off()
