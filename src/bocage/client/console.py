"""The serial console of a VM over a WebSocket: bytes in, bytes out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bocage import errors
from bocage.client import problems
from bocage.client.connection import segment, target
from bocage.client.rest import Client
from bocage.words import N_

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

_OPEN_WITHIN = 15.0
_DONE, _REFUSED = 1000, 4400  # closing codes from 4400 on are 4000 and an HTTP status


class Lost(problems.Error, errors.Unavailable):
    """The console ended, and not because of its VM."""

    type = "console-lost"
    text = N_("the connection to the console of {name} broke; the guest goes on")
    hint = N_("attach again; 'bocage daemon status' says whether the daemon runs")
    name: str


class Console:
    """An open console. `receive` and `send` may be called from two threads."""

    def __init__(self, socket: ClientConnection, *, name: str) -> None:
        self.farewell = ""
        """Why it has ended by itself, in words."""
        self._socket = socket
        self._name = name
        self._left = False

    def receive(self) -> bytes | None:
        """The next bytes of the guest, waiting for them without bound; None when the console has ended.

        Raises problems.ProblemError when the API refuses it, and Lost.
        """
        from websockets import exceptions

        try:
            message = self._socket.recv()
        except exceptions.ConnectionClosed as closed:
            code, reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "")
            if code >= _REFUSED:
                raise problems.ProblemError(problem="console", http_status=code - 4000, sentence=reason) from closed
            if code != _DONE and not self._left:
                raise Lost(name=self._name) from closed
            self.farewell = reason
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
        """Leave it."""
        self._left = True
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
        yield Console(socket, name=name)


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
