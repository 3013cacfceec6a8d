"""A database of an older version is carried over after a copy was made; a newer one is refused."""

from __future__ import annotations

import contextlib
import os
import pathlib
import sqlite3
import stat

import pytest

from bocage.store import contract, schema, sqlite
from tests.store import remains


@pytest.fixture
async def old(tmp_path: pathlib.Path) -> pathlib.Path:
    """A database as today's version makes it."""
    path = tmp_path / "bocage.db"
    store = await sqlite.open(path)
    await store.apply(puts={"a": b"1", "b": b"1"})
    await store.apply(puts={"a": b"2"})
    await store.close()
    return path


def adds_a_table(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE novelty (id INTEGER) STRICT")
    connection.execute("INSERT INTO novelty SELECT count(*) FROM change")


def fails_half_way(connection: sqlite3.Connection) -> None:
    adds_a_table(connection)
    connection.execute("DELETE FROM live")
    connection.execute("INSERT INTO absent VALUES (1)")


def ask(path: pathlib.Path, question: str) -> object:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(question).fetchone()[0]


def next_version(monkeypatch: pytest.MonkeyPatch, *steps: schema.Migration) -> int:
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, *steps))
    return len(schema.MIGRATIONS)


async def test_a_new_database_has_the_newest_version(old):
    assert ask(old, "PRAGMA user_version") == len(schema.MIGRATIONS)
    assert ask(old, "PRAGMA application_id") == schema.APPLICATION


async def test_opening_a_database_of_this_version_makes_no_copy(old):
    store = await sqlite.open(old)
    await store.close()
    assert not list(old.parent.glob("*.bak"))


async def test_an_older_database_is_copied_and_migrated(old, monkeypatch):
    version = len(schema.MIGRATIONS)
    assert next_version(monkeypatch, adds_a_table, lambda _: None) == version + 2
    store = await sqlite.open(old)
    assert [entry.value for entry in (await store.list("")).entries] == [b"2", b"1"]
    assert len((await store.list("", at=1)).entries) == 2
    assert await store.apply(puts={"c": b"1"}) == 3
    await store.close()
    assert ask(old, "SELECT id FROM novelty") == 3
    assert ask(old, "PRAGMA user_version") == version + 2
    copy = old.with_name(f"bocage.db.v{version}.bak")
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert sorted(file.name for file in old.parent.iterdir()) == ["bocage.db", "bocage.db.lock", copy.name]


async def test_the_copy_is_a_database_that_the_older_version_takes(old, monkeypatch):
    version = len(schema.MIGRATIONS)
    with monkeypatch.context() as newer:
        next_version(newer, adds_a_table)
        await (await sqlite.open(old)).close()
    with pytest.raises(schema.Newer):
        await sqlite.open(old)
    os.replace(old.with_name(f"bocage.db.v{version}.bak"), old)
    store = await sqlite.open(old)
    assert await store.get("a") == contract.Entry("a", b"2", 2, 1)
    await store.close()


async def test_what_the_log_held_is_migrated_and_copied_too(old, tmp_path, monkeypatch):
    store = await sqlite.open(old)
    await store.apply(puts={"late": b"1"})
    killed = remains.copy(old, tmp_path / "killed")
    await store.close()
    version = len(schema.MIGRATIONS)
    next_version(monkeypatch, adds_a_table)
    store = await sqlite.open(killed)
    assert await store.get("late")
    await store.close()
    assert ask(killed.with_name(f"bocage.db.v{version}.bak"), "SELECT count(*) FROM live WHERE key = 'late'") == 1


async def test_a_migration_that_fails_changes_nothing(old, monkeypatch):
    version = len(schema.MIGRATIONS)
    with monkeypatch.context() as newer:
        next_version(newer, adds_a_table, fails_half_way)
        with pytest.raises(contract.Failed):
            await sqlite.open(old)
    assert ask(old, "PRAGMA user_version") == version
    store = await sqlite.open(old)
    assert len((await store.list("")).entries) == 2
    await store.close()


async def test_when_no_copy_can_be_made_nothing_is_migrated(old, monkeypatch):
    version = len(schema.MIGRATIONS)
    old.with_name(f"bocage.db.v{version}.bak").mkdir()  # the copy cannot take its place
    with monkeypatch.context() as newer:
        next_version(newer, adds_a_table)
        with pytest.raises(contract.Failed):
            await sqlite.open(old)
    assert ask(old, "PRAGMA user_version") == version
    assert not list(old.parent.glob("*.part"))


async def test_a_newer_database_is_refused_with_words_and_left_as_it_is(old):
    with contextlib.closing(sqlite3.connect(old)) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = old.read_bytes()
    with pytest.raises(schema.Newer) as caught:
        await sqlite.open(old)
    assert (caught.value.found, caught.value.known) == (99, len(schema.MIGRATIONS))
    assert "99" in str(caught.value)
    assert old.read_bytes() == before
    assert sorted(file.name for file in old.parent.iterdir()) == ["bocage.db", "bocage.db.lock"]


async def test_what_was_left_half_made_is_made_anew(tmp_path):
    path = tmp_path / "bocage.db"
    for name in ("bocage.db.part", "bocage.db.part-wal", "bocage.db.part-journal"):
        (tmp_path / name).write_bytes(b"half")
    store = await sqlite.open(path)
    assert await store.revision() == 0
    await store.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bocage.db", "bocage.db.lock"]


async def test_a_database_in_use_can_be_copied(old, tmp_path):
    store = await sqlite.open(old)
    await store.apply(puts={"late": b"1"})
    schema.copy(old, tmp_path / "copy.db")
    await store.apply(puts={"later": b"1"})
    await store.close()
    copy = await sqlite.open(tmp_path / "copy.db")
    assert [entry.key for entry in (await copy.list("")).entries] == ["a", "b", "late"]
    await copy.close()
