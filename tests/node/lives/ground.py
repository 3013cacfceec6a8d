"""A runtime directory with a real guard in it, and processes that count in a real control group."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from bocage.engine.qemu import cgroup, processes
from bocage.node import spoken
from bocage.protocol import records

BOUND = 60.0  # seconds for anything that is waited for
HOST = "0c5e6a4e-6b0f-4b57-9b43-3f0f6f6f0a01"
_COUNT = "n=0; while :; do n=$((n+1)); echo $n > {file}; sleep 0.01; done"


def until(holds: Callable[[], Any]) -> Any:
    """What `holds` gives once that is something."""
    deadline = time.monotonic() + BOUND
    while not (found := holds()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


class Writer:
    """A process that writes on and on, as a VM's does, in a group of its own; it stands until it is let go."""

    def __init__(self, path: pathlib.Path, vm: str) -> None:
        self.vm, self.file = vm, path / vm
        place = cgroup.place()
        assert place
        self.group = place.group(path.name, vm)
        line = ["sh", "-c", "read -r go; " + _COUNT.format(file=self.file)]
        self.process = subprocess.Popen(line, stdin=subprocess.PIPE, start_new_session=True)
        self.identity = processes.identify(self.process.pid)

    async def enter(self) -> None:
        await self.group.enter(self.process.pid)

    @property
    def place(self) -> dict[str, Any]:
        legacy = self.group.legacy.get("freezer")
        return {
            "vm": self.vm,
            "generation": 7,
            "storage": str(self.file.parent),
            "unified": str(self.group.unified) if self.group.unified else None,
            "legacy": str(legacy) if legacy else None,
        }

    def go(self) -> None:
        assert self.process.stdin
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def writes(self) -> bool:
        """Whether it writes, by a look at what it wrote a moment apart."""
        before = self._content()
        time.sleep(0.1)
        return self._content() != before

    def _content(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return self.file.read_text()
        return ""

    async def clear(self) -> None:
        self.group.kill()
        self.process.kill()
        self.process.wait()
        await self.group.remove()


class Guard:
    """A guard process, spoken to as daemon and beat do."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.kept = path / "life.json"
        self.process: subprocess.Popen[bytes] | None = None
        self.socket: socket.socket
        self.standing: dict[str, Any] = {}
        self.answers: list[dict[str, Any]] = []

    def start(self, *more: str) -> None:
        line = [sys.executable, "-m", "bocage.node.guard", str(self.path), str(self.kept), *more]
        with (self.path / "guard.log").open("ab") as log:
            self.process = subprocess.Popen(line, stdout=log, stderr=log, start_new_session=True)
        self.connect()

    def connect(self) -> None:
        self.standing, self._pieces = {}, spoken.Splitter()

        def connected() -> bool:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(0.02)
            with contextlib.suppress(OSError):
                self.socket.connect(str(self.path / "guard.sock"))
                return self.hear() and bool(self.standing)
            self.socket.close()
            return False

        until(connected)

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()
        self.socket.close()

    def say(self, say: str, **fields: object) -> None:
        self.socket.sendall(spoken.line(say, **fields))

    def hear(self) -> bool:
        """Take in what it has told; whether it is there."""
        try:
            piece = self.socket.recv(1 << 16)
        except TimeoutError:
            return True
        for told in self._pieces.feed(piece):
            if told["say"] == "standing":
                self.standing = told
            elif told["say"] == "admitted":
                self.answers.append(told)
        return bool(piece)

    def stands(self, **wanted: object) -> dict[str, Any]:
        """Its standing, once it is as wanted."""

        def holds() -> bool:
            self.hear()
            return all(self.standing.get(name) == value for name, value in wanted.items())

        until(holds)
        return self.standing

    def admits(self, writer: Writer) -> bool:
        self.answers.clear()
        self.say("admit", id=1, place=writer.place, pid=writer.identity.pid, start=writer.identity.start_time)
        until(lambda: self.hear() and self.answers)
        return bool(self.answers[0]["admitted"])

    def note(self, life: records.Life, bounds: records.Bounds) -> None:
        """What the daemon notes in the home for a successor."""
        told = {"boot": spoken.boot(), "life": life, "guarded": life, "bounds": bounds}
        self.kept.write_text(json.dumps(told, default=lambda one: {k: getattr(one, k) for k in one.__slots__}))


@contextlib.contextmanager
def directory() -> Iterator[pathlib.Path]:
    path = pathlib.Path(tempfile.mkdtemp(prefix="bocage-lives-", dir="/var/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


class Dog:
    """A watchdog's interface that notes when it is fed, and never bites."""

    def __init__(self, path: pathlib.Path) -> None:
        os.mkfifo(path)
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def fed(self) -> int:
        """How often since it was asked last."""
        with contextlib.suppress(BlockingIOError):
            return len(os.read(self._descriptor, 1 << 16))
        return 0

    def close(self) -> None:
        os.close(self._descriptor)


@contextlib.contextmanager
def guard(*more: str, path: pathlib.Path | None = None) -> Iterator[Guard]:
    with contextlib.ExitStack() as stack:
        made = Guard(path or stack.enter_context(directory()))
        made.start(*more)
        try:
            yield made
        finally:
            if made.process and made.process.poll() is None:
                made.kill()
