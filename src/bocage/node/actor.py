"""One VM's actor: drives it from what is to what should be, one step at a time, alone.

It can be killed at any instruction: when it comes back it looks at the world again and carries on.
One VM's trouble never holds up another's, since each has an actor of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging

from bocage import errors
from bocage.engine import base as engine
from bocage.model import base, vm
from bocage.node import clock, notes, operations, steps, tasks
from bocage.node.ground import Ground
from bocage.node.preparation import Preparation
from bocage.node.standing import Standing
from bocage.planner import lifecycle
from bocage.planner.lifecycle import Do, Process
from bocage.store import resources

log = logging.getLogger(__name__)

_PROCESS = {
    engine.Run.RUNNING: Process.RUNNING,
    engine.Run.PAUSED: Process.PAUSED,
    engine.Run.STORAGE_FULL: Process.FULL,
    engine.Run.STORAGE_FAILED: Process.FAILED_STORAGE,
    engine.Run.SHUT_DOWN: Process.SHUT_DOWN,
    engine.Run.PANICKED: Process.PANICKED,
    engine.Run.UNKNOWN: Process.SILENT,
}
_SHOWN = {
    Process.RUNNING: vm.State.RUNNING,
    Process.PAUSED: vm.State.PAUSED,
    Process.FULL: vm.State.PAUSED,
    Process.FAILED_STORAGE: vm.State.PAUSED,
    Process.SHUT_DOWN: vm.State.STOPPING,
    Process.PANICKED: vm.State.CRASHED,
    Process.SILENT: vm.State.UNKNOWN,
}
_RETRY = 2.0  # seconds before a step that failed is tried again, doubled each time
_LONGEST_RETRY = 60.0
_WAS_UP = (vm.State.RUNNING, vm.State.PAUSED, vm.State.STOPPING, vm.State.UNKNOWN)


class Actor:
    """Everything that is done to one VM on this host is done here."""

    def __init__(self, ground: Ground, preparation: Preparation, project: str, uid: str) -> None:
        self.standing = Standing(ground, project, uid)
        self._ground = ground
        self._preparation = preparation
        self._cancelled: set[str] = set()
        self._stumbles = 0
        self.hold_until = 0.0  # boot clock: no start before, since others start with the host first

    def wake(self) -> None:
        """Something may be different: look again."""
        self.standing.woken.set()

    def hand(self, run: tasks.Run) -> None:
        """Give it a task that concerns its VM."""
        if all(run.uid != known.uid for known in self.standing.runs):
            self.standing.runs.append(run)
        self.wake()

    def cancel(self, task_uid: str) -> None:
        """Somebody no longer wants a task."""
        self._cancelled.add(task_uid)
        self.wake()

    async def live(self) -> None:
        """Drive the VM until its resource is gone."""
        try:
            await self._find()
            while True:
                self.standing.woken.clear()
                again = await self._guarded_round()
                if again != 0:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(again):
                            await self.standing.woken.wait()
        except resources.Missing:
            await self._settle_gone()
        finally:
            await self.standing.release()

    async def _find(self) -> None:
        """See what there is of it after a start of the daemon."""
        standing = self.standing
        machine = await standing.read()
        runtime = self._ground.home.vm_runtime(machine.uid)
        found = await self._ground.engine.find(
            machine.uid, machine.name, runtime, listener=standing.heard, cgroup=self._ground.cgroup_of(machine.uid)
        )
        if found:
            standing.watch(found)
            await self._preparation.note_running(machine)
            await standing.tell(machine, notes.Found(name=machine.name, pid=found.pid))
        elif machine.status.state in _WAS_UP:
            if self._ground.rebooted:
                note = notes.HostRestarted(name=machine.name)
                await standing.tell(machine, note, base.Severity.WARNING)
                await standing.set_state(vm.State.STOPPED, reason=note, pid=None)
            else:
                standing.ended = await self._ground.engine.post_mortem(runtime) or engine.Ended(
                    orderly=machine.spec.power is vm.Power.STOPPED, reason=notes.FoundGone(name=machine.name)
                )

    async def _guarded_round(self) -> float | None:
        try:
            again = await self._round()
        except resources.Missing:
            raise
        except errors.Problem as problem:
            return await self._stumble(problem)
        except OSError as error:
            return await self._stumble(tasks.from_os(error))
        except Exception:
            reference = base.new_uid()[:8]
            log.exception("VM %s: a step failed [%s]", self.standing.uid, reference)
            return await self._stumble(errors.Internal(reference=reference))
        self._stumbles = 0
        return again

    async def _stumble(self, problem: errors.Problem) -> float:
        """A step failed: say it, fail the tasks that wait for it, and try again later."""
        self._stumbles += 1
        log.warning("VM %s: %s", self.standing.uid, problem)
        waiting = [run.action for run in self.standing.runs if run.action not in operations.HANDLERS]
        if self._stumbles >= 3 or not isinstance(problem, errors.TimedOut):
            await self.standing.fail(problem, *waiting)
        with contextlib.suppress(errors.Problem, OSError):
            machine = await self.standing.show(problem=base.Saying.of(problem))
            if self.standing.machine and await self.standing.machine.look() is engine.Run.UNKNOWN:
                await self._show(machine, lifecycle.Step(Do.NOTHING))
        return float(min(_RETRY * 2 ** (self._stumbles - 1), _LONGEST_RETRY))

    async def _round(self) -> float | None:
        """One look and one step. Seconds until the next look: 0 at once, None when something happens."""
        machine = await self.standing.read()
        if machine.status.host != self._ground.uid:
            return None
        machine = await self._drop_cancelled(machine)
        world = await self._world(machine)
        step = lifecycle.decide(world)
        if step.do in (Do.START, Do.START_PAUSED) and (wait := self._holds(machine)) > 0:
            return wait
        if step.do is not Do.NOTHING:
            await steps.DOERS[step.do](self.standing, self._preparation, machine)
            machine = await self.standing.read()
        elif world.ready and not world.trashed and not world.deleted:
            await steps.define(self.standing, self._preparation, machine)
        machine = await self._show(machine, step)
        await self._settle(machine, trashed=world.trashed)
        if step.do is not Do.NOTHING:
            return step.again or 0
        if await self._operate(machine):
            return 0
        return step.again

    def _holds(self, machine: vm.VM) -> float:
        """Seconds for which a start must wait: for those that start first, and while its disks are being copied."""
        if self._preparation.is_copied(machine.uid):
            return 1.0
        return self.hold_until - clock.boottime()

    async def _world(self, machine: vm.VM) -> lifecycle.World:
        standing = self.standing
        place = await self._preparation.place(machine)
        status = machine.status
        failed = standing.failed
        if failed is None and status.state is vm.State.CRASHED:
            failed = clock.since(status.since)
        process = _PROCESS[standing.machine.run] if standing.machine else Process.NONE
        return lifecycle.World(
            power=machine.spec.power,
            now=clock.boottime(),
            process=process,
            saved=place.saved.exists(),
            ready=status.ready,
            deleted=machine.metadata.deleted is not None,
            trashed=not place.exists() and (await self._preparation.trash(machine)).exists(),
            kill=bool(standing.asked("vm.kill")),
            asked_to_start=bool(standing.asked("vm.start")),
            ended=standing.ended is not None,
            orderly=standing.ended is not None and standing.ended.orderly,
            policy=machine.spec.restart,
            stop=self._stop_policy(machine),
            restarts=status.restarts,
            failed=failed,
            stopping=standing.stopping,
            presses=standing.presses,
            room=process is not Process.FULL or await self._preparation.has_room(machine),
        )

    def _stop_policy(self, machine: vm.VM) -> vm.StopPolicy:
        policy = machine.spec.stop
        for run in self.standing.asked("vm.stop"):
            policy = vm.StopPolicy(
                within=run.params.get("within") or policy.within,
                then="kill" if run.params.get("kill") else policy.then,
            )
        return policy

    async def _show(self, machine: vm.VM, step: lifecycle.Step) -> vm.VM:
        """Write what the VM does now, when that is another than what is written."""
        running = self.standing.machine
        fields: dict[str, object] = {"observed_generation": machine.metadata.generation}
        if running:
            process = _PROCESS[running.run]
            state = _SHOWN[process]
            if self.standing.stopping is not None and process is Process.RUNNING:
                state = vm.State.STOPPING
            if state is not machine.status.state:
                fields |= {"state": state, "since": base.now(), "reason": None}
                await self._tell_of(machine, process, running)
            reason = _waiting_for(machine.name, process)
            if reason is not None:
                fields["reason"] = base.Saying.of(reason)
            fields |= {
                "pid": running.pid,
                "accelerator": self._ground.accelerator,
                "qemu": vm.Qemu(running=running.version, installed=self._ground.qemu),
                "isolation": running.isolation,
                "applied_generation": running.started_generation,
                "problem": None,
                "next_try": None,
            }
        else:
            fields["next_try"] = _in(step.again) if step.waits is lifecycle.BackOff else None
        place = await self._preparation.place(machine)
        fields["directory"] = str(place.path)
        return await self.standing.show(**fields)

    async def _tell_of(self, machine: vm.VM, process: Process, running: engine.Machine) -> None:
        if process is Process.RUNNING and machine.status.state is vm.State.STARTING:
            note = notes.Started(name=machine.name, pid=running.pid, accelerator=self._ground.accelerator)
            await self.standing.tell(machine, note)
        elif (trouble := _waiting_for(machine.name, process)) is not None:
            await self.standing.tell(machine, trouble, base.Severity.WARNING)

    async def _drop_cancelled(self, machine: vm.VM) -> vm.VM:
        for run in [run for run in self.standing.runs if run.uid in self._cancelled]:
            self.standing.runs.remove(run)
            await run.cancelled()
            if run.action in ("vm.stop", "vm.save") and self.standing.machine:
                self.standing.stopping, self.standing.presses = None, 0
                machine = await self.standing.change(lambda _: {"power": vm.Power.RUNNING})
            elif run.action == "vm.start" and not self.standing.machine:
                machine = await self.standing.change(lambda _: {"power": vm.Power.STOPPED})
        self._cancelled.clear()
        return machine

    async def _settle(self, machine: vm.VM, *, trashed: bool) -> None:
        """End the tasks whose goal is reached, and those that were overtaken."""
        for run in list(self.standing.runs):
            if run.action in operations.HANDLERS:
                continue
            if goal_reached(run.action, machine, running=self.standing.machine is not None, trashed=trashed):
                self.standing.runs.remove(run)
                await run.done(state=machine.status.state.value)
            elif overtaken(run.action, machine):
                self.standing.runs.remove(run)
                await run.cancelled(tasks.Superseded())
            elif run.task.status.state == "pending":
                await run.begin()

    async def _settle_gone(self) -> None:
        for run in self.standing.runs:
            if run.action == "vm.delete":
                await run.done()
            else:
                await run.failed(resources.Missing(kind="vm", name=self.standing.uid))
        self.standing.runs.clear()

    async def _operate(self, machine: vm.VM) -> bool:
        """Do the first waiting operation; False when there is none."""
        waiting = [run for run in self.standing.runs if run.action in operations.HANDLERS]
        if not waiting or not machine.status.ready:
            return False
        run = waiting[0]
        handler = operations.HANDLERS[run.action]
        doing = asyncio.create_task(
            tasks.carry_out(run, lambda run: handler(self.standing, self._preparation, machine, run))
        )
        try:
            while not doing.done():
                waking = asyncio.create_task(self.standing.woken.wait())
                await asyncio.wait([doing, waking], return_when=asyncio.FIRST_COMPLETED)
                waking.cancel()
                self.standing.woken.clear()
                if run.uid in self._cancelled or self.standing.asked("vm.kill"):
                    doing.cancel()
                    await asyncio.wait([doing])
        finally:
            doing.cancel()
            await asyncio.wait([doing])
            self.standing.runs.remove(run)
        return True


def goal_reached(action: str, machine: vm.VM, *, running: bool, trashed: bool) -> bool:
    """Whether what the task wanted is so."""
    status, power = machine.status, machine.spec.power
    match action:
        case "vm.create" | "vm.clone":
            wants_running = power is vm.Power.RUNNING
            return status.ready and (status.state is vm.State.RUNNING) == wants_running
        case "vm.start" | "vm.resume":
            return running and status.state in (vm.State.RUNNING, vm.State.PAUSED) and status.state.value == power.value
        case "vm.stop":
            return not running and status.state in (vm.State.STOPPED, vm.State.CRASHED)
        case "vm.kill":
            return not running and status.state is not vm.State.SAVED
        case "vm.pause":
            return status.state is vm.State.PAUSED
        case "vm.save":
            return status.state is vm.State.SAVED
        case "vm.delete":
            return machine.metadata.deleted is not None and trashed
        case "vm.undelete":
            return machine.metadata.deleted is None and not trashed
        case _:
            return False


_WANTS = {
    "vm.start": (vm.Power.RUNNING, vm.Power.PAUSED),
    "vm.resume": (vm.Power.RUNNING,),
    "vm.stop": (vm.Power.STOPPED,),
    "vm.pause": (vm.Power.PAUSED,),
    "vm.save": (vm.Power.SAVED,),
}


def overtaken(action: str, machine: vm.VM) -> bool:
    """Whether the VM should by now be something else than the task wanted."""
    return action in _WANTS and (machine.spec.power not in _WANTS[action] or machine.metadata.deleted is not None)


def _waiting_for(name: str, process: Process) -> notes.Note | None:
    match process:
        case Process.FULL:
            return notes.StorageFull(name=name)
        case Process.FAILED_STORAGE:
            return notes.StorageFailed(name=name)
        case Process.SILENT:
            return notes.Silent(name=name)
        case _:
            return None


def _in(span: float | None) -> datetime.datetime | None:
    return base.now() + datetime.timedelta(seconds=span) if span is not None else None
