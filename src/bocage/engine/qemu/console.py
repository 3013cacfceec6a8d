"""A VM's serial line: its log, which goes on when nobody looks, and one writer at a time."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pathlib
import re
import signal
import socket
import struct
import termios
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator

from bocage import errors
from bocage.engine import base
from bocage.engine.qemu import boundedlog, lines, paths
from bocage.engine.qemu import record as records
from bocage.words import N_

_CONNECT_BOUND = 2.0  # seconds
_WRITE_BOUND = 30.0  # a guest that does not read holds the line
_SEARCH_BOUND = 0.2  # for one line: some expressions never end
_PIECE = 65_536
_KEYSTROKES = 16  # bytes sent at once: what the kernel counts as unread goes down by whole sends
_PAUSE, _PATIENCE = 0.005, 5.0  # seconds
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
    """One VM's serial line. `start` gives the offset in the log where the last start began."""

    def __init__(
        self, log: pathlib.Path, line: pathlib.Path, *, name: str, start: Callable[[], int] = lambda: 0
    ) -> None:
        self._log = log
        self._path = line
        self._name = name
        self._start = start

    @classmethod
    def of(cls, name: str, directory: pathlib.Path, runtime: pathlib.Path) -> Console:
        """The serial line of a VM in its two directories."""
        at = paths.Paths(directory, runtime)

        def start() -> int:
            known = records.read(at.record)
            return known.serial_start if known else 0

        return cls(at.serial_log, at.tty, name=name, start=start)

    @property
    def end(self) -> int:
        """The offset after the last byte that it said."""
        try:
            return self._log.stat().st_size
        except OSError:
            return 0

    async def watch(self, offset: int | None = None) -> AsyncGenerator[bytes, None]:
        """What it says from an offset on, for ever; None for from now on. Raises OSError without a log."""
        pieces = boundedlog.follow(self._log, self.end if offset is None else offset)
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                yield piece.data

    @contextlib.asynccontextmanager
    async def writer(self, *, take_over: bool = False) -> AsyncIterator[Write]:
        """Hold the line for writing. Raises Taken, base.NotRunning.

        What is given raises TakenOver when somebody else has taken the line, and errors.TimedOut when
        the guest does not read.
        """
        if present := _held.get(self._path):
            if not take_over:
                raise Taken(name=self._name)
            present.taken = True
            await present.close()
        line = _held[self._path] = _Line(self._name)
        try:
            await line.open(self._path)
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
                raise NotSaid(what=self._name, bound=within, pattern=pattern) from error

    async def _found(self, wanted: re.Pattern[str], offset: int, echo: lines.Echo) -> str:
        splitter = lines.Splitter()
        async with contextlib.aclosing(self.watch(offset)) as said:
            async for data in said:
                for line in splitter.feed(data):
                    if not echo.is_echo(line) and _search(wanted, line):
                        return line
                await asyncio.sleep(0)  # a long log is read in one go otherwise
        raise AssertionError  # a log is followed for ever


class _Line:
    """The socket, held while somebody writes; what comes out of it is in the log already and dropped.

    Our own calls and not asyncio's streams: those say a byte is written when it is merely queued.
    """

    def __init__(self, name: str) -> None:
        self.taken = False
        self._name = name
        self._turn = asyncio.Lock()
        self._drain: asyncio.Task[None] | None = None
        self._socket: socket.socket | None = None

    async def open(self, path: pathlib.Path) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            async with asyncio.timeout(_CONNECT_BOUND):
                await asyncio.get_running_loop().sock_connect(connection, os.fspath(path))
        except OSError as error:
            connection.close()
            if isinstance(error, TimeoutError):
                raise errors.TimedOut(what=str(path), bound=_CONNECT_BOUND) from error
            raise base.NotRunning(name=self._name) from error
        except BaseException:
            connection.close()
            raise
        self._socket = connection
        self._drain = asyncio.create_task(_drop(connection))

    async def write(self, data: bytes) -> None:
        try:
            async with asyncio.timeout(_WRITE_BOUND), self._turn:
                if (connection := self._socket) is None:
                    raise BrokenPipeError
                for start in range(0, len(data), _KEYSTROKES):
                    await asyncio.get_running_loop().sock_sendall(connection, data[start : start + _KEYSTROKES])
        except TimeoutError as error:
            raise errors.TimedOut(what=self._name, bound=_WRITE_BOUND) from error
        except OSError as error:
            raise (TakenOver if self.taken else base.NotRunning)(name=self._name) from error

    async def close(self) -> None:
        connection, self._socket = self._socket, None
        if connection is None:
            return
        try:
            with contextlib.suppress(OSError):
                await _read_by_peer(connection)
        finally:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # whoever still reads or writes is woken
            if self._drain:
                self._drain.cancel()
                await asyncio.wait([self._drain])
            async with self._turn:
                connection.close()


_held: dict[pathlib.Path, _Line] = {}  # who writes on which line, in all of this process


async def _drop(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        while await loop.sock_recv(connection, _PIECE):
            pass


async def _read_by_peer(connection: socket.socket) -> None:
    """Wait until QEMU has taken what was typed last: it drops what it has not read when we hang up.

    A guest that reads nothing for five seconds is not waited for.
    """
    patience, left = _PATIENCE, _unread(connection.fileno())
    while left and patience > 0:
        await asyncio.sleep(_PAUSE)
        before, left = left, _unread(connection.fileno())
        patience = _PATIENCE if left < before else patience - _PAUSE


def _unread(descriptor: int) -> int:
    """Bytes that the other end of a Unix socket has not read yet (unix(7), SIOCOUTQ)."""
    held: tuple[int] = struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)))
    return held[0]


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
