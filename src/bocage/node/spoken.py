"""What daemon, beat and guard say to each other over their sockets: one JSON document a line.

It imports little, since beat and guard are small. A document's `say` names it. Times are seconds of CLOCK_BOOTTIME,
which all of them read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import socket
import time
from typing import Any

from bocage.protocol import records

Document = dict[str, Any]

LONGEST = 1 << 20  # bytes of a line
_QUEUE = 16


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot() -> str:
    """The kernel's name for the present boot."""
    return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def line(say: str, **fields: Any) -> bytes:
    """A line; lives and bounds in it as documents."""
    return json.dumps({"say": say, **fields}, default=dataclasses.asdict).encode() + b"\n"


def life(told: Document | None) -> records.Life | None:
    """Raises KeyError, TypeError."""
    return records.Life(**told) if told else None


def bounds(told: Document) -> records.Bounds:
    """Raises TypeError."""
    return records.Bounds(**told)


class Splitter:
    """Documents out of a stream, however it comes in pieces."""

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, piece: bytes) -> list[Document]:
        """The documents that are whole now. Raises ValueError: whoever speaks is none of ours."""
        *whole, self._pending = (self._pending + piece).split(b"\n")
        if len(self._pending) > LONGEST:
            raise ValueError("a line without an end")
        return [json.loads(one) for one in whole]


def listen(path: pathlib.Path) -> socket.socket:
    """A socket at `path`, in place of one that was there: whoever comes from now on comes here."""
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        beside.unlink()
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    made.bind(os.fspath(beside))
    beside.chmod(0o600)
    made.listen(_QUEUE)
    beside.rename(path)
    return made
