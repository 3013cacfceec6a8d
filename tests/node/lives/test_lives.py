"""A host's life over a real etcd, with its real beat and guard: what ends it, and what does not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import signal
import socket
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from bocage import ledger, process, under_way
from bocage.engine.qemu import processes
from bocage.model import keys, vm
from bocage.node import rights, spoken
from bocage.node.lives import array, claims, lives, setting
from bocage.protocol import records, timing
from bocage.storage import tools
from bocage.store.etcd import engine
from tests.node.lives import ground
from tests.store import members

pytestmark = [pytest.mark.fault, pytest.mark.slow]

VM = "0c5e6a4e-6b0f-4b57-9b43-3f0f6f6f0a02"
OTHER = "0c5e6a4e-6b0f-4b57-9b43-3f0f6f6f0a03"
OWNER = keys.owner("default", VM)


@pytest.fixture(scope="module")
def etcd() -> Iterator[members.Cluster]:
    with members.cluster(1, ["--unsafe-no-fsync"]) as made:
        yield made


class _Array(array.Array):
    """One storage, named `array`."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path

    async def root(self, storage: str, *, replicated: bool = False) -> pathlib.Path | None:
        return self._path if storage == "array" else None

    async def roots(self, *storages: str) -> list[pathlib.Path]:
        return [self._path] if not storages or "array" in storages else []


class Host:
    """One host in a cluster: its store and its daemon's part in it."""

    def __init__(self, etcd: members.Cluster, path: pathlib.Path, *, self_fence: bool) -> None:
        self.etcd, self.path, self.root = etcd, path, members.new_root()
        self.bounds = records.Bounds(self_fence=self_fence, guard=timing.LAN.guard)
        self.store: engine.EtcdStore
        self.book: ledger.Ledger
        self.lives: lives.Lives
        self._working: list[asyncio.Task[None]] = []

    async def found(self) -> None:
        await members.found(self.etcd.access(), self.root)
        await self.open()
        cluster = records.Cluster(self.store.incarnation)
        await self.store.apply(
            compare={ledger.ROOT + records.CLUSTER: 0}, puts={ledger.ROOT + records.CLUSTER: ledger.encoded(cluster)}
        )

    async def open(self) -> None:
        """A daemon begins."""
        self.store = await members.opened(self.etcd.access(), self.root, client=str(uuid.uuid4()))
        self.book = ledger.Ledger(self.store, self.store.incarnation)
        where = setting.Setting(
            host=ground.HOST,
            runtime=self.path,
            kept=self.path / "life.json",
            logs=self.path,
            access=self.etcd.access(),
            root=self.root,
            profile=timing.LAN,
            bounds=self.bounds,
        )
        self.lives = lives.Lives(where, self.book, _Array(self.path))
        self._working = [asyncio.create_task(self.book.run()), asyncio.create_task(self.lives.run())]

    async def close(self) -> None:
        """The daemon is gone: nothing of it says or does anything any more."""
        for task in self._working:
            task.cancel()
        await asyncio.gather(*self._working, return_exceptions=True)
        await self.store.close()

    async def until(self, holds: Callable[[], Any]) -> Any:
        async with asyncio.timeout(ground.BOUND):
            while not (found := holds()):
                for task in self._working:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.01)
        return found

    async def lives_in(self) -> records.Life:
        """Its life, once its guard lets things run in it."""
        await self.until(lambda: self.lives.life and self.lives._no_life() is None)
        assert self.lives.life
        return self.lives.life

    async def give(self, host: str, generation: int) -> None:
        """Make a host the VM's owner, whoever was."""
        entry = await self.store.get(OWNER)
        put = vm.Owner(host=host, generation=generation).model_dump_json().encode()
        await self.store.apply(compare={OWNER: entry.revision if entry else 0}, puts={OWNER: put})

    async def raise_epoch(self) -> None:
        """As who fences does it, who has seen the newest beat."""
        key = records.epoch_of(ground.HOST)
        while True:
            view = (await self.book.read()).view
            epoch = view.get(records.Epoch, key)
            assert epoch
            raised = records.Epoch(epoch.number + 1, epoch.taken, epoch.gone, epoch.bounds)
            transaction = records.Transaction(self.store.incarnation, {key: view.revision(key)}, {key: raised})
            if isinstance(await self.book.write(transaction), records.Applied):
                return

    async def epoch(self) -> records.Epoch:
        found = (await self.book.read()).view.get(records.Epoch, records.epoch_of(ground.HOST))
        assert found
        return found

    def pid_of(self, name: str) -> int:
        """Of its beat or guard, by its own word."""
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as asking:
            asking.connect(str(self.path / f"{name}.sock"))
            told = json.loads(asking.makefile("rb").readline())
        assert told["say"] == "hello"
        return int(told["pid"])

    async def start(self, writer: ground.Writer) -> rights.Claim:
        """Start the VM, past store and guard."""
        claim = await self.lives.claim(VM, "array")
        legacy = writer.group.legacy.get("freezer")
        try:
            await claim.admit(
                writer.identity.pid,
                writer.identity.start_time,
                unified=str(writer.group.unified) if writer.group.unified else None,
                legacy=str(legacy) if legacy else None,
            )
            writer.go()
        finally:
            claim.settle()
        await self.until(writer.writes)
        return claim


@contextlib.asynccontextmanager
async def _host(etcd: members.Cluster, *, self_fence: bool) -> AsyncIterator[Host]:
    with ground.directory() as path:
        made = Host(etcd, path, self_fence=self_fence)
        await made.found()
        try:
            yield made
        finally:
            await made.close()
            for name in ("beat", "guard"):
                with contextlib.suppress(OSError):
                    os.kill(made.pid_of(name), signal.SIGKILL)


@pytest.fixture
async def host(etcd: members.Cluster) -> AsyncIterator[Host]:
    async with _host(etcd, self_fence=False) as made:
        yield made


@contextlib.asynccontextmanager
async def writing(host: Host) -> AsyncIterator[ground.Writer]:
    """The VM runs on the host, which owns it."""
    await host.lives_in()
    writer = ground.Writer(host.path, VM)
    await writer.enter()
    try:
        await host.give(ground.HOST, 1)
        claim = await host.start(writer)
        entry = await host.store.get(OWNER)
        assert entry
        assert claim.generation == vm.Owner.model_validate_json(entry.value).generation == 2
        yield writer
    finally:
        await writer.clear()


async def test_a_raised_epoch_ends_what_runs_then_the_host_says_so_and_lives_again(host: Host) -> None:
    async with writing(host) as writer:
        life = await host.lives_in()
        assert await host.lives.holds("array") is None
        await host.raise_epoch()
        await host.until(lambda: writer.process.poll() is not None)
        await host.until(lambda: host.lives.life != life)
        assert isinstance(await host.lives.holds("array"), rights.NoLife)
        assert await host.lives.holds("local") is None
        again = await host.lives_in()
        epoch = await host.epoch()
        assert (epoch.number, epoch.taken, epoch.gone) == (life.epoch + 1,) * 2 + (life.epoch,)
        assert again.epoch == epoch.number
        second = ground.Writer(host.path, VM)
        try:
            await second.enter()
            assert (await host.start(second)).generation == 3
        finally:
            await second.clear()


async def test_beat_and_daemon_may_die_and_nothing_is_fenced(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    async with writing(host) as writer:
        life = await host.lives_in()
        first = host.pid_of("beat")
        os.kill(first, signal.SIGKILL)
        sent = host.lives.confirmed or 0.0
        await host.until(lambda: (host.lives.confirmed or 0.0) > sent + 2.0)
        assert host.pid_of("beat") != first
        beat, guard = host.pid_of("beat"), host.pid_of("guard")
        await host.close()
        count = await _beats(host)
        async with asyncio.timeout(ground.BOUND):
            while await _beats(host) < count + 3:
                await asyncio.sleep(timing.LAN.beat)
        await host.open()
        assert await host.lives_in() == life
        assert (host.pid_of("beat"), host.pid_of("guard")) == (beat, guard)
        await host.until(writer.writes)
        monkeypatch.setattr(claims, "PATIENCE", 2.0)
        with pytest.raises(rights.NotGranted):
            await host.lives.claim(VM, "array")  # it runs, which the daemon that came back knows
        writer.process.kill()
        monkeypatch.undo()
        assert (await host.lives.claim(VM, "array")).generation == 3


async def _beats(host: Host) -> int:
    seen = await members.opened(host.etcd.access(), host.root, client=str(uuid.uuid4()))
    try:
        entry = await seen.get(ledger.ROOT + records.beat_of(ground.HOST))
        assert entry
        return entry.revision
    finally:
        await seen.close()


async def test_another_beat_takes_the_place_of_one_that_ends(host: Host) -> None:
    life, first = await host.lives_in(), host.pid_of("beat")
    host.lives._beat.replace()
    await host.until(lambda: host.pid_of("beat") != first)
    since = spoken.now()
    await host.until(lambda: (host.lives.confirmed or 0.0) > since + 1.0)
    await host.until(lambda: not os.path.exists(f"/proc/{first}/exe"))
    assert await host.lives_in() == life


async def test_what_is_given_to_another_host_ends_here(host: Host) -> None:
    async with writing(host) as writer:
        await host.give(OTHER, 5)
        await host.until(lambda: writer.process.poll() is not None)
        with pytest.raises(rights.Elsewhere):
            await host.lives.claim(VM, "array")


async def test_a_start_that_did_not_come_about_is_given_back(host: Host) -> None:
    await host.lives_in()
    await host.give(ground.HOST, 1)
    claim = await host.lives.claim(VM, "array")
    claim.settle()
    writer = ground.Writer(host.path, VM)
    try:
        await writer.enter()
        with pytest.raises(rights.NotAdmitted):
            await claim.admit(writer.identity.pid, writer.identity.start_time, unified=None, legacy=None)
        assert (await host.lives.claim(VM, "array")).generation == 3
    finally:
        await writer.clear()


async def test_one_that_fences_itself_stands_while_the_store_is_away(etcd: members.Cluster) -> None:
    async with _host(etcd, self_fence=True) as host, writing(host) as writer:
        life = await host.lives_in()
        member = etcd.members[0]
        member.signal(signal.SIGSTOP)
        confirmed = host.lives.confirmed or 0.0
        try:
            await host.until(writer.group.frozen)
            assert spoken.now() > confirmed + timing.LAN.guard
            assert not writer.writes()
            assert isinstance(await host.lives.holds("array"), rights.NoLife)
        finally:
            member.signal(signal.SIGCONT)
        await host.until(writer.writes)
        assert await host.lives_in() == life


class Copy:
    """A `qemu-img` of the daemon's that writes on and on, in the place of the real one."""

    def __init__(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        self.file, self._host = host.path / "copy", host
        program = host.path / "bin" / "qemu-img"
        program.parent.mkdir()
        program.write_text("#!/bin/sh\nwhile :; do echo $$ >> $1; sleep 0.01; done\n")
        program.chmod(0o700)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    async def begun(self) -> asyncio.Task[None]:
        """It writes."""
        doing = asyncio.create_task(self._copy())
        await self._host.until(lambda: self.length > 0)
        return doing

    async def _copy(self) -> None:
        async with self._host.lives.work("array"):
            await tools.qemu_img(str(self.file), within=ground.BOUND)

    @property
    def length(self) -> int:
        return self.file.stat().st_size if self.file.exists() else 0

    @property
    def process(self) -> processes.Identity:
        return processes.identify(int(self.file.read_text().split()[0]))


async def test_nothing_of_the_daemon_writes_any_more_when_its_host_has_said_gone(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    life, copy = await host.lives_in(), Copy(host, monkeypatch)
    copying = await copy.begun()
    child = copy.process
    stubborn, written, may_end = under_way.Threads(1), host.path / "written", threading.Event()

    def write() -> None:  # as one does whose storage hangs
        while not may_end.wait(0.01):
            with written.open("a") as file:
                file.write("more")

    async def in_a_thread() -> None:
        async with host.lives.work("array"):
            await asyncio.get_running_loop().run_in_executor(stubborn, write)

    writing = asyncio.create_task(in_a_thread())
    await host.until(written.exists)
    try:
        await host.raise_epoch()
        for doing in (copying, writing):
            with pytest.raises(rights.Waits):
                await doing
        with pytest.raises(rights.Waits):
            async with host.lives.work("array"):
                pass
        async with host.lives.work("local"):
            pass
        gone = await host.until(lambda: host.lives.guarded.gone)
        assert not processes.alive(child)
        await host.until(lambda: spoken.now() > gone + 2 * timing.LAN.drain)
        assert (await host.epoch()).taken == life.epoch, "its thread writes on"
    finally:
        may_end.set()
        stubborn.shutdown()
    length = written.stat().st_size, copy.length
    await host.until(lambda: host.lives.life != life)
    await host.lives_in()
    assert (await host.epoch()).gone == life.epoch
    assert (written.stat().st_size, copy.length) == length
    async with host.lives.work("array"):
        pass


async def test_the_guard_ends_a_copy_whose_daemon_hears_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    await host.lives_in()
    copying = await Copy(host, monkeypatch).begun()
    host._working[1].cancel()  # what drives its life
    await host.raise_epoch()
    with pytest.raises(process.Failed, match="SIGKILL"):
        await copying


async def test_a_copy_that_the_guard_does_not_take_charge_of_never_begins(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    await host.lives_in()
    copy = Copy(host, monkeypatch)
    monkeypatch.setattr(host.lives, "_may_start", lambda: True)
    beat = host.pid_of("beat")
    os.kill(beat, signal.SIGSTOP)
    try:
        unheard = spoken.now() + timing.LAN.guard
        await host.until(lambda: spoken.now() > unheard)
        with pytest.raises(rights.Waits):
            await copy._copy()
        assert not copy.length
    finally:
        os.kill(beat, signal.SIGCONT)
