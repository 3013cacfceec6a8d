"""The API on its Unix socket, and on an address of the network, inside the daemon's loop."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

from bocage import errors, serving
from bocage import home as homes_
from bocage.api import app as application
from bocage.api import problems
from bocage.membership import standing
from bocage.store import resources
from bocage.store.etcd import access
from bocage.words import N_

_CREDENTIALS = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid
_BACKLOG = 2048
_OPTIONS: dict[str, Any] = {
    "ws_max_size": 1 << 20,
    "ws_per_message_deflate": False,
    "proxy_headers": False,  # a header must never say who asks
    "server_header": False,
    "backlog": _BACKLOG,
    "timeout_keep_alive": 75,
}


class Error(problems.Error):
    """The API cannot be served."""


class BadAddress(Error, errors.Invalid):
    type = "listen-address-invalid"
    text = N_("'{listen}' is no address to listen on")
    hint = N_("BOCAGE_LISTEN is HOST:PORT, such as 127.0.0.1:8480 or [::1]:8480")
    listen: str


class AddressTaken(Error, errors.Conflict):
    type = "listen-address-taken"
    text = N_("{listen} cannot be listened on: {reason}")
    hint = N_("set BOCAGE_LISTEN to another HOST:PORT; 'ss -ltnp' shows who has this one")
    listen: str
    reason: str


class SocketUnusable(Error, errors.Unavailable):
    type = "api-socket-unusable"
    text = N_("the socket {path} cannot be made: {reason}")
    path: str
    reason: str


class Malformed(Error, errors.Invalid):
    """It is no HTTP, or its head is larger than any request's."""

    type = "request-malformed"
    status = 400
    text = N_("this is no HTTP request that can be read")
    hint = N_("the request line and the headers have {most:size} at most")
    most: int


class _Bounded(serving.Bounded):
    """Says what was wrong with a head."""

    def send_400_response(self, msg: str) -> None:
        answer = problems.response(Malformed(most=serving.LONGEST_HEAD))
        head = [b"HTTP/1.1 400 Bad Request", *(b"%s: %s" % pair for pair in answer.raw_headers), b"connection: close"]
        self.transport.write(b"\r\n".join(head) + b"\r\n\r\n" + bytes(answer.body))
        self.transport.close()


class _KnownPeer(_Bounded):
    """The same over a Unix socket: `scope["client"]` is `("unix", uid)`."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.client = ("unix", peer(transport))


class _KnownPeerSocket(serving.Socket):
    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.client = ("unix", peer(transport))


def peer(transport: Any) -> int:
    """The uid of who is at the other end of a Unix socket (unix(7), SO_PEERCRED)."""
    end: socket.socket = transport.get_extra_info("socket")
    _, uid, _ = _CREDENTIALS.unpack(end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(uid)


@contextlib.asynccontextmanager
async def serve(
    kept: resources.Resources,
    *,
    homes: homes_.Home,
    host: str | None = None,
    listen: str | None = None,
    membership: standing.Standing | None = None,
    papers: access.Certificates | None = None,
) -> AsyncIterator[Any]:
    """Serve the API until the end of the block; gives the application.

    `listen` is `HOST:PORT`; None: the Unix socket alone. Raises BadAddress, AddressTaken and SocketUnusable.
    """
    app = application.create(kept, node_socket=homes.node_socket, host=host, membership=membership, papers=papers)
    async with contextlib.AsyncExitStack() as undo:
        listener = bind(listen) if listen else None
        if listener:
            undo.callback(listener.close)
        try:
            await undo.enter_async_context(
                serving.unix(app, homes.socket, mode=0o600, http=_KnownPeer, ws=_KnownPeerSocket, **_OPTIONS)
            )
        except OSError as error:
            raise SocketUnusable(path=str(homes.socket), reason=error.strerror or str(error)) from error
        if listener:
            await undo.enter_async_context(serving.on(listener, app, http=_Bounded, **_OPTIONS))
        undo.push_async_callback(app.state.api.close)  # first of all: streams end, so that the servers can
        yield app


def bind(listen: str) -> socket.socket:
    """A socket that listens on `HOST:PORT`. Raises BadAddress and AddressTaken."""
    name, _, port = listen.rpartition(":")
    if not name or not port.isascii() or not port.isdigit() or not int(port) < 1 << 16:
        raise BadAddress(listen=listen)
    try:
        found = socket.getaddrinfo(name.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        raise BadAddress(listen=listen) from error
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise AddressTaken(listen=listen, reason=error.strerror or str(error)) from error
    return listener
