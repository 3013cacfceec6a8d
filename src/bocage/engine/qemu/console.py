"""A VM's serial line: its log, which goes on when nobody looks, and one writer at a time."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import pathlib
import re
import select
import signal
import stat
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator

from bocage import errors, lines
from bocage.engine import base
from bocage.engine.qemu import boundedlog, paths
from bocage.engine.qemu import record as records
from bocage.words import N_

_WRITE_BOUND = 30.0  # seconds; a guest that does not read holds the line
_SEARCH_BOUND = 0.2  # for one line: some expressions never end
_ENTER = b"\r"

Write = Callable[[bytes], Awaitable[None]]


class Error(base.Error):
    """Anything that goes wrong with a serial line."""


class Taken(Error, errors.Conflict):
    """Somebody else is typing."""

    type = "console-taken"
    text = N_("somebody else writes on the console of {name}")
    hint = N_("watch it, or take it over: 'bocage vm console {name} --take-over'")
    name: str


class TakenOver(Error, errors.Conflict):
    """It was ours, and somebody else has taken it."""

    type = "console-taken-over"
    text = N_("somebody else has taken over the console of {name}")
    name: str


class NotSaid(Error, errors.TimedOut):
    """The line that was waited for did not come; what runs in the guest goes on."""

    type = "console-not-said"
    text = N_("the console of {what} said nothing like '{pattern}' within {bound:seconds}")
    hint = N_("'bocage vm log {what}' shows what it said")
    pattern: str


class BadPattern(Error, errors.Invalid):
    """Not a regular expression, or one that takes too long."""

    type = "console-bad-pattern"
    text = N_("'{pattern}' cannot be searched for: {reason}")
    hint = N_("Python's regular expressions are understood")
    pattern: str
    reason: str


class Console:
    """One VM's serial line. `start` gives the offset in the log where the last start began, `now` where the log is."""

    def __init__(
        self,
        log: pathlib.Path,
        line: pathlib.Path,
        *,
        name: str,
        start: Callable[[], int] = lambda: 0,
        now: Callable[[], pathlib.Path | None] = lambda: None,
    ) -> None:
        self._log = log
        self._now = now
        self._path = line
        self.name = name
        self._start = start

    @classmethod
    def of(cls, name: str, directory: pathlib.Path, runtime: pathlib.Path) -> Console:
        """The serial line of a VM in its two directories."""
        at = paths.Paths(directory, runtime)

        def start() -> int:
            known = records.read(at.record) or records.read(at.kept_record)
            return known.serial_start if known else 0

        def now() -> pathlib.Path | None:
            known = records.read(at.record)
            return paths.Paths(known.directory, runtime).serial_log if known else None

        return cls(at.serial_log, at.keys, name=name, start=start, now=now)

    @property
    def end(self) -> int:
        """The offset after the last byte that it said."""
        try:
            return self._log.stat().st_size
        except OSError:
            return 0

    async def watch(
        self, offset: int | None = None, *, until: asyncio.Future[None] | None = None
    ) -> AsyncGenerator[bytes, None]:
        """What it says from an offset on, None for from now on: for ever, or all of it when `until` is done.

        It goes on where the log does when the VM is carried to another storage. Raises OSError without a log.
        """
        log, at = self._log, self.end if offset is None else offset
        while True:
            pieces = boundedlog.follow(log, at, until=until)
            async with contextlib.aclosing(pieces):
                async for piece in pieces:
                    at = piece.end
                    yield piece.data
            other = await asyncio.to_thread(self._now)
            if other is None or other == log or (until is not None and until.done()):
                return
            log = other

    @contextlib.asynccontextmanager
    async def writer(self, *, take_over: bool = False) -> AsyncIterator[Write]:
        """Hold the line for writing. Raises Taken, base.NotRunning.

        What is given raises TakenOver when somebody else has taken the line, and errors.TimedOut when
        the guest does not read.
        """
        if present := _held.get(self._path):
            if not take_over:
                raise Taken(name=self.name)
            present.taken = True
            await present.close()
        line = _held[self._path] = _Line(self._path, self.name)
        try:
            yield line.write
        finally:
            if _held.get(self._path) is line:
                del _held[self._path]
            await line.close()

    async def expect(self, *, pattern: str, within: float, send: str | None = None, take_over: bool = False) -> str:
        """The first whole line that an expression is found in.

        `send` is typed first, with Enter; then only what comes after it counts, without it all since
        the last start. `within` is in seconds. Raises NotSaid, BadPattern, Taken, base.NotRunning.
        """
        wanted = _compiled(pattern)
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(within):
                    if send is None:
                        offset, echo = await asyncio.to_thread(self._start), lines.Echo("")
                    else:
                        write = await stack.enter_async_context(self.writer(take_over=take_over))
                        offset, echo = self.end, lines.Echo(send)
                        await write(send.encode() + _ENTER)
                    return await self._found(wanted, offset, echo)
            except TimeoutError as error:
                raise NotSaid(what=self.name, bound=within, pattern=pattern) from error

    async def _found(self, wanted: re.Pattern[str], offset: int, echo: lines.Echo) -> str:
        splitter = lines.Splitter()
        async with contextlib.aclosing(self.watch(offset)) as said:
            async for data in said:
                for line in splitter.feed(data):
                    if not echo.is_echo(line) and _search(wanted, line):
                        return line
                await asyncio.sleep(0)  # a long log is read in one go otherwise
        raise base.NotRunning(name=self.name)  # its log was removed


class _Line:
    """The pipe that QEMU reads the guest's keys from, held while somebody writes.

    QEMU keeps it open itself: what is written and not yet read waits there when we hang up.
    """

    def __init__(self, path: pathlib.Path, name: str) -> None:
        """Open it. Raises base.NotRunning."""
        self.taken = False
        self._name = name
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()  # there may be room, or it was closed
        try:
            self._pipe = _opened(path)
        except OSError as error:
            raise base.NotRunning(name=name) from error

    async def write(self, data: bytes) -> None:
        try:
            async with asyncio.timeout(_WRITE_BOUND), self._turn:
                while data:
                    try:
                        data = data[os.write(self._pipe, data[: select.PIPE_BUF]) :]
                    except BlockingIOError:
                        await self._change()
        except TimeoutError as error:
            raise errors.TimedOut(what=self._name, bound=_WRITE_BOUND) from error
        except OSError as error:
            raise (TakenOver if self.taken else base.NotRunning)(name=self._name) from error

    async def close(self) -> None:
        pipe, self._pipe = self._pipe, -1
        self._changed.set()
        async with self._turn:
            if pipe >= 0:
                os.close(pipe)

    async def _change(self) -> None:
        loop, pipe = asyncio.get_running_loop(), self._pipe
        self._changed.clear()
        loop.add_writer(pipe, self._changed.set)
        try:
            await self._changed.wait()
        finally:
            loop.remove_writer(pipe)


_held: dict[pathlib.Path, _Line] = {}  # who writes on which line, in all of this process


def _opened(path: pathlib.Path) -> int:
    # QEMU may write this directory: no link that it left there is followed, and nothing but a pipe written.
    pipe = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISFIFO(os.fstat(pipe).st_mode):
        return pipe
    os.close(pipe)
    raise OSError(errno.EINVAL, "not a pipe", str(path))


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise BadPattern(pattern=pattern, reason=str(error)) from error


def _search(wanted: re.Pattern[str], line: str) -> bool:
    try:
        with _bounded(_SEARCH_BOUND):
            return wanted.search(line) is not None
    except TimeoutError as error:
        raise BadPattern(pattern=wanted.pattern, reason=str(error)) from error


@contextlib.contextmanager
def _bounded(within: float) -> Iterator[None]:
    """Interrupt a search that would go on for hours: Python's engine looks for signals while it works."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(*_: object) -> None:
        raise TimeoutError(N_("it takes too long"))

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, within)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
