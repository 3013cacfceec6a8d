"""Orders, machines and children for tests that start real processes."""

from __future__ import annotations

import asyncio
import concurrent.futures.thread  # noqa: F401 - a child of another user may not be able to read it later
import ctypes
import os
import pathlib
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

from bocage.engine.qemu import isolation, launch

USER = 987_654  # an ordinary user's uid and gid that nobody has


def order(ground: pathlib.Path, *argv: str, **options: Any) -> launch.Order:
    directory = ground / "vm"
    directory.mkdir(exist_ok=True)
    if owner := options.get("owner"):
        os.chown(directory, owner.uid, owner.gid)
    options.setdefault("view", isolation.View(read_write=[directory]))
    options.setdefault("cwd", directory)
    return launch.Order(argv=argv, log=ground / "log", status=ground / "status", **options)


def qemu(ground: pathlib.Path, *more: str) -> list[str]:
    """A machine that stands still, with its monitor at `ground/vm/qmp`."""
    monitor = f"unix:{ground}/vm/qmp,server=on,wait=off"
    return [
        "qemu-system-x86_64",
        "-M",
        "pc",
        "-accel",
        "tcg",
        "-nodefaults",
        "-display",
        "none",
        "-S",
        "-qmp",
        monitor,
        *more,
    ]


async def eventually(condition: Callable[[], Any], *, within: float = 10) -> Any:
    """Wait until the condition holds, and fail at the bound."""
    deadline = time.monotonic() + within
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come to hold"
        await asyncio.sleep(0.005)
    return value


def in_child(work: Callable[[], Awaitable[Any]], *, user: int | None = None) -> int:
    """Fork a process that runs `work`, as `user` if given; its pid. `result` waits for what it gave."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        _results[pid] = reading
        return pid
    try:
        os.close(reading)
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)  # no test leaves its child behind
        os.setsid()
        if user is not None:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
        with open(writing, "wb") as file:
            file.write(pickle.dumps(asyncio.run(work())))  # type: ignore[arg-type]
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(0)


def result(pid: int) -> Any:
    """What the work in a child gave."""
    with open(_results.pop(pid), "rb") as file:
        told = file.read()
    os.waitpid(pid, 0)
    assert told, "the child failed; its traceback is above"
    return pickle.loads(told)


def kill(pid: int) -> None:
    """Kill a child in the middle of its work."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(_results.pop(pid))


_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_results: dict[int, int] = {}
