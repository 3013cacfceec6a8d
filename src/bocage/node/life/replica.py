"""Keeps a VM's replica on another host while the VM runs here: drives `protocol.replicating` on QEMU and the records.

Until the records say that the copy is stale the guest does not write here alone. Its vCPUs are barred as soon as there
is a process: whoever wants them to go on waits until that is known.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
import socket
from typing import Any

from bocage import errors
from bocage.engine import base as engine
from bocage.model import base, ground, vm
from bocage.node import clustered, notes, replicas, spoken
from bocage.node.life.standing import Standing
from bocage.node.place.preparation import Preparation
from bocage.protocol import records, replicating
from bocage.store import resources
from bocage.words import N_

log = logging.getLogger(__name__)

_RATE = 128 << 20  # bytes a second that a pass may take of disk and network
_PREPARED = 60.0  # seconds that the other host has to make files and start a process
_CONNECTED = 5.0
_HANGS = 4.0  # seconds without an answer after which a copy has failed
_AGAIN, _LONGEST = 1.0, 30.0  # seconds from one try to the next, doubled each time
_STALE_TRIES = 20


class InSync(notes.Note):
    type = "replica-in-sync"
    text = N_("the replica of {name} on {host} is in sync: {host} can start it from there")
    name: str
    host: str


class Stale(notes.Note):
    type = "replica-stale"
    text = N_("the replica of {name} is stale: {reason}")
    hint = N_("it is brought up to date by itself as soon as that is possible")
    name: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class _Passed:
    """A pass has ended: what was written meanwhile, or why it failed."""

    number: int
    left: int = 0
    problem: str = ""


async def settle_in(standing: Standing, preparation: Preparation) -> vm.VM:
    """The VM, which this host may just have been given as the one that has its replica: then that is its disks now."""
    machine = await standing.read()
    here = standing.ground
    kept = machine.spec.replica
    if kept is None or kept.host != here.uid or machine.status.host != here.uid or here.cluster is None:
        return machine
    await replicas.close(here, machine.uid)
    key = records.replica_of(machine.uid)
    record = (await here.cluster.book.look_up(key)).get(records.Replica, key)
    if record is None or record.host == here.uid:
        return machine  # a record that says this would have no host before

    async def wanted() -> resources.Transaction:
        transaction, present = resources.Transaction(), await standing.read()
        if present.spec.replica == kept:
            there, its = replicas.as_here(present, await preparation.disks.of(present), before=record.host)
            transaction.update(there)
            for one in its:
                transaction.update(one)
        return transaction

    await standing.commit(wanted)
    machine = await standing.read()
    for volume in await preparation.disks.of(machine):
        path = str(await preparation.disks.path(volume))
        shown = volume.status.model_copy(update={"path": path})
        await here.resources.change_status(
            ground.Volume, volume.metadata.project, volume.uid, functools.partial(_status, shown)
        )
    await replicas.become_disks(here, preparation, machine)
    return machine


def _status(shown: ground.VolumeStatus, _: ground.Volume) -> ground.VolumeStatus:
    return shown


async def attend(standing: Standing, machine: vm.VM) -> None:
    """Have the replica of a VM be kept that it is to have, and none that it is not to have any more."""
    keeper, cluster, running = standing.replica, standing.ground.cluster, standing.machine
    wanted = machine.spec.replica if running is not None else None
    if isinstance(keeper, _Keeper):
        if (keeper.of, keeper.disks) == (wanted, _disks(machine)) and keeper.running is running and not keeper.is_over:
            return
        await keeper.close()
        standing.replica = None
    if cluster is None:
        return
    if running is not None and wanted is not None:
        running.copies.bar()
        standing.replica = _Keeper(standing, machine, running, wanted, cluster)
    elif running is not None and (keeper is not None or machine.status.replica is not None):
        await _give_up(standing, running, cluster)
        if isinstance(keeper, _Keeper):
            await _discard(standing, cluster, keeper.of)
    elif running is None and (keeper is not None or machine.status.replica is not None):
        await _is_off(standing, machine, cluster)


async def _give_up(standing: Standing, running: engine.Machine, cluster: clustered.Cluster) -> None:
    """No replica is kept any more: the records say so before the guest writes here alone."""
    running.copies.bar()
    await _record(standing, cluster, None)
    await running.copies.let_go()
    await running.copies.release()
    await standing.show(replica=None)


async def _discard(standing: Standing, cluster: clustered.Cluster, of: vm.Replica) -> None:
    """Tell the host that has had the copy, if it answers."""
    with contextlib.suppress(errors.Problem):
        peer = clustered.Peer(await standing.ground.resources.get(ground.Host, None, of.host), cluster)
        try:
            await peer.ask("DELETE", f"/replicas/{standing.uid}", within=_CONNECTED)
        finally:
            await peer.close()


async def _is_off(standing: Standing, machine: vm.VM, cluster: clustered.Cluster) -> None:
    """What does not run may have its disks changed: its copy counts no more."""
    kept = machine.spec.replica
    if kept is None:
        await _record(standing, cluster, None)
        await standing.show(replica=None)
    elif machine.status.replica is None or machine.status.replica.state != "stale":
        await _record(standing, cluster, records.Replica(kept.host))
        said = base.Saying.of(Stale(name=machine.name, reason="the VM is off"))
        await standing.show(replica=vm.ReplicaStatus(since=base.now(), reason=said))


async def _record(standing: Standing, cluster: clustered.Cluster, record: records.Replica | None) -> None:
    """Have the records say this of the VM's replica, as its owner. Raises errors.TimedOut, and what the store does."""
    key, owner = records.replica_of(standing.uid), records.owner_of(standing.uid)
    for _ in range(_STALE_TRIES):
        life, view = cluster.lives.life, await cluster.book.look_up(key, owner)
        held = view.get(records.Owner, owner)
        if held is None or held.host != standing.ground.uid or view.get(records.Replica, key) == record:
            return
        if life is not None:
            compare = {one: view.revision(one) for one in (key, owner)} | {records.epoch_of(life.host): life.revision}
            answer = await cluster.book.write(records.Transaction(life.incarnation, compare, {key: record}))
            if isinstance(answer, records.Applied):
                return
        await asyncio.sleep(cluster.profile.beat)
    raise errors.TimedOut(what="the replica's record", bound=_STALE_TRIES * cluster.profile.beat)


def _disks(machine: vm.VM) -> tuple[tuple[str, str], ...]:
    return tuple((disk.name, disk.volume) for disk in machine.spec.disks)


class _Keeper:
    """One process's replica."""

    def __init__(
        self,
        standing: Standing,
        machine: vm.VM,
        running: engine.Machine,
        of: vm.Replica,
        cluster: clustered.Cluster,
    ) -> None:
        self.of, self.running, self.disks = of, running, _disks(machine)
        self._standing, self._cluster, self._vm = standing, cluster, machine
        self._machine = replicating.Replicating(machine.uid, of.host, cluster.profile)
        self._guarded = False
        self._freeing = False  # the copy is to be let go of, and the guest to go on
        self._failed = False
        self._wake = asyncio.Event()
        self._passing: asyncio.Task[None] | None = None
        self._passed: list[_Passed] = []
        self._pause, self._next = _AGAIN, 0.0
        self._reason = "its copying has not begun yet"
        self._shown: tuple[str, int | None, str] | None = None
        self._host = of.host
        self._said = ""  # what went wrong last
        standing.listeners.append(self._heard)
        self._task = asyncio.create_task(self._run(), name=f"replica of {machine.uid}")
        self._task.add_done_callback(self._ended)

    @property
    def is_over(self) -> bool:
        """Whether it was ended by something that nobody thought of."""
        return self._task.done()

    async def close(self) -> None:
        with contextlib.suppress(ValueError):
            self._standing.listeners.remove(self._heard)
        for task in (self._task, self._passing):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("replica of VM %s", self._standing.uid, exc_info=error)

    def _heard(self, happened: engine.Happened) -> None:
        if happened.what == "write-failed" and str(happened.fields.get("node-name")).endswith(engine.COPY):
            self._failed = True
            self._wake.set()

    async def _run(self) -> None:
        with contextlib.suppress(resources.Missing):
            self._host = (await self._standing.ground.resources.get(ground.Host, None, self.of.host)).name
        while True:
            self._wake.clear()
            try:
                await self._round()
                await self._show()
            except engine.NotRunning:
                return
            except (errors.Problem, OSError, ValueError) as problem:
                if repr(problem) != self._said:
                    log.warning("replica of VM %s: %r", self._standing.uid, problem)
                    self._said = repr(problem)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._cluster.profile.beat):
                    await self._wake.wait()

    async def _round(self) -> None:
        machine = self._machine
        if self._freeing:
            await self._go_on_alone()
        if self._failed:
            self._failed = False
            self._reason = f"{self._host} did not take a write"
            await self._perform(machine.failed())
        for passed in self._passed[:]:
            self._passed.remove(passed)
            if passed.problem:
                self._reason = passed.problem
                await self._perform(machine.failed())
            else:
                await self._perform(machine.copied(passed.number, left=passed.left))
        if machine.phase in (replicating.Phase.JOINING, replicating.Phase.FAILING):
            await self._ask()
        elif machine.phase is replicating.Phase.ALONE:
            if await self._is_guarded() and spoken.now() >= self._next:
                await self._connect()
        elif await self.running.copies.hangs(_HANGS):
            self._reason = f"{self._host} has not answered for {_HANGS:g} s"
            await self._perform(machine.failed())

    async def _perform(self, acts: list[replicating.Act | replicating.Copy]) -> None:
        for act in acts:
            match act:
                case replicating.Act.LET_GO:
                    self._freeing = True
                    await self._go_on_alone()
                case replicating.Act.CONTINUE if not self._freeing:
                    await self.running.copies.release()
                case replicating.Act.PAUSE | replicating.Act.JOIN:
                    copies = self.running.copies
                    try:
                        await (copies.pause() if act is replicating.Act.PAUSE else copies.join())
                    except engine.NotRunning:
                        raise
                    except (errors.Problem, ConnectionError) as problem:  # also: it was not heard whether it did
                        self._reason = str(problem)
                        await self._perform(self._machine.failed())
                        return
                case replicating.Copy(number):
                    self._passing = asyncio.create_task(self._pass(number))

    async def _go_on_alone(self) -> None:
        """Only once the records call the copy stale, or have never called it anything else."""
        self.running.copies.cut()
        if self._passing is not None:
            self._passing.cancel()
            await asyncio.wait([self._passing])
        await self.running.copies.let_go()
        await self.running.copies.release()
        self._freeing = False
        self._next = spoken.now() + self._pause
        self._pause = min(2 * self._pause, _LONGEST)

    async def _pass(self, number: int) -> None:
        try:
            passed = _Passed(number, left=await self.running.copies.copy(_RATE))
        except (errors.Problem, OSError) as problem:
            passed = _Passed(number, problem=str(problem))
        self._passed.append(passed)
        self._wake.set()

    async def _ask(self) -> None:
        life, sent = self._cluster.lives.life, spoken.now()
        if life is None:
            return
        async with asyncio.timeout(self._cluster.profile.silence):
            view = await self._cluster.book.look_up(
                records.replica_of(self._standing.uid), records.owner_of(self._standing.uid)
            )
            asks = self._machine.seen(view, life, sent, spoken.now())
            answers = [(ask.attempt, await self._cluster.book.write(ask.transaction)) for ask in asks]
        for attempt, answer in answers:
            await self._perform(self._machine.answered(attempt, answer))
        if self._machine.phase is replicating.Phase.IN_SYNC:
            self._pause = _AGAIN

    async def _is_guarded(self) -> bool:
        """Whether the guard has the process: else another host could start the VM beside it."""
        if not self._guarded:
            rights = self._standing.ground.rights
            claim = await rights.found(self._standing.uid, self._vm.spec.storage, replicated=True)
            if claim is None:
                self._guarded = True
            else:
                await self.running.show(claim.admit)
        return self._guarded

    async def _connect(self) -> None:
        self._next = spoken.now() + self._pause
        self._pause = min(2 * self._pause, _LONGEST)
        there = await self._standing.ground.resources.get(ground.Host, None, self.of.host)
        owner = (await self._standing.read()).status.owner_generation
        asked = replicas.Asked(
            project=self._standing.project, host=self._standing.ground.uid, generation=owner
        ).model_dump(mode="json")
        peer = clustered.Peer(there, self._cluster)
        try:
            told = await peer.ask("POST", f"/replicas/{self._standing.uid}", asked, within=_PREPARED)
            with contextlib.ExitStack() as handed:
                connections = {}
                for disk in self._vm.spec.disks:
                    place = (there.status.address, int(told["port"]))
                    one = await asyncio.to_thread(socket.create_connection, place, _CONNECTED)
                    handed.enter_context(one)
                    one.setblocking(True)
                    connections[disk.name] = one.fileno()
                await self.running.copies.connect(str(told["copy"]), connections, str(told["key"]))
        except (errors.Problem, OSError) as problem:
            self._reason = str(problem)
            log.warning("replica of VM %s: %s", self._standing.uid, problem)
            with contextlib.suppress(errors.Problem):
                await self.running.copies.let_go()
            return
        finally:
            await peer.close()
        self._failed = False
        await self._perform(self._machine.reachable())

    async def _show(self) -> None:
        """Have the status say it, and an event what has changed."""
        phase, percent = self._machine.phase, None
        state = "copying"
        if phase is replicating.Phase.IN_SYNC:
            state = "in-sync"
        elif phase in (replicating.Phase.ALONE, replicating.Phase.FAILING):
            state = "stale"
        else:
            done, total = self.running.copies.progress
            percent = min(100, 100 * done // total) // 10 * 10 if total else 0
        said = (state, percent, self._reason if state == "stale" else "")
        if self._shown == said:
            return
        before, self._shown = self._shown, said
        fields: dict[str, Any] = {"state": state, "percent": percent}
        stale = Stale(name=self._vm.name, reason=self._reason)
        fields["reason"] = None if state == "in-sync" else base.Saying.of(stale)
        present = (await self._standing.read()).status.replica
        same = present is not None and before is not None and before[0] == state
        fields["since"] = present.since if present and (same or state == "copying") else base.now()
        await self._standing.show(replica=vm.ReplicaStatus.model_validate(fields))
        if state == "in-sync":
            await self._standing.tell(self._vm, InSync(name=self._vm.name, host=self._host))
        elif before is not None and before[0] == "in-sync":
            await self._standing.tell(self._vm, stale, base.Severity.WARNING)
