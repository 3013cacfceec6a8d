"""The one clock of bounds and back-offs: it goes on in suspend, and nobody can set it."""

from __future__ import annotations

import datetime
import time


def boottime() -> float:
    """Seconds since the machine started, suspend included (CLOCK_BOOTTIME)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def since(moment: datetime.datetime | None) -> float | None:
    """The boot clock's value at a wall-clock moment, for what was written before a restart of the daemon.

    A wall clock that was set meanwhile must not give a time in the future: then it is now.
    """
    if moment is None:
        return None
    ago = (datetime.datetime.now(datetime.UTC) - moment).total_seconds()
    return boottime() - max(ago, 0.0)
