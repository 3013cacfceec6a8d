"""A way to a member on which requests or answers can be held back, also beyond the client's patience."""

from __future__ import annotations

import asyncio
import contextlib
import urllib.parse
from collections.abc import AsyncIterator


class Lane:
    """A TCP relay. What has come in is carried on, once it may, whether or not the sender is still there."""

    def __init__(self, member: str) -> None:
        self.requests = asyncio.Event()
        self.answers = asyncio.Event()
        self.held = asyncio.Event()  # a request is being held back
        self.late = asyncio.Event()  # one that was held back has been answered
        self.delay = 0.0  # seconds that each answer takes
        self.address = ""
        self._target = urllib.parse.urlsplit(member)
        self._tasks: set[asyncio.Task[None]] = set()
        self.open()

    def open(self) -> None:
        """Let all through."""
        self.requests.set()
        self.answers.set()

    def hold_requests(self) -> None:
        self.held.clear()
        self.late.clear()
        self.requests.clear()

    def hold_answers(self) -> None:
        self.answers.clear()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client."""
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            theirs, ours = await asyncio.open_connection(self._target.hostname, self._target.port)
            held = asyncio.Event()
            back = asyncio.create_task(self._bring_back(theirs, writer, held))
            try:
                await self._pass_on(reader, ours, held)
                if not self.answers.is_set():
                    await self.answers.wait()
                if not back.done():  # the client has gone; what it asked for is done all the same
                    await asyncio.wait({back}, timeout=1)
            finally:
                back.cancel()
                await asyncio.gather(back, return_exceptions=True)
                ours.close()
                writer.close()

    async def _pass_on(self, source: asyncio.StreamReader, to: asyncio.StreamWriter, held: asyncio.Event) -> None:
        while piece := await source.read(1 << 16):
            if not self.requests.is_set():
                held.set()
                self.held.set()
            await self.requests.wait()
            with contextlib.suppress(OSError):
                to.write(piece)
                await to.drain()

    async def _bring_back(self, source: asyncio.StreamReader, to: asyncio.StreamWriter, held: asyncio.Event) -> None:
        while piece := await source.read(1 << 16):
            if held.is_set():
                self.late.set()
            await asyncio.sleep(self.delay)
            await self.answers.wait()
            with contextlib.suppress(OSError):
                to.write(piece)
                await to.drain()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def lane(member: str) -> AsyncIterator[Lane]:
    """A lane to a member, at an address of its own."""
    made = Lane(member)
    server = await asyncio.start_server(made.carry, "127.0.0.1", 0)
    made.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
        await made.close()
        await server.wait_closed()
