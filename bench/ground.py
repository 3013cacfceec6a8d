"""Our side where there are several hosts: a ground of three, with BMCs and storage that all reach, and a VM there."""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import socket
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from tests.ground import building, ground, machine, reach

from bench import bare, measure
from bocage.client import rest

_BOUND = 240.0  # seconds


class Hosts:
    """A ground that stands."""

    def __init__(self, here: ground.Ground) -> None:
        self.here = here
        self.machines = here.machines()
        with self.first as asked:
            self.names = {uid: name for name, uid in reach.uids(asked).items()}

    @property
    def first(self) -> rest.Client:
        """A client of any host that has power, to be closed by the caller."""
        return reach.api(next(one for one in self.machines if one.power() == "On"))

    def make(self, name: str, **request: Any) -> None:
        """A VM that runs, its guest up."""
        wanted = {"name": name, "image": "tiny", "memory": "128M", "storage": "array", "nics": [], "start": True}
        with self.first as asked:
            self.done(asked, asked.vms.create({**wanted, **request}))
            asked.vms.expect(name, "^tiny: ready", timeout=_BOUND)

    def done(self, asked: rest.Client, task: dict[str, Any]) -> dict[str, Any]:
        """A task once it has ended well."""
        ended = asked.tasks.wait(task, timeout=_BOUND)
        if ended["status"]["state"] != "done":
            raise RuntimeError(f"{ended['spec']}: {ended['status']}")
        return ended

    def owner(self, asked: rest.Client, name: str) -> machine.Machine:
        """The host that has a VM."""
        return self.here.machine(self.names[asked.vms.get(name)["status"]["host"]])

    def serial(self, uid: str) -> pathlib.Path:
        """What a guest's serial line said."""
        return self.here.root / "array" / "vms" / uid / "serial.log"

    def well(self) -> None:
        """Wait until all hosts are as they should be."""
        reach.well(self.here)

    def heal(self, one: machine.Machine) -> None:
        """Give a host power, and wait until it is as if nothing had been."""
        one.on()
        self.well()

    def runs(self, uid: str, *, but: str = "") -> float:
        """The monotonic time at which a VM's vCPUs run on a host (other than `but`). Raises measure.Late."""
        others = [one for one in self.machines if one.name != but]
        return runs_on([one.inside(reach.RUNTIME / "vms" / uid / "io" / "hmp") for one in others])


def runs_on(monitors: Sequence[pathlib.Path]) -> float:
    """The monotonic time at which one of these monitors for people says that vCPUs run. Raises measure.Late."""
    there: list[pathlib.Path] = []

    def comes() -> bool:
        there.extend(path for path in monitors if _answers(path))
        return bool(there)

    measure.until(comes, what="QEMU on another host", within=_BOUND, every=0.002)
    return bare.running(there[0])


def _answers(monitor: pathlib.Path) -> bool:
    """Whether a process is there: one that ended may have left the socket's name behind."""
    with socket.socket(socket.AF_UNIX) as line:
        try:
            line.connect(str(monitor))
        except OSError:
            return False
    return True


@contextlib.contextmanager
def up(at: pathlib.Path, hosts: int = 3) -> Iterator[Hosts]:
    """Such a ground; nothing of it is left afterwards."""
    here = ground.Ground(at)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            building.up(here, argparse.Namespace(hosts=hosts, storage="central"))
        made = Hosts(here)
        made.well()
        yield made
    finally:
        here.down()
