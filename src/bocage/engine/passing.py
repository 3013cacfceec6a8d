"""One machine's way to another host while its guest runs: its memory over a connection, from one monitor to another."""

from __future__ import annotations

import dataclasses
import enum
from typing import Protocol

DOWNTIME = 0.3  # seconds


class Stage(enum.StrEnum):
    """How far the monitor's own part is."""

    NONE = "none"
    COPYING = "copying"  # the vCPUs run
    STANDS = "stands"  # they stand, and the monitor waits to be told to send the rest
    ENDING = "ending"  # the rest is sent
    COMPLETED = "completed"  # the other side has all; this one never goes on by itself
    FAILED = "failed"  # also: cancelled


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """Of one passage."""

    bandwidth: int | None = None  # bytes a second; None: what the network takes
    downtime: float = DOWNTIME  # seconds that the guest should stand at most: more is copied while it runs


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """What was seen of it."""

    stage: Stage
    done: int = 0  # bytes sent
    left: int = 0  # of memory that was changed since, or not sent yet
    rate: int = 0  # bytes a second on the way
    dirty: int = 0  # bytes a second that the guest changes
    round: int = 0
    throttle: int = 0  # percent by which the guest is held back so that the end comes nearer
    why: str = ""  # the monitor's words where it failed


def is_live(accelerator: str) -> bool:
    """Whether the guest can run while its memory is sent, and nothing that it writes is missed.

    QEMU's emulated CPUs (`tcg`) mark a page before they write it, without a lock against the thread that takes the
    marks away and sends the page: a write between the two is not sent again, and the guest has an old page afterwards.
    """
    return accelerator != "tcg"


class Passing(Protocol):
    """Both ends. Everything on the way is enciphered with a key that serves once."""

    async def await_memory(self, key: str) -> None:
        """Make ready what was started to be one that comes."""
        ...

    async def receive(self, connection: int) -> None:
        """Take the memory from a connection, of which the monitor gets a copy."""
        ...

    async def send(self, connection: int, key: str, limits: Limits) -> None:
        """Begin to send it; the vCPUs run on until it STANDS. Raises engine.Error."""
        ...

    async def look(self) -> Progress:
        """How far it is."""
        ...

    async def changed(self, within: float) -> None:
        """Wait until the stage is another one, or so many seconds."""
        ...

    async def end(self) -> None:
        """Send the rest of what STANDS. From now on it may be COMPLETED at any moment."""
        ...

    async def cancel(self) -> bool:
        """End it, and let the vCPUs do what they did before. False: it was COMPLETED, and is so still."""
        ...

    async def tidy(self) -> None:
        """Afterwards: nothing of the passage is left in the monitor, and the switches know where its NICs are."""
        ...

    async def go_on(self, *, runs: bool) -> None:
        """The machine is here and nowhere else: its disks are this process's, and its vCPUs run.

        Told by whoever knows from the cluster's records that it is so, of either side.
        """
        ...
