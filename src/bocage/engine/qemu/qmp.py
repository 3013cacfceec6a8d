"""The monitor of a running QEMU: bounded commands, events, descriptors (QMP: QEMU's docs/interop/qmp-spec)."""

from __future__ import annotations

import array
import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self, cast

from qemu.qmp import (
    ConnectError,
    EventListener,
    ExecInterruptedError,
    ExecuteError,
    Message,
    QMPClient,
    Runstate,
    StateError,
)

from bocage import errors
from bocage.words import N_

logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # what it logs is raised as well

_BOUND = 10.0  # seconds for a command
_CLOSE_BOUND = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.02  # seconds between two looks for the socket


class Error(errors.Problem):
    """The monitor did not do what was asked."""


class TimedOut(Error, errors.TimedOut):
    """No answer within the bound. The command may still be carried out later."""

    type = "monitor-timed-out"
    text = N_("QEMU did not answer '{what}' within {bound:seconds}")


class CommandFailed(Error, errors.Conflict):
    """QEMU said no. `kind` is QMP's error class, mostly `GenericError`."""

    type = "monitor-command-failed"
    text = N_("QEMU refused '{command}': {description}")
    command: str
    kind: str
    description: str


class Disconnected(Error, errors.Unavailable, ConnectionError):
    """The connection ended; whether a command that waited was carried out is not known."""

    type = "monitor-disconnected"
    text = N_("the connection to QEMU's monitor was lost")


class NoMonitor(Error, errors.Unavailable, ConnectionError):
    """There is no QEMU that answers on this socket."""

    type = "monitor-missing"
    text = N_("no QEMU answers on {path}: {said}")
    path: str
    said: str


@dataclass(frozen=True, slots=True)
class Event:
    """What QEMU said by itself; `at` is its clock, seconds since 1970."""

    name: str
    data: Mapping[str, Any]
    at: float


Listener = Callable[[Event], None]


class Monitor:
    """A connection to one QEMU. Made by `connect`, ended by `close` or as an asynchronous context."""

    def __init__(self, client: _Client, connection: socket.socket) -> None:
        self._client = client
        self._connection = connection
        self._descriptors = asyncio.Lock()  # QEMU holds one passed descriptor at a time
        self.disconnected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watch = asyncio.create_task(self._watch_connection())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def connected(self) -> bool:
        """Whether the connection stands; a QEMU that hangs keeps it."""
        return not self.disconnected.done()

    @property
    def version(self) -> tuple[int, int, int]:
        """QEMU's version, as it greeted us."""
        greeting = self._client.greeting
        assert greeting
        qemu = cast("dict[str, int]", greeting.QMP.version["qemu"])
        return qemu["major"], qemu["minor"], qemu["micro"]

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        within: float = _BOUND,
        out_of_band: bool = False,
    ) -> Any:
        """What QEMU returns for a command. Raises CommandFailed, TimedOut, Disconnected.

        After TimedOut the command may still be carried out; its late answer is dropped.
        """
        try:
            async with asyncio.timeout(within):
                return await self._client.execute(command, arguments, oob=out_of_band)
        except TimeoutError as error:
            raise TimedOut(what=command, bound=within) from error
        except ExecuteError as error:
            raise CommandFailed(command=command, kind=error.error_class, description=str(error)) from error
        except (ExecInterruptedError, StateError) as error:
            raise Disconnected from error

    async def name_descriptor(self, descriptor: int, name: str, *, within: float = _BOUND) -> None:
        """Give QEMU a copy of a descriptor under a name (`getfd`). Raises as `execute`."""
        await self._with_descriptor(descriptor, "getfd", {"fdname": name}, within)

    async def add_descriptor(
        self, descriptor: int, *, fdset: int | None = None, of: str = "", within: float = _BOUND
    ) -> int:
        """Give QEMU a copy of a descriptor (`add-fd`); the number N of its `/dev/fdset/N`. Raises as `execute`.

        `of` is a word by which it is known again.
        """
        arguments: dict[str, Any] = {} if fdset is None else {"fdset-id": fdset}
        arguments |= {"opaque": of} if of else {}
        answer = await self._with_descriptor(descriptor, "add-fd", arguments, within)
        return int(answer["fdset-id"])

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with each event from now on, in order; returns what ends it."""
        self._client.heard.append(listener)
        return lambda: self._client.heard.remove(listener)

    @contextlib.contextmanager
    def events(self, *names: str) -> Iterator[AsyncIterator[Event]]:
        """The events of these names (all without), from now on. The iterator raises Disconnected at the end."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue()

        def heard(event: Event) -> None:
            if not names or event.name in names:
                queue.put_nowait(event)

        def ended(_: object) -> None:
            queue.put_nowait(None)

        stop = self.listen(heard)
        self.disconnected.add_done_callback(ended)
        try:
            yield _drain(queue)
        finally:
            self.disconnected.remove_done_callback(ended)
            stop()

    async def close(self) -> None:
        """End the connection; QEMU goes on. Commands that wait raise Disconnected."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        done, _ = await asyncio.wait([self._watch], timeout=_CLOSE_BOUND)
        if not done:
            self._watch.cancel()
            await asyncio.wait([self._watch])

    async def _with_descriptor(self, descriptor: int, command: str, arguments: Mapping[str, Any], within: float) -> Any:
        started = time.monotonic()
        try:
            async with asyncio.timeout(within):
                await self._descriptors.acquire()
        except TimeoutError as error:
            raise TimedOut(what=command, bound=within) from error
        try:
            # Our own call and not the library's: that one knows asyncio's loop alone.
            passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
            try:
                self._connection.sendmsg([b" "], passed)
            except BlockingIOError as error:
                raise TimedOut(what=command, bound=0.0) from error
            except OSError as error:
                raise Disconnected from error
            return await self.execute(command, arguments, within=max(0.0, within - (time.monotonic() - started)))
        finally:
            self._descriptors.release()

    async def _watch_connection(self) -> None:
        try:
            while self._client.runstate is Runstate.RUNNING:
                await self._client.runstate_changed()
        finally:
            with contextlib.suppress(Exception):  # why it ended has been told to those who waited
                await self._client.disconnect()
            self._connection.close()
            self.disconnected.set_result(None)


async def connect(
    path: str | os.PathLike[str],
    *,
    within: float = _BOUND,
    on_event: Listener | None = None,
    ended: asyncio.Future[Any] | None = None,
) -> Monitor:
    """Connect to a QEMU's QMP socket, which may not be there yet.

    `ended` is done when the process has ended, which ends the wait. QEMU answers one connection at a
    time: while another stands, this one times out. Raises NoMonitor, TimedOut.
    """
    started = time.monotonic()
    with contextlib.ExitStack() as undo:
        connection = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
        try:
            async with asyncio.timeout(within):
                await _reach(connection, os.fspath(path), ended)
        except TimeoutError as error:
            raise TimedOut(what="connect", bound=within) from error
        except NoMonitor:
            raise
        except OSError as error:
            raise NoMonitor(path=os.fspath(path), said=str(error)) from error
        undo.pop_all()
    left = max(0.0, within - (time.monotonic() - started))
    return await attach(connection, within=left, on_event=on_event)


async def attach(connection: socket.socket, *, within: float = _BOUND, on_event: Listener | None = None) -> Monitor:
    """Speak with the QEMU at the other end of a connected socket, which becomes the monitor's.

    Raises NoMonitor, TimedOut.
    """
    client = _Client()
    if on_event:
        client.heard.append(on_event)
    with contextlib.ExitStack() as undo:
        undo.callback(connection.close)
        connection.setblocking(False)
        try:
            async with asyncio.timeout(within):
                await client.connect(connection)
        except TimeoutError as error:
            raise TimedOut(what="qmp_capabilities", bound=within) from error
        except ConnectError as error:
            raise NoMonitor(path=_name(connection), said=str(error)) from error
        undo.pop_all()
    return Monitor(client, connection)


def _name(connection: socket.socket) -> str:
    with contextlib.suppress(OSError):
        return os.fsdecode(connection.getpeername())
    return ""


class _Client(QMPClient):
    """The library's client with our listeners, without its unread queue of events and its logging of each message."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Listener] = []
        self.events.event_filter = lambda _: False
        self.register_listener(_Relay(self.heard))

    def _cb_inbound(self, msg: Message) -> Message:
        return msg

    def _cb_outbound(self, msg: Message) -> Message:
        return msg


class _Relay(EventListener):
    def __init__(self, heard: list[Listener]) -> None:
        super().__init__()
        self._heard = heard

    async def put(self, event: Message) -> None:
        stamp = cast("dict[str, int]", event["timestamp"])
        data = cast("Mapping[str, Any]", event.get("data", {}))
        told = Event(str(event["event"]), data, stamp["seconds"] + stamp["microseconds"] / 1e6)
        for listener in list(self._heard):
            listener(told)


async def _drain(queue: asyncio.Queue[Event | None]) -> AsyncIterator[Event]:
    while event := await queue.get():
        yield event
    raise Disconnected


async def _reach(connection: socket.socket, path: str, ended: asyncio.Future[Any] | None) -> None:
    """Connect as soon as QEMU listens: its start takes some 50 ms, of which this adds one at most."""
    pause = _FIRST_PAUSE
    waited = 0.0
    while True:
        try:
            return connection.connect(path)
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError) as error:
            if ended and ended.done():
                raise NoMonitor(path=path, said=N_("the process has ended")) from error
        await asyncio.sleep(pause)
        waited += pause
        if waited > 0.5:
            pause = min(pause * 2, _LONGEST_PAUSE)
