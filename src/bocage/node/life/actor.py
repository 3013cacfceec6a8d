"""One VM's actor: drives it from what is to what should be, one step at a time, alone.

It can be killed at any instruction: when it comes back it looks at the world again and carries on.
One VM's trouble never holds up another's, since each has an actor of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from bocage import errors, reach, words
from bocage.engine import base as engine
from bocage.model import base, vm, work
from bocage.node import clock, notes, rights, tasks
from bocage.node.ground import Ground
from bocage.node.life import (
    awaiting,
    departing,
    finding,
    freeing,
    goals,
    launching,
    operations,
    relocating,
    replica,
    showing,
    steps,
    world,
)
from bocage.node.life.standing import Gone, Standing
from bocage.node.place.preparation import Preparation
from bocage.planner import lifecycle
from bocage.planner.lifecycle import Do
from bocage.store import contract, resources

log = logging.getLogger(__name__)

_RETRY = 2.0  # seconds before a step that failed is tried again, doubled each time
_LONGEST_RETRY = 60.0
_LONGEST_TURN = 5.0
_WITHOUT_LIFE = 1.0  # seconds before it is seen again whether its host may do something
_OWNERLESS = 60.0  # seconds after which a task of a VM that no host has is given up
_STARTING = (Do.START, Do.START_PAUSED)
_FOR = {  # the tasks that a long step is done for: it is broken off when one of them is cancelled
    Do.PREPARE: ("vm.create", "vm.clone"),
    Do.START: launching.STARTS,
    Do.START_PAUSED: launching.STARTS,
    Do.SAVE: ("vm.save",),
}
_UNTIL_KILLED = (Do.ADAPT, Do.RESUME)  # may wait for a guest, or for a storage that hangs
_BEFORE = (*goals.POWER, "vm.kill", "vm.reboot", "vm.snapshot-revert")
"""The tasks that come before what gives way."""
_WISHES = {
    Do.START: (vm.Power.RUNNING, vm.Power.PAUSED),
    Do.START_PAUSED: (vm.Power.RUNNING, vm.Power.PAUSED),
    Do.SAVE: (vm.Power.SAVED,),
}


class Left(Exception):
    """Another host has the VM, and nothing of it is left here."""


class Actor:
    """Everything that is done to one VM on this host is done here."""

    def __init__(self, ground: Ground, preparation: Preparation, project: str, uid: str) -> None:
        self.standing = Standing(ground, project, uid)
        self._ground = ground
        self._preparation = preparation
        self._cancelled: set[str] = set()
        self._stumbles = 0
        self._at_hand: list[tasks.Run] = []  # the tasks that the present look knows of
        self.looked = asyncio.Event()  # it has seen whether its VM runs
        self.name = ""  # the VM's, when it was first looked at
        self.found = False  # whether its VM ran already then
        self.turn = asyncio.Event()  # to start by itself; cleared while others start first with the host
        self.turn.set()

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

    def expire(self) -> None:
        """It has lain in the trash for its time."""
        self.standing.expired = True
        self.wake()

    def may_start(self) -> None:
        """Those that start before it with the host have done so."""
        self.turn.set()
        self.wake()

    async def live(self) -> None:
        """Drive the VM until its resource is gone, or another host's."""
        again: float | None
        try:
            while not self.looked.is_set():
                self.standing.woken.clear()
                if (again := await self._guarded(self._find)) != 0:
                    await self._rest(again)
            while True:
                self.standing.woken.clear()
                async with self._in_turn():
                    again = await self._guarded(self._round)
                if again != 0:
                    await self._rest(again)
        except Gone:
            await self._settle_gone()
        except Left:
            log.info("VM %s is another host's", self.name or self.standing.uid)
        finally:
            self.looked.set()
            await self.standing.release()

    @contextlib.asynccontextmanager
    async def _in_turn(self) -> AsyncIterator[None]:
        """Rounds that nobody waits for take turns, so that many changes at once hold up no answer.

        Who is woken meanwhile, or has waited for long, goes at once: nobody stands behind a storage that hangs.
        """
        if self.standing.runs or self.standing.machine:
            yield
            return
        slot = asyncio.ensure_future(self._ground.unhurried.acquire())
        waking = asyncio.ensure_future(self.standing.woken.wait())
        try:
            await asyncio.wait([slot, waking], timeout=_LONGEST_TURN, return_when=asyncio.FIRST_COMPLETED)
            yield
        finally:
            waking.cancel()
            slot.cancel()
            await asyncio.wait([slot, waking])
            if not slot.cancelled():
                self._ground.unhurried.release()

    async def _rest(self, span: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(span):
                await self.standing.woken.wait()

    async def _find(self) -> float:
        machine = await self.standing.read()
        self.name = machine.name
        try:
            await finding.find(self.standing, self._preparation)
        except rights.Waits:
            return _WITHOUT_LIFE
        self.found = self.standing.machine is not None
        self.looked.set()
        return 0.0

    async def _guarded(self, what: Callable[[], Awaitable[float | None]]) -> float | None:
        try:
            again = await what()
        except (Gone, Left):
            raise
        except errors.Problem as problem:
            return await self._stumble(problem)
        except OSError as error:
            return await self._stumble(tasks.from_os(error))
        except Exception:
            reference = base.new_uid()[:8]
            log.exception("VM %s: a step failed [%s]", self.standing.uid, reference)
            return await self._stumble(errors.Internal(reference=reference))
        if self._stumbles:
            self._stumbles = 0
            with contextlib.suppress(errors.Problem):
                await self.standing.show(problem=None)
        return again

    async def _stumble(self, problem: errors.Problem) -> float:
        """A step failed: say it, fail the tasks that wait for it, and try again later."""
        cut_off = isinstance(problem, (engine.NotRunning, ConnectionError))
        if cut_off and await self.standing.ends():
            return 0.0  # it ended under the step's hands
        self._stumbles += 1
        log.warning("VM %s: %s", self.standing.uid, problem)
        with contextlib.suppress(errors.Problem, OSError):
            machine = await self.standing.read()
            in_doubt = isinstance(problem, contract.NO_ANSWER)  # the next look at the VM shows what came of it
            if not in_doubt and (self._stumbles >= 3 or not isinstance(problem, (errors.TimedOut, ConnectionError))):
                await self._give_up(machine, problem)
            machine = await self.standing.show(problem=base.Saying.of(problem))
            if self.standing.machine and await self.standing.machine.look() is engine.Run.UNKNOWN:
                await showing.show(self.standing, self._preparation, machine, lifecycle.Step(Do.NOTHING))
        return float(min(_RETRY * 2 ** min(self._stumbles - 1, 10), _LONGEST_RETRY))

    async def _give_up(self, machine: vm.VM, problem: errors.Problem) -> None:
        """Fail what waits, and take its wishes back: nothing happens behind the back of who was told so."""
        failed = [
            run
            for run in self._at_hand
            if run in self.standing.runs and (not machine.status.ready or run.action not in operations.HANDLERS)
        ]
        if any(run.action in (*goals.POWER, "vm.create", "vm.clone") for run in failed):
            await self.standing.follow(machine, await self._as_it_is(machine))
        for run in failed:
            self.standing.runs.remove(run)
            await run.failed(problem)
        self.standing.forget_stopping()

    async def _as_it_is(self, machine: vm.VM, run: tasks.Run | None = None) -> vm.Power:
        """What it is; as it was before `run`, when it stands for that alone."""
        if self.standing.machine is None:
            return vm.Power.SAVED if await self._preparation.has_saved(machine) else vm.Power.STOPPED
        if run is not None and run.action == "vm.save" and run.remembered.get("ran"):
            return vm.Power.RUNNING
        return vm.Power.PAUSED if self.standing.machine.run is engine.Run.PAUSED else vm.Power.RUNNING

    async def _round(self) -> float | None:
        """One look and one step. Seconds until the next look: 0 at once, None when something happens."""
        self._at_hand = list(self.standing.runs)  # before the VM is read: so what is read has all that they wrote
        machine = await self.standing.read()
        if machine.status.host is None:
            return await self._without_owner(machine)
        if machine.status.host != self._ground.uid:
            return await self._elsewhere(machine, machine.status.host)
        try:
            async with self._ground.rights.work(*await self._storages(machine)):
                return await self._go_on(machine)
        except rights.Waits as why:
            return await self._wait(await self.standing.read(), why)

    async def _storages(self, machine: vm.VM) -> set[str]:
        """Those that it lies on, or will."""
        if self._ground.cluster is None:
            return set()
        asked = (str(run.params["storage"]) for run in self.standing.runs if "storage" in run.params)
        found = {machine.spec.storage, *asked}
        with contextlib.suppress(resources.Missing):
            found |= {volume.spec.storage for volume in await self._preparation.disks.of(machine)}
        return found

    async def _wait(self, machine: vm.VM, why: rights.Waits) -> float:
        """Nothing is written to its storages: its process's end is seen, and what asks that of it alone is done."""
        standing, preparation = self.standing, self._preparation
        seen = await world.look(standing, preparation, machine)
        step = lifecycle.decide(seen)
        if step.do in steps.WITHOUT_STORAGE:
            await self._do(step.do, machine)
            machine = await standing.read()
        elif step.do is not Do.NOTHING:
            reason = await self._holds(machine, seen) if step.do in _STARTING else None
            if standing.machine is None:
                await standing.show(reason=base.Saying.of(reason or why))
            if step.do in _STARTING and self._ground.leaves(machine):
                await self._fail_starts(machine)
            step = lifecycle.Step(Do.NOTHING)
        machine = await showing.show(standing, preparation, machine, step)
        self._at_hand = [run for run in self._at_hand if run.action not in operations.HANDLERS]
        await self._settle(machine, step, trashed=seen.trashed)
        for run in standing.runs:
            run.waits(why)
        return _WITHOUT_LIFE

    async def _go_on(self, machine: vm.VM) -> float | None:
        standing, preparation = self.standing, self._preparation
        if departing.is_between(standing):
            await departing.settle(standing, preparation)
        machine = await self._drop_cancelled(machine)
        await replica.attend(standing, machine)
        if standing.machine is None:
            await self._settle_moves()
        seen = await world.look(standing, preparation, machine)
        step = lifecycle.decide(seen)
        if step.do in _STARTING and standing.asked("vm.snapshot-revert"):
            step = lifecycle.Step(Do.NOTHING)  # it starts as what it goes back to
        between = standing.machine is not None and any(map(relocating.is_between, standing.asked("vm.move")))
        if between and step.do not in (Do.QUIT, Do.KILL):
            step = lifecycle.Step(Do.NOTHING)  # it stands because its storage is changed, and goes on when that is done
        if step.do in _STARTING and (reason := await self._holds(machine, seen)) is not None:
            await standing.show(reason=base.Saying.of(reason))
            if seen.ready:  # made for a start that has to wait: until then it is nowhere but in the store
                await launching.define(standing, preparation, machine)
            if self._ground.leaves(machine):
                await self._fail_starts(machine)
                return None
            return 1.0 if self.turn.is_set() else None
        whole = True
        if step.do is not Do.NOTHING:
            whole = await self._do(step.do, machine)
            if whole and step.do is Do.PREPARE and launching.starts_at_once(machine):
                return 0  # what it is will be shown when it starts
            self._at_hand = list(standing.runs)
            machine = await standing.read()
        machine = await showing.show(standing, preparation, machine, step)
        await self._settle(machine, step if whole else lifecycle.Step(Do.NOTHING), trashed=seen.trashed)
        if step.do is not Do.NOTHING:
            return step.again or 0
        if seen.ready and not seen.trashed and not seen.deleted:
            await launching.define(standing, preparation, machine)
            await freeing.settle(standing, preparation, machine)
        if await self._operate(machine):
            return 0
        rests = [max(run.rests - clock.boottime(), 0.0) for run in standing.runs if run.rests]
        return min([*rests, *([step.again] if step.again is not None else [])], default=None)

    async def _fail_starts(self, machine: vm.VM) -> None:
        why = goals.ClusterStands if self._ground.stands(machine) else goals.HostGoesDown
        await self.standing.fail(why(name=machine.name), *launching.STARTS, "vm.reboot")

    async def _settle_moves(self) -> None:
        """Nothing starts, or goes to the trash, while what a move has left could be taken for it."""
        for run in self.standing.asked("vm.move"):
            with contextlib.suppress(reach.Hangs):  # which holds nobody up: what does not count is known by its age
                await relocating.settle_off(self.standing, self._preparation, run)

    async def _elsewhere(self, machine: vm.VM, host: str) -> float | None:
        """Another host has it: what is asked of it is that one's to do. Raises Left when nothing of it is here."""
        for run in list(self.standing.runs):
            await tasks.hand_over(self._ground.resources, run.task, host)
            self.standing.runs.remove(run)
        if self.standing.machine is None:
            await self._preparation.leave(machine)
            await self._ground.engine.forget(self._ground.home.vm_runtime(machine.uid))
            raise Left
        return None

    async def _without_owner(self, machine: vm.VM) -> float | None:
        """It is nobody's: what has run of it here is over, and nothing is written of it."""
        if self.standing.ended is not None:
            await launching.give_back(self.standing, self._preparation, machine)
            self.standing.off()
        if not self.standing.runs:
            return None
        oldest = min(run.task.metadata.created for run in self.standing.runs)
        left = _OWNERLESS - (base.now() - oldest).total_seconds()
        if left > 0:
            return min(left, _OWNERLESS)
        await self.standing.fail(tasks.NoHost(name=machine.name), *{run.action for run in self.standing.runs})
        return None

    async def _holds(self, machine: vm.VM, seen: lifecycle.World) -> words.Message | None:
        """Why a start must wait: its host goes down or is cut off, its disks are being copied, others start first."""
        if self._ground.stands(machine):
            return notes.ClusterStands(name=machine.name)
        if self._ground.leaves(machine):
            return notes.HostStopsVms(name=machine.name)
        if self._preparation.in_use.is_copied(machine):
            return notes.BeingCopied(name=machine.name)
        if not self.turn.is_set() and not seen.asked_to_start:
            return notes.WaitsForTurn(name=machine.name)
        if not seen.asked_to_start and (waits := await awaiting.holds(self.standing, machine)) is not None:
            return waits
        replicated = machine.spec.replica is not None
        return await self._ground.rights.holds(machine.spec.storage, replicated=replicated)

    async def _do(self, do: Do, machine: vm.VM) -> bool:
        """Do a step. A long one is broken off, and False returned, when nobody wants it any more."""
        doing = steps.DOERS[do](self.standing, self._preparation, machine)
        if do in _UNTIL_KILLED:
            return await self._unless(doing, self._is_killed)
        if do not in _FOR:
            await doing
            return True

        async def unwanted() -> bool:
            if self.standing.concluding:
                return False
            if any(run.uid in self._cancelled for run in self.standing.asked(*_FOR[do])):
                return True
            present = await self.standing.read()
            wishes = _WISHES.get(do, tuple(vm.Power))
            killed = bool(self.standing.asked("vm.kill")) and do is not Do.PREPARE
            return killed or present.metadata.deleted is not None or present.spec.power not in wishes

        self.standing.concluding = False
        return await self._unless(doing, unwanted)

    async def _is_killed(self) -> bool:
        return bool(self.standing.asked("vm.kill"))

    async def _unless(self, doing: Awaitable[object], unwanted: Callable[[], Awaitable[bool]]) -> bool:
        """Wait for what is being done; when something happens ask whether it is still wanted. False: broken off."""
        assert isinstance(doing, Coroutine)
        work_: asyncio.Task[Any] = asyncio.create_task(doing)
        try:
            while not work_.done():
                waking = asyncio.create_task(self.standing.woken.wait())
                await asyncio.wait([work_, waking], return_when=asyncio.FIRST_COMPLETED)
                waking.cancel()
                self.standing.woken.clear()
                if not work_.done() and await unwanted():
                    work_.cancel()
                    await asyncio.wait([work_])
        finally:
            work_.cancel()
            await asyncio.wait([work_])
        if work_.cancelled():
            return False
        work_.result()
        return True

    async def _drop_cancelled(self, machine: vm.VM) -> vm.VM:
        for run in [run for run in self.standing.runs if run.uid in self._cancelled]:
            if run.action in goals.NOT_CANCELLED or departing.has_arrived(self.standing, run):
                run.report(notes.NotCancelled(action=run.action))
                self._cancelled.discard(run.uid)
                continue
            if run.action in ("vm.create", "vm.clone") and not machine.status.ready:
                await steps.undo_making(self.standing, self._preparation, machine)
            if run.action in operations.HANDLERS:
                await operations.undo(self.standing, self._preparation, machine, run)
                if self.standing.machine is not None and relocating.is_between(run):
                    continue  # its process did not say where it is: it is asked again
            elif run.action in (*goals.POWER, "vm.create", "vm.clone"):
                machine = await self.standing.follow(machine, await self._as_it_is(machine, run))
                self.standing.stopping = None
            self.standing.runs.remove(run)
            await run.cancelled()
        self._cancelled.intersection_update(run.uid for run in self.standing.runs)
        return machine

    async def _settle(self, machine: vm.VM, step: lifecycle.Step, *, trashed: bool) -> None:
        """End the tasks whose goal is reached, those that were overtaken, and those that have no hope."""
        standing = self.standing
        seen = goals.Seen(
            machine=machine,
            process=world.process_of(standing),
            pid=standing.machine.pid if standing.machine else None,
            reachable=standing.machine is None or standing.machine.reachable,
            trashed=trashed,
            just_started=step.do in _STARTING and (standing.machine is not None or standing.ended is not None),
            has_rebooted=standing.has_rebooted,
            silent=clock.boottime() - standing.silent if standing.silent is not None else 0.0,
            waits=step.waits,
        )
        for run in [run for run in self._at_hand if run in standing.runs]:
            if goals.reached(run, seen):
                standing.runs.remove(run)
                if run.action == "vm.reboot":
                    standing.forget_stopping()
                    await standing.tell(machine, notes.Rebooted(name=machine.name))
                await run.done(state=machine.status.state.value)
            elif goals.overtaken(run, machine):
                if run.action == "vm.move":
                    await operations.undo(standing, self._preparation, machine, run)
                standing.runs.remove(run)
                await run.cancelled(tasks.Superseded())
            elif (problem := goals.hopeless(run, seen)) is not None:
                if run.action in goals.POWER:
                    await standing.follow(machine, await self._as_it_is(machine, run))
                standing.runs.remove(run)
                await run.failed(problem)
            elif run.state is work.TaskState.PENDING and run.action not in operations.HANDLERS:
                await run.begin()
        if not standing.asked("vm.reboot"):
            standing.has_rebooted = False

    async def _settle_gone(self) -> None:
        while self.standing.runs:
            run = self.standing.runs.pop(0)
            if run.unwanted or run.uid in self._cancelled:
                await run.cancelled(run.unwanted)
            elif run.action == "vm.delete":
                await run.done()
            else:
                name = run.task.spec.subject.name if run.task.spec.subject else ""
                await run.failed(Gone(kind="vm", name=name or self.standing.uid))

    async def _operate(self, machine: vm.VM) -> bool:
        """Do the first waiting operation; False when there is none."""
        waiting = [run for run in self._at_hand if run in self.standing.asked(*operations.HANDLERS)]
        running, comes_before = self.standing.machine is not None, bool(self.standing.asked(*_BEFORE))
        run = operations.first(waiting, running=running, comes_before=comes_before)
        if run is None or not machine.status.ready:
            return False
        handler = operations.HANDLERS[run.action]

        async def unwanted() -> bool:
            if run.uid in self._cancelled:
                run.unwanted = tasks.Cancelled()
            elif (await self.standing.read()).metadata.deleted is not None:
                run.unwanted = tasks.Superseded()
            if self.standing.machine is not None and self.standing.asked("vm.kill"):
                # a plug that is pulled comes first: what is broken off could wait long for a storage that hangs
                with contextlib.suppress(errors.TimedOut):
                    await self.standing.machine.kill()
                return True
            return run.unwanted is not None or (
                run.action in operations.GIVES_WAY and bool(self.standing.asked(*_BEFORE))
            )

        carrying = tasks.carry_out(
            run, lambda run: operations.carry_out(handler, self.standing, self._preparation, machine, run)
        )
        if not await self._unless(carrying, unwanted) and isinstance(run.unwanted, tasks.Cancelled):
            await operations.undo(self.standing, self._preparation, await self.standing.read(), run)
        self.standing.defined = None  # what an operation changes of volumes stands in vm.yaml too
        self.standing.freed = None
        self.standing.pending = None
        if run.state.ended:
            self.standing.runs.remove(run)
        return True
