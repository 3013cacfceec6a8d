"""A store whose reads are answered from memory when it gives no answer: for people's looks, never for a decision.

What is remembered is what a watch has told last, all of one revision. Writes go to the store alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from bocage import errors
from bocage.store import contract

log = logging.getLogger(__name__)

PATIENCE = 1.5  # seconds that a read waits for the store
_AGAIN = 2.0  # seconds during which a store that gave no answer is not asked by the next ones
_FOLLOW_AGAIN = 1.0  # seconds before a watch that has failed is begun anew

T = TypeVar("T")

silence: contextvars.ContextVar[float | None] = contextvars.ContextVar("silence", default=None)
"""In a request that was answered from memory: for how many seconds the store has been silent."""


class Remembered:
    """The contract over another store, with a memory; `run` must be under way."""

    def __init__(self, store: contract.Store) -> None:
        self._store = store
        self._entries: dict[str, contract.Entry] | None = None
        self._revision = 0
        self._heard = _now()  # when the store has answered last
        self._ask = 0.0  # when it is asked again

    async def run(self) -> None:
        """Keep it up until cancelled. Raises contract.Closed and contract.Replaced."""
        while True:
            try:
                page = await self._store.list("")
                self._entries = {entry.key: entry for entry in page.entries}
                self._revision = page.revision
                async with contextlib.aclosing(self._store.watch("", since=page.revision)) as changes:
                    async for batch in changes:
                        self._take(batch)
            except (contract.Closed, contract.Replaced):
                raise
            except contract.Compacted:
                continue
            except errors.Problem as problem:
                log.warning("the store: %s", problem)
                await asyncio.sleep(_FOLLOW_AGAIN)

    async def revision(self) -> int:
        """See contract.Store."""
        return await self._asked(self._store.revision, lambda _: self._revision)

    async def get(self, key: str) -> contract.Entry | None:
        """See contract.Store."""
        return await self._asked(lambda: self._store.get(key), lambda held: held.get(key))

    async def list(
        self, prefix: str, *, limit: int | None = None, after: str | None = None, at: int | None = None
    ) -> contract.Page:
        """See contract.Store."""
        return await self._asked(
            lambda: self._store.list(prefix, limit=limit, after=after, at=at),
            lambda held: self._page(held, prefix, limit, after, at),
        )

    async def apply(
        self,
        *,
        compare: Mapping[str, int] = {},
        puts: Mapping[str, bytes] = {},
        deletes: Sequence[str] = (),
    ) -> int:
        """See contract.Store."""
        return await self._store.apply(compare=compare, puts=puts, deletes=deletes)

    def watch(self, prefix: str, *, since: int) -> contract.Watch:
        """See contract.Store."""
        return self._store.watch(prefix, since=since)

    async def compact(self, revision: int) -> None:
        """See contract.Store."""
        await self._store.compact(revision)

    async def close(self) -> None:
        """See contract.Store."""
        await self._store.close()

    async def _asked(self, ask: Callable[[], Awaitable[T]], remember: Callable[[Mapping[str, contract.Entry]], T]) -> T:
        if _now() >= self._ask:
            try:
                async with asyncio.timeout(PATIENCE):
                    answer = await ask()
            except (TimeoutError, contract.Silent) as error:
                if self._entries is None:
                    raise contract.Silent(reason=str(error) or "no answer", bound=PATIENCE) from error
                self._ask = _now() + _AGAIN
            else:
                self._heard = _now()
                return answer
        assert self._entries is not None
        silence.set(_now() - self._heard)
        return remember(self._entries)

    def _take(self, batch: Sequence[contract.Change]) -> None:
        assert self._entries is not None
        for change in batch:
            if change.entry is None:
                self._entries.pop(change.key, None)
            else:
                self._entries[change.key] = change.entry
        self._revision = batch[-1].revision
        self._heard = _now()

    def _page(
        self,
        held: Mapping[str, contract.Entry],
        prefix: str,
        limit: int | None,
        after: str | None,
        at: int | None,
    ) -> contract.Page:
        if at is not None and at != self._revision:
            raise contract.Compacted(asked=at, oldest=self._revision)
        found = sorted(key for key in held if key.startswith(prefix) and (after is None or key > after))
        shown = [held[key] for key in found[:limit]]
        return contract.Page(shown, self._revision, shown[-1].key if len(shown) < len(found) else None)


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
