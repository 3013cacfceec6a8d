"""A VM goes to another host while it runs: the side that it leaves.

What is decided is `protocol.moving`'s. A file in the runtime directory stands from before QEMU begins until it is
known which side runs it; whoever finds that file asks QEMU how far it came, and the records whose the VM is. While it
stands nothing else lets the vCPUs go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import Any

from bocage import errors, threads, under_way
from bocage.engine import base as engine
from bocage.engine import passing
from bocage.model import ground, requests, vm
from bocage.node import clustered, notes, rights, spoken, started, tasks
from bocage.node.life import arriving, handing, overlaying, resizing
from bocage.node.life.standing import Standing
from bocage.node.place import in_use
from bocage.node.place.preparation import Preparation
from bocage.protocol import moving, records
from bocage.words import N_

log = logging.getLogger(__name__)

_PREPARED = 60.0  # seconds that the other host has to start a process
_ANSWERED = 2.0  # and to answer whether that is well
_ASKED_EVERY = 0.5
_UNHEARD = 3.0  # seconds without its answer after which the guest is not stopped for it
_LOOKED_EVERY = 0.25
_STILL_HERE = 10.0  # seconds in which what is left there of an earlier run goes
_SAID_EVERY = 5.0


class Error(errors.Problem):
    """It did not go."""


class NotNow(Error, errors.Conflict):
    type = "passage-not-now"
    text = N_("{name} neither runs nor is it off: it is {state}")
    hint = N_("'bocage why {name}' says what it waits for")
    name: str
    state: str


class Stayed(Error, errors.Unavailable):
    type = "passage-stayed"
    text = N_("{name} runs on where it was: {reason}")
    hint = N_("nothing of the attempt is left; try again")
    name: str
    reason: str


class DiedOnTheWay(Error, errors.Unavailable):
    type = "passage-died"
    text = N_("{name} was given to {host}, and its process ended there before it ran")
    hint = N_("it is started again there, from its disks")
    name: str
    host: str


class Preparing(notes.Note):
    type = "passage-prepares"
    text = N_("{host} prepares to take {name}")
    name: str
    host: str


class Copying(notes.Note):
    type = "passage-copies"
    text = N_("round {round}: {left:size} left, {rate:size} a second sent, {dirty:size} a second changed by the guest")
    round: int
    left: int
    rate: int
    dirty: int


class Held(notes.Note):
    type = "passage-holds-back"
    text = N_("the guest changes memory faster than it is sent: it is held back by {percent} %")
    percent: int


class Stands(notes.Note):
    type = "passage-stands"
    text = N_("its guest stands while its memory is sent: QEMU can miss what an emulated CPU writes meanwhile")


class Came(notes.Note):
    type = "vm-came"
    text = N_("{name} is on {host} now")
    name: str
    host: str


class CameRunning(notes.Note):
    type = "vm-came-running"
    text = N_("{name} runs on {host} now; its guest stood for {pause:seconds}")
    name: str
    host: str
    pause: float


def is_between(standing: Standing) -> bool:
    """Whether it is not known yet which side runs it."""
    runtime = standing.ground.home.vm_runtime(standing.uid)
    return standing.machine is not None and started.passage(runtime, started.DEPARTS) is not None


def has_arrived(standing: Standing, run: tasks.Run) -> bool:
    """Whether what this task asked for is so: it is for this host to say, which was the target."""
    return run.action == "vm.migrate" and run.params["to"] == standing.ground.uid


async def migrate(standing: Standing, preparation: Preparation, machine: vm.VM, run: tasks.Run) -> dict[str, Any]:
    """Have it go to another host, on which the same task is ended."""
    cluster = standing.ground.cluster
    if cluster is None:
        raise clustered.Alone
    if has_arrived(standing, run):
        return await _arrived(standing, machine, run)
    if preparation.in_use.is_copied(machine):  # which its next host does not know
        raise in_use.BeingCopied(name=machine.name)
    target = await standing.ground.resources.get(ground.Host, None, str(run.params["to"]))
    one = _Departure(standing, preparation, machine, run, cluster, target)
    try:
        with under_way.apart():  # until the records say whose it is, which they may only do in another life
            await one.go()
    finally:
        await one.close()
    while (await standing.read()).status.host == standing.ground.uid:  # noqa: ASYNC110 - a member that is behind
        await asyncio.sleep(_LOOKED_EVERY)
    raise overlaying.Later  # it is the other host's to say that it runs there


async def _arrived(standing: Standing, machine: vm.VM, run: tasks.Run) -> dict[str, Any]:
    here = await standing.ground.resources.get(ground.Host, None, standing.ground.uid)
    if run.remembered.get("ran") and standing.machine is None:
        raise DiedOnTheWay(name=machine.name, host=here.name)
    if (pause := await arriving.pause(standing.ground, machine.uid)) is None:
        await standing.tell(machine, Came(name=machine.name, host=here.name))
        return {"host": here.name}
    await standing.tell(machine, CameRunning(name=machine.name, host=here.name, pause=pause))
    return {"host": here.name, "pause": round(pause, 4)}


async def settle(standing: Standing, preparation: Preparation) -> None:
    """What somebody has left who is gone: find out which side runs it, and have that be so."""
    runtime = standing.ground.home.vm_runtime(standing.uid)
    held = await asyncio.to_thread(started.passage, runtime, started.DEPARTS)
    running, cluster = standing.machine, standing.ground.cluster
    if held is None or running is None or cluster is None:
        return
    if await running.passing.cancel():
        await _stays(standing, preparation, running, held)
        return
    source = moving.Source.found(standing.uid, int(held["generation"]), cluster.profile)
    if await handing.settled(source, cluster) is moving.SourcePhase.STAYED:
        await _stays(standing, preparation, running, held, completed=True)
    else:
        await running.kill()
        await standing.until_ended()


async def _stays(
    standing: Standing,
    preparation: Preparation,
    running: engine.Machine,
    held: dict[str, Any],
    *,
    completed: bool = False,
) -> None:
    """It runs here, as it did."""
    if not await standing.ends():
        with contextlib.suppress(engine.NotRunning):
            machine = await standing.read()
            with contextlib.suppress(rights.Waits):  # then the guard ends it
                async with standing.ground.rights.work(machine.spec.storage):
                    await preparation.own_again(machine)
            if completed or (held["runs"] and await running.look() is engine.Run.PAUSED):
                await running.passing.go_on(runs=bool(held["runs"]))
                await running.passing.tidy()
    runtime = standing.ground.home.vm_runtime(standing.uid)
    await asyncio.to_thread(started.note_passage, runtime, started.DEPARTS, None)
    standing.defined = None  # which may say another generation


class _Departure:
    """One attempt."""

    def __init__(
        self,
        standing: Standing,
        preparation: Preparation,
        machine: vm.VM,
        run: tasks.Run,
        cluster: clustered.Cluster,
        target: ground.Host,
    ) -> None:
        self._standing, self._preparation, self._machine, self._run = standing, preparation, machine, run
        self._cluster, self._target = cluster, target
        self._peer = clustered.Peer(target, cluster)
        self._path = f"/arrivals/{machine.uid}"
        self._runtime = standing.ground.home.vm_runtime(machine.uid)
        self._heard = 0.0  # when the other side last answered
        self._lost: errors.Problem | None = None  # what it answered when it has given up
        self._view = records.View({})
        self._said = 0.0
        self._round = self._throttle = 0
        given = {name: run.params[name] for name in ("bandwidth", "downtime", "live") if name in run.params}
        self._asked = requests.Migrate.model_validate(given)

    async def close(self) -> None:
        await self._peer.close()

    async def go(self) -> None:
        """Raises Stayed, and why it cannot begin; else it is gone."""
        life = self._cluster.lives.life
        if life is None:
            raise rights.NoLife(since="?")
        self._view = (await self._cluster.book.read()).view
        generation = self._machine.status.owner_generation
        running = self._standing.machine
        if running is None:
            await self._go_off(life, generation)
            return
        if running.run not in (engine.Run.RUNNING, engine.Run.PAUSED):
            raise NotNow(name=self._machine.name, state=running.run.value)
        await self._go_live(life, generation, running)

    async def _go_off(self, life: records.Life, generation: int) -> None:
        """It does not run: the records alone change."""
        there = handing.life_of(self._view, self._target.uid, life)
        if there is None:
            raise clustered.Silent(host=self._target.name, reason="it is not in the cluster's majority")
        source = moving.Source(self._machine.uid, there, generation, self._cluster.profile)
        await self._until_empty()
        await self._remember(ran=False)
        await self._run.let_go()
        if await handing.settled(source, self._cluster, view=self._view) is moving.SourcePhase.STAYED:
            raise Stayed(name=self._machine.name, reason="the cluster did not give it to the other host")

    async def _until_empty(self) -> None:
        """What its last process has sent to the storage has landed. Raises rights.StillHere."""
        deadline = spoken.now() + _STILL_HERE
        while not self._cluster.lives.is_empty(self._machine.uid):
            if spoken.now() > deadline:
                raise rights.StillHere(phase="its last process has ended just now")
            await asyncio.sleep(_LOOKED_EVERY)

    async def _go_live(self, life: records.Life, generation: int, running: engine.Machine) -> None:
        runs = running.run is engine.Run.RUNNING
        await self._remember(ran=True)
        self._run.report(Preparing(name=self._machine.name, host=self._target.name))
        told = await self._prepare(running, generation, runs=runs)
        held = {"generation": generation, "runs": runs, "to": self._target.uid}
        await asyncio.to_thread(started.note_passage, self._runtime, started.DEPARTS, held)
        there = spoken.life(told["life"])
        source = moving.Source(self._machine.uid, there, generation, self._cluster.profile)
        asking = asyncio.create_task(self._ask_on())
        try:
            stood = await self._stand(running) if runs else None
            await self._send(running, told)
            copied = await self._copy(running)
        except BaseException as error:
            asking.cancel()
            await threads.to_its_end(asyncio.ensure_future(self._fails(running, held)))
            if isinstance(error, Exception) and not isinstance(error, (Error, engine.NotRunning)):
                raise Stayed(name=self._machine.name, reason=str(error)) from error
            raise
        asking.cancel()
        ending = asyncio.ensure_future(self._finish(running, source, stood or copied, held))
        try:
            await threads.to_its_end(ending)
        except asyncio.CancelledError:
            if ending.cancelled() or ending.exception() is not None:
                raise
            self._run.unwanted = None  # it is gone: the other side ends the task
            raise

    async def _remember(self, *, ran: bool) -> None:
        await self._run.remember(ran=ran)

    async def _prepare(self, running: engine.Machine, generation: int, *, runs: bool) -> dict[str, Any]:
        """Have the other host start a process that waits. Raises what that says."""
        built = await resizing.to_be_saved(self._runtime, self._machine, running)
        asked = arriving.Asked(
            project=self._machine.metadata.project or "default",
            generation=generation,
            started=running.started_generation,
            built=started.dump(built),
            runs=runs,
            accelerator=running.accelerator,
        ).model_dump(mode="json")
        deadline = spoken.now() + _STILL_HERE
        while True:
            try:
                asking = asyncio.ensure_future(self._peer.ask("POST", self._path, asked, within=_PREPARED))
                told: dict[str, Any] = await handing.while_it_lives(self._target, self._cluster, asking)
            except rights.StillHere:
                if spoken.now() > deadline:
                    raise
                await asyncio.sleep(_ASKED_EVERY)
            except clustered.Silent:
                await self._abandon()  # it may be about to
                raise
            else:
                self._heard = spoken.now()
                return told

    async def _stand(self, running: engine.Machine) -> float | None:
        """Stop its guest for all of the copying, unless it can run meanwhile; since when it stands."""
        if passing.is_live(running.accelerator) if self._asked.live is None else self._asked.live:
            return None
        self._run.report(Stands())
        await running.pause()
        return spoken.now()

    async def _send(self, running: engine.Machine, told: dict[str, Any]) -> None:
        asked = self._asked
        limits = passing.Limits(bandwidth=asked.bandwidth, downtime=asked.downtime or passing.DOWNTIME)
        connection = await asyncio.to_thread(
            socket.create_connection, (self._target.status.address, int(told["port"])), _ANSWERED
        )
        with connection:
            await asyncio.to_thread(connection.sendall, bytes.fromhex(told["word"]))
            connection.setblocking(True)
            await running.passing.send(connection.fileno(), str(told["key"]), limits)

    async def _copy(self, running: engine.Machine) -> float:
        """Copy until the guest stands and all is said to be well; when it came to stand. Raises Stayed."""
        while True:
            seen = await running.passing.look()
            self._tell(seen)
            match seen.stage:
                case passing.Stage.STANDS:
                    stood = spoken.now()
                    if self._lost is not None or stood - self._heard > _UNHEARD:
                        raise Stayed(
                            name=self._machine.name, reason=str(self._lost or f"{self._target.name} is silent")
                        )
                    if self._cluster.lives.life is None:
                        raise Stayed(name=self._machine.name, reason="this host is not in the cluster's majority")
                    return stood
                case passing.Stage.FAILED | passing.Stage.NONE:
                    raise Stayed(name=self._machine.name, reason=seen.why or "QEMU broke it off")
            if self._lost is not None:
                raise Stayed(name=self._machine.name, reason=str(self._lost))
            await running.passing.changed(_LOOKED_EVERY)

    async def _finish(self, running: engine.Machine, source: moving.Source, stood: float, held: dict[str, Any]) -> None:
        """From here on it is not broken off: the rest is sent, and the store says whose it is. Raises Stayed."""
        letting = asyncio.create_task(self._run.let_go())  # from then on it may be the other side's to write
        try:
            await running.passing.end()
            while (seen := await running.passing.look()).stage in (passing.Stage.STANDS, passing.Stage.ENDING):
                await running.passing.changed(_LOOKED_EVERY)
        except (engine.NotRunning, ConnectionError):
            await self._fails(running, held)
            raise
        if seen.stage is not passing.Stage.COMPLETED:
            await self._fails(running, held)
            raise Stayed(name=self._machine.name, reason=seen.why or "QEMU broke it off")
        await letting
        completed = spoken.now()
        ended = await handing.settled(source, self._cluster, view=self._view)
        if ended is moving.SourcePhase.STAYED:
            await self._abandon()
            await _stays(self._standing, self._preparation, running, held, completed=True)
            raise Stayed(name=self._machine.name, reason="the cluster did not give it to the other host")
        given = spoken.now()
        with contextlib.suppress(errors.Problem):  # it sees that in the records, too
            await self._peer.ask("POST", f"{self._path}/go", {"stood": spoken.now() - stood}, within=_ANSWERED)
        spans = (completed - stood, given - completed, spoken.now() - given)
        log.info(
            "VM %s: sent the rest in %.3f s, given away in %.3f s, ran there after %.3f s", self._machine.uid, *spans
        )
        with contextlib.suppress(errors.TimedOut, engine.NotRunning):
            await running.kill()
        await self._standing.until_ended()

    async def _fails(self, running: engine.Machine, held: dict[str, Any]) -> None:
        """Before it was completed: it runs here, as it always did; unless it has completed after all."""
        await self._abandon()
        try:
            if not await running.passing.cancel():
                await settle(self._standing, self._preparation)
                return
        except (engine.NotRunning, ConnectionError, errors.TimedOut):
            if not await self._standing.ends():
                raise
        await _stays(self._standing, self._preparation, running, held)

    async def _abandon(self) -> None:
        with contextlib.suppress(errors.Problem):
            await self._peer.ask("DELETE", self._path, within=_ANSWERED)

    async def _ask_on(self) -> None:
        """Ask the other side whether all is well, which knows by that that it is still wanted; read the records."""
        while True:
            try:
                await self._peer.ask("GET", self._path, within=_ANSWERED)
                self._heard = spoken.now()
            except clustered.Silent as silent:
                log.info("VM %s: %s", self._machine.uid, silent)
            except errors.Problem as problem:
                self._lost = problem
            with contextlib.suppress(errors.Problem):
                self._view = (await self._cluster.book.read()).view
            await asyncio.sleep(_ASKED_EVERY)

    def _tell(self, seen: passing.Progress) -> None:
        self._run.progress(seen.done, seen.done + seen.left)
        now = spoken.now()
        if seen.stage is passing.Stage.COPYING and (seen.round != self._round or now > self._said + _SAID_EVERY):
            self._round, self._said = seen.round, now
            self._run.report(Copying(round=seen.round, left=seen.left, rate=seen.rate, dirty=seen.dirty))
        if seen.throttle > self._throttle:
            self._throttle = seen.throttle
            self._run.report(Held(percent=seen.throttle))
