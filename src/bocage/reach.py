"""Blocking calls on a storage that may never answer, each in a thread of its own; who gives up leaves that to itself.

A thread that waits in the kernel cannot be ended. It takes none of those that others work in, and what was left so is
known by its storage: nobody goes there again until it has come back.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
import os
import pathlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

from bocage import errors, files, threads, under_way
from bocage.words import N_

PATIENCE = 15.0  # seconds for what takes moments on a storage that answers
_LOOK = 0.02

P = ParamSpec("P")
R = TypeVar("R")


@dataclasses.dataclass(frozen=True, slots=True)
class _Left:
    """Somebody who was given up there."""

    is_there: Callable[[], bool]
    since: float


@dataclasses.dataclass(slots=True)
class _Removal:
    """Somebody who takes a name away, and then removes what bore it."""

    is_there: Callable[[], bool] = lambda: True
    renamed: bool = False


log = logging.getLogger(__name__)

_left: dict[pathlib.Path, list[_Left]] = {}  # by storage
_removing: dict[pathlib.Path, list[_Removal]] = {}  # by the name that was taken away


class Hangs(errors.Unavailable):
    """What was asked of it may still happen when it answers again."""

    type = "storage-hangs"
    text = N_("the storage at {path} does not answer")
    hint = N_("look at the disk or the server that it lies on; what was asked of it last is done when it is back")
    path: str


class Way:
    """The way to one storage."""

    def __init__(self, root: pathlib.Path) -> None:
        self._root = root
        self._left = _left.setdefault(root, [])

    @property
    def hangs(self) -> bool:
        """Whether somebody went there, was given up, and is not back after a while."""
        self._left[:] = [one for one in self._left if one.is_there()]
        return any(time.monotonic() - one.since > PATIENCE for one in self._left)

    async def free(self) -> None:
        """Wait until all who were given up there are back. Raises Hangs."""
        deadline = time.monotonic() + PATIENCE
        while not self.hangs and self._left and time.monotonic() < deadline:  # noqa: ASYNC110 - they are threads
            await asyncio.sleep(_LOOK)
        if self._left:
            raise Hangs(path=str(self._root))

    async def call(self, function: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
        """Call what takes moments. Raises Hangs."""
        if self.hangs:
            raise Hangs(path=str(self._root))
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._start(functools.partial(function, *arguments, **named))
        except TimeoutError as error:
            raise Hangs(path=str(self._root)) from error

    def leave(self, function: Callable[P, object], *arguments: P.args, **named: P.kwargs) -> None:
        """Have something done that nobody waits for."""
        self._start(functools.partial(function, *arguments, **named)).cancel()

    async def job(
        self,
        function: Callable[Concatenate[threads.Job, P], R],
        progress: threads.Progress | None,
        *arguments: P.args,
        **named: P.kwargs,
    ) -> R:
        """Call what may take long and can be told to stop; nobody waits until it has."""
        job = threads.Job(progress)
        try:
            return await self._start(functools.partial(function, job, *arguments, **named))
        finally:
            job.stop()

    async def do(self, doing: Coroutine[Any, Any, R]) -> R:
        """Do what goes there in many steps, and what it makes counts for nothing yet.

        Who is cancelled waits for moments until that has ended, too.
        """
        task = asyncio.ensure_future(doing)
        try:
            return await asyncio.shield(task)
        finally:
            task.cancel()
            await asyncio.wait([task], timeout=PATIENCE)
            if not task.done():
                self._left.append(_Left(lambda: not task.done(), time.monotonic()))

    async def put_away(self, path: pathlib.Path, name: str) -> None:
        """Take the name of a directory away, durably; then it is removed, which nobody waits for. Raises Hangs.

        It is called `name` until it is gone. Nothing to do when it is not there.
        """
        removals = _removals(path)
        if any(not one.renamed for one in removals):  # what that one takes away, once it comes to it, nobody knows
            raise Hangs(path=str(self._root))
        removing = _Removal()
        loop, doomed = asyncio.get_running_loop(), path.with_name(name)
        away: asyncio.Future[None] = loop.create_future()

        def leave() -> None:
            with contextlib.suppress(FileNotFoundError):
                files.rename_durably(path, doomed)
            removing.renamed = True
            loop.call_soon_threadsafe(away.set_result, None)
            files.remove_tree(doomed)

        gone = self._start(leave, removing)
        removals.append(removing)
        await asyncio.wait([away, gone], timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        if gone.done() and not away.done():
            await gone  # which failed
        elif not away.done():
            gone.cancel()
            raise Hangs(path=str(self._root))

    async def discard(self, path: pathlib.Path) -> None:
        """Remove what counts for nothing; who waits for that does so for moments only."""
        with contextlib.suppress(Hangs, OSError):
            await self.call(files.remove_tree, path)

    def _start(self, function: Callable[[], R], removing: _Removal | None = None) -> asyncio.Future[R]:
        loop = asyncio.get_running_loop()
        result: asyncio.Future[R] = loop.create_future()

        def tell(value: R | None, error: BaseException | None) -> None:
            if result.done():
                return
            if error is not None:
                result.set_exception(error)
            else:
                result.set_result(value)  # type: ignore[arg-type]

        def run() -> None:
            value, error = None, None
            try:
                value = function()
            except BaseException as raised:  # noqa: BLE001 - it is raised where it is waited for
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(tell, value, error)

        thread = threading.Thread(target=run, name="reach", daemon=True)
        if removing is not None:
            removing.is_there = thread.is_alive

        def ended(told: asyncio.Future[R]) -> None:
            if told.cancelled() and thread.is_alive():
                self._left.append(_Left(thread.is_alive, time.monotonic()))
            elif not told.cancelled() and (error := told.exception()) is not None:
                log.debug("%s: %s", self._root, error)

        result.add_done_callback(ended)
        thread.start()
        under_way.note(thread.is_alive)
        return result


async def gone(path: pathlib.Path) -> bool:
    """Wait until a directory that was put away is removed; False when that takes too long, or failed."""
    deadline = time.monotonic() + PATIENCE
    while _removals(path):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(_LOOK)
    del _removing[path]
    return True


def way_to(path: pathlib.Path) -> Way:
    """The way to the storage on which a path lies, which somebody has gone to before."""
    return Way(next((one for one in path.parents if one in _left), path.parent))


def _removals(path: pathlib.Path) -> list[_Removal]:
    """Those that are under way."""
    known = _removing.setdefault(path, [])
    known[:] = [one for one in known if one.is_there()]
    return known


@contextlib.asynccontextmanager
async def opened(path: pathlib.Path, flags: int, mode: int = 0o600) -> AsyncIterator[int]:
    """A descriptor for as long as it is needed; nobody waits for its closing. Raises OSError, Hangs."""
    way, guard, found, wanted = way_to(path), threading.Lock(), list[int](), True

    def come() -> None:
        descriptor = os.open(path, flags | os.O_CLOEXEC, mode)
        with guard:
            if wanted:
                found.append(descriptor)
                return
        os.close(descriptor)

    try:
        await way.call(come)
        yield found[0]
    finally:
        with guard:
            wanted = False
        if found:
            way.leave(os.close, found[0])
