"""What is done inside a guest through its agent: commands, and files both ways."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from bocage.client import problems
from bocage.client.connection import segment
from bocage.client.rest import Client

_PIECE = 1 << 18
_GRACE = 180.0  # seconds beside the command's own time
_SILENCE = 300.0  # seconds: a guest may be slow
Show = Callable[[str, bytes], object]


def execute(client: Client, name: str, command: Sequence[str], *, stdin: bytes, timeout: float, show: Show) -> Any:
    """Run a program in the guest, and show what it said (`stdout` or `stderr`, a piece) when it has ended.

    It is asked for once, whatever comes: a broken connection leaves it unknown whether it ran.
    Gives how it ended: `exit_code`, `signal`, `cut`. Raises problems.Error.
    """
    asked = {"command": list(command), "stdin": base64.b64encode(stdin).decode(), "timeout": timeout}
    path = f"{client.vms.path}/{segment(name)}/exec"
    with client.connection.stream("POST", path, document=asked, within=timeout + _GRACE) as response:
        while line := response.readline():
            told = json.loads(line)
            if "exit_code" in told:
                return told
            for stream, data in told.items():
                show(stream, base64.b64decode(data))
    raise problems.Broken(reason="it ended too soon")


@contextlib.contextmanager
def read(client: Client, name: str, path: str) -> Iterator[tuple[int, Iterator[bytes]]]:
    """A file of the guest: its size (0: not known), and its content. Raises problems.Broken when it is not whole."""
    where = f"{client.vms.path}/{segment(name)}/file"
    with client.connection.stream("GET", where, query={"path": path}, within=_SILENCE) as response:
        size = int(response.headers.get("Bocage-Size") or 0)

        def pieces() -> Iterator[bytes]:
            had = 0
            while piece := response.read(_PIECE):
                had += len(piece)
                yield piece
            if size and had != size:
                raise problems.Broken(reason="it ended too soon")

        yield size, pieces()


def write(client: Client, name: str, path: str, pieces: Iterable[bytes], *, mode: int | None = None) -> Any:
    """Write a file of the guest; what it is then: `size`, `mode`."""
    where = f"{client.vms.path}/{segment(name)}/file"
    query = {"path": path, "mode": None if mode is None else f"{mode & 0o777:03o}"}
    headers = {"Content-Type": "application/octet-stream"}
    return client.connection.request("PUT", where, query=query, body=pieces, headers=headers, within=_SILENCE).document
