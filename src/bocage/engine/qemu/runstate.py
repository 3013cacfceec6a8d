"""What a machine does, from what QEMU says: pure, so that every order of events can be tried."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from bocage.engine.base import Run

# QEMU's RunState. `internal-error` is a vCPU that the accelerator cannot run on: no guest recovers from it.
_STATES = {
    "running": Run.RUNNING,
    "shutdown": Run.SHUT_DOWN,
    "guest-panicked": Run.PANICKED,
    "internal-error": Run.PANICKED,
    "io-error": Run.STORAGE_FAILED,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """What was heard so far. `stopped_for` is why the next STOP comes, when QEMU has said so."""

    run: Run = Run.UNKNOWN
    stopped_for: Run | None = None
    shutdown: str = ""  # the reason of the SHUTDOWN event


def after(seen: Seen, event: str, data: Mapping[str, Any]) -> Seen:
    """What is known once an event of QMP came."""
    match event:
        case "RESUME":
            return dataclasses.replace(seen, run=Run.RUNNING, stopped_for=None)
        case "STOP":
            halted = Run.SHUT_DOWN if seen.run is Run.SHUT_DOWN else Run.PAUSED
            return dataclasses.replace(seen, run=seen.stopped_for or halted)
        case "BLOCK_IO_ERROR" if data.get("action") == "stop":
            why = Run.STORAGE_FULL if data.get("nospace") else Run.STORAGE_FAILED
            # Of several disks that stop it, the failed one needs more than room.
            return _stopped(seen, Run.STORAGE_FAILED if seen.stopped_for is Run.STORAGE_FAILED else why)
        case "GUEST_PANICKED" if data.get("action") == "pause":
            return _stopped(seen, Run.PANICKED)
        case "SHUTDOWN":
            return dataclasses.replace(seen, run=Run.SHUT_DOWN, shutdown=str(data.get("reason", "")))
        case _:
            return seen


def of_status(status: str, blocks: Sequence[Mapping[str, Any]] = ()) -> Run:
    """What `query-status` means, with the answer of `query-block` for a write that failed."""
    run = _STATES.get(status, Run.PAUSED)
    states = {block.get("io-status") for block in blocks}
    if run is Run.STORAGE_FAILED and "nospace" in states and "failed" not in states:
        return Run.STORAGE_FULL
    return run


def half_started(status: str, *, paused: bool) -> bool:
    """Whether whoever started it ended before that was done; `paused` when it was to stand still at first.

    A machine that waits for its saved state may wait for ever; the file is there for another start.
    """
    return status == "inmigrate" or (status == "prelaunch" and not paused)


def _stopped(seen: Seen, why: Run) -> Seen:
    halted = seen.run not in (Run.RUNNING, Run.UNKNOWN)
    return dataclasses.replace(seen, stopped_for=why, run=why if halted else seen.run)
