"""The contract in its plainest form: everything in memory, nothing fast. Tests compare engines with it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence

from bocage.store import contract


class MemoryStore:
    """One state for each revision that is kept."""

    def __init__(self) -> None:
        self._states: dict[int, dict[str, contract.Entry]] = {0: {}}
        self._closed = asyncio.Event()
        self._changed = asyncio.Condition()

    async def revision(self) -> int:
        return max(self._open_states())

    async def get(self, key: str) -> contract.Entry | None:
        return self._open_states()[await self.revision()].get(key)

    async def list(
        self, prefix: str, *, limit: int | None = None, after: str | None = None, at: int | None = None
    ) -> contract.Page:
        if limit is not None and limit < 1:
            raise ValueError("limit")
        at = await self.revision() if at is None else at
        self._check(at)
        found = [e for k, e in sorted(self._states[at].items()) if k.startswith(prefix) and k > (after or "")]
        more = limit is not None and len(found) > limit
        return contract.Page(found[:limit], at, found[:limit][-1].key if more else None)

    async def apply(
        self,
        *,
        compare: Mapping[str, int] = {},
        puts: Mapping[str, bytes] = {},
        deletes: Sequence[str] = (),
    ) -> int:
        newest = await self.revision()
        contract.check(compare, puts, deletes)
        now = self._states[newest]
        for key in sorted(compare):
            found = now[key].revision if key in now else 0
            if found != compare[key]:
                raise contract.Mismatch(key=key, expected=compare[key], found=found)
        revision = newest + 1
        put = {
            key: contract.Entry(key, value, revision, now[key].created if key in now else revision)
            for key, value in puts.items()
        }
        gone = set(deletes) & now.keys()
        if not put and not gone:
            return newest
        self._states[revision] = {key: entry for key, entry in (now | put).items() if key not in gone}
        async with self._changed:
            self._changed.notify_all()
        return revision

    def watch(self, prefix: str, *, since: int) -> contract.Watch:
        self._open_states()
        return _Watch(self, prefix, since)

    async def compact(self, revision: int) -> None:
        if revision > await self.revision():
            raise contract.FutureRevision(asked=revision, newest=await self.revision())
        for old in [old for old in self._states if old < revision]:
            del self._states[old]

    async def close(self) -> None:
        self._closed.set()
        async with self._changed:
            self._changed.notify_all()

    def _open_states(self) -> dict[int, dict[str, contract.Entry]]:
        if self._closed.is_set():
            raise contract.Closed
        return self._states

    def _check(self, revision: int) -> None:
        if revision > max(self._states):
            raise contract.FutureRevision(asked=revision, newest=max(self._states))
        if revision < min(self._states):
            raise contract.Compacted(asked=revision, oldest=min(self._states))

    def _changes(self, revision: int, prefix: str) -> Iterator[contract.Change]:
        old, new = self._states[revision - 1], self._states[revision]
        for key in sorted(old.keys() | new.keys()):
            if key.startswith(prefix) and old.get(key) != new.get(key):
                yield contract.Change(key, revision, new.get(key))


class _Watch:
    def __init__(self, store: MemoryStore, prefix: str, since: int) -> None:
        self._store, self._prefix, self._position, self._ended = store, prefix, since, False

    def __aiter__(self) -> _Watch:
        return self

    async def __anext__(self) -> list[contract.Change]:
        store = self._store
        async with store._changed:
            while not self._ended and not store._closed.is_set():
                store._check(self._position)
                while self._position < max(store._states):
                    self._position += 1
                    if changes := list(store._changes(self._position, self._prefix)):
                        return changes
                await store._changed.wait()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._ended = True
        async with self._store._changed:
            self._store._changed.notify_all()
