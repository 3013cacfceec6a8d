"""A console's bytes over a WebSocket, both ways, until either side leaves or the VM is off."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.websockets import WebSocket, WebSocketDisconnect

from bocage import words
from bocage.engine import base as engine
from bocage.engine.qemu import console
from bocage.node import notes
from bocage.node.life.standing import Standing

_DONE, _GOING_AWAY = 1000, 1001  # RFC 6455, section 7.4.1
_REASON = 120  # bytes that its section 5.5 has room for


class Conversation:
    """One console that somebody looks at, of a VM that runs; with `type` set, also writes on."""

    def __init__(self, socket: WebSocket, line: console.Console, standing: Standing) -> None:
        self.type: console.Write | None = None
        self._socket = socket
        self._line = line
        self._standing = standing
        self._machine = standing.machine

    async def carry(self) -> None:
        """Carry bytes until the end. When the VM is off, all that it said has been shown and the socket is closed.

        Raises console.TakenOver and errors.TimedOut as typing does.
        """
        end = asyncio.create_task(self._standing.until_ended())
        both = [asyncio.create_task(self._show(end)), asyncio.create_task(self._listen())]
        try:
            done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                with contextlib.suppress(WebSocketDisconnect, RuntimeError):
                    one.result()
        finally:
            for one in (end, *both):
                one.cancel()
            await asyncio.wait([end, *both])
        if both[0] in done:
            off = self._standing.machine is not self._machine  # else the node lets go of it
            reason = words.say(notes.Stopped(name=self._line.name)) if off else ""
            await close(self._socket, _DONE if off else _GOING_AWAY, reason)

    async def _show(self, end: asyncio.Task[None]) -> None:
        async with contextlib.aclosing(self._line.watch(until=end)) as pieces:
            async for piece in pieces:
                await self._socket.send_bytes(piece)

    async def _listen(self) -> None:
        while (message := await self._socket.receive())["type"] == "websocket.receive":
            keys = message.get("bytes") or (message.get("text") or "").encode()
            if self.type:
                with contextlib.suppress(engine.NotRunning):  # which ends all of this in a moment
                    await self.type(keys)


async def close(socket: WebSocket, code: int, reason: str) -> None:
    """Say why it ends, to whoever is still there."""
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        await socket.close(code, reason.encode()[:_REASON].decode(errors="ignore"))
