"""A damaged database is refused with words and left as it was found."""

from __future__ import annotations

import contextlib
import os
import pathlib
import random
import sqlite3
import time

import pytest

from bocage.store import contract, schema, sqlite
from tests.store import remains
from tests.store.conformance import state

SEED = int(os.environ.get("BOCAGE_TEST_SEED") or time.time_ns() % 1_000_000_000)


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
@pytest.mark.parametrize("wanted", [b"large", b"small/3/3", b"4444444"], ids=["value", "key", "values"])
async def test_one_changed_byte_in_what_it_holds_is_found(filled, wanted):
    sound = filled.read_bytes()
    places = [place for place in range(len(sound)) if sound.startswith(wanted, place)]
    assert places
    for place in places[:: len(places) // 10 + 1]:
        filled.write_bytes(sound[:place] + b"!" + sound[place + 1 :])
        await refused_and_untouched(filled)


@pytest.mark.fault
async def test_a_damaged_database_with_a_log_is_left_as_it_is_with_its_log(filled, tmp_path):
    store = await sqlite.open(filled)
    await store.apply(puts={"new": b"1"})
    killed = remains.copy(filled, tmp_path / "killed")
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
    killed = remains.copy(path, tmp_path / "killed")
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
