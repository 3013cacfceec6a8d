"""The SQLite database's tables and their versions: made whole, checked before use, carried to the newest version."""

from __future__ import annotations

import contextlib
import os
import pathlib
import sqlite3
import urllib.parse
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from bocage import errors, files
from bocage.store import contract
from bocage.words import N_

MALFORMED = "database disk image is malformed"  # SQLite's words
_LEAST_BYTES = 512  # one page

APPLICATION = 0x626F6361  # SQLite's application_id of our databases

Migration = Callable[[sqlite3.Connection], None]


class Damaged(contract.Error, errors.Unavailable):
    """The file is no sound database. It is left as it was found."""

    type = "store-damaged"
    text = N_("the database {path} is damaged: {reason}")
    hint = N_(
        "the VMs' directories hold everything: move {path} and its '-wal' away, start the daemon"
        " and run 'bocage adopt --storage local'"
    )
    path: str
    reason: str


class Foreign(contract.Error, errors.Conflict):
    """The file is a sound SQLite database of another program."""

    type = "store-foreign"
    text = N_("{path} is not a database of Bocage")
    hint = N_("move it away, or choose another BOCAGE_HOME")
    path: str


class Newer(contract.Error, errors.Conflict):
    """A newer Bocage wrote the database."""

    type = "store-schema-newer"
    text = N_("the database {path} has schema version {found}; this Bocage knows versions up to {known}")
    hint = N_("install the newer Bocage again, or put the copy '{path}.v{known}.bak' in its place if there is one")
    path: str
    found: int
    known: int


class Orphaned(contract.Error, errors.Conflict):
    """The database is gone, its write-ahead log is there: making a new one would lose what the log holds."""

    type = "store-orphaned"
    text = N_("the database {path} is missing but '{path}-wal', which holds its last changes, is there")
    hint = N_("put the database back, or move '{path}-wal' to where the database was moved")
    path: str


def _first(connection: sqlite3.Connection) -> None:
    # `change` is the history, appended to and never updated, and holds each value once. Its id is the
    # revision times 256 plus the place in the transaction, so that ids are in the order of revisions.
    # A delete has `created` 0 and no value. SQLite keeps the id as the last column of the index.
    connection.execute("""
        CREATE TABLE change (
            id INTEGER PRIMARY KEY, key TEXT NOT NULL, created INTEGER NOT NULL, checksum INTEGER NOT NULL, value BLOB
        ) STRICT""")
    connection.execute("CREATE INDEX change_by_key ON change (key)")
    # What stands now: the newest change of each key that is there.
    connection.execute("""
        CREATE TABLE live (
            key TEXT PRIMARY KEY, id INTEGER NOT NULL, created INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID""")
    connection.execute("CREATE TABLE compacted (revision INTEGER NOT NULL) STRICT")
    connection.execute("INSERT INTO compacted VALUES (0)")


def checksum(row: int, key: str, created: int, value: bytes | None) -> int:
    """CRC-32 of one change: SQLite finds damage in its own structures, not in what they hold."""
    return zlib.crc32(value or b"", zlib.crc32(f"{row} {created} {key}".encode()))


MIGRATIONS: tuple[Migration, ...] = (_first,)
"""The step at place N makes version N+1 out of version N. Steps are only ever added."""


def prepare(path: pathlib.Path) -> None:
    """Make `path` a sound database of the newest version: created, or checked and migrated after a copy.

    The caller has the database for itself. Raises Damaged, Foreign, Newer, Orphaned, sqlite3.Error, OSError;
    then an existing file is as it was.
    """
    if not path.exists():
        _create(path)
        return
    version = _verify(path)
    if version < len(MIGRATIONS):
        copy(path, path.with_name(f"{path.name}.v{version}.bak"))
        with contextlib.closing(connect(path)) as connection:
            _migrate(connection, version)


def connect(path: pathlib.Path, *, mode: str = "rw") -> sqlite3.Connection:
    """A connection without implicit transactions; any one thread at a time may use it."""
    return sqlite3.connect(
        f"file:{urllib.parse.quote(os.fspath(path))}?mode={mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=10,
    )


def code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 when the error is Python's own."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def copy(source: pathlib.Path, destination: pathlib.Path) -> None:
    """A durable copy of a database as it stands, also while it is in use; replaces `destination`."""
    with _beside(destination) as part:
        with contextlib.closing(connect(source)) as old, contextlib.closing(connect(part)) as new:
            old.backup(new)
        _install(part, destination)


def _wal_size(path: pathlib.Path) -> int:
    try:
        return path.with_name(path.name + "-wal").stat().st_size
    except FileNotFoundError:
        return 0


def _create(path: pathlib.Path) -> None:
    if _wal_size(path):
        raise Orphaned(path=os.fspath(path))
    with _beside(path) as part:
        with contextlib.closing(connect(part)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            _migrate(connection, 0)
        _install(part, path)


def _verify(path: pathlib.Path) -> int:
    """The version of a sound database of ours, of which nothing is written."""
    name, size, has_log = os.fspath(path), path.stat().st_size, bool(_wal_size(path))
    if size < _LEAST_BYTES:  # SQLite would take it for a new one
        raise Damaged(path=name, reason=MALFORMED)
    try:
        # Read-only, since the last connection to close would else write the log into the file; "immutable"
        # where there is no log, since SQLite would make one.
        with contextlib.closing(connect(path, mode="ro" if has_log else "ro&immutable=1")) as connection:
            application, version = _pragma(connection, "application_id"), _pragma(connection, "user_version")
            if application != APPLICATION or version < 1:
                raise Foreign(path=name)
            if version > len(MIGRATIONS):
                raise Newer(path=name, found=version, known=len(MIGRATIONS))
            torn = not has_log and size % _pragma(connection, "page_size")
            verdict = MALFORMED if torn else _pragma(connection, "integrity_check(1)")
            if verdict == "ok" and not _is_consistent(connection):
                verdict = MALFORMED
    except sqlite3.DatabaseError as error:
        if code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise Damaged(path=name, reason=str(error)) from error
        raise
    if verdict != "ok":
        raise Damaged(path=name, reason=verdict.splitlines()[-1])
    return int(version)


def _pragma(connection: sqlite3.Connection, name: str) -> Any:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def _is_consistent(connection: sqlite3.Connection) -> bool:
    """Whether each key that is there has its change, as it was written."""
    held = connection.execute(
        "SELECT checksum, live.id, live.key, live.created, value FROM live LEFT JOIN change USING (id)"
    )
    return all(found == checksum(*change) for found, *change in held)


def _migrate(connection: sqlite3.Connection, version: int) -> None:
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("BEGIN IMMEDIATE")
    try:
        for step in MIGRATIONS[version:]:
            step(connection)
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def _beside(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """An empty file that only we can read, to be filled and installed as `path`; else it is removed."""
    part = path.with_name(f"{path.name}.part")
    try:
        _remove(part)  # of one who was killed
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        yield part
    finally:
        _remove(part)


def _remove(part: pathlib.Path) -> None:
    for ending in ("", "-wal", "-shm", "-journal"):
        part.with_name(part.name + ending).unlink(missing_ok=True)


def _install(part: pathlib.Path, path: pathlib.Path) -> None:
    with open(part, "rb") as file:
        os.fsync(file.fileno())
    files.rename_durably(part, path)
