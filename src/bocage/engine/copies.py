"""A second copy of a running machine's disks on another host: every write is in both before the guest hears of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Copies(Protocol):
    """One machine's. Whoever drives it knows from the cluster's records when the guest may write here alone."""

    @property
    def progress(self) -> tuple[int, int]:
        """Bytes of the present pass: copied, and all of them."""
        ...

    def bar(self) -> None:
        """From now on its vCPUs go on by `release` alone; what runs is not stopped."""
        ...

    async def pause(self) -> None:
        """Have the vCPUs stand until `release`; what was under way is on the disks then."""
        ...

    async def release(self) -> None:
        """Let the vCPUs go on that `pause` or a failed write has stopped, and whoever else wants that."""
        ...

    async def connect(self, of: str, connections: Mapping[str, int], key: str) -> bool:
        """Take connections to the copies, by disk; the monitor gets its own descriptors. Nothing is written to them.

        `of` names this very copy, in hexadecimal digits. False: it is another one than what was copied to last, and
        the first pass copies all. Raises engine.Error.
        """
        ...

    async def copy(self, rate: int) -> int:
        """One pass: copy what the copies lack, `rate` bytes a second at most; what was written meanwhile, in bytes.

        Raises engine.Error: then the next pass copies that again.
        """
        ...

    async def join(self) -> None:
        """From now on every write goes to both. Its vCPUs must stand, and the last pass must have left nothing."""
        ...

    def cut(self) -> None:
        """End the connections to the copies, without a word to the monitor: what waits for one fails."""
        ...

    async def let_go(self) -> None:
        """End what hangs on the copies, and write here alone. It can be called in whatever state all is in."""
        ...

    async def hangs(self, patience: float) -> bool:
        """Whether a write that was sent to a copy has had no answer for so many seconds."""
        ...
