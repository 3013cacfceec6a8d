"""Tasks of a VM: whether what they want is so, was overtaken by another wish, or can no longer come to be."""

from __future__ import annotations

import dataclasses

from bocage import errors
from bocage.engine import base as engine
from bocage.model import vm
from bocage.node import notes, tasks
from bocage.planner import lifecycle
from bocage.words import N_

SILENCE = 20.0  # seconds without an answer of its monitor after which nobody is left waiting for it
NOT_CANCELLED = ("vm.delete", "vm.undelete", "vm.kill")
"""Done at once where they can be done at all: there is no way back from the middle of them."""

_WANTS = {
    "vm.start": (vm.Power.RUNNING, vm.Power.PAUSED),
    "vm.resume": (vm.Power.RUNNING,),
    "vm.stop": (vm.Power.STOPPED,),
    "vm.pause": (vm.Power.PAUSED,),
    "vm.save": (vm.Power.SAVED,),
}
POWER = tuple(_WANTS)
"""The tasks that stand for a wish in the spec."""
_NEED_ANSWERS = ("vm.resume", "vm.pause", "vm.save", "vm.reboot")


class Paused(tasks.Error, errors.Conflict):
    type = "vm-is-paused"
    text = N_("{name} is paused: its guest cannot be asked to restart")
    hint = N_("'bocage vm resume {name}' first")
    name: str


class NoRoom(tasks.Error, errors.Unavailable):
    type = "vm-has-no-room"
    status = 507
    text = N_("{name} waits for room on its storage")
    hint = N_("make room on the storage; it goes on by itself")
    name: str


class HostGoesDown(tasks.Error, errors.Conflict):
    type = "vm-host-goes-down"
    text = N_("{name} is not started now: its host has all VMs go off, because it is about to go down")
    hint = N_("it starts with the next start of the machine, or with 'bocage host start-vms'")
    name: str


class ClusterStands(tasks.Error, errors.Conflict):
    type = "vm-cluster-stands"
    text = N_("{name} is not started now: the cluster was shut down")
    hint = N_("'bocage cluster start' starts all that ran")
    name: str


class OutOfReach(tasks.Error, errors.Conflict):
    """It runs, and nobody can talk to it any more."""

    type = "vm-cannot-be-reached"
    text = N_("{name} runs on as process {pid}, but the sockets to talk to it are gone")
    hint = N_("shut its guest down from inside, or 'bocage vm kill {name}'; then 'bocage vm start {name}'")
    name: str
    pid: int


class DoesNotRun(tasks.Error, errors.Unavailable):
    """It should run, and its restart policy starts it no more."""

    type = "vm-stays-down"
    text = N_("{name} ended by itself and is not started again")
    hint = N_("'bocage why {name}' says why; 'bocage vm start {name}' tries again")
    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """What a look at a VM found."""

    machine: vm.VM
    process: lifecycle.Process = lifecycle.Process.NONE
    pid: int | None = None
    reachable: bool = True
    trashed: bool = False
    just_started: bool = False  # its vCPUs ran, whatever has become of it since
    has_rebooted: bool = False  # within its process
    silent: float = 0.0  # seconds
    waits: type[lifecycle.Waits] | None = None


def reached(run: tasks.Run, seen: Seen) -> bool:
    """Whether what the task wanted is so."""
    machine, status, power = seen.machine, seen.machine.status, seen.machine.spec.power
    running = seen.process is not lifecycle.Process.NONE
    match run.action:
        case "vm.create" | "vm.clone":
            wanted = power in (vm.Power.RUNNING, vm.Power.PAUSED)
            return status.ready and (not wanted or seen.just_started or _is(status.state, power))
        case "vm.start":
            return seen.just_started or (running and _is(status.state, power))
        case "vm.resume":
            return running and status.state is vm.State.RUNNING
        case "vm.stop":
            return not running and status.state in (vm.State.STOPPED, vm.State.CRASHED)
        case "vm.kill":
            return not running and status.state is not vm.State.SAVED
        case "vm.pause":
            return status.state is vm.State.PAUSED
        case "vm.save":
            return status.state is vm.State.SAVED
        case "vm.reboot":
            old = run.remembered.get("pid")
            return seen.has_rebooted or (old not in (None, seen.pid) and status.state is vm.State.RUNNING)
        case "vm.delete":
            return machine.metadata.deleted is not None and seen.trashed and not run.params.get("purge")
        case "vm.undelete":
            return machine.metadata.deleted is None and not seen.trashed
        case _:
            return False


def _is(state: vm.State, power: vm.Power) -> bool:
    return state in (vm.State.RUNNING, vm.State.PAUSED) and state.value == power.value


def overtaken(run: tasks.Run, machine: vm.VM) -> bool:
    """Whether the VM should by now be something else than the task wanted."""
    if run.action in ("vm.delete", "vm.undelete", "vm.kill"):
        return run.action == "vm.undelete" and machine.metadata.deleted is not None
    if machine.metadata.deleted is not None:
        return True
    return run.action in _WANTS and machine.spec.power not in _WANTS[run.action]


def hopeless(run: tasks.Run, seen: Seen) -> errors.Problem | None:
    """Why what the task wants cannot come to be as things stand; None while it can."""
    name, power = seen.machine.name, seen.machine.spec.power
    if not seen.reachable and seen.pid is not None and run.action in (*POWER, "vm.reboot"):
        return OutOfReach(name=name, pid=seen.pid)
    if seen.process is lifecycle.Process.SILENT and run.action in _NEED_ANSWERS and seen.silent > SILENCE:
        return errors.TimedOut(what=f"QEMU of {name}", bound=SILENCE)
    stalled = seen.process in (lifecycle.Process.FULL, lifecycle.Process.FAILED_STORAGE)
    match run.action:
        case "vm.reboot" if power is vm.Power.PAUSED:
            return Paused(name=name)
        case "vm.reboot" if power is not vm.Power.RUNNING or seen.waits is not None:
            return engine.NotRunning(name=name)
        case "vm.resume" | "vm.reboot" if stalled:
            return NoRoom(name=name)
        case "vm.resume" if seen.process is lifecycle.Process.NONE and seen.waits is not None:
            return engine.NotRunning(name=name)
        case "vm.create" | "vm.clone" if seen.waits in (lifecycle.GaveUp, lifecycle.NoRestart):
            return DoesNotRun(name=name)
        case _:
            return None


def waits_for(name: str, process: lifecycle.Process) -> notes.Note | None:
    """What a process that does not run waits for."""
    match process:
        case lifecycle.Process.FULL:
            return notes.StorageFull(name=name)
        case lifecycle.Process.FAILED_STORAGE:
            return notes.StorageFailed(name=name)
        case lifecycle.Process.SILENT:
            return notes.Silent(name=name)
        case _:
            return None
