"""Where a running Python process spends its time: py-spy's samples, summed by function."""

from __future__ import annotations

import collections
import pathlib
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable

_FRAME = re.compile(r"(.+) \((.+):(\d+)\)")
_OURS = tuple(
    f"bocage/{room}/" for room in ("api", "node", "store", "model", "planner", "engine", "storage", "network")
)
_TOP = 12


def of(pid: int, work: Callable[[], object], at: pathlib.Path) -> list[str]:
    """The functions in which the process is while `work` is done: share of the samples in which
    one of its threads holds the interpreter, itself and with what it calls.
    """
    program = shutil.which("py-spy") or str(pathlib.Path(sys.executable).with_name("py-spy"))
    if not pathlib.Path(program).exists():
        return ["no profile: py-spy is not installed"]
    record = at / "profile.txt"
    command = [
        program,
        "record",
        "--pid",
        str(pid),
        "--format",
        "raw",
        "--output",
        str(record),
        "--rate",
        "200",
        "--gil",
    ]
    spying = subprocess.Popen([*command, "--duration", "3600"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        assert spying.stdout
        spying.stdout.readline()  # it says so when it has begun
        work()
    finally:
        spying.send_signal(signal.SIGINT)
        spying.communicate(timeout=60)
    return _summed(record.read_text())


def _summed(record: str) -> list[str]:
    alone: collections.Counter[str] = collections.Counter()
    inclusive: collections.Counter[str] = collections.Counter()
    total = 0
    for line in record.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [_name(frame) for frame in stack.split(";")]
        total += int(count)
        alone[frames[-1]] += int(count)
        for frame in set(frames):
            inclusive[frame] += int(count)
    if not total:
        return ["no samples"]
    own = [f"{count / total:5.1%} {name}" for name, count in alone.most_common(_TOP)]
    ours = [(name, count) for name, count in inclusive.most_common() if name.startswith(_OURS)]
    within = [f"{count / total:5.1%} {name}" for name, count in ours[:_TOP]]
    return ["itself:", *own, "with what it calls, ours:", *within]


def _name(frame: str) -> str:
    """`module.py:function`, without the line, which differs from sample to sample."""
    if not (parts := _FRAME.fullmatch(frame)):
        return frame
    path = parts[2]
    for mark in ("/site-packages/", "/src/", "/lib/python3"):
        path = path.rpartition(mark)[2]
    return f"{path}:{parts[1]}"
