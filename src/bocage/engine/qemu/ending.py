"""How a process ended, in words: from the status file that its keeper wrote, daemon or no daemon."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
from dataclasses import dataclass

from bocage import errors, words
from bocage.engine.qemu import boundedlog, processes
from bocage.words import N_

_LAST_LINES = 10
_KEEPER_BOUND = 2.0  # seconds from the process's end to its keeper's last word


class Exited(words.Message):
    """It ended by itself."""

    type = "process-exited"
    text = N_("{program} ended with exit code {code}")
    program: str
    code: int


class Killed(words.Message):
    """A signal ended it."""

    type = "process-killed"
    text = N_("{program} was killed by signal {signal}")
    program: str
    signal: str


class OutOfMemory(words.Message):
    """The kernel ended it to get memory back."""

    type = "process-out-of-memory"
    text = N_("the kernel killed {program} for lack of memory")
    hint = N_("give the host more memory, or its virtual machines less")
    program: str


class BoundReached(words.Message):
    """The kernel ended it where it wanted more than its share."""

    type = "process-memory-bound-reached"
    text = N_("the kernel killed {program}: it wanted more than the {most:size} that its memory is bounded by")
    hint = N_("give it more beside the guest's memory ('--memory-overhead'), or 'none'")
    program: str
    most: int


class EndUnknown(words.Message):
    """Nobody was there to see it."""

    type = "process-end-unknown"
    text = N_("{program} ended, and nothing says how")
    program: str


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended: one of `exit_code` and `signal`, or neither when it is not known."""

    reason: words.Message
    exit_code: int | None = None
    signal: int | None = None
    out_of_memory: bool = False
    last_lines: tuple[str, ...] = ()  # that it wrote to its log


async def ended_how(
    status: pathlib.Path,
    *,
    program: str = "QEMU",
    log: pathlib.Path | None = None,
    oom_kills: int = 0,
    memory_bound: int | None = None,
) -> Ended:
    """How the process of a status file ended; to be asked when it has.

    `oom_kills` is its cgroup's count, `memory_bound` what that may have. Never fails: what cannot be read is not known.
    """
    records = _records(status)
    if "exit-code" not in records and (keeper := records.get("keeper-pid")):
        await _keeper_done(keeper)
        records = _records(status)
    lines = tuple(boundedlog.tail_lines(log, _LAST_LINES, start=records.get("log-offset", 0))) if log else ()
    code = records.get("exit-code")
    no_memory = BoundReached(program=program, most=memory_bound) if memory_bound else OutOfMemory(program=program)
    if code is None:
        unseen = no_memory if oom_kills else EndUnknown(program=program)
        return Ended(unseen, out_of_memory=bool(oom_kills), last_lines=lines)
    number = _signal_of(code)
    if number is None:
        return Ended(Exited(program=program, code=code), exit_code=code, last_lines=lines)
    if number == signal.SIGKILL and oom_kills:
        return Ended(no_memory, signal=number, out_of_memory=True, last_lines=lines)
    return Ended(Killed(program=program, signal=number.name), signal=number, last_lines=lines)


def _signal_of(code: int) -> signal.Signals | None:
    with contextlib.suppress(ValueError):
        return signal.Signals(code - 128)  # as a shell and bubblewrap report a signal
    return None


def _records(status: pathlib.Path) -> dict[str, int]:
    records: dict[str, int] = {}
    with contextlib.suppress(OSError):
        for line in status.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                record = json.loads(line)
                if isinstance(record, dict):
                    records |= {key: value for key, value in record.items() if isinstance(value, int)}
    return records


async def _keeper_done(pid: int) -> None:
    """Wait for the keeper's end; a stranger with its pid costs the bound at most."""
    with contextlib.suppress(OSError, errors.TimedOut):
        pidfd = os.pidfd_open(pid)
        try:
            await processes.wait_exit(pidfd, within=_KEEPER_BOUND)
        finally:
            os.close(pidfd)
