"""What this process does itself in storage that other hosts may write to as well: it can be ended, and waited for.

Whoever does so does it `within` an `UnderWay`. The threads and child processes that are begun there are noted, also
those of tasks that are begun there; each tells by itself when it is over, whatever became of who had begun it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import pathlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import ParamSpec, TypeVar

from bocage import errors

P = ParamSpec("P")
R = TypeVar("R")

_MANY = 256  # that may be over and are kept; each is small

Admit = Callable[[int, pathlib.Path], Awaitable[bool]]
"""To be asked whether a child may run that stands before its first instruction: its pid, and the storage."""


class Doing:
    """One thing that is done, by one task, in the storage at `root`."""

    def __init__(self, whole: UnderWay, root: pathlib.Path, admit: Admit, ended: Callable[[], errors.Problem]) -> None:
        self.whole = whole
        self._root, self._admit, self._ended = root, admit, ended
        self._task: asyncio.Task[object] | None = asyncio.current_task()
        self._apart = False
        self._ends = self._cancelled = False

    def end(self) -> None:
        """Cancel it, once; what is apart is when it comes back."""
        self._ends = True
        if not (self._apart or self._cancelled) and self._task is not None:
            self._cancelled = True
            self._task.cancel()

    def leave(self) -> bool:
        """It is over, and its task was cancelled by nobody here any more: whether that was the only one to do so."""
        task, self._task = self._task, None
        return self._cancelled and task is not None and task.uncancel() == 0

    async def admit(self, pid: int) -> None:
        """Come back when that child may run; when it may not, this ends. Raises `ended` where it has already."""
        if self._task is not None and await self._admit(pid, self._root):
            return
        if self._ends or self._task is None:
            raise self._ended()
        self.end()
        await asyncio.Event().wait()

    @property
    def writes(self) -> bool:
        """Whether it may do so now."""
        return not self._apart

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """What is done inside writes nothing there."""
        self._apart = True
        try:
            yield
        finally:
            self._apart = False
            if self._ends:
                self.end()


class UnderWay:
    """All that is done there just now."""

    def __init__(self) -> None:
        self._doing: set[Doing] = set()
        self._begun: list[Callable[[], bool]] = []
        self._many = _MANY

    @property
    def busy(self) -> bool:
        """Whether anything of it may still write."""
        return bool(self._still()) or any(one.writes for one in self._doing)

    def _still(self) -> list[Callable[[], bool]]:
        self._begun = [is_there for is_there in self._begun if is_there()]
        return self._begun

    def note(self, is_there: Callable[[], bool]) -> None:
        """Something has begun."""
        self._begun.append(is_there)
        if len(self._begun) > self._many:
            self._many = 2 * len(self._still()) + _MANY

    def end(self) -> None:
        """Cancel all of it. What has begun is over when `busy` says so."""
        for one in list(self._doing):
            one.end()

    @contextlib.asynccontextmanager
    async def within(
        self, root: pathlib.Path, admit: Admit, *, ended: Callable[[], errors.Problem]
    ) -> AsyncIterator[None]:
        """Do something there. Raises `ended` when it was ended meanwhile."""
        one = Doing(self, root, admit, ended)
        self._doing.add(one)
        before = _here.set(one)
        try:
            yield
        except asyncio.CancelledError:
            if one.leave():
                raise ended() from None
            raise
        finally:
            one.leave()
            _here.reset(before)
            self._doing.discard(one)


_here: contextvars.ContextVar[Doing | None] = contextvars.ContextVar("under_way", default=None)


def here() -> Doing | None:
    """What the caller does there."""
    return _here.get()


def note(is_there: Callable[[], bool]) -> None:
    """Something has begun, such as a thread; where nobody else may write, that is nobody's business."""
    if (one := here()) is not None:
        one.whole.note(is_there)


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """What is done inside writes nothing there, and takes its time when all else has to end."""
    one = here()
    with one.apart() if one is not None else contextlib.nullcontext():
        yield


class Threads(concurrent.futures.ThreadPoolExecutor):
    """Threads that note what is begun in them."""

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> concurrent.futures.Future[R]:
        future = super().submit(fn, *args, **kwargs)
        note(lambda: not future.done())
        return future
