"""On which CPUs of the host a process runs: all its threads, by sched_setaffinity(2), which needs no control group."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Set

from bocage.model import share

_NODES = pathlib.Path("/sys/devices/system/node")
_ROUNDS = 50  # against threads that are born meanwhile


def pin(pid: int, cpus: Set[int]) -> None:
    """Have every thread run on these alone; those that are born later inherit it. Raises OSError: EINVAL for none."""
    known: set[int] = set()
    for _ in range(_ROUNDS):
        fresh = _threads(pid) - known
        if not fresh:
            return
        for thread in fresh:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread, cpus)
        known |= fresh


def allowed() -> set[int]:
    """Those that this process itself may use."""
    return os.sched_getaffinity(0)


def of_node(node: int) -> frozenset[int]:
    """The CPUs of a NUMA node; empty when there is no such node, or none in it."""
    try:
        listed = (_NODES / f"node{node}" / "cpulist").read_text().strip()
    except OSError:
        return frozenset()
    return share.cpu_set(listed) if listed else frozenset()


def _threads(pid: int) -> set[int]:
    try:
        return {int(name) for name in os.listdir(f"/proc/{pid}/task")}
    except FileNotFoundError:
        return set()
