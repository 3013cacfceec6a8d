"""The store's contract: a revisioned key-value space; an engine (SQLite, etcd) stands behind it.

Every acknowledged transaction is durable and has a revision of its own, one more than the one before; but for
a revision now and then that changed nothing, where an engine had to make sure of a transaction's end.
No leases and no elections: what needs them is built on compare-and-swap.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Protocol

from bocage import errors
from bocage.words import N_

MAX_OPERATIONS = 128  # compares, puts and deletes of one transaction, in all
MAX_BYTES = 1 << 20  # keys and values of one transaction, in all


class Error(errors.Problem):
    """Anything that goes wrong with the store."""


class Mismatch(Error, errors.Conflict):
    """A compare of the transaction did not hold; nothing was written."""

    type = "store-mismatch"
    text = N_("{key} was changed meanwhile (revision {found}, expected {expected})")
    hint = N_("read it again and repeat the change")
    key: str
    expected: int
    found: int  # 0: the key is not there


class TooLarge(Error, errors.Invalid):
    """The transaction is over MAX_OPERATIONS or MAX_BYTES."""

    type = "store-too-large"
    status = 413
    text = N_("the change is too large for one transaction: {operations} operations, {count:size}")
    operations: int
    count: int


class Compacted(Error, errors.Unavailable):
    """The revision asked for is no longer kept; list again and watch from the list's revision."""

    type = "store-compacted"
    status = 410
    text = N_("revision {asked} is no longer kept; the oldest is {oldest}")
    asked: int
    oldest: int


class FutureRevision(Error, errors.Invalid):
    """The revision asked for has not happened yet."""

    type = "store-future-revision"
    text = N_("revision {asked} has not happened yet; the newest is {newest}")
    asked: int
    newest: int


class Failed(Error, errors.Unavailable):
    """The engine could not write or read: disk full, file damaged, member not reachable. Nothing was written."""

    type = "store-failed"
    text = N_("the store cannot be used: {reason}")
    hint = N_("'bocage doctor' checks the disk and the database")
    reason: str


class Silent(Failed):
    """The engine asked others and got no answer in time: nothing was written, and the same may be done later."""

    type = "store-silent"
    text = N_("the store did not answer within {bound:seconds}: {reason}")
    hint = N_("more than half of the etcd members must run and reach each other")
    bound: float


class Unsettled(Error, errors.Unavailable):
    """No answer is neither yes nor no: the transaction may have been written, or be written yet.

    Only reading tells, or a later transaction of the same store: none is written behind one that it does not know.
    """

    type = "store-unsettled"
    text = N_("the store did not say whether the change was written: {reason}")
    hint = N_("look whether it is there before you repeat it")
    reason: str


class Replaced(Failed):
    """The store was restored or recovered since it was opened: another incarnation. It must be opened anew."""

    type = "store-replaced"
    text = N_("the store is another than the one that was opened: {reason}")
    hint = ""
    reason: str = "its incarnation has changed"


class Closed(Error, errors.Unavailable):
    """The store was closed; nothing was written."""

    type = "store-closed"
    text = N_("the store is closed")


NO_ANSWER = (Silent, Unsettled)
"""What is no verdict on what was asked: whoever has something to do does it again later."""


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One key as it stands. `created` is the revision of its first put since it was last absent."""

    key: str
    value: bytes
    revision: int
    created: int


@dataclasses.dataclass(frozen=True, slots=True)
class Page:
    """Part of a list, all of it as of `revision`, sorted by key. `after` continues it; None at the end."""

    entries: list[Entry]
    revision: int
    after: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """One put (`entry` is the new state) or delete (`entry` is None) of `key` at `revision`."""

    key: str
    revision: int
    entry: Entry | None


class Watch(Protocol):
    """A watch that is under way; one reader at a time."""

    def __aiter__(self) -> Watch: ...

    async def __anext__(self) -> list[Change]:
        """The next changes, waited for. A wait that is cancelled loses nothing: the next one carries on."""
        ...

    async def aclose(self) -> None:
        """End it; harmless when it has ended."""
        ...


class Store(Protocol):
    """What every engine does, in the event loop that it was opened in.

    All methods raise Failed when the engine cannot work, and Closed after `close`.
    """

    async def revision(self) -> int:
        """The newest revision; 0 for a store that nothing was ever written to."""
        ...

    async def get(self, key: str) -> Entry | None:
        """The key as it stands now."""
        ...

    async def list(
        self, prefix: str, *, limit: int | None = None, after: str | None = None, at: int | None = None
    ) -> Page:
        """The keys that start with `prefix`, sorted; those behind the key `after`; as of revision `at` (else now).

        Raises Compacted and FutureRevision, and ValueError for a `limit` under 1.
        """
        ...

    async def apply(
        self,
        *,
        compare: Mapping[str, int] = {},
        puts: Mapping[str, bytes] = {},
        deletes: Sequence[str] = (),
    ) -> int:
        """One transaction: when each key of `compare` has that revision (0: is absent), write all, else nothing.

        Returns the revision that all its writes got. A transaction that writes nothing (an empty one, or
        one that only deletes keys that are absent) returns the newest revision and makes no new one.
        Raises Mismatch for the first compare (by key) that does not hold, TooLarge, and ValueError for a key
        that is empty or is both put and deleted; and Unsettled when nobody can tell whether it was written. A caller
        that was cancelled does not know it either. Transactions that one store is given are done in that order.
        """
        ...

    def watch(self, prefix: str, *, since: int) -> Watch:
        """Every change of keys with `prefix` whose revision is over `since`, in order, none twice, none skipped.

        Each item has all the matching changes of one or more whole revisions, those of one revision sorted by
        key. It never ends before the store is closed; close it with `aclose()`. Its reader is raised Compacted
        (also later, when it was too slow) and FutureRevision.
        """
        ...

    async def compact(self, revision: int) -> None:
        """Forget what was before `revision`: lists `at` it and watches `since` it are the oldest that there are.

        Does nothing when that much is forgotten already. Raises FutureRevision.
        """
        ...

    async def close(self) -> None:
        """Release everything. What is being written is written; what still waits raises Closed; watches end."""
        ...


def check(compare: Mapping[str, int], puts: Mapping[str, bytes], deletes: Sequence[str]) -> None:
    """Refuse what no engine takes, as `Store.apply` says: raises TooLarge and ValueError."""
    keys = [*compare, *puts, *deletes]
    if not all(keys):
        raise ValueError("a key is empty")
    if both := puts.keys() & set(deletes):
        raise ValueError(f"both put and deleted: {sorted(both)}")
    count = sum(len(key.encode()) for key in keys) + sum(map(len, puts.values()))
    if len(keys) > MAX_OPERATIONS or count > MAX_BYTES:
        raise TooLarge(operations=len(keys), count=count)


def past(prefix: str) -> str | None:
    """The first string behind all those that start with `prefix`; None when there is none."""
    for end in range(len(prefix), 0, -1):
        point = ord(prefix[end - 1])
        if point < sys.maxunicode:
            return prefix[: end - 1] + chr(0xE000 if point == 0xD7FF else point + 1)  # UTF-8 has no surrogates
    return None
