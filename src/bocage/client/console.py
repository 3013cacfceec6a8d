"""The serial console of a VM over a WebSocket: bytes in, bytes out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bocage.client import problems
from bocage.client.connection import segment, target
from bocage.client.rest import Client

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

_OPEN_WITHIN = 15.0
_REFUSED = 4400  # closing codes from here on are 4000 and an HTTP status


class Console:
    """An open console. `receive` and `send` may be called from two threads."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    def receive(self) -> bytes | None:
        """The next bytes of the guest, waiting for them without bound; None when the console has ended.

        Raises problems.ProblemError when the API refuses it.
        """
        from websockets import exceptions

        try:
            message = self._socket.recv()
        except exceptions.ConnectionClosed as closed:
            code, reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "")
            if code >= _REFUSED:
                raise problems.ProblemError(problem="console", http_status=code - 4000, sentence=reason) from closed
            return None
        return message.encode() if isinstance(message, str) else message

    def send(self, data: bytes) -> bool:
        """Type `data`; False when the console has ended."""
        from websockets import exceptions

        try:
            self._socket.send(data)
        except exceptions.ConnectionClosed:
            return False
        return True

    def close(self) -> None:
        self._socket.close()


@contextlib.contextmanager
def attach(client: Client, name: str, *, write: bool = True, take: bool = False) -> Iterator[Console]:
    """Attach to a VM's console; `take` takes the writer's place from whoever has it.

    Raises problems.Error.
    """
    from websockets import exceptions

    at = client.connection.address
    with contextlib.ExitStack() as undo:
        try:
            socket = undo.enter_context(_connection(client, name, write=write, take=take))
        except exceptions.InvalidStatus as refused:
            answer = refused.response
            raise problems.read(answer.status_code, bytes(answer.body or b""), address=str(at)) from refused
        except (OSError, exceptions.WebSocketException) as error:
            raise problems.Unreachable(address=str(at), reason=str(error).lower()) from error
        yield Console(socket)


def _connection(client: Client, name: str, *, write: bool, take: bool) -> ClientConnection:
    from websockets.sync import client as ws

    at, headers = client.connection.address, client.connection.headers
    path = target(f"{client.vms.path}/{segment(name)}/console", {"write": write, "take": take})
    if at.socket:
        return ws.unix_connect(
            at.socket,
            uri=f"ws://bocage{path}",
            additional_headers=headers,
            open_timeout=_OPEN_WITHIN,
            compression=None,
        )
    scheme = "wss" if at.scheme == "https" else "ws"
    uri = f"{scheme}://{at.host}:{at.port}{path}"
    return ws.connect(uri, additional_headers=headers, open_timeout=_OPEN_WITHIN, compression=None)
