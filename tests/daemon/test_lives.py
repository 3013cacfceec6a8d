"""A real daemon whose host becomes a cluster of its own: its VM on shared storage is let run, ended, and runs again."""

from __future__ import annotations

import asyncio
import os
import pathlib
import shutil
import signal
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from bocage import ledger
from bocage.engine.qemu import processes
from bocage.membership import place
from bocage.node import spoken
from bocage.protocol import records, timing
from bocage.store.etcd import engine
from tests.daemon import host as hosts

pytestmark = [
    pytest.mark.slow,
    pytest.mark.fault,
    pytest.mark.skipif(os.geteuid() != 0, reason="machines of other names are made by root"),
]


@pytest.fixture(scope="module")
def array() -> Iterator[pathlib.Path]:
    path = pathlib.Path(tempfile.mkdtemp(prefix="bocage-array-", dir="/var/tmp"))
    path.chmod(0o711)
    yield path / "array"
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def host(array: pathlib.Path) -> Iterator[hosts.Host]:
    """A VM runs on its shared storage before it becomes a cluster."""
    with hosts.host("h1") as made:
        with_slow_copies(made, array)
        made.start()
        done(made, "storage", "create", "array", "--kind", "shared", "--path", str(array))
        blank = ("--memory", "32M", "--disk", "1M", "--network", "none", "--storage", "array", "--restart", "never")
        done(made, "vm", "create", "one", *blank, "--start")
        made.becomes("one", "running")
        before = made.qemus()
        done(made, "cluster", "init", "--address", f"127.{64 + os.getpid() % 128}.{os.getpid() // 128 % 256}.1")
        assert [one.identity for one in made.qemus()] == [one.identity for one in before]
        yield made


def with_slow_copies(host: hosts.Host, array: pathlib.Path) -> None:
    """A `qemu-img` that writes on and on to the array, once for each `slow-*` beside it; else it is the real one."""
    real, program = shutil.which("qemu-img"), host.path / "bin" / "qemu-img"
    program.parent.mkdir(parents=True)
    program.write_text(
        f"""#!/bin/sh
        for flag in {array.parent}/slow-1 {array.parent}/slow-2; do
            if mv $flag $flag.taken 2>/dev/null; then
                while :; do echo more >> {array}/vms/written-by-$$; sleep 0.01; done
            fi
        done
        exec {real} "$@"
        """
    )
    program.chmod(0o755)
    host.environment["PATH"] = f"{program.parent}:{os.environ['PATH']}"


def written(array: pathlib.Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in (array / "vms").glob("written-by-*")}


def done(host: hosts.Host, *words: str) -> str:
    run = host.run(*words)
    assert run.returncode == 0, (run.stdout, run.stderr, host.log())
    return run.stdout


def guarded(host: hosts.Host) -> list[str]:
    return [path.stem for path in (host.homes.runtime / "guarded").glob("*.json")]


def defined(array: pathlib.Path, uid: str) -> int:
    return int(yaml.safe_load((array / "vms" / uid / "vm.yaml").read_text())["owner"]["generation"])


async def raise_epoch(host: hosts.Host) -> None:
    """As a leader does that has not heard of it; until the host has said that nothing of its life is left."""
    uid, at = host.homes.identity().uid, place.read(host.homes)
    assert at
    store = await engine.open(at.access(host.homes), client="test")
    book = ledger.Ledger(store, store.incarnation)
    following = asyncio.create_task(book.run())
    try:
        key, answer = records.epoch_of(uid), None
        while not isinstance(answer, records.Applied):
            view = (await book.read()).view
            epoch = view.get(records.Epoch, key)
            assert epoch
            raised = records.Epoch(epoch.number + 1, epoch.taken, epoch.gone, epoch.bounds)
            answer = await book.write(records.Transaction(store.incarnation, {key: view.revision(key)}, {key: raised}))
        async with asyncio.timeout(hosts.BOUND):
            while epoch is None or epoch.taken != raised.number:
                epoch = (await book.read()).view.get(records.Epoch, key)
                await asyncio.sleep(0.01)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await store.close()


def test_what_ran_before_is_guarded_ended_with_the_hosts_life_and_starts_again_in_the_next(
    host: hosts.Host, array: pathlib.Path
) -> None:
    uid = host.vm("one")["metadata"]["uid"]
    host.until(lambda: guarded(host), lambda held: held == [uid])
    (before,), generation = host.qemus(), defined(array, uid)
    asyncio.run(raise_epoch(host))
    host.until(lambda: processes.alive(before.identity), lambda alive: not alive)

    def again() -> Any:
        running = [one for one in host.qemus() if one.identity != before.identity]
        return running and host.vm("one")["status"]["state"] == "running"

    host.until(again, bool)
    last = host.vm("one")["status"]["last_end"]["reason"]["type"]
    assert last == "vm-ended-with-its-host"
    assert defined(array, uid) > generation
    assert guarded(host) == [uid]


def test_what_is_copied_ends_with_the_hosts_life_and_is_done_in_the_next(host: hosts.Host, array: pathlib.Path) -> None:
    def copies(number: int, begin: Any) -> hosts.Document:
        (array.parent / f"slow-{number}").touch()
        task: hosts.Document = begin()
        host.until(lambda: len(written(array)), lambda count: count == number)
        return task

    blank = {"memory": "32M", "disk": "1M", "nics": [], "storage": "array"}
    host.done(host.api.vms.create({"name": "origin", **blank}))
    volume = {"name": "data", "size": "1M", "storage": "array", "preallocated": True}
    tasks = [
        copies(1, lambda: host.api.vms.clone("origin", "copy")),  # by the VM's actor
        copies(2, lambda: host.api.volumes.create(volume)),  # by a job
    ]
    asyncio.run(raise_epoch(host))
    before = written(array)
    for task in tasks:
        said = [line["said"]["type"] for line in host.done(task)["status"]["log"]]
        assert "work-without-life" in said
    assert written(array) == before


def test_a_host_without_a_life_says_why_nothing_starts(host: hosts.Host) -> None:
    host.until(lambda: host.vm("one")["status"]["state"], lambda state: state == "running")
    done(host, "vm", "kill", "one")
    (beat,) = host.until(
        lambda: [one for one in processes.find(host.homes.runtime) if "bocage.node.beat" in one.arguments],
        lambda beats: len(beats) == 1,  # a second one that finds the first ends
    )
    processes.send(beat.identity, signal.SIGSTOP)
    unheard = spoken.now() + timing.LAN.guard
    try:
        host.until(spoken.now, lambda now: now > unheard)
        host.api.vms.start("one")
        found = host.until(lambda: host.vm("one")["status"], lambda status: status.get("reason"))
        said = host.until(lambda: host.run("why", "one").stdout, lambda text: "majority" in text)
        assert found["state"] != "running"
        assert "not in the cluster's majority since" in said
    finally:
        processes.send(beat.identity, signal.SIGCONT)
    host.becomes("one", "running")


def test_what_moves_to_shared_storage_while_it_runs_is_guarded_from_then_on(host: hosts.Host) -> None:
    done(host, "vm", "create", "two", "--memory", "32M", "--disk", "1M", "--network", "none", "--start")
    uid = host.becomes("two", "running")["metadata"]["uid"]
    assert uid not in guarded(host)
    done(host, "vm", "migrate", "two", "--storage", "array")
    host.until(lambda: guarded(host), lambda held: uid in held)
    done(host, "vm", "kill", "two")
    host.until(lambda: guarded(host), lambda held: uid not in held)
