"""Our side: a real daemon with a home of its own, its VMs, and what is asked of it over its API."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from tests.daemon import host as daemons

from bench import measure
from bocage.engine.qemu import cgroup
from bocage.guest import tiny

Document = dict[str, Any]
WANTED: Document = {"image": "tiny", "memory": "128M", "nics": [{"network": "passt"}]}
"""What all VMs of the figures are made from: the smallest real guest, its NIC carried by passt."""
_PACKAGES = pathlib.Path.home() / ".cache" / "bocage-test" / "packages"  # fetched by the tests before, perhaps


class Ours(daemons.Host):
    """A daemon, and what the figures do with it."""

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    @property
    def accelerator(self) -> str:
        """What its VMs run on: kvm or tcg."""
        return str(self.api.hosts.list()["items"][0]["status"]["accelerator"])

    def make(self, name: str, **request: Any) -> Document:
        """A VM like those of all figures, made and not started."""
        self.done(self.api.vms.create({"name": name, **WANTED, **request}))
        return self.vm(name)

    def make_many(self, count: int, **request: Any) -> None:
        """VMs `vm-0`, `vm-1` … as many as are missing; waits until all are ready."""
        there = {one["metadata"]["name"] for one in self.api.vms.list()["items"]}
        wanted = [f"vm-{number}" for number in range(count) if f"vm-{number}" not in there]
        waiting = [self.api.vms.create({"name": name, **WANTED, **request}) for name in wanted]
        for task in waiting:
            self.done(task)

    def runtime(self, machine: Document) -> pathlib.Path:
        """The directory of a VM's sockets."""
        return self.homes.vm_runtime(machine["metadata"]["uid"])

    def monitor(self, machine: Document) -> pathlib.Path:
        """QEMU's monitor for people."""
        return self.runtime(machine) / "io" / "hmp"

    def serial(self, machine: Document) -> pathlib.Path:
        """What the guest's serial line said."""
        return self.homes.local_storage / "vms" / str(machine["metadata"]["uid"]) / "serial.log"

    def disk(self, machine: Document) -> pathlib.Path:
        """The file of its system disk."""
        return self.homes.local_storage / "vms" / str(machine["metadata"]["uid"]) / "disks" / "disk0.qcow2"

    def command(self, name: str) -> list[str]:
        """The line that starts it by hand."""
        line: list[str] = self.api.vms.command(name)["command"]
        return line

    def members(self, machine: Document) -> list[int]:
        """All processes of a VM's control group."""
        place = cgroup.place()
        assert place
        return place.group(self.homes.runtime.name, machine["metadata"]["uid"]).procs()

    def kill_vm(self, name: str) -> None:
        """Pull a VM's plug, and wait until it is off."""
        self.done(self.api.vms.act(name, "kill"))

    def stop_all(self) -> None:
        """Pull the plug of every VM."""
        up = [one for one in self.api.vms.list()["items"] if one["status"]["pid"] is not None]
        for task in [self.api.vms.act(one["metadata"]["name"], "kill") for one in up]:
            self.done(task)

    def spawn(self) -> float:
        """Start the daemon without waiting for it; the monotonic time just before."""
        begun = time.monotonic()
        with (self.path / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bocage", "daemon", "run"],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return begun


@contextlib.contextmanager
def running(at: pathlib.Path, image: pathlib.Path | None = None) -> Iterator[Ours]:
    """A daemon that answers and has the image `tiny`; nothing of it is left afterwards."""
    made = Ours(at)
    try:
        made.start()
        made.done(made.api.networks.create({"name": "passt", "kind": "user"}))
        if image:
            made.add_tiny(image)
        yield made
        made.stop_all()
        made.stop()
    finally:
        made.api.connection.close()
        daemons.clear(made)
        _remove_groups(made.homes.runtime.name)


def build_tiny(at: pathlib.Path) -> pathlib.Path:
    """The image of the suite's guest."""
    image = at / "tiny.raw"
    cache = _PACKAGES if _PACKAGES.is_dir() else at / "packages"
    asyncio.run(tiny.build(image, cache=cache, report=lambda step, fraction: None))
    return image


def cli(home: Ours, *arguments: str) -> float:
    """Milliseconds that the command takes, from its start to its end."""
    command = [str(pathlib.Path(sys.executable).with_name("bocage")), *arguments]
    return timed(command, environment=home.environment)


def timed(command: Iterable[str | pathlib.Path], *, environment: dict[str, str] | None = None) -> float:
    """Milliseconds that a program takes, from its start to its end."""
    line = list(command)
    begun = time.monotonic()
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    took = (time.monotonic() - begun) * 1000
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, line))}: {done.stderr.strip()}")
    return took


def settled(home: Ours, *, within: float = 120.0) -> None:
    """Wait until the daemon has nothing to do: a whole second in which it used next to no CPU."""

    def quiet() -> bool:
        before = measure.cpu([home.pid])
        time.sleep(1.0)
        return measure.cpu([home.pid]) - before <= 0.03

    measure.until(quiet, what="rest of the daemon", within=within)


def _remove_groups(home: str) -> None:
    if not re.fullmatch(r"[0-9a-f]{8}", home):
        return
    for top in {*pathlib.Path("/sys/fs/cgroup").glob(f"*/bocage/{home}"), pathlib.Path("/sys/fs/cgroup/bocage") / home}:
        for group in sorted(top.rglob("*"), key=lambda path: len(path.parts), reverse=True):
            if group.is_dir():
                with contextlib.suppress(OSError):
                    group.rmdir()
        for group in (top, top.parent):
            with contextlib.suppress(OSError):
                group.rmdir()
