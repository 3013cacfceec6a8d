"""Blocking work in a thread that can be told to stop and whose progress is told in the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from bocage import under_way

P = ParamSpec("P")
R = TypeVar("R")

Progress = Callable[[int, int], None]
"""Called in the event loop with the bytes done and the bytes in all."""


_long = under_way.Threads(8, thread_name_prefix="storage")
"""Copies take minutes: in threads of their own they do not hold up short work."""


class Stopped(Exception):
    """The work noticed that it should stop; never leaves this module's `run`."""


class Job:
    """What a function in a thread is given: asked to stop or not, and where to tell how far it is."""

    def __init__(self, progress: Progress | None) -> None:
        self._stop = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._progress = progress

    def step(self, done: int, total: int) -> None:
        """Tell the progress in bytes. Raises Stopped when the caller was cancelled."""
        self.check()
        if self._progress:
            self._loop.call_soon_threadsafe(self._progress, done, total)

    def check(self) -> None:
        """Raises Stopped when the caller was cancelled."""
        if self._stop.is_set():
            raise Stopped

    def stop(self) -> None:
        """Make the next `step` raise."""
        self._stop.set()


async def run(function: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
    """Call a blocking function that takes milliseconds, or that cannot be stopped half-way.

    A cancellation waits for its end, so that nothing goes on writing behind the caller's back.
    """
    return await to_its_end(asyncio.ensure_future(asyncio.to_thread(function, *arguments, **named)))


async def run_job(
    function: Callable[Concatenate[Job, P], R], progress: Progress | None, *arguments: P.args, **named: P.kwargs
) -> R:
    """Call a blocking function with a `Job`. A cancellation makes it stop, and waits until it has."""
    job = Job(progress)
    call = functools.partial(function, job, *arguments, **named)
    return await to_its_end(asyncio.get_running_loop().run_in_executor(_long, call), job)


async def to_its_end(work: asyncio.Future[R], job: Job | None = None) -> R:
    """Wait for it; a cancellation waits for its end, too, so that it is known what has become of it."""
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        if job:
            job.stop()
        while not work.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([work])
        work.exception()  # looked at, so that nobody complains about it later
        raise
