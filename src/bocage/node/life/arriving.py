"""A VM comes from another host while it runs: the side that it comes to.

Its process waits, in the guard's hands, with its disks untouched. It goes on when the records say that the VM is this
host's under the very generation that the hand-over gives, and ends when they say anything newer, or when nobody asks
for it any more. A file in the runtime directory stands until then; a daemon that starts anew goes on from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
import secrets
import socket
from typing import Any

from bocage import errors, reach
from bocage.engine import base as engine
from bocage.engine import passing
from bocage.model import base, vm
from bocage.node import clustered, rights, spoken, started
from bocage.node.ground import Ground
from bocage.node.place.preparation import Preparation
from bocage.protocol import moving, records
from bocage.words import N_

log = logging.getLogger(__name__)

_WORD = 32  # bytes that whoever connects says first
_SAYS_IT = 5.0  # seconds that it has for that
_FORGOTTEN = 30.0  # seconds after which one that nobody asks for is given up
_OVER = 15.0  # seconds that it has to end
_TAKEN = 60.0  # seconds that it is remembered how it came
_TOLD = 1.0  # seconds that the other side has to say how long it stood there


class Error(errors.Problem):
    """It cannot come here."""


class OtherOwner(Error, errors.Conflict):
    type = "arrival-of-other-owner"
    text = N_("{name} is not that host's any more: nothing comes from there")
    name: str


class OtherAccelerator(Error, errors.Conflict):
    type = "arrival-accelerator"
    text = N_("{name} runs with {there}, and this host has {here}")
    name: str
    there: str
    here: str


class GivenUp(Error, errors.Unavailable):
    type = "arrival-given-up"
    text = N_("the process that waited for {name} has ended: {reason}")
    name: str
    reason: str


class NotExpected(Error, errors.NotFound):
    type = "arrival-not-expected"
    text = N_("no VM {vm} is on its way here")
    vm: str


class Asked(base.Part):
    """What the other host says of the machine as it runs there."""

    project: str
    generation: int
    """Of the ownership."""
    started: int
    """Of the definition that it was started with."""
    built: dict[str, Any]
    runs: bool
    """Whether its vCPUs run."""
    accelerator: str


class Go(base.Part):
    """All of it is here, and the records say so."""

    stood: float
    """Seconds that its guest has stood."""


class Arrival:
    """One VM on its way here."""

    def __init__(
        self, here: Ground, preparation: Preparation, cluster: clustered.Cluster, uid: str, asked: Asked
    ) -> None:
        self.uid, self.asked = uid, asked
        self.paused: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._ground, self._preparation, self._cluster = here, preparation, cluster
        self._runtime = here.home.vm_runtime(uid)
        self._heard = spoken.now()
        self._wake = asyncio.Event()
        self._listener: engine.Listener | None = None
        self._came: asyncio.Future[engine.Machine | None] = asyncio.get_running_loop().create_future()
        self._following: asyncio.Task[None] | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._went_on = asyncio.Event()
        self._why = ""

    # What is asked of it over HTTP

    async def prepare(self) -> dict[str, Any]:
        """Start the process; where and how its memory is taken. Raises why that cannot be; then nothing is left."""
        life = self._cluster.lives.life
        if life is None:
            raise rights.NoLife(since="?")
        kept = self._ground.resources
        machine = await kept.get(vm.VM, self.asked.project, self.uid)
        if machine.status.owner_generation != self.asked.generation or machine.status.host == self._ground.uid:
            raise OtherOwner(name=machine.name)
        if self.asked.accelerator != self._ground.accelerator:
            raise OtherAccelerator(name=machine.name, there=self.asked.accelerator, here=self._ground.accelerator)
        async with self._ground.rights.work(machine.spec.storage):
            return await self._prepare(machine, life)

    async def _prepare(self, machine: vm.VM, life: records.Life) -> dict[str, Any]:
        await self._preparation.check_storage(machine)
        coming = await self._cluster.lives.comes(self.uid, machine.spec.storage, self.asked.generation)
        async with contextlib.AsyncExitStack() as undo:
            undo.callback(coming.settle)
            undo.push_async_callback(self._preparation.disconnect, machine)
            undo.push_async_callback(self._forget)
            running = await self._start(machine, life, coming)
            undo.push_async_callback(_end, running)
            key = secrets.token_hex(32)
            await running.passing.await_memory(key)
            word = secrets.token_bytes(_WORD)
            listener = await asyncio.to_thread(_listen, self._cluster.address)
            self._accepting = asyncio.create_task(self._accept(listener, word, running))
            undo.pop_all()
        self._follow(machine, running, life, coming)
        port = int(listener.getsockname()[1])
        return {"life": dataclasses.asdict(life), "port": port, "word": word.hex(), "key": key}

    def still_wanted(self) -> None:
        """The other side asks whether all is well. Raises GivenUp."""
        self._heard = spoken.now()
        if self._came.done() and self._came.result() is None:
            raise GivenUp(name=self.uid, reason=self._why)

    def abandon(self) -> None:
        """The other side goes on by itself, or will have the records say so."""
        self._heard = spoken.now() - _FORGOTTEN
        self._wake.set()

    async def over(self) -> None:
        """It is wanted no more: wait until it is known what became of it. Raises rights.StillHere."""
        self.abandon()
        await asyncio.wait([self._came], timeout=_OVER)
        if not self._came.done():
            raise rights.StillHere(phase="an earlier attempt has not ended yet")

    async def go(self, stood: float) -> None:
        """The records say that it is this host's; its guest has stood so long."""
        begun = spoken.now()
        self._wake.set()
        await self._went_on.wait()
        if not self.paused.done():
            self.paused.set_result(stood + spoken.now() - begun)

    # For its actor

    async def taken(self, listener: engine.Listener) -> engine.Machine | None:
        """See ground.Arrival."""
        if self._listener is not None:
            return None  # it was, by an actor that was there before
        self._listener = listener
        return await asyncio.shield(self._came)

    async def close(self) -> None:
        """Let go of the process without touching it."""
        for task in (self._accepting, self._following):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])

    # From a start to the end

    async def _start(self, machine: vm.VM, life: records.Life, coming: clustered.Coming) -> engine.Machine:
        built = started.load(self.asked.built)
        spec = built.spec.model_copy(update={"boot": built.spec.boot.model_copy(update={"once": None})})
        as_it_runs = machine.model_copy(update={"spec": spec})
        await self._preparation.claim(as_it_runs)
        plan = await self._preparation.plan(as_it_runs)
        plan = dataclasses.replace(plan, first=built.first, admit=coming.admit)
        started.begin(self._runtime, built)
        held = {"asked": self.asked.model_dump(mode="json"), "life": dataclasses.asdict(life)}
        await asyncio.to_thread(started.note_passage, self._runtime, started.ARRIVES, held)
        running = await self._ground.engine.expect(plan, generation=self.asked.started, listener=self._hear)
        try:
            await self._preparation.plug_in(as_it_runs)
        except BaseException:
            await asyncio.shield(_end(running))
            raise
        return running

    async def resume(self, held: dict[str, Any]) -> None:
        """A daemon that starts anew: take up what an earlier one has begun."""
        life = spoken.life(held["life"])
        machine = await self._ground.resources.get(vm.VM, self.asked.project, self.uid)
        place = await self._preparation.place(machine)
        coming = await self._cluster.lives.comes_again(self.uid, machine.spec.storage, self.asked.generation)
        running = await self._ground.engine.find(
            self.uid, machine.name, place.path, self._runtime,
            listener=self._hear, cgroup=self._ground.cgroup_of(self.uid),
        )  # fmt: skip
        if running is None or life is None:
            await self._give_up(machine, running, coming, "its process has ended")
            return
        self._follow(machine, running, life, coming)

    def _hear(self, happened: engine.Happened) -> None:
        if self._listener is not None:
            self._listener(happened)

    async def _accept(self, listener: socket.socket, word: bytes, running: engine.Machine) -> None:
        """Take the connection of whoever says the word."""
        loop = asyncio.get_running_loop()
        with listener:
            while True:
                connection, _ = await loop.sock_accept(listener)
                with connection:
                    connection.setblocking(False)
                    said = b""
                    with contextlib.suppress(TimeoutError, OSError):
                        async with asyncio.timeout(_SAYS_IT):
                            while len(said) < _WORD and (piece := await loop.sock_recv(connection, _WORD - len(said))):
                                said += piece
                    if secrets.compare_digest(said, word):
                        connection.setblocking(True)
                        await running.passing.receive(connection.fileno())
                        return

    def _follow(self, machine: vm.VM, running: engine.Machine, life: records.Life, coming: clustered.Coming) -> None:
        doing = self._until_settled(machine, running, life, coming)
        self._following = asyncio.create_task(doing, name=f"arrival of {self.uid}")
        self._following.add_done_callback(functools.partial(_complain, self.uid))

    async def _until_settled(
        self, machine: vm.VM, running: engine.Machine, life: records.Life, coming: clustered.Coming
    ) -> None:
        target = moving.Target(self.uid, life, self.asked.generation)
        ending = asyncio.ensure_future(running.ended())
        definition = asyncio.create_task(self._definition(machine))
        try:
            while not ending.done():
                self._wake.clear()
                acts = await self._look(target, running, life)
                if moving.Act.CONTINUE in acts:
                    await self._go_on(machine, running, coming, target.generation, definition)
                    return
                if moving.Act.END in acts:
                    self._why = "the records say that it is another's"
                    break
                if spoken.now() > self._heard + _FORGOTTEN and not self._is_ours:
                    self._why = "the other host goes on with it, or has not asked for it any more"
                    break
                await self._rest(ending)
            await self._give_up(machine, running, coming, self._why or "its process has ended")
        finally:
            ending.cancel()
            definition.cancel()
            await asyncio.gather(ending, definition, return_exceptions=True)

    _is_ours = False

    async def _look(self, target: moving.Target, running: engine.Machine, life: records.Life) -> list[moving.Act]:
        with contextlib.suppress(errors.Problem, ConnectionError):
            if (await running.passing.look()).stage is passing.Stage.COMPLETED:
                target.received()
        if self._cluster.lives.life != life:
            return []  # the guard ends what is of a life that is over
        try:
            async with asyncio.timeout(self._cluster.profile.silence):
                view = await self._cluster.book.look_up(records.CLUSTER, records.owner_of(self.uid))
        except (errors.Problem, ValueError, TimeoutError):
            return []
        owner = view.get(records.Owner, records.owner_of(self.uid))
        self._is_ours = owner is not None and owner.host == self._ground.uid
        return target.seen(view)

    async def _rest(self, ending: asyncio.Future[engine.Ended]) -> None:
        waking: asyncio.Future[Any] = asyncio.ensure_future(self._wake.wait())
        within = self._cluster.profile.beat / 2
        either: list[asyncio.Future[Any]] = [waking, ending]
        await asyncio.wait(either, timeout=within, return_when=asyncio.FIRST_COMPLETED)
        waking.cancel()

    async def _definition(self, machine: vm.VM) -> Any:
        """What is written before the vCPUs run: read beforehand, since the guest stands then."""
        owner = vm.Owner(host=self._ground.uid, generation=self.asked.generation + 1)
        volumes = await self._preparation.disks.of(machine)
        return await self._preparation.held(machine, volumes, owner, await self._preparation.snapshots(machine))

    async def _go_on(
        self,
        machine: vm.VM,
        running: engine.Machine,
        coming: clustered.Coming,
        generation: int,
        definition: asyncio.Task[Any],
    ) -> None:
        """It is this host's: that is written down, and its vCPUs run."""
        coming.arrived(generation)
        begun = spoken.now()
        place = await self._preparation.place(machine)
        with contextlib.suppress(errors.Problem):  # its actor writes it, too
            held = await definition
            async with self._ground.rights.work(machine.spec.storage):
                await reach.Way(place.storage).call(place.write, held)
        written = spoken.now()
        await running.passing.go_on(runs=self.asked.runs)
        self._went_on.set()
        spans = (written - begun, spoken.now() - written)
        log.info("VM %s is this host's: written down in %.3f s, went on in %.3f s", self.uid, *spans)
        await running.passing.tidy()
        await running.arrived()
        await asyncio.to_thread(started.note_passage, self._runtime, started.ARRIVES, None)
        self._came.set_result(running)
        asyncio.get_running_loop().call_later(_TAKEN, self._forgotten)

    async def _give_up(
        self, machine: vm.VM, running: engine.Machine | None, coming: clustered.Coming, why: str
    ) -> None:
        log.info("VM %s does not come here: %s", self.uid, why)
        self._why = why
        if self._accepting is not None:
            self._accepting.cancel()
        if running is not None:
            await _end(running)
        coming.settle()
        await self._preparation.disconnect(machine)
        await self._forget()
        self._went_on.set()
        self._came.set_result(None)
        asyncio.get_running_loop().call_later(_TAKEN, self._forgotten)

    async def _forget(self) -> None:
        await asyncio.to_thread(started.note_passage, self._runtime, started.ARRIVES, None)
        await self._ground.engine.forget(self._runtime)

    def _forgotten(self) -> None:
        if self._ground.arrivals.get(self.uid) is self:
            del self._ground.arrivals[self.uid]


async def expect(here: Ground, preparation: Preparation, uid: str, asked: Asked) -> dict[str, Any]:
    """Have a VM come here. Raises why it cannot."""
    if here.cluster is None:
        raise clustered.Alone
    if isinstance(before := here.arrivals.get(uid), Arrival):
        await before.over()  # whoever asks anew has given that one up
    arrival = here.arrivals[uid] = Arrival(here, preparation, here.cluster, uid, asked)
    try:
        return await arrival.prepare()
    except BaseException:
        here.arrivals.pop(uid, None)
        raise


def of(here: Ground, uid: str) -> Arrival:
    """The one of a VM. Raises NotExpected."""
    found = here.arrivals.get(uid)
    if not isinstance(found, Arrival):
        raise NotExpected(vm=uid)
    return found


async def resume_all(here: Ground, preparation: Preparation) -> None:
    """A daemon that starts anew: what was on its way here is taken up."""
    vms = here.home.runtime / "vms"
    for runtime in sorted(vms.iterdir()) if vms.is_dir() else ():
        held = await asyncio.to_thread(started.passage, runtime, started.ARRIVES)
        if held is None or here.cluster is None:
            continue
        arrival = here.arrivals[runtime.name] = Arrival(
            here, preparation, here.cluster, runtime.name, Asked.model_validate(held["asked"])
        )
        try:
            await arrival.resume(held)
        except (errors.Problem, OSError, KeyError, ValueError):
            log.exception("VM %s was on its way here", runtime.name)
            del here.arrivals[runtime.name]


async def pause(here: Ground, uid: str) -> float | None:
    """How long the guest of a VM has stood that came just now; None where that is not known."""
    found = here.arrivals.get(uid)
    if not isinstance(found, Arrival):
        return None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_TOLD):
            return await asyncio.shield(found.paused)
    return None


def _listen(address: str) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, 0))
        listener.listen(4)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


async def _end(running: engine.Machine) -> None:
    with contextlib.suppress(errors.Problem):
        await running.kill()


def _complain(uid: str, task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("VM %s on its way here", uid, exc_info=error)
