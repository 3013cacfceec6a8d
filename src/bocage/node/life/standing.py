"""What an actor knows of its VM beside the store: the process, how it ended, the tasks that wait."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Literal, Protocol

from bocage import errors, words
from bocage.engine import base as engine
from bocage.model import base, board, vm, work
from bocage.node import clock, started, tasks
from bocage.node.ground import Ground
from bocage.node.place import edits
from bocage.planner import shares
from bocage.store import resources

_ENDING = 2.0  # seconds
_TRIES = 20  # of a read-change-write that others get in the way of


class Gone(resources.Missing):
    """The VM itself is not in the store any more: nothing is left to be done to it."""

    type = "vm-gone"


class Kept(Protocol):
    """Whoever keeps the replica of a VM that runs."""

    @property
    def of(self) -> vm.Replica: ...

    async def close(self) -> None:
        """Let go of it without touching anything."""


@dataclasses.dataclass(slots=True)
class Standing:
    """One VM on this host, between two looks at it. All of it can be found again after a crash."""

    ground: Ground
    project: str
    uid: str
    machine: engine.Machine | None = None
    ended: engine.Ended | None = None  # the process ended, and no step was taken yet
    started: float | None = None  # this and the following are of the boot clock: since when it runs
    failed: float | None = None  # when it last ended by itself or failed to start
    stopping: float | None = None  # when it was first asked to switch off, and that still holds
    pressed: float | None = None  # when it was last asked
    silent: float | None = None  # since when its monitor does not answer
    resumed: float | None = None  # when it last went on after a full storage
    stalls: int = 0
    presses: int = 0
    ran: float | None = None  # seconds that the process ran which ended last
    guest_reboots: bool = False  # its agent was asked to restart it
    has_rebooted: bool = False  # and it did
    concluding: bool = False  # what is left of the present step is to write how it went: it is not broken off
    expired: bool = False  # it has lain in the trash for its time
    defined: tuple[int, int] | None = None  # the revision and the ownership that vm.yaml says
    freed: tuple[int, int | None] | None = None  # the revision and the process whose volumes were looked at
    scripted: tuple[int, str] | None = None  # the generation and the name that the script to start it by hand says
    pending: tuple[int, bool] | None = None  # of which generation: whether changes wait for a cold start
    bites: list[str] = dataclasses.field(default_factory=list)  # what its watchdog did, not told yet
    ports: list[engine.Happened] = dataclasses.field(default_factory=list)  # what became of them, not told yet
    adapted: int | None = None  # the generation that was carried out on the running process, as far as it goes
    held: bool = True  # what it is held to was told to it by this daemon
    usb: tuple[board.UsbDevice, ...] | None = None  # what it is to have of the host's; None: nobody has looked yet
    resizes: bool = False  # its memory is being changed: nobody else asks its balloon for anything
    gives: bool = False  # the guest was asked for more memory than it has given yet
    left_behind: set[str] = dataclasses.field(default_factory=set)  # what was told already of moves
    unanswered: Literal["agent"] | int | None = None  # how its guest is to answer, and has not yet
    awaits: float | None = None  # since when its start waits for other VMs
    alone: bool = False  # it was said that it starts without them
    told: int | None = None  # the generation that the outcomes in the status are of
    runs: list[tasks.Run] = dataclasses.field(default_factory=list)
    woken: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    listeners: list[engine.Listener] = dataclasses.field(default_factory=list)
    replica: Kept | None = None  # who keeps it, while it runs
    _watching: asyncio.Task[None] | None = None
    _beside: asyncio.Task[None] | None = None

    def heard(self, happened: engine.Happened) -> None:
        """The machine told something by itself."""
        if happened.what == "balloon" and not self.gives:
            return  # the rounds look at it
        if happened.what in ("device-removed", "memory-added", "balloon"):
            self.adapted = self.pending = None  # a guest that gave way late
        if happened.what == "reset" and self.guest_reboots:
            self.guest_reboots, self.has_rebooted = False, True
        if happened.what == "watchdog":
            self.bites.append(str(happened.fields.get("action", "")))
        if happened.what in ("port-mended", "port-lost"):
            self.ports.append(happened)
        for listener in self.listeners:
            listener(happened)
        self.woken.set()

    def watch(self, machine: engine.Machine) -> None:
        """Take charge of a process: from now on its end is noticed."""

        async def until_end() -> None:
            ended = await machine.ended()
            if self.machine is machine:
                self.ran = clock.boottime() - (self.started or 0.0)
                self.machine, self.ended, self.started = None, ended, None
                self.silent, self.guest_reboots, self.has_rebooted = None, False, False
                self.woken.set()

        self.machine, self.started, self.pending, self.adapted = machine, clock.boottime(), None, None
        self.usb = self.awaits = None
        self.alone = False
        self.resizes = self.gives = False
        self._watching = asyncio.create_task(until_end(), name=f"end of {self.uid}")

    async def until_ended(self) -> None:
        """Wait until the process in charge has ended; `ended` says how."""
        if self._watching:
            await asyncio.wait([self._watching])

    async def ends(self) -> bool:
        """Whether its process has ended, or is about to: one that answers no more is seen to end a moment later."""
        if self.ended is None and self._watching:
            await asyncio.wait([self._watching], timeout=_ENDING)
        return self.ended is not None

    def beside(self, doing: Coroutine[Any, Any, None]) -> None:
        """Have something done that nobody waits for; what was under way is given up."""
        if self._beside:
            self._beside.cancel()
        self._beside = asyncio.create_task(doing)

    async def release(self) -> None:
        """Let go of the process without touching it."""
        if self._beside:
            self._beside.cancel()
            await asyncio.wait([self._beside])
        if self.replica:
            await self.replica.close()
        if self._watching:
            self._watching.cancel()
        if self.machine:
            await self.machine.detach()

    def asked(self, *actions: str) -> list[tasks.Run]:
        """The waiting tasks of these actions."""
        return [run for run in self.runs if run.action in actions]

    def report(self, message: words.Message, *actions: str) -> None:
        """Show a step in the tasks that it is done for."""
        for run in self.asked(*actions):
            run.report(message)

    async def fail(self, problem: errors.Problem, *actions: str) -> bool:
        """End the waiting tasks of these actions as failed; False when there were none."""
        asked = self.asked(*actions)
        await self.fail_these(problem, asked)
        return bool(asked)

    async def fail_these(self, problem: errors.Problem, runs: list[tasks.Run]) -> None:
        """End waiting tasks as failed."""
        for run in runs:
            self.runs.remove(run)
            await run.failed(problem)

    async def read(self) -> vm.VM:
        """The VM as the store has it now; raises Gone."""
        try:
            return await self.ground.resources.get(vm.VM, self.project, self.uid)
        except resources.Missing as error:
            raise Gone(kind="vm", name=self.uid) from error

    async def change(self, how: Callable[[vm.VMSpec], Mapping[str, Any]]) -> vm.VM:
        """Change the spec where the world itself decided, such as a guest that switched itself off."""
        return await self.ground.resources.change(
            vm.VM, self.project, self.uid, lambda present: resources.with_spec(present, **how(present.spec))
        )

    async def commit(self, wanted: Callable[[], Awaitable[resources.Transaction]]) -> None:
        """Write a transaction that `wanted` makes of what it reads, again when others were in between."""
        for _ in range(_TRIES):
            with contextlib.suppress(resources.Changed):
                transaction = await wanted()
                if transaction.puts or transaction.deletes:
                    await self.ground.resources.commit(transaction)
                return
        raise errors.TimedOut(what=f"vm {self.uid}", bound=0.0)

    async def follow(self, machine: vm.VM, power: vm.Power) -> vm.VM:
        """Make power follow what the world decided; a wish that is newer than `machine` stays."""
        return await self.change(lambda spec: {"power": power} if spec.power is machine.spec.power else {})

    def adapts(self, machine: vm.VM) -> bool:
        """Whether the running process can take changes that were not tried yet."""
        if self.machine is None or self.adapted == machine.metadata.generation or machine.spec.rescue:
            return False
        if self.machine.run is not engine.Run.RUNNING:
            return False
        return self.changes_wait(machine) or (not self.held and shares.is_bounded(machine.spec))

    def changes_wait(self, machine: vm.VM) -> bool:
        """Whether the running process was built with other hardware than is wanted now."""
        if self.machine is None:
            return False
        generation = machine.metadata.generation
        if self.pending is None or self.pending[0] != generation:
            built = started.read(self.ground.home.vm_runtime(self.uid))
            if built is None:
                differs = self.machine.started_generation != generation
            else:
                built = started.with_left(self.ground.home.vm_runtime(self.uid), built, machine.spec)
                differs = bool(edits.pending(built, machine))
            self.pending = (generation, differs)
        return self.pending[1]

    def off(self) -> None:
        """Its end was looked at: forget how it came to it."""
        self.ended = self.stopping = self.pressed = self.failed = self.resumed = None
        self.presses = self.stalls = 0

    def forget_stopping(self) -> None:
        """Nobody waits for it to switch off any more."""
        self.stopping, self.presses, self.guest_reboots = None, 0, False

    async def show(self, **fields: Any) -> vm.VM:
        """Write fields of the status; nothing is written when they are so already."""
        return await self._write(fields)

    async def show_nics(self, how: Callable[[vm.Nic], Mapping[str, Any]]) -> vm.VM:
        """Write fields of each NIC's status; its others stay."""

        def with_nics(present: vm.VM) -> vm.VMStatus:
            known = {(one.name, one.mac): one for one in present.status.nics}
            nics = [
                known.get((nic.name, nic.mac), vm.NicStatus(name=nic.name, mac=nic.mac)).model_copy(update=how(nic))
                for nic in present.spec.nics
            ]
            return present.status.model_copy(update={"nics": tuple(nics)})

        return await self.ground.resources.change_status(vm.VM, self.project, self.uid, with_nics)

    async def _write(self, fields: Mapping[str, Any], *events: work.Event) -> vm.VM:
        return await self.ground.resources.change_status(
            vm.VM, self.project, self.uid, lambda present: present.status.model_copy(update=fields), also=events
        )

    async def show_with(
        self, machine: vm.VM, fields: Mapping[str, Any], note: words.Message | None, severity: base.Severity
    ) -> vm.VM:
        """Write fields of the status, and with them the event that tells of it."""
        events = [work.event(note, severity=severity, subject=machine.ref)] if note is not None else []
        return await self._write(fields, *events)

    async def turn(
        self,
        machine: vm.VM,
        state: vm.State,
        note: words.Message,
        severity: base.Severity = base.Severity.INFO,
        **more: Any,
    ) -> vm.VM:
        """Write a new state, and the event that tells of it, in one."""
        fields = {"state": state, "since": base.now(), "reason": base.Saying.of(note), **more}
        return await self._write(fields, work.event(note, severity=severity, subject=machine.ref))

    async def set_state(
        self,
        state: vm.State,
        *,
        reason: words.Message | None = None,
        since: datetime.datetime | None = None,
        **more: Any,
    ) -> vm.VM:
        """Write the state, since when, and why."""
        said = base.Saying.of(reason) if reason else None
        return await self.show(state=state, since=since or base.now(), reason=said, **more)

    async def tell(self, machine: vm.VM, message: words.Message, severity: base.Severity = base.Severity.INFO) -> None:
        """Record an event of this VM."""
        await self.ground.events.record(message, severity=severity, subject=machine.ref)
