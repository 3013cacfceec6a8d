"""What is read from and written to the SQLite engine's tables, as they are made in `schema`; no waiting here."""

from __future__ import annotations

import dataclasses
import itertools
import sqlite3
from collections.abc import Mapping

from bocage.store import contract, line, schema

# Text sorts before any blob, so an empty blob as `past` bounds nothing. `+key` keeps to the order of ids.
_GET = """
SELECT change.id, change.key, change.created, value, checksum FROM live JOIN change USING (id)
WHERE live.key = ?"""
_LIST = """
SELECT change.id, change.key, change.created, value, checksum FROM live CROSS JOIN change USING (id)
WHERE live.key >= :low AND live.key < :past ORDER BY live.key LIMIT :limit"""
_LIVED = "SELECT max(id) FROM change WHERE key >= :low AND key < :past AND id < :before GROUP BY key ORDER BY key"
_ONE = "SELECT id, key, created, value, checksum FROM change WHERE id = ? AND created > 0"
_CHANGES = """
SELECT id, key, created, value, checksum FROM change
WHERE id >= :first AND +key >= :low AND +key < :past ORDER BY id LIMIT :limit"""
# After a compaction each key has one change at most up to and with that revision. So what the changes
# since then replaced goes, and deletes before the new revision; that revision itself stays whole.
_FORGET_REPLACED = """
DELETE FROM change WHERE id IN (
    SELECT (SELECT max(old.id) FROM change AS old WHERE old.key = new.key AND old.id < new.id)
    FROM change AS new WHERE new.id >= ? AND new.id < ?)"""
_FORGET_DELETES = "DELETE FROM change WHERE id >= ? AND id < ? AND created = 0"

_LONGEST = 512  # changes of one step of a watch; more than one transaction can have


@dataclasses.dataclass(slots=True, frozen=True)
class Horizon:
    """How far the history reaches: `oldest` to `newest`, both included."""

    newest: int
    oldest: int

    def check(self, revision: int) -> None:
        """Raises contract.FutureRevision and contract.Compacted."""
        if revision > self.newest:
            raise contract.FutureRevision(asked=revision, newest=self.newest)
        if revision < self.oldest:
            raise contract.Compacted(asked=revision, oldest=self.oldest)


def horizon(reader: sqlite3.Connection) -> Horizon:
    """The horizon of the reader's snapshot."""
    row, oldest = reader.execute("SELECT (SELECT max(id) FROM change), revision FROM compacted").fetchone()
    return Horizon(_revision(row or 0), oldest)


def get(reader: sqlite3.Connection, key: str) -> contract.Entry | None:
    """The key as it stands now."""
    row = reader.execute(_GET, (key,)).fetchone()
    return _entry(*row) if row else None


def page(
    reader: sqlite3.Connection, prefix: str, *, limit: int | None, after: str | None, at: int | None
) -> contract.Page:
    """See contract.Store.list; the caller holds a snapshot."""
    reach = horizon(reader)
    at = reach.newest if at is None else at
    reach.check(at)
    bounds = {"low": prefix if after is None else max(prefix, after + "\0"), "past": _past(prefix)}
    if at == reach.newest:
        rows = reader.execute(_LIST, {**bounds, "limit": -1 if limit is None else limit + 1}).fetchall()
    else:
        lived = reader.execute(_LIVED, {**bounds, "before": _first_id(at + 1)})
        found = (row for id_ in lived if (row := reader.execute(_ONE, id_).fetchone()))
        rows = list(itertools.islice(found, None if limit is None else limit + 1))
    entries = [_entry(*row) for row in rows[:limit]]
    return contract.Page(entries, at, entries[-1].key if len(entries) < len(rows) else None)


def changes(reader: sqlite3.Connection, prefix: str, *, since: int) -> tuple[list[contract.Change], int]:
    """Changes over the revision `since`, oldest first, and the revision up to which they are all.

    The caller holds a snapshot. None means that there are none up to the snapshot's newest revision.
    Raises contract.FutureRevision and contract.Compacted.
    """
    reach = horizon(reader)
    reach.check(since)
    if since == reach.newest:
        return [], since
    bounds = {"first": _first_id(since + 1), "low": prefix, "past": _past(prefix), "limit": _LONGEST}
    rows = reader.execute(_CHANGES, bounds).fetchall()
    until = reach.newest
    if len(rows) == _LONGEST:  # the last revision may not be whole
        until = _revision(rows[-1][0]) - 1
        rows = [row for row in rows if _revision(row[0]) <= until]
    return [_change(*row) for row in rows], until


class Batch:
    """What one COMMIT writes: each transaction sees those before it."""

    def __init__(self, writer: sqlite3.Connection, before: Horizon) -> None:
        self.newest = before.newest
        self.oldest = before.oldest
        self.keys: set[str] = set()
        self._kept = before
        self._do = writer.execute
        self._do("BEGIN IMMEDIATE")

    def apply(self, wish: line.Transaction) -> int | contract.Error:
        """One caller's transaction; what the caller is to be told once the batch is committed."""
        return self._mismatch(wish.compare) or self._change(wish.puts, wish.deletes)

    def forget(self, before: int) -> int | contract.Error:
        """Have the commit compact up to a revision; what the caller is to be told then."""
        if before > self.newest:
            return contract.FutureRevision(asked=before, newest=self.newest)
        self.oldest = max(self.oldest, before)
        return self.newest

    def commit(self) -> None:
        """Compact what is due, and make all of it durable."""
        old, new = self._kept.oldest, self.oldest
        if new > old:
            self._do(_FORGET_REPLACED, (_first_id(old + 1), _first_id(new + 1)))
            self._do(_FORGET_DELETES, (_first_id(old), _first_id(new)))
            self._do("UPDATE compacted SET revision = ?", (new,))
        self._do("COMMIT")

    def _live(self, key: str) -> tuple[int, int]:
        """Revision and creation of a key; zeros when it is not there."""
        row = self._do("SELECT id, created FROM live WHERE key = ?", (key,)).fetchone()
        return (_revision(row[0]), row[1]) if row else (0, 0)

    def _mismatch(self, compare: Mapping[str, int]) -> contract.Mismatch | None:
        for key in sorted(compare):
            found, _ = self._live(key)
            if found != compare[key]:
                return contract.Mismatch(key=key, expected=compare[key], found=found)
        return None

    def _change(self, puts: Mapping[str, bytes], deletes: frozenset[str]) -> int:
        revision = self.newest + 1
        row = _first_id(revision)
        for key in sorted(puts.keys() | deletes):
            _, created = self._live(key)
            value = puts.get(key)
            if value is not None:
                created = created or revision
                self._do("INSERT OR REPLACE INTO live VALUES (?, ?, ?)", (key, row, created))
            elif created:
                created = 0
                self._do("DELETE FROM live WHERE key = ?", (key,))
            else:
                continue
            checksum = schema.checksum(row, key, created, value)
            self._do("INSERT INTO change VALUES (?, ?, ?, ?, ?)", (row, key, created, checksum, value))
            self.newest = revision
            self.keys.add(key)
            row += 1
        return self.newest


def _first_id(revision: int) -> int:
    return revision << 8


def _revision(row: int) -> int:
    return row >> 8


def _past(prefix: str) -> str | bytes:
    past = contract.past(prefix)
    return b"" if past is None else past


def _entry(row: int, key: str, created: int, value: bytes, checksum: int) -> contract.Entry:
    if checksum != schema.checksum(row, key, created, value):
        raise sqlite3.DatabaseError(f"{schema.MALFORMED}: {key}")
    return contract.Entry(key, value, _revision(row), created)


def _change(row: int, key: str, created: int, value: bytes, checksum: int) -> contract.Change:
    entry = _entry(row, key, created, value, checksum)
    return contract.Change(key, entry.revision, entry if created else None)
