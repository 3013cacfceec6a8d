"""Two hosts of one cluster, each with a daemon of its own, on the loopback: either answers for both."""

from __future__ import annotations

import contextlib
import os
import pathlib
import secrets
import signal
import tempfile
import time
from collections.abc import Iterator

import pytest

from bocage.client import problems
from bocage.engine.qemu import processes
from tests.daemon import host as hosts
from tests.daemon.host import Host

pytestmark = [pytest.mark.guest, pytest.mark.slow]


def named(name: str) -> Host:
    """A host whose machine has a name of its own."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="bocage-test-", dir="/var/tmp"))
    path.chmod(0o711)
    made = Host(path)
    made.program = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', name, *made.program]
    return made


@contextlib.contextmanager
def joined() -> Iterator[tuple[Host, Host]]:
    """Two hosts, joined, with a storage `array` that both reach."""
    network = f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(250)}"
    first, second = named("first"), named("second")
    try:
        first.start()
        second.start()
        said(first, "cluster", "init", "--address", f"{network}.1")
        word = said(first, "cluster", "invite").split()[-1]
        said(second, "cluster", "join", word, "--address", f"{network}.2")
        said(first, "storage", "create", "array", "--kind", "shared", "--path", str(first.path / "array"))
        first.until(lambda: first.api.storage.get("array")["status"].get("hosts"), lambda found: len(found) == 2)
        yield first, second
    finally:
        for one in (first, second):
            with contextlib.suppress(Exception):
                one.kill()
            for found in processes.find(f"{one.path}/cluster"):
                with contextlib.suppress(processes.Gone):
                    processes.send(found.identity, signal.SIGKILL)
            hosts.clear(one)


@pytest.fixture
def pair() -> Iterator[tuple[Host, Host]]:
    with joined() as both:
        yield both


def said(host: Host, *arguments: str) -> str:
    ran = host.run(*arguments)
    assert ran.returncode == 0, (arguments, ran.stdout, ran.stderr, host.log())
    return ran.stdout


def test_either_host_answers_for_both(pair: tuple[Host, Host], tiny_image: pathlib.Path) -> None:
    first, second = pair
    said(first, "image", "add", str(tiny_image), "--name", "tiny", "--storage", "array")
    said(
        first, "vm", "create", "box", "--image", "tiny", "--memory", "128M", "--network", "none",
        "--storage", "array", "--start",
    )  # fmt: skip
    said(second, "image", "add", str(tiny_image), "--name", "copy", "--storage", "local")  # which the first has
    owner = first.vm("box")["status"]["host"]
    assert owner == second.vm("box")["status"]["host"]
    here, there = (first, second) if owner == first.homes.identity().uid else (second, first)
    assert len(here.qemus()) == 1
    assert not there.qemus()

    assert "tiny: ready" in there.api.vms.expect("box", "^tiny: ready", timeout=120.0)
    assert there.api.vms.expect("box", "^two-2", send="echo two-$((1+1))", timeout=60.0).strip() == "two-2"
    assert "tiny: ready" in said(there, "vm", "log", "box")
    picture = there.path / "screen.png"
    said(there, "vm", "screenshot", "box", str(picture))
    assert picture.read_bytes()[:4] == b"\x89PNG"
    head, row, *_ = said(there, "vm", "list").splitlines()
    assert head.split()[:3] == ["NAME", "STATE", "HOST"]
    assert row.split()[:3] == ["box", "running", "first" if here is first else "second"]
    assert "accelerator" in said(there, "host", "show", "first")
    assert "storage array" in said(there, "doctor", "--host", "first" if here is first else "second")
    assert [one["name"] for one in there.api.top()["vms"]] == ["box"]

    local = "local-second" if here is first else "local"
    refused = there.run("vm", "migrate", "box", "--storage", local)
    assert "does not reach the storage" in refused.stderr

    silent = here.process
    assert silent
    os.killpg(silent.pid, signal.SIGSTOP)  # it takes connections, and does not answer
    try:
        began = time.monotonic()
        with pytest.raises(problems.ProblemError) as told:
            there.api.vms.expect("box", "^tiny: ready", timeout=120.0)
        assert told.value.problem == "host-silent", told.value
        assert time.monotonic() - began < 30.0
        assert "box" in said(there, "vm", "list")
        assert there.api.top()["vms"] == []
    finally:
        os.killpg(silent.pid, signal.SIGCONT)

    said(there, "vm", "stop", "box", "--kill")
    assert here.vm("box")["status"]["state"] == "stopped"
    said(there, "vm", "start", "box")
    assert len(here.qemus()) == 1
    said(there, "vm", "kill", "box")
