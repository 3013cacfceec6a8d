"""Writes what one VM does, when that is another than what is written, and the event that tells of it."""

from __future__ import annotations

import datetime

from bocage import words
from bocage.engine import base as engine
from bocage.model import base, vm
from bocage.node import notes
from bocage.node.life import goals, world
from bocage.node.life.standing import Standing
from bocage.node.place.preparation import Preparation
from bocage.planner import lifecycle
from bocage.planner.lifecycle import Process

_SHOWN = {
    Process.RUNNING: vm.State.RUNNING,
    Process.PAUSED: vm.State.PAUSED,
    Process.FULL: vm.State.PAUSED,
    Process.FAILED_STORAGE: vm.State.PAUSED,
    Process.SHUT_DOWN: vm.State.STOPPING,
    Process.PANICKED: vm.State.CRASHED,
    Process.SILENT: vm.State.UNKNOWN,
}


async def show(standing: Standing, preparation: Preparation, machine: vm.VM, step: lifecycle.Step) -> vm.VM:
    """Write the status as things stand after `step`; the VM as it is then."""
    place = await preparation.place(machine)
    fields: dict[str, object] = {
        "observed_generation": _carried_out(standing, machine),
        "directory": str(place.path),
        "next_try": None,
        "tpm_lost": bool(standing.machine and standing.machine.tpm_lost),
    }
    if fields["observed_generation"] not in (machine.status.observed_generation, standing.told):
        fields["outcomes"] = ()  # those are of an earlier one
    note: words.Message | None = None
    wanted = machine.spec.autostart.answers
    standing.unanswered = None if wanted == "runs" or machine.status.answers else wanted
    if standing.machine:
        more, note = _running(standing, machine, standing.machine)
        fields |= more
    elif standing.ended is None:
        fields |= await _without_process(preparation, machine)
        if step.waits is lifecycle.BackOff:
            fields["next_try"] = _in(step.again, machine.status.next_try)
    if fields["tpm_lost"] and not machine.status.tpm_lost:
        await standing.tell(machine, notes.TpmLost(name=machine.name), base.Severity.WARNING)
    while standing.bites:
        bit = notes.WatchdogBit(name=machine.name, action=standing.bites.pop(0))
        await standing.tell(machine, bit, base.Severity.WARNING)
    while standing.ports:
        became = standing.ports.pop(0)
        of = notes.PortMended if became.what == "port-mended" else notes.PortLost
        told = of(name=machine.name, port=str(became.fields["port"]), reason=str(became.fields["reason"]))
        await standing.tell(machine, told, base.Severity.WARNING)
    severity = base.Severity.INFO if note is None or isinstance(note, notes.Started) else base.Severity.WARNING
    return await standing.show_with(machine, fields, note, severity)


def _carried_out(standing: Standing, machine: vm.VM) -> int:
    """The generation that was carried out, as far as that goes while it runs."""
    return machine.status.observed_generation if standing.adapts(machine) else machine.metadata.generation


def _running(
    standing: Standing, machine: vm.VM, running: engine.Machine
) -> tuple[dict[str, object], words.Message | None]:
    status, process = machine.status, world.process_of(standing)
    goes_off = standing.stopping is not None and process is Process.RUNNING
    state = vm.State.STOPPING if goes_off else _SHOWN[process]
    waits = goals.waits_for(machine.name, process)
    if not running.reachable:
        waits = notes.OutOfReach(name=machine.name, pid=running.pid)
    note: words.Message | None = None
    if state is not status.state:
        note = waits
        if status.state is vm.State.STARTING and process in (Process.RUNNING, Process.PAUSED):
            note = notes.Started(name=machine.name, pid=running.pid, accelerator=running.accelerator)
    newest = not standing.changes_wait(machine)
    return {
        "state": state,
        "since": status.since if state is status.state else base.now(),
        "reason": base.Saying.of(waits) if waits else None,
        "pid": running.pid,
        "accelerator": running.accelerator or None,
        "qemu": vm.Qemu(running=running.version, installed=standing.ground.qemu),
        "isolation": running.isolation,
        "applied_generation": machine.metadata.generation if newest else running.started_generation,
    }, note


async def _without_process(preparation: Preparation, machine: vm.VM) -> dict[str, object]:
    """The state, where an end of ours has left written that of a process which is no more."""
    status = machine.status
    if machine.metadata.deleted is not None or not status.ready:
        return {}
    saved = machine.spec.power is vm.Power.SAVED and await preparation.has_saved(machine)
    fitting = (vm.State.SAVED,) if saved else (vm.State.STOPPED, vm.State.CRASHED)
    if status.state in fitting:
        return {}
    return {"state": vm.State.SAVED if saved else vm.State.STOPPED, "since": base.now(), "pid": None}


def _in(span: float | None, before: datetime.datetime | None) -> datetime.datetime | None:
    """The moment in so many seconds; as it was said before, when that is about the same."""
    if span is None:
        return None
    moment = base.now() + datetime.timedelta(seconds=span)
    return before if before and abs((moment - before).total_seconds()) < 1.0 else moment
