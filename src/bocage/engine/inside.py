"""What one does inside a guest through its agent: run commands, read and write files, set passwords."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Iterator
from typing import BinaryIO, Protocol

from bocage import errors
from bocage.words import N_


class Error(errors.Problem):
    """What was asked for inside the guest did not come to a good end."""


class NeverEnded(Error, errors.Unavailable):
    """Its time is over; an agent cannot end what it began."""

    type = "guest-command-runs-on"
    status = 504
    text = N_("the command has not ended within {bound:seconds}; it runs on in the guest as process {pid}")
    hint = N_("--timeout gives it more; end it in the guest when it should not go on")
    bound: float
    pid: int


class Lost(Error, errors.Unavailable):
    """It was begun, and nobody knows how it ended."""

    type = "guest-command-lost"
    text = N_("the guest agent no longer tells how the command ends that runs as process {pid}")
    hint = N_("the guest may have been restarted, or its agent")
    pid: int


class NotWhole(Error, errors.Conflict):
    """A file is not as long as what was sent."""

    type = "guest-file-not-whole"
    text = N_("{path} has {found} bytes in the guest, {sent} were sent")
    hint = N_("look whether the guest's disk is full, then copy it again")
    path: str
    found: int
    sent: int


@dataclasses.dataclass(frozen=True, slots=True)
class Order:
    """A command for the guest. Its program is looked for in the agent's PATH."""

    command: tuple[str, ...]
    stdin: bytes = b""
    within: float = 60.0  # seconds


@dataclasses.dataclass(frozen=True, slots=True)
class Exit:
    """How a command ended: its exit code, or the signal (in Windows: the exception) that ended it.

    The agent keeps 16 MiB of each stream; `cut` names those of which there was more.
    """

    code: int | None
    signal: int | None
    cut: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Output:
    """Base64 of a piece of `stdout` or `stderr`."""

    stream: str
    data: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Written:
    size: int
    mode: int | None  # that it has now; None: what the guest made of it


class Inside(Protocol):
    """The way into one guest. All raise agent.Absent and agent.Refused of the engine."""

    async def execute(self, order: Order, spool: BinaryIO) -> Exit:
        """Run a command to its end, with its output in `spool` then. Raises NeverEnded and Lost."""
        ...

    def output(self, spool: BinaryIO) -> Iterator[Output]:
        """What a command has said, in pieces, first all of stdout."""
        ...

    def read(self, path: str) -> contextlib.AbstractAsyncContextManager[tuple[int, AsyncIterator[bytes]]]:
        """A file's size (0: not known beforehand), and as much of it in pieces."""
        ...

    async def write(self, path: str, pieces: AsyncIterator[bytes], *, mode: int | None = None) -> Written:
        """Write a file; one that is there is emptied first and keeps its mode. Raises NotWhole."""
        ...

    async def set_password(self, user: str, password: str) -> None:
        """Give an account of the guest another password."""
        ...
