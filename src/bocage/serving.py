"""The one way to serve HTTP inside the daemon's loop: no signals taken, streams ended at the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

_START_BOUND = 10.0  # seconds
_STOP_BOUND = 5.0
_BACKLOG = 2048
LONGEST_HEAD = 64 << 10  # bytes of the request line and the headers
_HOST, _STRANGER = ("host", 0), ("stranger", 0)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the daemon's."""
        yield


class Socket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, without the error that it logs after a refusal that has a body."""

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and self.close_sent:
            self.handshake_complete = True


@contextlib.asynccontextmanager
async def on(listener: socket.socket, app: Any, **options: Any) -> AsyncIterator[None]:
    """Serve `app` on a bound socket until the end of the block; `options` are uvicorn's."""
    options.setdefault("ws", Socket)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=2, **options
    )
    server = _Server(config)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        async with asyncio.timeout(_START_BOUND):
            while not server.started:
                if running.done():
                    running.result()
                await asyncio.sleep(0.005)
        yield
    finally:
        server.should_exit = True
        await asyncio.wait([running], timeout=_STOP_BOUND)
        running.cancel()
        listener.close()


def listen(address: str, port: int) -> socket.socket:
    """A socket that listens on an IP address. Raises OSError."""
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


@contextlib.asynccontextmanager
async def unix(app: Any, path: pathlib.Path, *, mode: int, **options: Any) -> AsyncIterator[None]:
    """Serve `app` on a Unix socket that has `mode` from its first moment. Raises OSError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    _remove(path)
    before = os.umask(0o777 & ~mode)
    try:
        listener.bind(os.fspath(path))
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    async with on(listener, app, **options):
        yield
    _remove(path)


class Bounded(HttpToolsProtocol):
    """HTTP with a bound on a request's head."""

    _head = 0

    def on_message_begin(self) -> None:
        self._head = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def _count(self, more: int) -> None:
        self._head += more
        if self._head > LONGEST_HEAD:
            raise ValueError("the head of the request is too long")


class _KnownHost(Bounded):
    """`scope["client"]` is `("host", 0)` where the other end has a certificate, else `("stranger", 0)`."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.client = _who(transport)


class _KnownHostSocket(Socket):
    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.client = _who(transport)


@contextlib.asynccontextmanager
async def tls(
    app: Any, listener: socket.socket, *, authority: pathlib.Path, certificate: pathlib.Path, key: pathlib.Path
) -> AsyncIterator[None]:
    """Serve `app` over TLS; whether the other end has a certificate of `authority` is known by `is_host`."""
    async with on(
        listener,
        app,
        http=_KnownHost,
        ws=_KnownHostSocket,
        ws_per_message_deflate=False,
        proxy_headers=False,
        server_header=False,
        ssl_certfile=os.fspath(certificate),
        ssl_keyfile=os.fspath(key),
        ssl_ca_certs=os.fspath(authority),
        ssl_cert_reqs=ssl.CERT_OPTIONAL,
    ):
        yield


def is_host(scope: Mapping[str, Any]) -> bool:
    """Whether who asks over `tls` has a certificate of the authority."""
    return tuple(scope.get("client") or ()) == _HOST


def _who(transport: Any) -> tuple[str, int]:
    return _HOST if transport.get_extra_info("peercert") else _STRANGER


def _remove(path: pathlib.Path) -> None:
    path.unlink(missing_ok=True)
