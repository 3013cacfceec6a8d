"""All changes of the store as they happen: one stream from one member, which every watch reads from.

Since each transaction moves a mark under the root, the stream tells of every revision, and it is known how far it is.
A member that is cut off from the others sends nothing and no error: so it is asked from time to time, and when it does
not answer, or has not told what it says has happened, another is gone to, from the revision that is known.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import weakref
from collections.abc import AsyncIterator

from bocage.store import contract, watching
from bocage.store.etcd import founding, gateway, records

PULSE = 0.3  # seconds without a word, after which the member is asked
_MOST = 8 << 20  # bytes of events that are kept for watches which are behind
_EVENT = 300  # bytes of one beside its value, about
_TRY = 5.0  # seconds of a watch's own reading of what was before


class Event:
    """One change of a key of the store, not decoded yet."""

    __slots__ = ("key", "name", "record", "revision", "size")

    def __init__(self, space: records.Space, record: records.Document, *, deleted: bool) -> None:
        self.name = records.key(record)
        self.revision = space.revision(records.modified(record))
        self.record = None if deleted else record
        self.key = self.name[len(space.data) :].decode(errors="surrogateescape")
        self.size = _EVENT + len(record.get("value", ""))

    def change(self, space: records.Space) -> contract.Change:
        """Raises contract.Failed for what no store of ours put there."""
        return contract.Change(self.key, self.revision, space.entry(self.record) if self.record else None)


class Feed:
    """The recent changes, and the watches that are told of them."""

    def __init__(self, by: gateway.Gateway, space: records.Space, *, newest: int) -> None:
        self.space = space
        self.gateway = by
        self.position = newest  # all changes up to and with it are known
        self.start = newest  # all changes after it are kept
        self.newest = newest  # has happened, as far as anyone has said
        self.horizon = 0  # what was before it is forgotten, as far as anyone has said
        self.watches: weakref.WeakSet[Watch] = weakref.WeakSet()
        self._events: list[Event] = []
        self._size = 0
        self._moved = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name="store-feed")

    async def close(self) -> None:
        """End it; watches that wait end."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self.wake()

    def wake(self) -> None:
        for watch in self.watches:
            watch.wake.set()

    @property
    def closed(self) -> bool:
        return self._task.done()

    def check(self) -> None:
        """Raises what has ended the feed, if it was not `close`."""
        if self._task.done() and not self._task.cancelled():
            self._task.result()

    def after(self, position: int, prefix: str) -> list[Event]:
        """What happened after a revision that is not before `start`."""
        first = bisect.bisect_right(self._events, position, key=lambda event: event.revision)
        return [event for event in self._events[first:] if event.key.startswith(prefix)]

    async def _run(self) -> None:
        try:
            while True:
                member = self.gateway.order[0]
                reading = asyncio.create_task(self._read(member))
                try:
                    await self._attend(reading, member)
                except (gateway.Lost, gateway.Silent, gateway.Refused):
                    await asyncio.sleep(gateway.PAUSE)
                except contract.Compacted as compacted:
                    self._skip(compacted.oldest)
                    continue
                finally:
                    reading.cancel()
                    await asyncio.gather(reading, return_exceptions=True)
                self.gateway.distrust(member)
        finally:
            self.wake()

    async def _read(self, member: str) -> None:
        async with revisions(self.gateway, member, self.space, since=self.position) as batches:
            async for position, events in batches:
                self._take(position, events)

    async def _attend(self, reading: asyncio.Task[None], member: str) -> None:
        """Return when the member has not told what has happened. Raises what ended the reading, and Lost."""
        while True:
            before, known = self.position, self.newest
            await asyncio.wait({reading}, timeout=PULSE)
            if reading.done():
                return reading.result()
            if self.position > before:
                continue
            if known > before:
                return None
            try:
                async with asyncio.timeout(2 * self.gateway.hedge):
                    answer = await self.gateway.ask_one(member, records.TXN, founding.look(self.space))
            except TimeoutError:
                return None
            self.learn(newest(self.space, answer))

    async def reach(self, revision: int, *, within: float) -> None:
        """Wait until all up to this revision is known, or for so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                while self.position < revision and not self.closed:
                    self._moved.clear()
                    await self._moved.wait()

    def learn(self, revision: int) -> None:
        """Somebody has said that this revision has happened."""
        self.newest = max(self.newest, revision)

    def _take(self, position: int, events: list[Event]) -> None:
        previous, self.position = self.position, position
        self._moved.set()
        self.learn(position)
        self._events += events
        self._size += sum(event.size for event in events)
        if self._size > _MOST:
            self._shorten()
        keys = {event.key for event in events}
        for watch in self.watches:
            watch.notice(previous, position, keys)

    def _shorten(self) -> None:
        """Keep the later half, in whole revisions."""
        middle = self._events[len(self._events) // 2].revision
        half = bisect.bisect_right(self._events, middle, key=lambda event: event.revision)
        del self._events[:half]
        self._size = sum(event.size for event in self._events)
        self.start = middle

    def _skip(self, oldest: int) -> None:
        """What is missing is forgotten: go on where the history begins; the watches learn it when they look."""
        self._events.clear()
        self._size = 0
        self.horizon = max(self.horizon, oldest)
        self.start = self.position = max(self.position, oldest)
        self.wake()


class Watch(watching.Watch):
    """A reader of the feed; what was before the feed it reads from a member by itself."""

    def __init__(self, feed: Feed, prefix: str, since: int) -> None:
        super().__init__(prefix, since)
        self._feed = feed
        feed.watches.add(self)

    async def __anext__(self) -> list[contract.Change]:
        """See contract.Watch."""
        feed = self._feed
        while not self._ended and not feed.closed:
            self.wake.clear()
            try:
                events, position = await self._next()
            except contract.Closed:
                break
            if events:
                if events[0].revision <= feed.horizon:
                    raise contract.Compacted(asked=self.position, oldest=feed.horizon)
                changes = [event.change(feed.space) for event in events]
                self.position = position
                return changes
            self.position = position
            if position >= feed.position:
                await self.wake.wait()
        feed.check()
        raise StopAsyncIteration

    async def _next(self) -> tuple[list[Event], int]:
        """The next changes, if there are any yet, and the revision up to which they are all."""
        feed = self._feed
        if self.position < 0:
            raise contract.Compacted(asked=self.position, oldest=feed.horizon)
        if self.position > feed.newest:
            await self._expect()
        if self.position < feed.start:
            return await self._catch_up()
        return feed.after(self.position, self._prefix), max(self.position, feed.position)

    async def _expect(self) -> None:
        """Raises contract.FutureRevision unless the position has happened."""
        feed = self._feed
        try:
            answer = await feed.gateway.ask(records.TXN, founding.look(feed.space), within=_TRY)
        except gateway.Silent:
            return
        feed.learn(found := newest(feed.space, answer))
        if self.position > found:
            raise contract.FutureRevision(asked=self.position, newest=found)

    async def _catch_up(self) -> tuple[list[Event], int]:
        """As `_next`, of what was before the feed."""
        feed, events, position = self._feed, list[Event](), self.position
        member = feed.gateway.order[0]
        try:
            async with (
                asyncio.timeout(_TRY),
                revisions(feed.gateway, member, feed.space, since=position) as batches,
            ):
                async for position, batch in batches:
                    events = [event for event in batch if event.key.startswith(self._prefix)]
                    if events or position >= feed.start or self._ended:
                        break
        except (TimeoutError, gateway.Lost, gateway.Refused):
            feed.gateway.distrust(member)
            await asyncio.sleep(gateway.PAUSE)
        except contract.Compacted as compacted:
            feed.horizon = max(feed.horizon, compacted.oldest)
            raise
        return events, position


@contextlib.asynccontextmanager
async def revisions(
    by: gateway.Gateway, member: str, space: records.Space, *, since: int
) -> AsyncIterator[AsyncIterator[tuple[int, list[Event]]]]:
    """The changes after a revision as one member tells them, in whole revisions, with the last revision of each batch.

    Raises contract.Compacted, contract.Replaced, gateway.Lost and gateway.Refused.
    """
    request = {
        "create_request": {
            "key": records.text(space.root),
            "range_end": records.text(records.past(space.root)),
            # From `since` itself: its deletes may be forgotten, and etcd then says so of what is before it only.
            "start_revision": str(since + space.base),
            "fragment": True,
        }
    }
    async with by.stream(member, records.WATCH, request) as documents, contextlib.aclosing(documents):
        yield _batches(documents, space, since)


async def _batches(
    documents: AsyncIterator[records.Document], space: records.Space, since: int
) -> AsyncIterator[tuple[int, list[Event]]]:
    position, events = since, list[Event]()
    async for document in documents:
        if document.get("canceled"):
            if oldest := int(document.get("compact_revision", 0)):
                raise contract.Compacted(asked=since, oldest=space.revision(oldest))
            raise gateway.Lost(document.get("cancel_reason", "the watch was cancelled"), loose=False)
        for told in document.get("events", ()):
            record = told["kv"]
            revision = space.revision(records.modified(record))
            if revision <= since:
                continue
            position = max(position, revision)
            name = records.key(record)
            if name.startswith(space.data):
                events.append(Event(space, record, deleted=told.get("type") == "DELETE"))
            elif name == space.founding and not space.is_same(record):
                raise contract.Replaced
        if not document.get("fragment") and position > since:
            events.sort(key=lambda event: (event.revision, event.name))
            yield position, events
            since, events = position, []


def newest(space: records.Space, answer: records.Document) -> int:
    """The newest revision, from the answer to `founding.look`. Raises contract.Replaced."""
    founding.seen(space, answer)
    return space.revision(records.revision(answer))


async def oldest(by: gateway.Gateway, space: records.Space) -> int:
    """The oldest revision that is kept: what etcd says to one who wants to watch from the first. Raises Silent."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    while (spent := loop.time() - begin) < _TRY:
        member = by.order[0]
        try:
            async with asyncio.timeout(_TRY - spent), revisions(by, member, space, since=1 - space.base) as batches:
                async for _ in batches:
                    return 0
        except contract.Compacted as compacted:
            return max(compacted.oldest, 0)
        except (TimeoutError, gateway.Lost):
            by.distrust(member)
            await asyncio.sleep(gateway.PAUSE)
    raise gateway.Silent(reason="no member says what it keeps", bound=_TRY)
