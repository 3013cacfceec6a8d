"""What the SQLite engine does beyond the contract."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import sqlite3
import stat
import threading

import pytest

from bocage.store import contract, sqlite, tables


def rows(path: pathlib.Path, table: str) -> int:
    """Counted by a connection of its own, while the store is open or closed."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (count,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(count)


async def test_everything_is_there_after_reopening(path):
    store = await sqlite.open(path)
    await store.apply(puts={"a": b"1", "b": b"1"})
    await store.apply(puts={"a": b"2"}, deletes=["b"])
    await store.compact(1)
    await store.close()
    again = await sqlite.open(path)
    assert await again.revision() == 2
    assert await again.list("") == contract.Page([contract.Entry("a", b"2", 2, 1)], 2, None)
    assert [entry.key for entry in (await again.list("", at=1)).entries] == ["a", "b"]
    with pytest.raises(contract.Compacted):
        await again.list("", at=0)
    changes = await anext(again.watch("", since=1))
    assert [(change.key, change.entry is None) for change in changes] == [("a", False), ("b", True)]
    await again.close()


async def test_only_the_last_revisions_are_kept(path):
    store = await sqlite.open(path, keep_revisions=100)
    for n in range(40):
        await asyncio.gather(*(store.apply(puts={f"hot{m}": str(n).encode(), f"k{n}.{m}": b""}) for m in range(20)))
    newest = await store.revision()
    assert newest == 800
    assert (await store.list("hot", at=newest - 100)).revision == newest - 100
    with pytest.raises(contract.Compacted) as caught:
        await store.list("", at=1)
    assert newest - 100 - 30 <= caught.value.oldest <= newest - 100
    live = rows(path, "live")
    assert live == 820
    assert rows(path, "change") <= live + 130
    await store.close()


async def test_what_was_deleted_leaves_nothing_behind(path):
    store = await sqlite.open(path, keep_revisions=1)
    for n in range(50):
        await store.apply(puts={f"k{n}": b"", "hot": b""})
        await store.apply(deletes=[f"k{n}"])
    await store.apply(puts={"hot": b""})
    await store.apply(puts={"hot": b""})
    await store.compact(await store.revision())
    assert rows(path, "change") == 1
    await store.close()


async def test_a_quiet_watch_outlives_compaction_whether_or_not_its_reader_waits(path):
    store = await sqlite.open(path, keep_revisions=3)
    waited, left = (store.watch("quiet", since=0) for _ in range(2))
    waiting = asyncio.ensure_future(anext(waited))
    await asyncio.sleep(0)
    for n in range(30):
        await store.apply(puts={"b": str(n).encode()})
    await store.apply(puts={"quiet": b""})
    for changes in (await waiting, await anext(left)):
        assert [change.revision for change in changes] == [31]
    await store.close()


async def test_the_log_stays_bounded_while_much_is_written(path):
    store = await sqlite.open(path, keep_revisions=10)
    for _ in range(60):
        await asyncio.gather(*(store.apply(puts={f"k{n}": os.urandom(100_000)}) for n in range(10)))
    assert path.with_name("bocage.db-wal").stat().st_size < 30 << 20
    assert path.stat().st_size < 30 << 20
    await store.close()


async def test_closing_leaves_one_file_no_thread_and_the_lock_free(path):
    store = await sqlite.open(path)
    await store.apply(puts={"a": b"1"})
    assert any(thread.name.startswith("store") for thread in threading.enumerate())
    await store.close()
    assert sorted(file.name for file in path.parent.iterdir()) == ["bocage.db", "bocage.db.lock"]
    again = await sqlite.open(path)
    await again.close()


async def test_nobody_else_can_read_the_files(path):
    previous = os.umask(0)
    try:
        store = await sqlite.open(path)
        await store.apply(puts={"a": b"1"})
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        await store.close()
    finally:
        os.umask(previous)
    assert modes == dict.fromkeys(["bocage.db", "bocage.db-wal", "bocage.db-shm", "bocage.db.lock"], 0o600)


async def test_a_second_opener_in_the_same_process_is_refused(path):
    store = await sqlite.open(path)
    with pytest.raises(sqlite.InUse) as caught:
        await sqlite.open(path)
    assert caught.value.pid == os.getpid()
    await store.apply(puts={"a": b"1"})
    await store.close()


async def test_a_store_in_a_directory_that_is_not_there_is_refused(path):
    with pytest.raises(contract.Failed):
        await sqlite.open(path.parent / "absent" / "bocage.db")


async def test_an_odd_path_is_taken_as_it_is(tmp_path):
    path = tmp_path / "a b%20?mode=ro#é" / "bocage.db"
    path.parent.mkdir()
    store = await sqlite.open(path)
    await store.apply(puts={"a": b"1"})
    await store.close()
    assert path.exists()


async def test_giving_up_while_it_opens_leaves_the_lock_free(path):
    opening = asyncio.ensure_future(sqlite.open(path))
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    async with asyncio.timeout(10):
        while True:
            try:
                store = await sqlite.open(path)
                break
            except sqlite.InUse:
                continue
    await store.close()


async def test_many_transactions_share_one_commit(path):
    store = await sqlite.open(path)
    await store.apply(puts={"a": b""})
    log = path.with_name("bocage.db-wal")
    before = log.stat().st_size
    await asyncio.gather(*(store.apply(puts={f"k{n:03}": b""}) for n in range(100)))
    assert log.stat().st_size - before < 25 * 4096  # each alone would have written three pages at least
    await store.close()


async def test_watches_that_nobody_holds_any_more_are_forgotten(path):
    store = await sqlite.open(path)
    for _ in range(100):
        store.watch("", since=0)
    kept = store.watch("", since=0)
    await store.apply(puts={"a": b""})
    assert len(store._watches) == 1
    assert len(await anext(kept)) == 1
    await store.close()


async def test_another_program_may_read_the_database_while_it_is_open(path):
    store = await sqlite.open(path)
    await store.apply(puts={"a": b"1"})
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN")
        assert other.execute("SELECT count(*) FROM live").fetchone() == (1,)
        for n in range(20):
            await store.apply(puts={f"k{n}": os.urandom(300_000)})
        assert other.execute("SELECT count(*) FROM live").fetchone() == (1,)
    assert len((await store.list("")).entries) == 21
    await store.close()


async def test_another_program_that_holds_the_write_lock_is_told_of_and_does_no_harm(path):
    store = await sqlite.open(path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(contract.Failed):
            await store.apply(puts={"a": b"1"})
        other.execute("ROLLBACK")
    assert await store.apply(puts={"a": b"1"}) == 1
    await store.close()


async def test_a_fault_of_ours_ends_the_store_and_leaves_nobody_waiting(path, monkeypatch):
    def fault(*_: object) -> None:
        raise RuntimeError("fault")

    store = await sqlite.open(path)
    await store.apply(puts={"a": b"1"})
    waiting = asyncio.ensure_future(anext(store.watch("", since=1)))
    monkeypatch.setattr(tables.Batch, "_change", fault)
    outcomes = await asyncio.gather(*(store.apply(puts={"a": b"2"}) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(outcome, contract.Closed) for outcome in outcomes)
    with pytest.raises(StopAsyncIteration):
        await waiting
    with pytest.raises(RuntimeError, match="fault"):
        await store.close()
    monkeypatch.undo()
    again = await sqlite.open(path)
    assert await again.get("a") == contract.Entry("a", b"1", 1, 1)
    await again.close()


def test_a_loop_that_is_torn_down_lets_go_of_the_database(path):
    async def opened_and_left() -> None:
        store = await sqlite.open(path)
        await store.apply(puts={"a": b"1"})
        asyncio.ensure_future(store.apply(puts={"b": b"1"}))  # noqa: RUF006 - left behind on purpose
        await asyncio.sleep(0)

    async def opened_again() -> None:
        store = await sqlite.open(path)
        assert await store.get("a")
        await store.close()

    asyncio.run(opened_and_left())
    asyncio.run(opened_again())
