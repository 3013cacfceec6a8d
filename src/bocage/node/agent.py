"""The node: sees what the store wants of this host, and hands it to whoever does it.

VMs have an actor each; all other tasks are jobs of their own, a few at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import pathlib
from collections.abc import Coroutine
from typing import Any

from bocage.model import ground, keys, vm, work
from bocage.node import actor, clock, jobs, memory, mending, tasks, upkeep
from bocage.node.ground import Ground
from bocage.node.preparation import Preparation
from bocage.node.wiring import Wires
from bocage.planner import autostart
from bocage.storage import images
from bocage.store import contract, resources

log = logging.getLogger(__name__)

_JOBS_AT_ONCE = 4


class Node:
    """One host's agent."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.wires = Wires(ground)
        self.preparation = Preparation(ground, self.wires)
        self._mending = mending.Mending(self)
        self._actors: dict[str, actor.Actor] = {}
        self._jobs: dict[str, asyncio.Task[None]] = {}
        self._libraries: dict[str, images.Library] = {}
        self._known: set[str] = set()  # tasks that were handed on
        self._background: set[asyncio.Task[Any]] = set()
        self._slots = asyncio.Semaphore(_JOBS_AT_ONCE)
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Work until cancelled. VMs are never touched by that: they go on."""
        caring: asyncio.Task[None] | None = None
        try:
            while True:
                revision = await self._catch_up()
                self.ready.set()
                if caring is None:
                    caring = self._spawn(upkeep.Upkeep(self).run())
                    self._spawn(self._mending.run())
                try:
                    async with contextlib.aclosing(
                        self.ground.resources.store.watch(keys.ROOT, since=revision)
                    ) as changes:
                        async for batch in changes:
                            for change in batch:
                                await self._see(change)
                except contract.Compacted:
                    log.warning("the store moved on faster than it was watched; looking at everything again")
        finally:
            await self._wind_down()

    def library(self, storage: ground.Storage) -> images.Library:
        """The images of a storage: one library each, since it knows what is coming in just now."""
        if storage.uid not in self._libraries:
            self._libraries[storage.uid] = images.Library(pathlib.Path(storage.spec.path))
        return self._libraries[storage.uid]

    def running(self) -> list[actor.Actor]:
        """The actors whose VM has a process."""
        return [one for one in self._actors.values() if one.standing.machine is not None]

    def actor_of(self, uid: str) -> actor.Actor | None:
        """The actor of a VM of this host."""
        return self._actors.get(uid)

    async def _catch_up(self) -> int:
        """Look at everything once; returns the revision that was looked at."""
        listing = await self.ground.resources.list(vm.VM, trash=True)
        mine = [machine for machine in listing.items if machine.status.host == self.ground.uid]
        await self.wires.recall(mine)
        await self.wires.wire_up((await self.ground.resources.list(ground.Network)).items)
        holds = autostart.holds(mine) if self.ground.rebooted else {}
        for machine in mine:
            if self.ground.rebooted and machine.spec.autostart.enabled and machine.spec.power is vm.Power.STOPPED:
                await self._switch_on(machine)
            self._ensure_actor(machine.metadata.project or "", machine.uid, hold=holds.get(machine.uid, 0.0))
        waiting = await self.ground.resources.list(work.Task)
        for task in waiting.items:
            self._take(task)
        return listing.revision

    async def _switch_on(self, machine: vm.VM) -> None:
        await self.ground.resources.change(
            vm.VM,
            machine.metadata.project,
            machine.uid,
            lambda present: resources.with_spec(present, power=vm.Power.RUNNING),
        )

    async def _see(self, change: contract.Change) -> None:
        kind = keys.kind_of(change.key)
        part = change.key.rsplit("/", 1)[1]
        if kind == vm.VM.kind and part in ("spec", "owner"):
            await self._see_vm(change, part)
        elif kind == work.Task.kind and part == "spec" and change.entry:
            task = resources.decode(work.Task, change.entry, None)
            if task.spec.cancel:
                self._cancel(task.uid)
            else:
                self._take(task)

    async def _see_vm(self, change: contract.Change, part: str) -> None:
        uid = keys.uid_of(change.key)
        project = change.key.removeprefix(keys.prefix(vm.VM.kind)).split("/")[0]
        if part == "owner" and change.entry:
            owner = vm.Owner.model_validate_json(change.entry.value)
            if owner.host == self.ground.uid:
                self._ensure_actor(project, uid)
        if known := self._actors.get(uid):
            known.wake()

    def _ensure_actor(self, project: str, uid: str, *, hold: float = 0.0) -> actor.Actor:
        if uid not in self._actors:
            new = actor.Actor(self.ground, self.preparation, project, uid)
            new.hold_until = clock.boottime() + hold if hold else 0.0
            new.standing.listeners.append(functools.partial(self._mending.heard, uid))
            self._actors[uid] = new
            self._spawn(self._live(new, uid))
        return self._actors[uid]

    async def _live(self, new: actor.Actor, uid: str) -> None:
        try:
            await new.live()
        finally:
            self._actors.pop(uid, None)

    def _take(self, task: work.Task) -> None:
        """Hand a task on, once, when it is this host's and stands open."""
        if task.spec.host != self.ground.uid or task.status.state.ended or task.uid in self._known:
            return
        self._known.add(task.uid)
        run = tasks.Run(self.ground.resources, task)
        subject = task.spec.subject
        if subject and subject.kind == vm.VM.kind and task.spec.action not in jobs.HANDLERS:
            self._ensure_actor(subject.project or "", subject.uid).hand(run)
            return
        self._jobs[task.uid] = self._spawn(self._job(run))

    async def _job(self, run: tasks.Run) -> None:
        handler = jobs.HANDLERS.get(run.action)
        try:
            async with self._slots:
                if handler is None:
                    await run.failed(tasks.UnknownAction(action=run.action))
                else:
                    await tasks.carry_out(run, lambda run: handler(self, run))
        finally:
            self._jobs.pop(run.uid, None)
            memory.give_back()

    def _cancel(self, uid: str) -> None:
        if job := self._jobs.get(uid):
            job.cancel()
        for one in self._actors.values():
            if any(run.uid == uid for run in one.standing.runs):
                one.cancel(uid)

    def _spawn(self, work_: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work_)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def _wind_down(self) -> None:
        """Let go of every VM, and stop jobs where they can be carried on later."""
        for task in self._background:
            task.cancel()
        if self._background:
            await asyncio.wait(self._background, timeout=10.0)
