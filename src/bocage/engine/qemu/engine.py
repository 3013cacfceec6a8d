"""Starts VMs as QEMU processes that outlive us, and finds them again."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import re
import shutil
import signal
import time
from collections.abc import Sequence

from bocage import errors
from bocage.engine import base
from bocage.engine.qemu import (
    boundedlog,
    carriers,
    command,
    devices,
    machine,
    orderly,
    paths,
    processes,
    qmp,
    remains,
    runstate,
    saved,
    starting,
    tpm,
)
from bocage.engine.qemu import cgroup as cgroups
from bocage.engine.qemu import record as records
from bocage.model import vm as model
from bocage.words import N_

_LOAD_BOUND = 600.0  # seconds to read a saved machine
_SCAN_HOLDS = 1.0  # seconds that one look at all processes serves for
_SAID = 5  # lines of QEMU's log that a failed start carries
_LOGFILE = re.compile(r"logfile=((?:[^,]|,,)*)")


class AlreadyRunning(base.Error, errors.Conflict):
    """Its process is alive: a second one is never started beside it."""

    type = "vm-already-running"
    text = N_("the VM {name} runs already, as process {pid}")
    name: str
    pid: int


class LoadFailed(base.StartFailed):
    """The saved state is cut off, damaged, or of another machine."""

    type = "vm-load-failed"
    text = N_("the saved state {path} could not be loaded: {reason}")
    hint = N_("'bocage vm log {name} --qemu' has QEMU's own words; the file is kept")
    path: str


class QemuEngine:
    """Runs VMs by QEMU. Control groups are made in `place`, None for none; `version` is the installed QEMU's."""

    def __init__(self, *, place: cgroups.Place | None = None, version: str = "") -> None:
        self._place = place
        self.version = version
        self._scan: tuple[float, Sequence[processes.Found]] = (-_SCAN_HOLDS, ())
        self._scanning = asyncio.Lock()
        self._ends: dict[pathlib.Path, base.Ended] = {}  # what was seen of processes that were found gone

    def command(self, plan: base.Plan) -> list[str]:
        """The line that starts it by hand: a pure function of the plan."""
        return command.command(plan)

    def by_hand(self, plan: base.Plan) -> str:
        """A shell script that starts it without us, with all that stands around the line."""
        return command.by_hand(plan)

    async def start(
        self,
        plan: base.Plan,
        *,
        generation: int,
        listener: base.Listener,
        paused: bool = False,
        saved: pathlib.Path | None = None,
    ) -> machine.QemuMachine:
        """Start the process and its vCPUs. Raises StartFailed and LoadFailed; then nothing is left."""
        at = paths.Paths(plan.directory, plan.runtime)
        log_start = _size(at.qemu_log)
        for path in (at.record, at.kept_record):
            if (known := records.read(path)) and processes.alive(known.identity):
                raise AlreadyRunning(name=plan.name, pid=known.identity.pid)
        self._ends.pop(plan.runtime, None)
        try:
            async with contextlib.AsyncExitStack() as undo:
                order = starting.Order(
                    plan=plan, generation=generation, paused=paused, incoming=saved is not None, listener=listener
                )
                started = await starting.launch(order, at, self._place, undo)
                await _run(started, plan, paused=paused, saved_state=saved)
                undo.pop_all()
        except base.StartFailed:
            raise
        except (errors.Problem, OSError) as error:
            reason = _why(error, boundedlog.tail_lines(at.qemu_log, _SAID, start=log_start))
            if saved:
                raise LoadFailed(name=plan.name, reason=reason, path=str(saved)) from error
            raise base.StartFailed(name=plan.name, reason=reason) from error
        started.keep()
        return started

    async def expect(self, plan: base.Plan, *, generation: int, listener: base.Listener) -> machine.QemuMachine:
        """A process that waits for the memory of one which runs elsewhere. Raises StartFailed; then nothing is left."""
        at = paths.Paths(plan.directory, plan.runtime)
        if (known := records.read(at.record)) and processes.alive(known.identity):
            raise AlreadyRunning(name=plan.name, pid=known.identity.pid)
        log_start = _size(at.qemu_log)
        self._ends.pop(plan.runtime, None)
        order = starting.Order(
            plan=plan, generation=generation, paused=True, incoming=True, arrives=True, listener=listener
        )
        try:
            async with contextlib.AsyncExitStack() as undo:
                started = await starting.launch(order, at, self._place, undo)
                undo.pop_all()
        except base.StartFailed:
            raise
        except (errors.Problem, OSError) as error:
            reason = _why(error, boundedlog.tail_lines(at.qemu_log, _SAID, start=log_start))
            raise base.StartFailed(name=plan.name, reason=reason) from error
        started.keep()
        return started

    async def find(
        self,
        uid: str,
        name: str,
        directory: pathlib.Path,
        runtime: pathlib.Path,
        *,
        listener: base.Listener,
        cgroup: str = "",
    ) -> machine.QemuMachine | None:
        """The VM's process if it runs; remains of a start that never finished are ended and cleared away."""
        at = paths.Paths(directory, runtime)
        known = await asyncio.to_thread(records.read, at.record)
        if known is None or not processes.alive(known.identity):
            known = await self._search(uid, name, at, cgroup) or known
        try:
            pidfd = processes.open_pidfd(known.identity) if known else -1
        except processes.Gone:
            pidfd = -1
        if known is None or pidfd < 0:
            if known:  # before the group goes, which knows whether memory ran out
                self._ends[runtime] = await self._how_ended(known, runtime)
            await self._clear(known, at, cgroup)
            return None
        found = machine.QemuMachine(known, pidfd, runtime=runtime, place=self._place, listener=listener)
        await found.reattach()
        if await _half_started(found, known):
            await found.kill()
            return None
        return found

    async def post_mortem(self, runtime: pathlib.Path) -> base.Ended | None:
        """How the VM's last process ended; None when it runs, or when this boot has seen none."""
        known = await asyncio.to_thread(records.read, paths.Paths(runtime, runtime).record)
        if known is None or processes.alive(known.identity):
            return None
        return self._ends.get(runtime) or await self._how_ended(known, runtime)

    async def forget(self, runtime: pathlib.Path) -> None:
        """Remove what is known of a process that has ended, when that was dealt with."""
        known = await asyncio.to_thread(records.read, paths.Paths(runtime, runtime).record)
        if known is None or not processes.alive(known.identity):
            self._ends.pop(runtime, None)
            await asyncio.to_thread(shutil.rmtree, runtime, ignore_errors=True)

    async def _how_ended(self, known: records.Record, runtime: pathlib.Path) -> base.Ended:
        return await remains.how_ended(known, runtime, machine.group_of(self._place, known.cgroup))

    async def _search(self, uid: str, name: str, at: paths.Paths, cgroup: str) -> records.Record | None:
        """Look for the process among all: its record is lost, or of an earlier one.

        It is known by the record in the VM's own directory, else by the path of its monitor.
        """
        running = [
            found
            for found in await self._processes()
            if pathlib.PurePath(found.arguments[0]).name == command.PROGRAM and processes.alive(found.identity)
        ]
        kept = await asyncio.to_thread(records.read, at.kept_record)
        if kept and any(found.identity == kept.identity for found in processes.find(uid, among=running)):
            return kept
        for found in processes.find(command.escaped(at.qmp), among=running):
            log = next(filter(None, map(_LOGFILE.search, found.arguments)), None)
            return records.Record(
                uid=uid,
                name=name,
                identity=found.identity,
                generation=0,
                directory=pathlib.Path(log[1].replace(",,", ",")).parent if log else at.directory,
                isolation=model.Isolation(),
                paused=False,
                cgroup=cgroup,
                serial_start=_by_hand_start(at),
                accelerator=command.accelerator_of(found.arguments),
            )
        return None

    async def _clear(self, known: records.Record | None, at: paths.Paths, cgroup: str) -> None:
        group = machine.group_of(self._place, cgroup or (known.cgroup if known else ""))
        if at.io.is_dir():
            for found in processes.find(at.io, among=await self._processes()):
                if pathlib.PurePath(found.arguments[0]).name in (*carriers.PROGRAMS, tpm.PROGRAM):
                    with contextlib.suppress(processes.Gone):
                        processes.send(found.identity, signal.SIGKILL)
        await remains.clear(known, at, group)

    async def _processes(self) -> Sequence[processes.Found]:
        """All processes, from a look that is a second old at most: a daemon that starts asks for each VM."""
        async with self._scanning:
            if time.monotonic() - self._scan[0] > _SCAN_HOLDS:
                begun = time.monotonic()
                self._scan = (begun, await asyncio.to_thread(processes.scan))
            return self._scan[1]


async def _run(
    started: machine.QemuMachine, plan: base.Plan, *, paused: bool, saved_state: pathlib.Path | None
) -> None:
    """Let the vCPUs of a process run that stands ready."""
    floppies = {cd.name for cd in plan.spec.cds if cd.bus is model.Bus.FLOPPY}
    if (once := plan.spec.boot.once) and once not in floppies:
        # What boots once has done so when the guest next resets, within the same process.
        index = devices.standing_order(plan.spec).get(once, -1)
        place = {"path": f"/machine/peripheral/{once}", "property": "bootindex", "value": index}
        await started.link.execute("qom-set", place)
    if saved_state:
        await saved.load(started.link, saved_state, within=_LOAD_BOUND)
    if paused:
        await started.look()
    else:
        await started.resume()


async def _half_started(found: machine.QemuMachine, known: records.Record) -> bool:
    """Whether its daemon ended before its vCPUs ran."""
    if found.run is base.Run.UNKNOWN or known.arrives:
        return False
    try:
        return runstate.half_started(await found.link.status(), paused=known.paused)
    except errors.Problem:
        return False


def _why(error: Exception, said: Sequence[str]) -> str:
    """What kept a VM from starting: QEMU's words when it gave up, ours when it did not."""
    gave_up = isinstance(error, (base.NotRunning, qmp.NoMonitor, qmp.Disconnected))
    return " / ".join(orderly.plain(said)) if gave_up and said else str(error)


def _by_hand_start(at: paths.Paths) -> int:
    """Where the serial log began to speak of a start by hand; 0 when that was not noted."""
    try:
        return int(at.by_hand_start.read_text())
    except (OSError, ValueError):
        return 0


def _size(path: pathlib.Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
