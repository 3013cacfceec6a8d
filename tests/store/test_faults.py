"""What must survive: death at any moment, a full disk, a second opener, a damaged file."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import random
import resource
import shutil
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from bocage import process
from bocage.store import contract, schema, sqlite
from tests.store import writer

SEED = int(os.environ.get("BOCAGE_TEST_SEED") or time.time_ns() % 1_000_000_000)


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "bocage.db"


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


async def state(store: contract.Store) -> dict[str, bytes]:
    return {entry.key: entry.value for entry in (await store.list("")).entries}


def copy_as_if_killed(path: pathlib.Path, to: pathlib.Path) -> pathlib.Path:
    """The files that a process which died now would leave (its shared memory is made anew)."""
    to.mkdir()
    for name in (path.name, path.name + "-wal"):
        shutil.copy(path.with_name(name), to / name)
    return to / path.name


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
    copy = copy_as_if_killed(small_disk / "bocage.db", tmp_path / "copy")
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
        killed = copy_as_if_killed(path, tmp_path / "killed")
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
    before = copy_as_if_killed(path, tmp_path / "before")
    log = before.with_name("bocage.db-wal")
    await store.apply(puts={"b": b"1"})
    left_over = path.with_name("bocage.db-wal").read_bytes()[log.stat().st_size :]
    await store.close()
    store = await sqlite.open(before)
    log.write_bytes(
        log.read_bytes() + left_over
    )  # as a COMMIT would whose frames came to the log, and whose fsync failed
    unmended = await sqlite.open(copy_as_if_killed(before, tmp_path / "unmended"))
    assert await unmended.get("b")
    await unmended.close()
    store._suspect = True
    with pytest.raises(contract.Mismatch):
        await store.apply(compare={"a": 99})
    mended = await sqlite.open(copy_as_if_killed(before, tmp_path / "mended"))
    assert await state(mended) == {"a": b"1"}
    await mended.close()
    await store.close()


# --- damage


@pytest.fixture
async def filled(path: pathlib.Path) -> pathlib.Path:
    store = await sqlite.open(path)
    for n in range(12):
        await store.apply(
            puts={f"small/{n}/{m}": str(m).encode() * 100 for m in range(9)} | {f"large/{n}": b"large" * 1800}
        )
    await store.close()
    return path


async def refused_and_untouched(path: pathlib.Path) -> schema.Damaged:
    def files() -> dict[str, bytes]:
        return {
            file.name: file.read_bytes() for file in path.parent.iterdir() if not file.name.endswith(("-shm", ".lock"))
        }

    before = files()
    with pytest.raises(schema.Damaged) as caught:
        await sqlite.open(path)
    assert files() == before
    return caught.value


@pytest.mark.fault
@pytest.mark.parametrize("keep", [0, 1, 100, 4096, 0.5, -4096, -1])
async def test_a_truncated_database_is_refused_and_left_as_it_is(filled, keep):
    size = filled.stat().st_size
    os.truncate(filled, size + keep if keep < 0 else int(size * keep) if keep == 0.5 else keep)
    error = await refused_and_untouched(filled)
    assert error.path == os.fspath(filled)
    assert "bocage adopt" in error.hint


@pytest.mark.fault
async def test_a_database_with_any_page_destroyed_is_refused_and_left_as_it_is(filled):
    sound = filled.read_bytes()
    for junk in (bytes(4096), b"\xff" * 4096, random.Random(SEED).randbytes(4096)):
        for page in range(0, len(sound), 4096):
            filled.write_bytes(sound[:page] + junk + sound[page + 4096 :])
            await refused_and_untouched(filled)
    filled.write_bytes(sound)
    store = await sqlite.open(filled)
    assert len((await store.list("")).entries) == 120
    await store.close()


@pytest.mark.fault
@pytest.mark.parametrize("wanted", [b"large", b"small/3/3", b"4 4 4 4"], ids=["value", "key", "values"])
async def test_one_changed_byte_in_what_it_holds_is_found(filled, wanted):
    sound = filled.read_bytes()
    places = [place for place in range(len(sound)) if sound.startswith(wanted, place)]
    for place in places[:: len(places) // 10 + 1]:
        filled.write_bytes(sound[:place] + b"!" + sound[place + 1 :])
        await refused_and_untouched(filled)


@pytest.mark.fault
async def test_a_damaged_database_with_a_log_is_left_as_it_is_with_its_log(filled, tmp_path):
    store = await sqlite.open(filled)
    await store.apply(puts={"new": b"1"})
    killed = copy_as_if_killed(filled, tmp_path / "killed")
    await store.close()
    sound = killed.read_bytes()
    middle = len(sound) // 8192 * 4096
    killed.write_bytes(sound[:middle] + bytes(4096) + sound[middle + 4096 :])
    await refused_and_untouched(killed)
    assert killed.with_name("bocage.db-wal").stat().st_size > 0


@pytest.mark.fault
async def test_damage_that_comes_later_is_told_and_harms_no_one(filled):
    store = await sqlite.open(filled)
    sound = filled.read_bytes()
    filled.write_bytes(sound[:4096] + b"\xff" * (len(sound) - 4096))
    with pytest.raises(contract.Failed):
        await store.list("")
    await store.close()


async def test_damage_of_the_past_is_told_to_those_who_read_it(path):
    store = await sqlite.open(path)
    await store.apply(puts={"a": b"the old value"})
    await store.apply(puts={"a": b"the new value"})
    await store.close()
    path.write_bytes(path.read_bytes().replace(b"the old value", b"the odd value"))
    store = await sqlite.open(path)
    assert await state(store) == {"a": b"the new value"}
    with pytest.raises(contract.Failed, match="malformed: a"):
        await store.list("", at=1)
    with pytest.raises(contract.Failed):
        await anext(store.watch("", since=0))
    assert len(await anext(store.watch("", since=1))) == 1
    await store.close()


async def test_once_a_damaged_database_is_moved_away_a_new_one_is_made(filled):
    filled.write_bytes(b"not a database" * 1000)
    await refused_and_untouched(filled)
    filled.rename(filled.with_name("damaged.db"))
    store = await sqlite.open(filled)
    assert await store.revision() == 0
    await store.close()


async def test_a_log_without_its_database_is_refused_and_left_as_it_is(path, tmp_path):
    store = await sqlite.open(path)
    await store.apply(puts={"a": b"1"})
    killed = copy_as_if_killed(path, tmp_path / "killed")
    await store.close()
    killed.rename(tmp_path / "moved.db")
    log = killed.with_name("bocage.db-wal")
    before = log.read_bytes()
    with pytest.raises(schema.Orphaned):
        await sqlite.open(killed)
    assert log.read_bytes() == before
    assert not killed.exists()


async def test_another_programs_database_is_refused_and_left_as_it_is(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (id INTEGER)")
    before = path.read_bytes()
    with pytest.raises(schema.Foreign):
        await sqlite.open(path)
    assert path.read_bytes() == before
