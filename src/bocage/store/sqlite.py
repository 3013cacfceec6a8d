"""The embedded engine: one SQLite database (WAL, synchronous=FULL), written by group commit.

SQL runs in the event loop, where it takes microseconds; what waits for the disk (COMMIT, checkpoint,
compaction) runs in one thread. All writing goes over one connection, all reading over a second.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import fcntl
import os
import pathlib
import sqlite3
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from bocage import errors
from bocage.store import contract, line, schema, tables, watching
from bocage.words import N_

BATCH_JOBS = 128  # transactions of one COMMIT
BATCH_BYTES = 4 << 20
CHECKPOINT_BYTES = 4 << 20  # written since the last one
TRANSACTION_BYTES = 8 << 10  # pages that a transaction changes beside its values, about
STRANGERS_MILLISECONDS = 100  # for another program that has the database locked

_Job: TypeAlias = line.Job[int]  # beside transactions: the revision to compact to


class InUse(contract.Error, errors.Conflict):
    """Another process has the database open."""

    type = "store-in-use"
    text = N_("the database {path} is in use by process {pid}")
    hint = N_("one daemon runs per BOCAGE_HOME; 'bocage daemon status' shows it")
    path: str
    pid: int  # 0: not known


async def open(path: pathlib.Path, *, keep_revisions: int = 10_000) -> SqliteStore:  # noqa: A001 - the field's word
    """Open the database, made when it is not there; the last `keep_revisions` and some more stay readable.

    Raises InUse, schema.Damaged, schema.Foreign, schema.Newer, schema.Orphaned and contract.Failed.
    """
    if keep_revisions < 1:
        raise ValueError(f"keep_revisions is {keep_revisions}")
    opening = asyncio.ensure_future(asyncio.to_thread(_open, path))
    try:
        opened = await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_abandon)
        raise
    return SqliteStore(opened, keep_revisions=keep_revisions)


class SqliteStore(line.Line[int]):
    """The contract over SQLite; made by `open`."""

    def __init__(self, opened: _Opened, *, keep_revisions: int) -> None:
        self._opened = opened
        self._reader, self._writer = opened.reader, opened.writer
        self._keep = keep_revisions
        self._slack = min(keep_revisions // 10, 200)
        self._horizon = tables.horizon(self._reader)
        self._watches: weakref.WeakSet[_Watch] = weakref.WeakSet()
        self._unchecked = 0  # bytes written since the last checkpoint
        self._suspect = False  # a COMMIT that failed may have left whole frames in the log
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="store")
        super().__init__()

    async def revision(self) -> int:
        """See contract.Store."""
        with self._snapshot() as reader:
            return tables.horizon(reader).newest

    async def get(self, key: str) -> contract.Entry | None:
        """See contract.Store."""
        with self._snapshot() as reader:
            return tables.get(reader, key)

    async def list(
        self, prefix: str, *, limit: int | None = None, after: str | None = None, at: int | None = None
    ) -> contract.Page:
        """See contract.Store."""
        if limit is not None and limit < 1:
            raise ValueError(f"limit is {limit}")
        with self._snapshot() as reader:
            return tables.page(reader, prefix, limit=limit, after=after, at=at)

    def watch(self, prefix: str, *, since: int) -> contract.Watch:
        """See contract.Store."""
        self._check()
        watch = _Watch(self._snapshot, prefix, since)
        self._watches.add(watch)
        return watch

    async def compact(self, revision: int) -> None:
        """See contract.Store."""
        await self._submit(revision)

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[sqlite3.Connection]:
        """All that is read inside is of one moment."""
        self._check()
        try:
            self._reader.execute("BEGIN")
            try:
                yield self._reader
            finally:
                _roll_back(self._reader)
        except sqlite3.Error as error:
            raise contract.Failed(reason=str(error)) from error

    def _take(self) -> Sequence[_Job]:
        jobs: list[_Job] = []
        size = 0
        while self._jobs and len(jobs) < BATCH_JOBS and size < BATCH_BYTES:
            job = self._jobs.popleft()
            if not job.answer.cancelled():
                jobs.append(job)
                size += _size(job.wish)
        return jobs

    async def _write(self, jobs: Sequence[_Job]) -> None:
        """One group commit; callers and watches are told when it is durable."""
        before = self._horizon
        try:
            if self._suspect:
                await self._in_thread(self._mend)
            batch = tables.Batch(self._writer, before)
            answers = [_execute(job.wish, batch) for job in jobs]
            if batch.newest - self._keep > batch.oldest + self._slack:
                batch.forget(batch.newest - self._keep)
            await self._in_thread(batch.commit)
        except sqlite3.Error as error:
            await self._undo(error)
            for job in jobs:
                job.tell(contract.Failed(reason=str(error)))
            return
        self._horizon = tables.Horizon(batch.newest, batch.oldest)
        for job, answer in zip(jobs, answers, strict=True):
            job.tell(answer)
        for watch in self._watches if batch.keys else ():
            watch.notice(before.newest, batch.newest, batch.keys)
        await self._checkpoint(sum(_size(job.wish) for job in jobs))

    async def _undo(self, error: sqlite3.Error) -> None:
        # A full disk cuts the log short of its commit mark; after most other faults the mark may be there.
        self._suspect = self._suspect or schema.code(error) not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY)
        with contextlib.suppress(sqlite3.Error):
            await self._in_thread(self._mend if self._suspect else lambda: _roll_back(self._writer))

    def _mend(self) -> None:
        """Overwrite what a failed COMMIT may have left in the log, lest a recovery takes it for written."""
        _roll_back(self._writer)
        self._writer.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS)}")  # writes a page, changes nothing
        self._suspect = False

    async def _checkpoint(self, size: int) -> None:
        """Carry the log into the database now and then; one that fails is made up for by the next."""
        self._unchecked += size
        if self._unchecked >= CHECKPOINT_BYTES:
            self._unchecked = 0
            with contextlib.suppress(sqlite3.Error):
                await self._in_thread(lambda: self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall())

    async def _in_thread(self, do: Callable[[], object]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, do)

    async def _release(self) -> None:
        for watch in self._watches:
            watch.wake.set()
        released = self._thread.submit(self._opened.close)  # what was begun is rolled back
        self._thread.shutdown(wait=False)
        await asyncio.wrap_future(released)


def _size(wish: line.Transaction | int) -> int:
    """Bytes that it writes, about."""
    return TRANSACTION_BYTES + (0 if isinstance(wish, int) else sum(map(len, wish.puts.values())))


def _execute(wish: line.Transaction | int, batch: tables.Batch) -> int | contract.Error:
    """Make it part of the batch; what to tell the caller."""
    return batch.forget(wish) if isinstance(wish, int) else batch.apply(wish)


class _Watch(watching.Watch):
    """Reads the tables."""

    def __init__(
        self, snapshot: Callable[[], contextlib.AbstractContextManager[sqlite3.Connection]], prefix: str, since: int
    ) -> None:
        super().__init__(prefix, since)
        self._snapshot = snapshot

    async def __anext__(self) -> list[contract.Change]:
        while not self._ended:
            self.wake.clear()
            try:
                with self._snapshot() as reader:
                    changes, self.position = tables.changes(reader, self._prefix, since=self.position)
            except contract.Closed:
                break
            if changes:
                return changes
            await self.wake.wait()
        raise StopAsyncIteration


@dataclasses.dataclass(slots=True, frozen=True)
class _Opened:
    reader: sqlite3.Connection
    writer: sqlite3.Connection
    lock: int

    def close(self) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, self.lock)
            stack.callback(self.writer.close)
            stack.callback(self.reader.close)


def _open(path: pathlib.Path) -> _Opened:
    with contextlib.ExitStack() as undo:
        try:
            lock_ = lock(path)
            undo.callback(os.close, lock_)
            schema.prepare(path)
            writer = undo.enter_context(contextlib.closing(schema.connect(path)))
            writer.execute("PRAGMA synchronous = FULL")
            writer.execute("PRAGMA wal_autocheckpoint = 0")  # ours comes after the callers were answered
            writer.execute("PRAGMA journal_size_limit = 67108864")
            writer.execute("PRAGMA cache_spill = OFF")  # nothing is written before COMMIT
            writer.execute("PRAGMA secure_delete = FAST")
            reader = undo.enter_context(contextlib.closing(schema.connect(path)))
            reader.execute("PRAGMA query_only = ON")
            reader.execute("PRAGMA cache_size = -8000")
            tables.horizon(reader)
            for connection in (writer, reader):  # only a stranger can hold us up, and the event loop must not wait
                connection.execute(f"PRAGMA busy_timeout = {STRANGERS_MILLISECONDS}")
        except (sqlite3.Error, OSError) as error:
            raise contract.Failed(reason=str(error)) from error
        undo.pop_all()
        return _Opened(reader, writer, lock_)


def _abandon(opening: asyncio.Future[_Opened]) -> None:
    if not opening.cancelled() and not opening.exception():
        opening.result().close()


def lock(path: pathlib.Path) -> int:
    """The lock of the one process that has the database open; the kernel lets go of it when the process ends.

    Raises InUse and OSError.
    """
    held = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        said = os.pread(held, 20, 0).strip()
        os.close(held)
        raise InUse(path=os.fspath(path), pid=int(said) if said.isdigit() else 0) from error
    with contextlib.suppress(OSError):  # a full disk
        os.ftruncate(held, os.pwrite(held, b"%d\n" % os.getpid(), 0))
    return held


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")
