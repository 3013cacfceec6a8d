"""Tasks: what takes longer than a request, with progress, a log, and a way to cancel it.

A task that was running when the daemon ended is carried out again from its beginning: every handler can be
done twice, by what the world shows or by what it remembers. What is asked of a VM is done by that VM's
actor, all else by a job of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from bocage import errors, words
from bocage.model import base, work
from bocage.node import clock, rights
from bocage.store import contract, resources
from bocage.words import N_

LOG_LINES = 200
_PROGRESS_EVERY = 0.5  # seconds between two writes of progress
_END_TRIES = 12  # to write how a task ended, while the store cannot be written

log = logging.getLogger(__name__)


class Error(errors.Problem):
    """Anything that goes wrong with tasks."""


class UnknownAction(Error, errors.Invalid):
    type = "task-action-unknown"
    text = N_("this host does not know how to do '{action}'")
    action: str


class Cancelled(Error, errors.Conflict):
    type = "task-cancelled"
    text = N_("it was cancelled")


class Superseded(Error, errors.Conflict):
    type = "task-superseded"
    text = N_("something else was asked of it meanwhile")


class NoHost(Error, errors.Unavailable):
    type = "task-without-host"
    text = N_("no host has {name}, so nobody can do it")
    hint = N_("its storage must be reached by a host: 'bocage why {name}'")
    name: str


async def hand_over(store: resources.Resources, task: work.Task, host: str) -> None:
    """What is asked of a VM is done by the host that has it: give an open task to that one."""

    def given(present: work.Task) -> work.Task | None:
        return None if present.status.state.ended else resources.with_spec(present, host=host)

    with contextlib.suppress(resources.Missing):
        await store.change(work.Task, task.metadata.project, task.uid, given)


class Run:
    """One task that is being carried out. Its status is written here and nowhere else."""

    def __init__(self, store: resources.Resources, task: work.Task) -> None:
        self._resources = store
        self.task = task
        self._status = task.status
        self._written = 0.0
        self._flush: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None
        self.unwanted: errors.Problem | None = None  # why nobody wants it any more
        self.rests = 0.0  # until then nobody tries it again, on the clock of `clock.boottime`

    @property
    def uid(self) -> str:
        return self.task.uid

    @property
    def action(self) -> str:
        return self.task.spec.action

    @property
    def params(self) -> dict[str, Any]:
        return self.task.spec.params

    @property
    def state(self) -> work.TaskState:
        return self._status.state

    @property
    def remembered(self) -> dict[str, Any]:
        """What an earlier attempt kept, or this one."""
        return self._status.result

    async def remember(self, **facts: Any) -> None:
        """Keep, durably, what must be known when the task is carried out again; shown as its result so far."""
        self._status = self._status.model_copy(update={"result": {**self._status.result, **facts}})
        await self._write(raising=True)

    async def begin(self) -> None:
        """Say that it is being carried out."""
        if self.state is work.TaskState.PENDING:
            started = self._status.started or base.now()
            self._status = self._status.model_copy(update={"state": work.TaskState.RUNNING, "started": started})
            await self._write()

    def report(self, message: words.Message) -> None:
        """A step: shown at once and kept in the task's log."""
        said = base.Saying.of(message)
        lines = (*self._status.log, work.LogLine(time=base.now(), said=said))[-LOG_LINES:]
        self._status = self._status.model_copy(update={"step": said, "log": lines})
        self._soon()

    def waits(self, message: words.Message) -> None:
        """Why it does not go on just now, said once."""
        if self._status.step != base.Saying.of(message):
            self.report(message)

    def progress(self, done: float, total: float, unit: str = "bytes") -> None:
        """How far it is; written at most twice a second."""
        self._status = self._status.model_copy(update={"progress": work.Progress(done=done, total=total, unit=unit)})
        self._soon()

    async def let_go(self) -> None:
        """What was to be written is not any more, unless something is said anew: another host may end it."""
        if self._flush:
            self._flush.cancel()
            self._flush = None
        if self._writing:
            await asyncio.wait([self._writing])

    async def done(self, **result: Any) -> None:
        await self._end(work.TaskState.DONE, result=result)

    async def failed(self, problem: errors.Problem) -> None:
        await self._end(work.TaskState.FAILED, problem=problem)

    async def cancelled(self, why: errors.Problem | None = None) -> None:
        await self._end(work.TaskState.CANCELLED, problem=why or Cancelled())

    async def _end(
        self, state: work.TaskState, *, problem: errors.Problem | None = None, result: dict[str, Any] | None = None
    ) -> None:
        """Write how it ended; tried again for a while when the store cannot be written, since others wait for it."""
        if self.state.ended:
            return
        if self._flush:
            self._flush.cancel()
        if self._writing:
            await asyncio.wait([self._writing])
        self._status = self._status.model_copy(
            update={
                "state": state,
                "ended": base.now(),
                "problem": base.Saying.of(problem) if problem else None,
                "http_status": problem.status if problem else None,
                "result": result or {},
            }
        )
        if not await self._write():
            self._writing = asyncio.create_task(self._write_later())

    async def _write_later(self) -> None:
        for attempt in range(_END_TRIES):
            await asyncio.sleep(min(2.0**attempt, 60.0))
            if await self._write():
                return

    def _soon(self) -> None:
        if self._flush is None:
            wait = max(self._written + _PROGRESS_EVERY - clock.boottime(), 0.0)
            self._flush = asyncio.get_running_loop().call_later(wait, self._start_writing)

    def _start_writing(self) -> None:
        self._flush = None
        self._writing = asyncio.create_task(self._write_progress())

    async def _write_progress(self) -> None:
        await self._write()

    async def _write(self, *, raising: bool = False) -> bool:
        self._written = clock.boottime()
        status = self._status
        try:
            await self._resources.change_status(work.Task, self.task.metadata.project, self.uid, lambda _: status)
        except resources.Missing:
            pass  # pruned or deleted by a person: nobody waits for it
        except errors.Problem as error:  # the store is full, or gone
            if raising:
                raise
            log.warning("task %s (%s): its state could not be written: %s", self.uid, self.action, error)
            return False
        return True


Handler = Callable[[Run], Awaitable[dict[str, Any] | None]]


async def carry_out(run: Run, handler: Handler) -> None:
    """Do it and write how it ended. A handler that is cancelled undoes by its own exits what it had begun.

    Only when nobody wants the task any more that is its end: else, as when the daemon stops, it stays open and is
    carried on later; so does one that the store gave no answer to, or that may not write to storage of several hosts
    just now: raises contract.Silent, contract.Unsettled and rights.Waits.
    """
    await run.begin()
    try:
        result = await handler(run)
    except (*contract.NO_ANSWER, rights.Waits):
        raise
    except asyncio.CancelledError:
        if run.unwanted:
            await asyncio.shield(run.cancelled(run.unwanted))
        raise
    except errors.Problem as problem:
        await run.failed(problem)
    except OSError as error:
        await run.failed(from_os(error))
    except Exception:
        reference = base.new_uid()[:8]
        log.exception("task %s (%s) failed [%s]", run.uid, run.action, reference)
        await run.failed(errors.Internal(reference=reference))
    else:
        await run.done(**(result or {}))


class OperatingSystem(Error, errors.Unavailable):
    """The operating system refused something."""

    type = "os-error"
    text = N_("{reason}: {path}")
    hint = N_("'bocage doctor' checks disks and permissions")
    reason: str
    path: str


def from_os(error: OSError) -> OperatingSystem:
    return OperatingSystem(reason=error.strerror or str(error), path=str(error.filename or ""))
