"""What must survive: death at any moment, a full disk, a second opener."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import random
import resource
import sys
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from bocage import process
from bocage.store import contract, sqlite
from tests.store import remains, writer
from tests.store.conformance import state

SEED = int(os.environ.get("BOCAGE_TEST_SEED") or time.time_ns() % 1_000_000_000)


@pytest.fixture
async def small_disk(tmp_path: pathlib.Path) -> AsyncIterator[pathlib.Path]:
    """A file system of 3 MiB, a third of which is taken by the file `ballast`."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        await process.run("mount", "-t", "tmpfs", "-o", "size=3m", "bocage-test", disk, within=10)
    except process.Failed:
        pytest.skip("mounting a small file system needs root")
    try:
        (disk / "ballast").write_bytes(bytes(1 << 20))
        yield disk
    finally:
        await process.run("umount", "-l", disk, within=10)


# --- death


@contextlib.asynccontextmanager
async def other_process(path: pathlib.Path, seed: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """A writer in a process of its own, which has the store open; killed at the end."""
    root = pathlib.Path(__file__).parents[2]
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", writer.__name__, os.fspath(path), str(seed)),
        stdout=asyncio.subprocess.PIPE,
        stdin=asyncio.subprocess.DEVNULL,
        cwd=root,
    )
    assert child.stdout
    try:
        async with asyncio.timeout(30):
            assert await child.stdout.readline() == b"open\n"
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()


async def check_acknowledged(path: pathlib.Path, acknowledged: list[tuple[str, int, int]]) -> None:
    """Each acknowledged write is in the history at its revision, whole; the counts have no gap."""
    store = await sqlite.open(path, keep_revisions=1_000_000)
    try:
        newest = await store.revision()
        history: dict[int, dict[str, int]] = {}
        values: dict[str, bytes] = {}
        watch = store.watch("", since=0)
        while len(history) < newest:
            for change in await anext(watch):
                assert change.entry
                name, count = change.key, int(change.entry.value.split()[0])
                assert count == int(values.get(name, b"0").split()[0]) + 1
                history.setdefault(change.revision, {})[name] = count
                values[name] = change.entry.value
        assert sorted(history) == list(range(1, newest + 1))
        for name, count, revision in acknowledged:
            assert history[revision] == {f"a/{name}": count, f"b/{name}": count}
        assert await state(store) == values
        assert all(values[key] == values[key.replace("a/", "b/")] for key in values)
    finally:
        await store.close()


@pytest.mark.fault
async def test_what_was_acknowledged_survives_kill_9(path):
    print(f"BOCAGE_TEST_SEED={SEED}")
    chance = random.Random(SEED)
    acknowledged: list[tuple[str, int, int]] = []
    for _ in range(8):
        async with other_process(path, chance.randrange(1 << 30)) as child:
            assert child.stdout
            async with asyncio.timeout(30):
                for _ in range(chance.choice([0, 1, 20, 300, 900])):
                    name, count, revision = (await child.stdout.readline()).decode().split()
                    acknowledged.append((name, int(count), int(revision)))
            for _ in range(chance.randrange(3000)):
                pass
            child.kill()
            async for line in child.stdout:
                name, count, revision = line.decode().split()
                acknowledged.append((name, int(count), int(revision)))
        await check_acknowledged(path, acknowledged)
    assert acknowledged


@pytest.mark.fault
async def test_a_second_opener_is_refused_until_the_first_is_dead(path):
    async with other_process(path, SEED) as child:
        with pytest.raises(sqlite.InUse) as caught:
            await sqlite.open(path)
        assert caught.value.pid == child.pid
        child.kill()
        await child.wait()
    store = await sqlite.open(path)
    assert await store.apply(puts={"a": b"1"}) == await store.revision()
    await store.close()


# --- disk full


async def fill(store: contract.Store, told: dict[str, bytes]) -> None:
    """Write until it fails, ever less; `told` has what was acknowledged."""
    for size in (50_000, 4_000, 100):
        for n in range(10_000):
            value = os.urandom(size)
            try:
                await store.apply(puts={f"{size}/{n}": value})
            except contract.Failed:
                break
            told[f"{size}/{n}"] = value
        else:
            raise AssertionError("the disk was never full")


@pytest.mark.fault
async def test_a_full_disk_fails_writes_and_nothing_else_and_passes_with_room(small_disk):
    store = await sqlite.open(small_disk / "bocage.db")
    told: dict[str, bytes] = {}
    watch = store.watch("", since=0)
    await fill(store, told)
    newest = await store.revision()
    assert newest == len(told)
    for _ in range(3):
        with pytest.raises(contract.Failed):
            await store.apply(puts={"more": os.urandom(100_000)}, deletes=["50000/0"])
    outcomes = await asyncio.gather(
        *(store.apply(puts={f"many/{n}": os.urandom(20_000)}) for n in range(20)), return_exceptions=True
    )
    assert all(isinstance(outcome, contract.Failed) for outcome in outcomes)
    assert await store.revision() == newest
    assert await state(store) == told
    seen = 0
    while seen < newest:
        seen = (await anext(watch))[-1].revision
    (small_disk / "ballast").unlink()
    assert await store.apply(puts={"room": b"again"}) == newest + 1
    assert (await anext(watch))[0].key == "room"
    await store.close()
    again = await sqlite.open(small_disk / "bocage.db")
    assert await state(again) == told | {"room": b"again"}
    await again.close()


@pytest.mark.fault
async def test_death_on_a_full_disk_loses_nothing(small_disk, tmp_path):
    store = await sqlite.open(small_disk / "bocage.db")
    told: dict[str, bytes] = {}
    await fill(store, told)
    copy = remains.copy(small_disk / "bocage.db", tmp_path / "copy")
    await store.close()
    for path in (copy, small_disk / "bocage.db"):
        with contextlib.suppress(FileNotFoundError):
            (small_disk / "ballast").unlink()
        again = await sqlite.open(path)
        assert await state(again) == told
        await again.close()


@pytest.mark.fault
async def test_a_store_can_be_read_that_is_opened_on_a_full_disk(small_disk):
    store = await sqlite.open(small_disk / "bocage.db")
    await store.apply(puts={"a": b"1"})
    await store.close()
    with contextlib.suppress(OSError):
        for n in range(1000):
            small_disk.joinpath(f"filler{n}").write_bytes(bytes(4096))
    try:
        store = await sqlite.open(small_disk / "bocage.db")
        assert await state(store) == {"a": b"1"}
        await store.close()
    except contract.Failed:
        pass  # not even the shared memory has room; nothing is lost
    for filler in small_disk.glob("filler*"):
        filler.unlink()
    store = await sqlite.open(small_disk / "bocage.db")
    assert await state(store) == {"a": b"1"}
    await store.close()


@contextlib.contextmanager
def no_file_over(size: int) -> Iterator[None]:
    """Writes of this process behind `size` fail with EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.fault
async def test_a_write_that_the_kernel_refuses_writes_nothing_and_the_next_is_fine(path, tmp_path):
    store = await sqlite.open(path)
    told = {f"k{n}": os.urandom(10_000) for n in range(30)}
    for key, value in told.items():
        await store.apply(puts={key: value})
    with no_file_over(path.with_name("bocage.db-wal").stat().st_size + 10_000):
        for _ in range(2):
            with pytest.raises(contract.Failed):
                await store.apply(puts={"large": os.urandom(100_000)})
        killed = remains.copy(path, tmp_path / "killed")
    assert await state(store) == told
    assert await store.apply(puts={"large": b""}) == 31
    await store.close()
    for each, more in ((killed, {}), (path, {"large": b""})):
        again = await sqlite.open(each)
        assert await state(again) == told | more
        await again.close()


async def test_what_a_failed_commit_left_in_the_log_is_never_taken_for_written(path, tmp_path):
    store = await sqlite.open(path)
    await store.apply(puts={"a": b"1"})
    before = remains.copy(path, tmp_path / "before")
    log = before.with_name("bocage.db-wal")
    await store.apply(puts={"b": b"1"})
    left_over = path.with_name("bocage.db-wal").read_bytes()[log.stat().st_size :]
    await store.close()
    store = await sqlite.open(before)
    log.write_bytes(
        log.read_bytes() + left_over
    )  # as a COMMIT would whose frames came to the log, and whose fsync failed
    unmended = await sqlite.open(remains.copy(before, tmp_path / "unmended"))
    assert await unmended.get("b")
    await unmended.close()
    store._suspect = True
    with pytest.raises(contract.Mismatch):
        await store.apply(compare={"a": 99})
    mended = await sqlite.open(remains.copy(before, tmp_path / "mended"))
    assert await state(mended) == {"a": b"1"}
    await mended.close()
    await store.close()
