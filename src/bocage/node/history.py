"""The file of samples: an SQLite database of its own, in which each series has a fixed number of places.

Lost, it takes nothing with it but the past's figures: a damaged one is put aside and begun anew.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import logging
import pathlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from bocage.planner import rollup

log = logging.getLogger(__name__)

T = TypeVar("T")

_VERSION = 1
_SHIFT = 10  # places of a series: 1024, of which the levels use `rollup.PLACES`
_SCHEMA = f"""
BEGIN;
CREATE TABLE series (number INTEGER PRIMARY KEY, uid TEXT NOT NULL UNIQUE);
CREATE TABLE piece (place INTEGER PRIMARY KEY, start INTEGER NOT NULL, content BLOB NOT NULL);
PRAGMA user_version = {_VERSION};
COMMIT;
"""
_JOURNAL = 128  # pages that the journal keeps about
_CACHE = 512  # KiB


@dataclasses.dataclass(frozen=True, slots=True)
class Minute:
    """A piece of the finest level that is over."""

    uid: str
    start: int
    content: bytes


class History:
    """The series of one host, by uid. Every call waits for the disk, in a thread; one at a time."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._numbers: dict[str, int] = {}
        self._unraised: dict[tuple[str, rollup.Level], int] = {}  # when the newest piece began that a level lacks
        self._one_at_a_time = asyncio.Lock()

    async def write(self, minutes: Iterable[Minute]) -> None:
        """Keep what is over, and make the coarser pieces whose time is over with it. Raises OSError."""
        await self._do(lambda: self._write(list(minutes)))

    async def read(self, uid: str, *, since: float) -> rollup.Pieces:
        """The pieces of a series that may hold something of what came after `since`. Raises OSError."""
        return await self._do(lambda: self._read(uid, since))

    async def keep_only(self, uids: Iterable[str]) -> None:
        """Forget all other series, and give their room back. Raises OSError."""
        kept = set(uids)
        await self._do(lambda: self._keep_only(kept))

    async def close(self) -> None:
        async with self._one_at_a_time:
            if self._connection:
                await asyncio.to_thread(self._connection.close)
            self._connection = None

    async def _do(self, what: Callable[[], T]) -> T:
        async with self._one_at_a_time:
            doing = asyncio.ensure_future(asyncio.to_thread(self._in_thread, what))
            try:
                return await asyncio.shield(doing)
            finally:
                await asyncio.wait([doing])  # a cancelled caller does not leave the file to two threads

    def _in_thread(self, what: Callable[[], T]) -> T:
        try:
            if self._connection is None:
                self._open()
            return what()
        except sqlite3.DatabaseError as error:
            self._put_aside(error)
            raise OSError(f"{self._path}: {error}") from error

    def _open(self) -> None:
        self._connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=1.0)
        (version,) = self._one("PRAGMA user_version")
        if version != _VERSION:
            if self._one("SELECT count(*) FROM sqlite_master") != (0,):
                raise sqlite3.DatabaseError(f"it is of version {version}")
            self._connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            self._connection.executescript(_SCHEMA)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")  # a power cut costs the last minutes and no more
        self._connection.execute(f"PRAGMA wal_autocheckpoint = {_JOURNAL}")
        self._connection.execute(f"PRAGMA journal_size_limit = {_JOURNAL << 12}")
        self._connection.execute(f"PRAGMA cache_size = -{_CACHE}")
        self._numbers = {uid: number for number, uid in self._all("SELECT number, uid FROM series")}
        for uid, number in self._numbers.items():
            for finer, level in zip(rollup.LEVELS, rollup.LEVELS[1:], strict=False):
                if newest := self._newest(number, finer):
                    self._unraised[uid, level] = newest

    def _put_aside(self, error: sqlite3.DatabaseError) -> None:
        if self._connection:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
        self._connection, self._numbers, self._unraised = None, {}, {}
        if not isinstance(error, sqlite3.OperationalError):  # which is a full disk, or one that cannot be reached
            log.warning("the samples in %s cannot be read, and are begun anew: %s", self._path, error)
            for ending in ("-wal", "-shm"):
                self._path.with_name(self._path.name + ending).unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                self._path.rename(self._path.with_name(self._path.name + ".damaged"))

    def _write(self, minutes: list[Minute]) -> None:
        with self._transaction():
            for minute in minutes:
                self._raise(minute.uid, minute.start)
                self._put(minute.uid, rollup.SECONDS, minute.start, minute.content)
                self._unraised[minute.uid, rollup.MINUTES] = minute.start
            if minutes:  # of what was not measured this time, as of a VM that stopped
                newest = max(minute.start for minute in minutes)
                for uid in {uid for uid, _ in self._unraised}:
                    self._raise(uid, newest)

    def _raise(self, uid: str, now: int) -> None:
        """Make the coarser pieces that were over before `now`."""
        for level in rollup.LEVELS[1:]:
            newest = self._unraised.get((uid, level))
            if newest is None or level.begins(newest) == level.begins(now):
                continue
            del self._unraised[uid, level]
            below = rollup.LEVELS[rollup.LEVELS.index(level) - 1]
            start = level.begins(newest)
            if content := rollup.raised(level, start, self._pieces(self._numbers[uid], below, start)):
                self._put(uid, level, start, content)
                if level is not rollup.LEVELS[-1]:
                    coarser = rollup.LEVELS[rollup.LEVELS.index(level) + 1]
                    self._unraised[uid, coarser] = start

    def _put(self, uid: str, level: rollup.Level, start: int, content: bytes) -> None:
        number = self._numbers.get(uid)
        if number is None:
            assert self._connection
            number = self._connection.execute("INSERT INTO series (uid) VALUES (?)", (uid,)).lastrowid
            assert number is not None
            self._numbers[uid] = number
        place = (number << _SHIFT) + level.place(start)
        # A part of it is there when the daemon was restarted in its midst, or the clock was wrong for a while.
        for (there,) in self._all("SELECT content FROM piece WHERE place = ? AND start = ?", place, start):
            content = rollup.merged(level, start, there, content)
        self._run("INSERT OR REPLACE INTO piece VALUES (?, ?, ?)", place, start, content)

    def _read(self, uid: str, since: float) -> rollup.Pieces:
        found: dict[rollup.Level, dict[int, bytes]] = collections.defaultdict(dict)
        if (number := self._numbers.get(uid)) is not None:
            for level in rollup.LEVELS:
                found[level] = self._pieces(number, level, since - level.piece)
        return found

    def _pieces(self, number: int, level: rollup.Level, since: float) -> dict[int, bytes]:
        first = (number << _SHIFT) + level.first
        sql = "SELECT start, content FROM piece WHERE place BETWEEN ? AND ? AND start >= ?"
        return dict(self._all(sql, first, first + level.kept - 1, since))

    def _newest(self, number: int, level: rollup.Level) -> int | None:
        first = (number << _SHIFT) + level.first
        newest: int | None
        (newest,) = self._one("SELECT max(start) FROM piece WHERE place BETWEEN ? AND ?", first, first + level.kept - 1)
        return newest

    def _keep_only(self, kept: set[str]) -> None:
        gone = [uid for uid in self._numbers if uid not in kept]
        for uid in gone:
            with self._transaction():
                number = self._numbers[uid]
                first = number << _SHIFT
                self._run("DELETE FROM piece WHERE place BETWEEN ? AND ?", first, first + (1 << _SHIFT) - 1)
                self._run("DELETE FROM series WHERE number = ?", number)
            del self._numbers[uid]
            for level in rollup.LEVELS:
                self._unraised.pop((uid, level), None)
        if gone:
            self._all("PRAGMA incremental_vacuum")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._run("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._run("ROLLBACK")
            raise
        self._run("COMMIT")

    def _run(self, sql: str, *values: object) -> None:
        assert self._connection
        self._connection.execute(sql, values)

    def _all(self, sql: str, *values: object) -> list[Any]:
        assert self._connection
        return self._connection.execute(sql, values).fetchall()

    def _one(self, sql: str, *values: object) -> Any:
        return self._all(sql, *values)[0]
