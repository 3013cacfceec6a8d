"""A real daemon in a process of its own, spoken to over its API: what is done to it is done with signals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from bocage import home as homes
from bocage.client import connection, problems, rest
from bocage.engine.qemu import cgroup, processes

BOUND = 120.0  # seconds for anything that is waited for
Document = dict[str, Any]


class Host:
    """One home, its daemon and a client of it."""

    def __init__(self, path: pathlib.Path, *, listen: str = "127.0.0.1:0", name: str = "") -> None:
        self.path = path
        self.program = [sys.executable, "-m", "bocage"]
        if name:  # as a machine of that name
            self.program = ["unshare", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"', name, *self.program]
        self.environment = {
            "BOCAGE_DEFAULT_NETWORK": "user",  # no bridge in the machine's own network
            **os.environ,
            "BOCAGE_HOME": str(path),
            "BOCAGE_LISTEN": listen,
        }
        with _environment(BOCAGE_HOME=str(path)):
            self.homes = homes.Home.from_environment()
        self.process: subprocess.Popen[bytes] | None = None
        self.api = rest.Client(connection.Connection(connection.Address(socket=str(self.homes.socket))))

    def start(self) -> None:
        """Start the daemon, and wait until it answers."""
        self.path.mkdir(exist_ok=True)
        with (self.path / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.program, "daemon", "run"],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.until(self.answers, lambda answered: answered)

    def answers(self) -> bool:
        if self.process and self.process.poll() is not None:
            raise AssertionError(f"the daemon ended: {self.log()}")
        try:
            self.api.version(within=5.0)
        except problems.Error:
            return False
        return True

    def kill(self) -> None:
        """`kill -9` of the daemon."""
        assert self.process
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """An orderly end of the daemon; its exit code."""
        assert self.process
        self.process.terminate()
        return self.process.wait(timeout=30)

    def log(self) -> str:
        return (self.path / "daemon.log").read_text(errors="replace")[-4000:]

    def run(self, *arguments: str, stdin: str | None = None, within: float = BOUND) -> subprocess.CompletedProcess[str]:
        """Run the command line against this home."""
        return subprocess.run(
            [sys.executable, "-m", "bocage", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            input=stdin,
            timeout=within,
            check=False,
        )

    def done(self, task: Document) -> Document:
        """A task once it has ended well."""
        ended = self.ended(task)
        assert ended["status"]["state"] == "done", (ended["status"], self.log())
        return ended

    def ended(self, task: Document) -> Document:
        found: Document = self.until(
            lambda: self.api.tasks.get(task["metadata"]["uid"], wait=5.0),
            lambda one: one["status"].get("state") in ("done", "failed", "cancelled"),
        )
        return found

    def vm(self, name: str) -> Document:
        return self.api.vms.get(name)

    def becomes(self, name: str, *states: str) -> Document:
        found: Document = self.until(lambda: self.vm(name), lambda one: one["status"]["state"] in states)
        return found

    def until(self, read: Callable[[], Any], holds: Callable[[Any], bool], *, within: float = BOUND) -> Any:
        """What `read` gives once it holds."""
        deadline = time.monotonic() + within
        while not holds(found := read()):
            assert time.monotonic() < deadline, f"it did not come to hold; last seen: {found}"
            time.sleep(0.02)
        return found

    def add_tiny(self, image: pathlib.Path) -> None:
        self.done(self.api.images.create({"name": "tiny", "path": str(image)}))

    def create(self, name: str, **request: Any) -> Document:
        return self.done(self.api.vms.create({"name": name, "image": "tiny", "memory": "128M", **request}))

    def qemus(self) -> list[processes.Found]:
        """Every QEMU of this home."""
        return [one for one in processes.find(self.homes.runtime) if "qemu-system" in " ".join(one.arguments[:1])]

    def half_made(self) -> list[pathlib.Path]:
        return [path for path in self.path.rglob("*.part") if "incoming" not in path.parts]


@contextlib.contextmanager
def host(name: str = "") -> Iterator[Host]:
    """A host whose daemon runs; nothing of it is left afterwards."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="bocage-test-", dir="/var/tmp"))
    path.chmod(0o711)
    made = Host(path, name=name)
    try:
        yield made
    finally:
        clear(made)


def clear(made: Host) -> None:
    """End the daemon and every process of the home, and remove all its files."""
    if made.process and made.process.poll() is None:
        made.process.kill()
        made.process.wait()
    for found in [*processes.find(made.homes.runtime), *processes.find(made.homes.cluster)]:
        with contextlib.suppress(processes.Gone):
            processes.send(found.identity, signal.SIGKILL)
    if place := cgroup.place():
        for name in place.names(made.homes.runtime.name):
            group = place.group(made.homes.runtime.name, name)
            group.kill()
            asyncio.run(group.remove())
    shutil.rmtree(made.homes.runtime, ignore_errors=True)
    shutil.rmtree(made.path, ignore_errors=True)


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def lines(text: str) -> list[Document]:
    """JSON lines as documents."""
    return [json.loads(line) for line in text.splitlines() if line.strip()]
