"""What is no state is asked of the node, over its own interface on a Unix socket: streams both ways."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import urllib.parse
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from bocage import errors, words
from bocage.api import bodies, problems
from bocage.words import N_

if TYPE_CHECKING:
    import httpx

WITHIN = 60.0  # seconds that the node has to begin its answer
_CONNECT = 5.0
_PASSED = ("content-type", "content-length", "content-disposition", "bocage-offset", "bocage-size", "upload-offset")
_PIECE = 256 << 10  # bytes; the largest frame of a console
_GOING_AWAY, _UNEXPECTED = 1001, 1011  # RFC 6455, section 7.4.1


class Error(problems.Error):
    """The node did not do what it was asked."""


class Away(Error, errors.Unavailable):
    type = "node-away"
    text = N_("this host's node does not answer: {reason}")
    hint = N_("it may be starting; 'bocage daemon status' says whether it runs")
    reason: str


class BrokeOff(Error, errors.Unavailable):
    type = "node-broke-off"
    status = 502
    text = N_("the node broke off its answer: {reason}")
    hint = N_("'bocage daemon log' has more")
    reason: str


class Said(Error):
    """A problem of the node's that this version does not know by its type."""

    type = "node-problem"
    text = N_("the node says: {name} {said}")
    name: str
    said: str


class Node:
    """A host's node."""

    def __init__(self, socket: pathlib.Path, closing: asyncio.Event) -> None:
        self._socket = socket
        self._closing = closing
        self._client: httpx.AsyncClient | None = None

    async def close(self) -> None:
        """End what is kept open to it."""
        if self._client:
            await self._client.aclose()

    async def forward(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        content: AsyncIterator[bytes] | bytes | None = None,
        within: float | None = WITHIN,
    ) -> Response:
        """The node's answer as it comes. Raises its problems, Away, BrokeOff and errors.TimedOut."""
        import httpx

        request = self._http().build_request(
            method,
            path,
            params={name: _plain(value) for name, value in (query or {}).items() if value is not None},
            headers=dict(headers or {}),
            content=content,
            timeout=httpx.Timeout(None, connect=_CONNECT),
        )
        try:
            async with asyncio.timeout(within):
                response = await self._http().send(request, stream=True)
        except TimeoutError as error:
            raise errors.TimedOut(what="the node", bound=within or 0) from error
        except ClientDisconnect as error:
            raise bodies.GoneAway from error
        except httpx.ConnectError as error:
            raise Away(reason=str(error)) from error
        except httpx.TransportError as error:
            raise BrokeOff(reason=str(error) or type(error).__name__) from error
        passed = {name: response.headers[name] for name in _PASSED if name in response.headers}
        if response.status_code >= 400:
            content = await response.aread()
            await response.aclose()
            raise _told(response.status_code, content)
        return Stream(response, passed, self._closing)

    async def document(self, method: str, path: str, **options: Any) -> Any:
        """The node's answer, whole and as JSON; raises as `forward`."""
        answer = await self.forward(method, path, **options)
        assert isinstance(answer, Stream)
        return json.loads(await answer.whole())

    async def converse(self, socket: WebSocket, path: str, query: Mapping[str, Any]) -> None:
        """Carry a WebSocket's frames both ways until either side ends.

        Raises the node's problems, Away and BrokeOff before it is accepted.
        """
        from websockets.asyncio import client
        from websockets.exceptions import InvalidHandshake, InvalidStatus

        tail = urllib.parse.urlencode({name: _plain(value) for name, value in query.items()})
        async with contextlib.AsyncExitStack() as stack:
            try:
                upstream = await stack.enter_async_context(
                    client.unix_connect(
                        os.fspath(self._socket),
                        f"ws://node{path}?{tail}",
                        open_timeout=_CONNECT,
                        close_timeout=1,
                        max_size=_PIECE * 4,
                        compression=None,
                    )
                )
            except InvalidStatus as refused:
                raise _told(refused.response.status_code, bytes(refused.response.body)) from refused
            except (OSError, TimeoutError, InvalidHandshake) as error:
                raise Away(reason=str(error)) from error
            await socket.accept()
            await _carry(socket, upstream, self._closing)

    def _http(self) -> httpx.AsyncClient:
        import httpx  # late: large, and not needed before somebody asks for a stream

        if self._client is None:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=8, keepalive_expiry=5)
            transport = httpx.AsyncHTTPTransport(uds=os.fspath(self._socket), limits=limits)
            self._client = httpx.AsyncClient(transport=transport, base_url="http://node", trust_env=False)
        return self._client


class Stream(Response):
    """An answer of the node that is passed on piece by piece; it ends there when nobody listens here."""

    def __init__(self, upstream: httpx.Response, headers: Mapping[str, str], closing: asyncio.Event) -> None:
        self._upstream = upstream
        self._closing = closing
        self.status_code = upstream.status_code
        self.background = None
        self.body = b""
        self.raw_headers = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]

    async def whole(self) -> bytes:
        """All of it."""
        import httpx

        try:
            return await self._upstream.aread()
        except httpx.TransportError as error:
            raise BrokeOff(reason=str(error) or type(error).__name__) from error
        finally:
            await self._upstream.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await first(self._pump(send), gone(receive), self._closing.wait())
        finally:
            await self._upstream.aclose()

    async def _pump(self, send: Send) -> None:
        import httpx

        try:
            async for piece in self._upstream.aiter_raw():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        except httpx.TransportError as error:
            raise BrokeOff(reason=str(error) or type(error).__name__) from error
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def first(*doing: Any) -> None:
    """Wait until one of them has ended, end the others; raises what that one raised."""
    tasks = [asyncio.ensure_future(one) for one in doing]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        if task in done:
            task.result()


async def gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _carry(socket: WebSocket, upstream: Any, closing: asyncio.Event) -> None:
    from websockets.exceptions import ConnectionClosed

    async def down() -> None:
        with contextlib.suppress(ConnectionClosed):
            async for piece in upstream:
                await (socket.send_bytes(piece) if isinstance(piece, bytes) else socket.send_text(piece))

    async def up() -> None:
        with contextlib.suppress(ConnectionClosed, WebSocketDisconnect):
            while (message := await socket.receive())["type"] == "websocket.receive":
                await upstream.send(message.get("bytes") if message.get("bytes") is not None else message["text"])

    await first(down(), up(), closing.wait())
    if socket.client_state is WebSocketState.CONNECTED and socket.application_state is WebSocketState.CONNECTED:
        code = _GOING_AWAY if closing.is_set() else upstream.close_code
        known = code is not None and (code in (1000, _GOING_AWAY) or 4000 <= code < 5000)
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await socket.close(code if known else _UNEXPECTED, upstream.close_reason or "")


def _told(status: int, content: bytes) -> errors.Problem:
    try:
        told = json.loads(content)
        message = words.revive(str(told["type"]), dict(told["params"]))
    except (ValueError, KeyError, TypeError):
        said = content[:200].decode(errors="replace") or f"status {status}"
        return BrokeOff(reason=said)
    if isinstance(message, errors.Problem):
        return message
    said = getattr(message, "said", "") or words.say(message)
    problem = Said(name=str(told["type"]), said=said)
    problem.__dict__["status"] = status
    return problem


def _plain(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)
