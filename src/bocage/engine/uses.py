"""What one VM's process uses, what its guest gives back, and what holds it to its share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol

from bocage.model import sample, share


@dataclasses.dataclass(frozen=True, slots=True)
class ProcessUse:
    """What the monitor's process has used since it was started."""

    cpu_seconds: float
    wait_seconds: float | None  # that its vCPUs were ready and got no CPU; None where nobody counts
    memory: int  # bytes that it has of the host's now


class Meter(Protocol):
    """What one VM's process uses."""

    traffic: Mapping[str, sample.NicUse]
    """The guest's own counters by MAC, from the last answer to `guest_addresses`."""

    def process(self) -> ProcessUse:
        """At the price of microseconds. Raises NotRunning."""
        ...

    async def disks(self) -> dict[str, sample.DiskUse]:
        """The counters of its disks and CDs, by their names."""
        ...

    async def guest_memory(self) -> sample.GuestMemory | None:
        """What the guest told last; None when its driver tells nothing (yet)."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Ballooned:
    """What a guest has of its memory, and what its driver told last."""

    has: int  # bytes
    told: sample.GuestMemory | None
    told_at: int  # the host's clock, seconds; 0: it has told nothing since the process was started


class Balloon(Protocol):
    """The device by which a guest gives memory back. Sizes are of all that the guest has, in bytes."""

    async def look(self, *, every: int) -> Ballooned | None:
        """What it has now, and what it told last, at least so often (seconds); None where there is no balloon."""
        ...

    async def size(self) -> int:
        """What it has now. Raises NoBalloon."""
        ...

    async def ask(self, size: int) -> None:
        """Have the guest give back what is beyond, or take what is missing, as far as it can. Raises NoBalloon."""
        ...

    async def settle(self, size: int) -> int:
        """Ask, and wait while the guest still gives or takes; what it has then. Raises NoBalloon."""
        ...


class Growing(Protocol):
    """vCPUs and memory that come while it runs, within the room that was laid out for them, and go."""

    async def cpus(self) -> int:
        """How many vCPUs it has by now."""
        ...

    async def plug_cpus(self, count: int) -> int:
        """Give it so many vCPUs in all; how many it has then that the guest has said it took."""
        ...

    async def unplug_cpus(self, count: int) -> None:
        """Take vCPUs away that came later, until there are so many; only under KVM. Raises when the guest keeps one."""
        ...

    async def resize_memory(self, added: int) -> int:
        """Ask the guest to have so many bytes beside those it was started with; how many it has when it stands still.

        Raises NoRoom.
        """
        ...

    async def dimms(self) -> tuple[int, ...]:
        """Bytes of each DIMM that it was given since its cold start."""
        ...

    async def plug_dimm(self, number: int, size: int) -> bool:
        """Give it the DIMM of this number, from 0 on; whether the guest has said that it took it."""
        ...


class Holding(Protocol):
    """What holds one VM's process to its share. Each call can be made again; each raises CannotHold."""

    async def cpu(self, wanted: share.Cpu) -> None:
        """Weight, cap, pinning and NUMA node; not the reservation, which is the node's to know."""
        ...

    async def memory(self, most: int | None) -> None:
        """How many bytes of the host's the process may have; it is killed beyond that."""
        ...

    async def disk(self, name: str, own: share.Io, together: share.Io) -> None:
        """A disk's own limits, and those that it has with all others of this machine which are given them."""
        ...
