"""What is no state is asked of the node that has it, this host's or another's: streams both ways."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
import urllib.parse
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from bocage import errors, words
from bocage.api import bodies, ways
from bocage.model import ground
from bocage.store import resources
from bocage.store.etcd import access
from bocage.words import N_

if TYPE_CHECKING:
    import httpx

WITHIN = 60.0  # seconds that the node has to begin its answer
_PASSED = ("content-type", "content-length", "content-disposition", "bocage-offset", "bocage-size", "upload-offset")
_GOING_AWAY, _UNEXPECTED = 1001, 1011  # RFC 6455, section 7.4.1
_REASON = 120  # bytes that it may have at most (section 5.5)


class BrokeOff(ways.Error, errors.Unavailable):
    type = "node-broke-off"
    status = 502
    text = N_("the node broke off its answer: {reason}")
    hint = N_("'bocage daemon log' has more")
    reason: str


class Said(ways.Error):
    """A problem of the node's that this version does not know by its type."""

    type = "node-problem"
    text = N_("the node says: {name} {said}")
    name: str
    said: str


class Nodes:
    """The nodes of all hosts. `papers` are this host's, where it is part of a cluster."""

    def __init__(
        self,
        kept: resources.Resources,
        socket: pathlib.Path,
        closing: asyncio.Event,
        *,
        host: str | None = None,
        papers: access.Certificates | None = None,
    ) -> None:
        self._kept, self._closing = kept, closing
        self._host, self._papers = host, papers
        self.own = Node(ways.Own(socket), closing)
        self._others: dict[str, tuple[object, Node]] = {}  # by host: what its client was made of, and the node there

    @property
    def alone(self) -> bool:
        """Whether this host is part of no cluster."""
        return self._papers is None

    async def of(self, host: str | None) -> Node:
        """The node of a host; this one's when none is named. Raises resources.Missing and ways.HostSilent."""
        if host in (None, self._host) or self._papers is None:
            return self.own
        found = await self._kept.get(ground.Host, None, host)
        way = ways.Other(found, self._papers)
        if not way.address:
            raise way.away("nobody knows its address")
        made_of = (way.address, self._papers.certificate.stat().st_mtime_ns)  # which is renewed
        known = self._others.get(found.uid)
        if known is None or known[0] != made_of:
            self._others[found.uid] = made_of, Node(way, self._closing)
            if known:
                await known[1].close()
        node = self._others[found.uid][1]
        node.way = way  # which knows when it was seen last
        return node

    async def close(self) -> None:
        """End what is kept open to them."""
        for node in (self.own, *(node for _, node in self._others.values())):
            await node.close()


class Node:
    """A host's node."""

    def __init__(self, way: ways.Way, closing: asyncio.Event) -> None:
        self.way = way
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
        """The node's answer as it comes. Raises its problems, what its way says, BrokeOff and errors.TimedOut."""
        import httpx

        request = self._http().build_request(
            method,
            path,
            params={name: _plain(value) for name, value in (query or {}).items() if value is not None},
            headers=dict(headers or {}),
            content=content,
            timeout=httpx.Timeout(None, connect=self.way.within),
        )
        try:
            async with asyncio.timeout(within):
                response = await self._unless_lost(self._http().send(request, stream=True))
        except TimeoutError as error:
            raise errors.TimedOut(what="the node", bound=within or 0) from error
        except ClientDisconnect as error:
            raise bodies.GoneAway from error
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise self.way.away(str(error) or f"no answer within {self.way.within:g} s") from error
        except httpx.TransportError as error:
            raise BrokeOff(reason=str(error) or type(error).__name__) from error
        passed = {name: response.headers[name] for name in _PASSED if name in response.headers}
        if response.status_code >= 400:
            content = await response.aread()
            await response.aclose()
            raise _told(response.status_code, content)
        return Stream(response, passed, self._closing, self.way)

    async def document(self, method: str, path: str, **options: Any) -> Any:
        """The node's answer, whole and as JSON; raises as `forward`."""
        answer = await self.forward(method, path, **options)
        assert isinstance(answer, Stream)
        return json.loads(await answer.whole())

    async def converse(self, socket: WebSocket, path: str, query: Mapping[str, Any]) -> None:
        """Carry a WebSocket's frames both ways until either side ends.

        Raises the node's problems, what its way says and BrokeOff before it is accepted.
        """
        from websockets.exceptions import InvalidHandshake, InvalidStatus

        tail = urllib.parse.urlencode({name: _plain(value) for name, value in query.items()})
        async with contextlib.AsyncExitStack() as stack:
            try:
                upstream = await stack.enter_async_context(self.way.converse(f"{path}?{tail}"))
            except InvalidStatus as refused:
                raise _told(refused.response.status_code, bytes(refused.response.body)) from refused
            except (OSError, TimeoutError, InvalidHandshake) as error:
                raise self.way.away(str(error)) from error
            await socket.accept()
            await _carry(socket, upstream, self._closing, self.way)

    async def _unless_lost(self, sending: Coroutine[Any, Any, httpx.Response]) -> httpx.Response:
        """Wait for the beginning of an answer, as long as the node is there at all."""
        answering, losing = asyncio.create_task(sending), asyncio.create_task(self.way.lost())
        try:
            await asyncio.wait([answering, losing], return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                return answering.result()
            raise losing.result()
        finally:
            losing.cancel()
            if not answering.done():
                answering.cancel()
            await asyncio.gather(answering, losing, return_exceptions=True)

    def _http(self) -> httpx.AsyncClient:
        if self._client is None:
            self._client = self.way.client()
        return self._client


class Stream(Response):
    """An answer of the node that is passed on piece by piece; it ends there when nobody listens here."""

    def __init__(
        self, upstream: httpx.Response, headers: Mapping[str, str], closing: asyncio.Event, way: ways.Way
    ) -> None:
        self._upstream = upstream
        self._closing, self._way = closing, way
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
            await first(self._pump(send), gone(receive), self._closing.wait(), _break_off(self._way))
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


async def _break_off(way: ways.Way) -> None:
    """Raise BrokeOff once the other end is gone without a word."""
    raise BrokeOff(reason=words.say(await way.lost()))


async def _carry(socket: WebSocket, upstream: Any, closing: asyncio.Event, way: ways.Way) -> None:
    from websockets.exceptions import ConnectionClosed

    async def down() -> None:
        with contextlib.suppress(ConnectionClosed):
            async for piece in upstream:
                await (socket.send_bytes(piece) if isinstance(piece, bytes) else socket.send_text(piece))

    async def up() -> None:
        with contextlib.suppress(ConnectionClosed, WebSocketDisconnect):
            while (message := await socket.receive())["type"] == "websocket.receive":
                await upstream.send(message.get("bytes") if message.get("bytes") is not None else message["text"])

    losing = asyncio.ensure_future(way.lost())
    try:
        await first(down(), up(), closing.wait(), asyncio.wait([losing]))
    finally:
        losing.cancel()
    if socket.client_state is WebSocketState.CONNECTED and socket.application_state is WebSocketState.CONNECTED:
        code, reason = _GOING_AWAY if closing.is_set() else upstream.close_code, upstream.close_reason or ""
        if losing.done() and not losing.cancelled():
            code, reason = 4000 + losing.result().status, words.say(losing.result())
        known = code is not None and (code in (1000, _GOING_AWAY) or 4000 <= code < 5000)
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await socket.close(code if known else _UNEXPECTED, reason[:_REASON])


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
