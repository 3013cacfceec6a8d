"""The connection to a QEMU that is made again whenever it was lost, and what the machine does as last heard on it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pathlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

from bocage import errors
from bocage.engine import base
from bocage.engine.qemu import qmp, runstate

BOUND = 10.0  # seconds for a command
_LOOK_BOUND = 3.0
_CONNECT_BOUND = 5.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds between two attempts to connect
_ATTEMPTS = 5  # to read a state that changes meanwhile

Heard = Callable[[qmp.Event], None]
Changed = Callable[[base.Run], None]


class Link:
    """One machine's monitor. `ended` is done when the process has ended."""

    def __init__(
        self, path: pathlib.Path, *, name: str, ended: asyncio.Future[Any], heard: Heard, changed: Changed
    ) -> None:
        self._path = path
        self._name = name
        self.ended = ended  # done when the process is gone
        self._on_event = heard
        self._on_change = changed
        self._seen = runstate.Seen()
        self._told = 0  # events so far
        self._monitor: qmp.Monitor | None = None
        self._up = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self.version = ""

    @property
    def run(self) -> base.Run:
        """What the machine does, as last heard."""
        return self._seen.run

    @property
    def shutdown(self) -> str:
        """The reason of the SHUTDOWN event; empty when none was heard."""
        return self._seen.shutdown

    async def open(self, *, within: float) -> None:
        """Connect once, as soon as there is somebody to connect to. Raises qmp.NoMonitor and qmp.TimedOut."""
        monitor = await qmp.connect(self._path, within=within, on_event=self._heard, ended=self.ended)
        self._monitor = monitor
        self.version = ".".join(map(str, monitor.version))
        self._up.set()

    def keep(self) -> None:
        """From now on connect again whenever the connection is lost."""
        self._keeper = asyncio.create_task(self._keep())

    async def close(self) -> None:
        """Let go of the machine."""
        if self._keeper:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        await self._drop()

    async def execute(self, command: str, arguments: Mapping[str, Any] | None = None, *, within: float = BOUND) -> Any:
        """What QEMU returns. Raises NotRunning, qmp.CommandFailed, qmp.Disconnected, and errors.TimedOut."""
        monitor = await self._connected(command, within)
        try:
            return await monitor.execute(command, arguments, within=within)
        except qmp.Disconnected:
            await self._check_alive()
            raise

    async def name_descriptor(self, descriptor: int, name: str) -> None:
        """Give QEMU a copy of a descriptor under a name."""
        await (await self._connected("getfd", BOUND)).name_descriptor(descriptor, name)

    async def add_descriptor(self, descriptor: int, *, of: str) -> str:
        """Give QEMU a copy of a descriptor, of a node's; the path under which its file commands open it."""
        number = await (await self._connected("add-fd", BOUND)).add_descriptor(descriptor, of=of)
        return f"/dev/fdset/{number}"

    @contextlib.contextmanager
    def events(self, *names: str) -> Iterator[AsyncIterator[qmp.Event]]:
        """The events of these names from now on. Raises NotRunning or errors.TimedOut when nobody is there."""
        if not self._monitor:
            raise errors.TimedOut(what="QEMU", bound=0.0)
        with self._monitor.events(*names) as heard:
            yield heard

    async def look(self) -> base.Run:
        """Ask what it does; UNKNOWN when it does not answer. Raises NotRunning."""
        try:
            await self._refresh()
        except (errors.TimedOut, qmp.Error):
            await self._check_alive()
            self._become(dataclasses.replace(self._seen, run=base.Run.UNKNOWN))
        return self.run

    async def status(self) -> str:
        """QEMU's own word for what it does."""
        answer = await self.execute("query-status", within=_LOOK_BOUND)
        return str(answer["status"])

    async def _refresh(self) -> None:
        for _ in range(_ATTEMPTS):
            told = self._told
            status = await self.status()
            blocks = await self.execute("query-block", within=_LOOK_BOUND) if status == "io-error" else ()
            if told == self._told:  # else an event has overtaken the answer
                return self._become(dataclasses.replace(self._seen, run=runstate.of_status(status, blocks)))
        return None

    async def _keep(self) -> None:
        pause = _FIRST_PAUSE
        while not self.ended.done():
            if self._monitor:
                await asyncio.wait([self._monitor.disconnected, self.ended], return_when=asyncio.FIRST_COMPLETED)
                await self._drop()
                if not self.shutdown:  # else its end is on the way
                    self._become(dataclasses.replace(self._seen, run=base.Run.UNKNOWN))
                continue
            try:
                await self.open(within=_CONNECT_BOUND)
                await self._refresh()
                pause = _FIRST_PAUSE
            except (errors.TimedOut, qmp.Error, base.Error):
                await self._drop()
                await asyncio.wait([self.ended], timeout=pause)
                pause = min(pause * 2, _LONGEST_PAUSE)

    async def _drop(self) -> None:
        monitor, self._monitor = self._monitor, None
        self._up.clear()
        if monitor:
            await monitor.close()

    async def _connected(self, command: str, within: float) -> qmp.Monitor:
        if not self._monitor:
            await self._check_alive()
            try:
                async with asyncio.timeout(within):
                    await self._up.wait()
            except TimeoutError as error:
                await self._check_alive()
                raise qmp.TimedOut(what=command, bound=within) from error
        assert self._monitor
        return self._monitor

    async def _check_alive(self) -> None:
        await asyncio.sleep(0)  # the process's end may be known already and not told yet
        if self.ended.done():
            raise base.NotRunning(name=self._name)

    def _heard(self, event: qmp.Event) -> None:
        self._told += 1
        self._become(runstate.after(self._seen, event.name, event.data))
        self._on_event(event)

    def _become(self, seen: runstate.Seen) -> None:
        before, self._seen = self._seen.run, seen
        if before is not seen.run and not self.ended.done():
            self._on_change(seen.run)
