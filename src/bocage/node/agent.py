"""The node: sees what the store wants of this host, and hands it to whoever does it.

VMs have an actor each; all other tasks are jobs of their own, a few at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Coroutine
from typing import Any

from bocage import errors
from bocage.model import ground, keys, standstill, vm, work
from bocage.node import jobs, memory, notes, rights, tasks
from bocage.node.ground import Ground
from bocage.node.life import actor, arriving
from bocage.node.life.crew import Crew
from bocage.node.rounds import answering, balancing, boot, identifying, mending, plugging, sampling, upkeep
from bocage.node.shop import Shop
from bocage.store import contract, resources

log = logging.getLogger(__name__)

_JOBS_AT_ONCE = 4
_RETRY = 2.0  # seconds before the store is looked at again when it could not be read
_NAMED = 20  # VMs that an event names


class Node:
    """One host's agent."""

    def __init__(self, ground: Ground) -> None:
        self.shop = Shop.on(ground)
        self.crew = Crew()
        self.ground, self.preparation, self.wires = ground, self.shop.preparation, self.shop.wires
        self._mending = mending.Mending(self.shop, self.crew)
        self._upkeep = upkeep.Upkeep(self.shop, self.crew)
        self.balancing = balancing.Balancing(self.shop, self.crew)
        self._identifying = identifying.Rounds(ground)
        self.sampling = sampling.Sampling(self.shop, self.crew, self.balancing)
        self._jobs: dict[str, tuple[tasks.Run, asyncio.Task[None]]] = {}
        self._known: set[str] = set()  # tasks that were handed on
        self._leave_from = ground.leave_from
        self._background: set[asyncio.Task[Any]] = set()
        self._slots = asyncio.Semaphore(_JOBS_AT_ONCE)
        self.ready = asyncio.Event()

    def wake(self) -> None:
        """Something concerns all VMs: each is looked at."""
        for one in self.crew:
            one.wake()

    async def run(self) -> None:
        """Work until cancelled. VMs are never touched by that: they go on."""
        try:
            while True:
                try:
                    revision = await self._catch_up()
                    await self._follow(revision)
                except (contract.Closed, contract.Replaced):
                    raise
                except contract.Compacted:
                    log.warning("the store moved on faster than it was watched; looking at everything again")
                except errors.Problem as problem:
                    log.warning("the store: %s", problem)
                    await asyncio.sleep(_RETRY)
        finally:
            await self._wind_down()

    async def _catch_up(self) -> int:
        """Look at everything once; returns the revision that was looked at."""
        listing = await self.ground.resources.list(vm.VM, trash=True)
        mine = [machine for machine in listing.items if machine.status.host == self.ground.uid]
        waiting = await self.ground.resources.list(work.Task)
        stands = await self.ground.resources.store.get(standstill.KEY)
        self.ground.standstill = standstill.read(stands.value if stands else None)
        first = not self.ready.is_set()
        booting = boot.Boot(self.shop, self.crew, mine) if first and self.ground.rebooted else None
        if first:
            await self.wires.recall(mine)
            self.preparation.recall(mine)
            await self.wires.wire_up((await self.ground.resources.list(ground.Network)).items)
            await arriving.resume_all(self.ground, self.preparation)
        if booting:
            await booting.wish()
        # Nothing is awaited from here on: an actor's first look is at all that is asked of its VM.
        for machine in mine:
            self._ensure_actor(machine.metadata.project or "", machine.uid)
        for task in waiting.items:
            self._take(task)
        if booting:
            booting.hold()
        self.ready.set()
        if first:
            self._spawn(self._begin(booting))
        return listing.revision

    async def _begin(self, booting: boot.Boot | None) -> None:
        """What goes on beside the VMs, once each of them was looked at."""
        self._spawn(self._upkeep.run())
        self._spawn(self._mending.run())
        if self.ground.cluster:
            self._spawn(jobs.storages.reopen_shared(self.shop))
        self._spawn(self._identifying.run())
        self._spawn(plugging.Rounds(self.shop, self.crew).run())
        self._spawn(answering.Rounds(self.crew).run())
        self._spawn(self.sampling.run())
        self._spawn(self.balancing.run())
        if booting:
            self._spawn(booting.run())
            await booting.settle()
        await asyncio.gather(*[one.looked.wait() for one in self.crew])
        if found := sorted(one.name for one in self.crew if one.found):
            host = await self.ground.resources.get(ground.Host, None, self.ground.uid)
            note = notes.Found(count=len(found), names=found[:_NAMED])
            await self.ground.events.record(note, subject=host.ref)

    async def _follow(self, revision: int) -> None:
        """See each change from a revision on."""
        watch = self.ground.resources.store.watch(keys.ROOT, since=revision)
        async with contextlib.aclosing(watch) as changes:
            async for batch in changes:
                for change in batch:  # none of it waits: what was written together is handed on together
                    try:
                        self._see(change)
                    except (errors.Problem, ValueError):
                        log.exception("%s could not be read", change.key)

    def _see(self, change: contract.Change) -> None:
        if change.key == standstill.KEY:
            self.ground.standstill = standstill.read(change.entry.value if change.entry else None)
            self.wake()
            return
        kind = keys.kind_of(change.key)
        part = change.key.rsplit("/", 1)[1]
        self._upkeep.see(kind, part)
        self.balancing.see(change.key, part)
        self._identifying.see(change.key, part)
        if kind == vm.VM.kind and part in ("spec", "owner"):
            self._see_vm(change, part)
        elif kind == ground.Host.kind and self._leave_from != self.ground.leave_from:
            self._leave_from = self.ground.leave_from
            self.wake()
        elif kind == ground.Storage.kind:
            if part == "status":
                self._upkeep.see_storage(keys.uid_of(change.key))
            elif change.entry is None:
                self.ground.forget_storage(keys.uid_of(change.key))
        elif kind == work.Task.kind and part == "spec":
            if change.entry is None:
                self._known.discard(keys.uid_of(change.key))
                return
            task = resources.decode(work.Task, change.entry, None)
            if task.spec.cancel:
                self._cancel(task.uid)
            elif change.entry.created == change.revision:
                self._take(task)
                if task.spec.host != self.ground.uid and (follow := jobs.BY_ALL.get(task.spec.action)):
                    self._spawn(follow(self.shop, task))
            elif task.uid not in self._known or task.spec.host != self.ground.uid:
                self._spawn(self._take_as_it_is(task))

    def _see_vm(self, change: contract.Change, part: str) -> None:
        uid = keys.uid_of(change.key)
        project = change.key.removeprefix(keys.prefix(vm.VM.kind)).split("/")[0]
        if part == "owner" and change.entry:
            owner = vm.Owner.model_validate_json(change.entry.value)
            if owner.host == self.ground.uid:
                self._ensure_actor(project, uid)
                if owner.generation > 1:
                    self._spawn(self._take_over_tasks(uid))
        if part == "spec":
            self.sampling.changed(uid)
        if known := self.crew.of(uid):
            known.wake()

    def _ensure_actor(self, project: str, uid: str) -> actor.Actor:
        if (present := self.crew.of(uid)) is not None:
            return present
        new = actor.Actor(self.ground, self.preparation, project, uid)
        new.standing.listeners.append(functools.partial(self._mending.heard, uid))
        self.crew.join(uid, new)
        self._spawn(self._live(new, project, uid))
        return new

    async def _take_over_tasks(self, uid: str) -> None:
        """What was asked of a VM while another host had it, which may be dead, is this one's to do."""
        for task in (await self.ground.resources.list(work.Task, holding=uid)).items:
            about = task.spec.subject is not None and task.spec.subject.uid == uid
            if about and task.spec.host != self.ground.uid and task.spec.action not in jobs.HANDLERS:
                await tasks.hand_over(self.ground.resources, task, self.ground.uid)

    async def _live(self, new: actor.Actor, project: str, uid: str) -> None:
        try:
            await new.live()
        finally:
            self.crew.leave(uid)
        for run in new.standing.runs:  # handed to it in its last moment
            self._ensure_actor(project, uid).hand(run)

    async def _take_as_it_is(self, task: work.Task) -> None:
        """Another host has handed it over, with what it remembers."""
        with contextlib.suppress(resources.Missing):
            self._take(await self.ground.resources.get(work.Task, task.metadata.project, task.uid))

    def _take(self, task: work.Task) -> None:
        """Hand a task on, once, when it is this host's and stands open."""
        if task.spec.host != self.ground.uid:
            self._known.discard(task.uid)
            return
        if task.status.state.ended or task.uid in self._known:
            return
        self._known.add(task.uid)
        run = tasks.Run(self.ground.resources, task)
        subject = task.spec.subject
        if subject and subject.kind == vm.VM.kind and task.spec.action not in jobs.HANDLERS:
            self._ensure_actor(subject.project or "", subject.uid).hand(run)
        else:
            self._jobs[task.uid] = run, self._spawn(self._job(run))
        if task.spec.cancel:
            self._cancel(task.uid)

    async def _job(self, run: tasks.Run) -> None:
        handler = jobs.HANDLERS.get(run.action)
        try:
            async with contextlib.nullcontext() if run.action in jobs.AT_ONCE else self._slots:
                if handler is None:
                    await run.failed(tasks.UnknownAction(action=run.action))
                else:
                    await self._carry_out(run, handler)
        except asyncio.CancelledError:
            if run.unwanted:  # also one that still waited for its turn
                await asyncio.shield(run.cancelled(run.unwanted))
            raise
        finally:
            self._jobs.pop(run.uid, None)
            memory.give_back()

    async def _carry_out(self, run: tasks.Run, handler: jobs.Job) -> None:
        """Again from its beginning when the store gave no answer meanwhile, or this host had no life."""
        while True:
            try:
                async with self.ground.rights.work(*await jobs.touched(self.shop, run)):
                    return await tasks.carry_out(run, lambda run: handler(self.shop, run))
            except (*contract.NO_ANSWER, rights.Waits) as problem:
                log.warning("task %s (%s) waits: %s", run.uid, run.action, problem)
                run.waits(problem)
                await asyncio.sleep(_RETRY)

    def _cancel(self, uid: str) -> None:
        if job := self._jobs.get(uid):
            run, doing = job
            run.unwanted = tasks.Cancelled()
            doing.cancel()
        for one in self.crew:
            if any(run.uid == uid for run in one.standing.runs):
                one.cancel(uid)

    def _spawn(self, work_: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work_)
        self._background.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("something in the background failed", exc_info=error)

    async def _wind_down(self) -> None:
        """Let go of every VM, and stop jobs where they can be carried on later."""
        for task in self._background:
            task.cancel()
        if self._background:
            await asyncio.wait(self._background, timeout=10.0)
