"""A VM goes from one real daemon's host to another's while its guest counts; whatever is killed, one side runs it."""

from __future__ import annotations

import contextlib
import operator
import os
import pathlib
import re
import signal
import socket
import time
from collections.abc import Iterator

import pytest
import yaml

from bocage.engine.qemu import processes
from tests.daemon.host import Document, Host
from tests.daemon.test_many_hosts import joined, said

pytestmark = [
    pytest.mark.guest,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="machines of other names are made by root"),
]
_COUNT = re.compile(rb"tiny: count (\d+)\r?\n")


class Ground:
    """Two hosts, and a VM `box` that counts."""

    def __init__(self, pair: tuple[Host, Host], image: pathlib.Path) -> None:
        self.hosts = dict(zip(("first", "second"), pair, strict=True))
        self.first, self.second = pair
        self.array = self.first.path / "array"
        said(self.first, "image", "add", str(image), "--name", "tiny", "--storage", "array")
        blank = ("--memory", "128M", "--network", "none", "--storage", "array")
        said(self.first, "vm", "create", "box", "--image", "tiny", *blank, "--start")
        self.uid = self.first.vm("box")["metadata"]["uid"]
        self.count()

    def count(self) -> None:
        """Have the guest count from 1 on."""
        self.first.api.vms.expect("box", "^tiny: ready", timeout=300.0)
        self.first.api.vms.expect("box", "count 1$", send="tiny count", timeout=120.0)

    @property
    def where(self) -> str:
        """The host that has it."""
        uid = self.first.vm("box")["status"]["host"]
        return next(name for name, one in self.hosts.items() if one.homes.identity().uid == uid)

    @property
    def other(self) -> str:
        return "second" if self.where == "first" else "first"

    def counted(self) -> list[int]:
        """Since it last began."""
        log = self.said_by_guest()
        return [int(found[1]) for found in _COUNT.finditer(log[log.rindex(b"count 1\r\n") - 10 :])]

    def said_by_guest(self) -> bytes:
        return (self.array / "vms" / self.uid / "serial.log").read_bytes()

    def check_counts_on(self) -> None:
        """It counts, and has left out none and said none twice."""
        before = len(self.counted())
        try:
            found = self.first.until(self.counted, lambda now: len(now) > before + 5)
        except AssertionError as error:
            raise AssertionError(self.story()) from error
        assert found == list(range(1, len(found) + 1))

    def story(self) -> str:
        """Whatever may tell why the guest does not count."""
        told = [repr(self.first.vm("box")), self.said_by_guest()[-1000:].decode(errors="replace")]
        for one in self.hosts.values():
            told.append(one.log())
            for monitor in one.homes.runtime.glob("vms/*/io/hmp"):
                asked = b"info status\ninfo registers\ninfo lapic\ninfo pic\ninfo migrate\n"
                with socket.socket(socket.AF_UNIX) as connection, contextlib.suppress(TimeoutError):
                    connection.settimeout(5.0)
                    connection.connect(str(monitor))
                    connection.sendall(asked)
                    while answer := connection.recv(65536):
                        told.append(answer.decode(errors="replace"))
        return "\n".join(told)

    def qemus(self) -> dict[str, list[processes.Found]]:
        return {name: one.qemus() for name, one in self.hosts.items() if one.qemus()}

    def runs_once_on(self, name: str) -> None:
        self.first.until(self.qemus, lambda found: list(found) == [name] and len(found[name]) == 1)

    def migrates(self, bandwidth: str, *, live: bool | None = None) -> Document:
        """A task that is under way, and has begun to copy."""
        task = self.first.api.vms.migrate("box", to=self.other, bandwidth=bandwidth, live=live)
        uid = task["metadata"]["uid"]
        self.first.until(lambda: self.first.api.tasks.get(uid)["status"], _copies)
        return task


def _copies(status: Document) -> bool:
    assert status.get("state") in ("pending", "running"), (status.get("problem"), status)
    return any(line["said"]["type"] == "passage-copies" for line in status.get("log") or ())


@pytest.fixture(scope="module")
def ground(tiny_image: pathlib.Path) -> Iterator[Ground]:
    with joined() as pair:
        yield Ground(pair, tiny_image)


def test_there_and_back_and_cancelled_and_off(ground: Ground) -> None:
    for _ in range(2):
        here, there = ground.where, ground.other
        started = ground.first.vm("box")["status"]["since"]
        ended = ground.first.done(ground.first.api.vms.migrate("box", to=there))
        print(f"from {here} to {there}: the guest stood for {ended['status']['result']['pause']:.3f} s")
        ground.runs_once_on(there)
        assert ended["status"]["result"]["host"] == there == ground.where
        now = ground.first.vm("box")["status"]
        assert (now["state"], now["since"]) == ("running", started)
        assert now["pid"] in [one.identity.pid for one in ground.hosts[there].qemus()]
        assert (ground.hosts[there].homes.by_name / "default" / "box").is_symlink()
        ground.first.until((ground.hosts[here].homes.by_name / "default" / "box").is_symlink, operator.not_)
        written = yaml.safe_load((ground.array / "vms" / ground.uid / "vm.yaml").read_text())
        owner = {"host": now["host"], "generation": now["owner_generation"], "anew": False}
        assert written["owner"] == owner
        ground.check_counts_on()

    here = ground.where
    task = ground.migrates(bandwidth="1M", live=True)
    assert len(ground.qemus()) == 2
    ground.check_counts_on()
    assert ground.first.api.tasks.get(task["metadata"]["uid"])["status"]["state"] == "running"
    ground.first.api.tasks.cancel(task["metadata"]["uid"])
    assert ground.first.ended(task)["status"]["state"] == "cancelled"
    ground.runs_once_on(here)
    ground.check_counts_on()
    said(ground.first, "vm", "save", "box")  # nothing of the passage is left that a saved memory would be sealed with
    said(ground.first, "vm", "start", "box")
    ground.check_counts_on()

    there = ground.other  # it may have missed a write, as an emulated CPU's guest does, and is not looked at any more
    assert "its guest stood for" in said(ground.second, "vm", "migrate", "box", "--live")
    ground.runs_once_on(there)
    said(ground.first, "vm", "kill", "box")
    here, there = there, here
    assert f"box is on {there}" in said(ground.second, "vm", "migrate", "box")
    said(ground.first, "host", "drain", there)
    assert ground.where == here
    refused = ground.first.run("vm", "migrate", "box", "--to", there)
    assert f"{there} is draining" in refused.stderr
    said(ground.first, "host", "undrain", there)


@pytest.mark.fault
def test_whatever_is_killed_one_side_runs_it(ground: Ground) -> None:
    if ground.first.vm("box")["status"]["state"] == "stopped":
        said(ground.first, "vm", "start", "box")
        ground.count()
    here, there = ground.where, ground.other
    pid = ground.first.vm("box")["status"]["pid"]

    task = ground.migrates(bandwidth="1M")
    (comes,) = ground.hosts[there].qemus()
    os.kill(comes.identity.pid, signal.SIGKILL)
    assert ground.first.ended(task)["status"]["problem"]["type"] == "passage-stayed"
    ground.runs_once_on(here)
    assert ground.first.vm("box")["status"]["pid"] == pid
    ground.check_counts_on()

    for killed in (here, there):  # the other daemon is the one that is asked
        asked = ground.hosts["second" if killed == "first" else "first"]
        task = ground.migrates(bandwidth="4M")
        ground.hosts[killed].kill()
        ground.hosts[killed].start()
        ended = asked.ended(task)["status"]
        assert ended["state"] == "done" or ended["problem"]["type"] == "passage-stayed", ended
        ground.runs_once_on(ground.where)
        ground.check_counts_on()

    here = ground.where
    ground.migrates(bandwidth="1M")
    (runs,) = ground.hosts[here].qemus()
    begun = time.time()
    os.kill(runs.identity.pid, signal.SIGKILL)
    ground.first.until(lambda: _since(ground.first), lambda since: since > begun)
    ground.first.becomes("box", "running")
    ground.runs_once_on(ground.where)


def _since(host: Host) -> float:
    """When it last came to be what it is."""
    import datetime

    return datetime.datetime.fromisoformat(host.vm("box")["status"]["since"]).timestamp()
