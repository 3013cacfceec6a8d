"""Processes that outlive us: known by pid and start time, watched by pidfd, found again by command line."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import pathlib
import re
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from bocage import errors
from bocage.words import N_

_PROC = pathlib.Path("/proc")
_DEAD = frozenset("ZXx")  # proc(5): zombie and dead


class Error(errors.Problem):
    """Anything that goes wrong with a process of ours."""


class Gone(Error, errors.NotFound, ProcessLookupError):
    """It has ended; its pid may belong to another program by now."""

    type = "process-gone"
    text = N_("process {pid} has ended")
    pid: int


@functools.cache
def this_boot() -> str:
    """The kernel's name for the present boot (random(4), boot_id)."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


@dataclass(frozen=True, slots=True)
class Identity:
    """One process, for good: a pid is used again, pid and start time in one boot are not."""

    pid: int
    start_time: int  # clock ticks since the boot: field 22 of proc(5)'s stat
    boot: str = field(default_factory=this_boot)

    def __str__(self) -> str:
        return f"{self.pid} {self.start_time} {self.boot}"

    @classmethod
    def parse(cls, text: str) -> Identity:
        """What `str` gave. Raises ValueError."""
        pid, start_time, boot = text.split()
        return cls(int(pid), int(start_time), boot)


@dataclass(frozen=True, slots=True)
class Found:
    """A running process with its command line."""

    identity: Identity
    arguments: tuple[str, ...]


def identify(pid: int) -> Identity:
    """The identity of the process that has this pid now. Raises Gone.

    Where only the first thread is a zombie, another may still write to a disk: such a process lives.
    """
    state, threads, start_time = _state(pid)
    if state in _DEAD and threads <= 1:
        raise Gone(pid=pid)
    return Identity(pid, start_time)


def alive(identity: Identity) -> bool:
    """Whether any thread of it still runs; a zombie does not."""
    try:
        return identify(identity.pid) == identity
    except Gone:
        return False


def open_pidfd(identity: Identity) -> int:
    """A descriptor for exactly this process, never for a later one with its pid. Raises Gone."""
    try:
        pidfd = os.pidfd_open(identity.pid)
    except OSError as error:  # gone, or the number is a thread's by now
        raise Gone(pid=identity.pid) from error
    # From here on the descriptor holds whatever had the pid: comparing afterwards leaves no gap.
    if not alive(identity):
        os.close(pidfd)
        raise Gone(pid=identity.pid)
    return pidfd


def send(identity: Identity, number: signal.Signals) -> None:
    """Send a signal to exactly this process. Raises Gone."""
    pidfd = open_pidfd(identity)
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError as error:
        raise Gone(pid=identity.pid) from error
    finally:
        os.close(pidfd)


async def wait_exit(pidfd: int, *, within: float | None = None) -> None:
    """Wait until the process of a pidfd has ended. Several may wait on one pidfd.

    Raises errors.TimedOut after `within` seconds; None waits for ever.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    watched = os.dup(pidfd)  # a loop has one reader for each descriptor number
    try:
        loop.add_reader(watched, _resolve, ended)
        async with asyncio.timeout(within):
            await ended
    except TimeoutError as error:
        raise errors.TimedOut(what=N_("the process"), bound=within or 0.0) from error
    finally:
        loop.remove_reader(watched)
        os.close(watched)


def scan() -> list[Found]:
    """Every process that runs now, but this one."""
    return list(_scan())


def find(marker: str | os.PathLike[str], *, among: Iterable[Found] | None = None) -> list[Found]:
    """The processes with `marker` (a path) in one of their arguments, in one scan or `among` an earlier one's.

    A path matches itself and what lies under it, not a longer name that begins like it. The caller
    looks at the arguments before it kills: a person's `tail -f` of a log is found as well.
    """
    pattern = re.compile(re.escape(os.fspath(marker)) + r"(?![\w.-])")
    processes = _scan() if among is None else among
    return [found for found in processes if any(map(pattern.search, found.arguments))]


def _scan() -> Iterator[Found]:
    for name in os.listdir(_PROC):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        with contextlib.suppress(OSError, Gone):
            identity = identify(int(name))
            command_line = (_PROC / name / "cmdline").read_bytes()
            if command_line:  # a kernel thread has none
                yield Found(identity, tuple(os.fsdecode(command_line).rstrip("\0").split("\0")))


def _resolve(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)


def _state(pid: int) -> tuple[str, int, int]:
    """State of the first thread, number of threads that have not ended, start time (proc(5), stat)."""
    try:
        line = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError as error:
        raise Gone(pid=pid) from error
    fields = line[line.rindex(")") + 2 :].split()  # the name in front may hold spaces and parentheses
    return fields[0], int(fields[17]), int(fields[19])
