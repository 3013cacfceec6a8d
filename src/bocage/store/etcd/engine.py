"""The contract over etcd: what `open` gives to the daemon.

Transactions go out one after the other, in the order in which they were given: so each is written at most once
(`pen`), and what one client does is done in its order. Reads and watches do not wait for them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Never, TypeAlias

from bocage.store import contract, line
from bocage.store.etcd import access, feed, founding, gateway, pen, reader, records

PATIENCE = 10.0  # seconds that a transaction has, from when it was given, or from the answer to the one before it

_Job: TypeAlias = line.Job[Never]  # transactions alone


async def open(how: access.Access, *, client: str, root: str = records.ROOT) -> EtcdStore:  # noqa: A001 - the field's word
    """Open the store that was founded under `root`. Two at a time must not be opened with one `client`'s name.

    Raises founding.Unfounded, gateway.Silent and gateway.Refused.
    """
    members = gateway.Gateway(how)
    try:
        unknown = records.Space(root.encode(), 0, "")
        request = founding.look(unknown, records.get(unknown.pen(client)))
        answer = await members.ask(records.TXN, request, within=reader.PATIENCE)
        record, mark = map(records.first, records.ranges(answer))
        if record is None:
            raise founding.Unfounded(root=root)
        incarnation = records.value(record).decode(errors="replace")
        space = records.Space(root.encode(), records.created(record), incarnation)
    except BaseException:
        await members.close()
        raise
    written = pen.Pen(members, space, client, mark=records.modified(mark))
    return EtcdStore(members, space, written, newest=space.revision(records.revision(answer)))


class EtcdStore(line.Line[Never]):
    """The contract over etcd; made by `open`."""

    def __init__(self, members: gateway.Gateway, space: records.Space, writer: pen.Pen, *, newest: int) -> None:
        self.incarnation = space.incarnation
        self._gateway = members
        self._space = space
        self._pen = writer
        self._reader = reader.Reader(members, space)
        self._feed = feed.Feed(members, space, newest=newest)
        self._silent = False  # there was no answer to the last transaction
        super().__init__()

    def learn(self, members: Sequence[str]) -> None:
        """Ask these members from now on."""
        self._gateway.learn(members)

    async def revision(self) -> int:
        """See contract.Store."""
        self._check()
        return await self._reader.revision()

    async def get(self, key: str) -> contract.Entry | None:
        """See contract.Store."""
        self._check()
        return await self._reader.get(key)

    async def list(
        self, prefix: str, *, limit: int | None = None, after: str | None = None, at: int | None = None
    ) -> contract.Page:
        """See contract.Store."""
        self._check()
        if limit is not None and limit < 1:
            raise ValueError(f"limit is {limit}")
        if at is not None and at < 0:
            raise await self._out_of_range(at, compacted=True)
        while True:
            try:
                return await self._reader.list(prefix, limit=limit, after=after, at=at)
            except gateway.OutOfRange as refused:
                if at is not None:  # else forgotten between two of its pages: again, as of now
                    raise await self._out_of_range(at, compacted=refused.compacted) from refused

    def watch(self, prefix: str, *, since: int) -> contract.Watch:
        """See contract.Store."""
        self._check()
        return feed.Watch(self._feed, prefix, since)

    async def compact(self, revision: int) -> None:
        """See contract.Store."""
        self._check()
        newest = await self._reader.revision()
        if revision > newest:
            raise contract.FutureRevision(asked=revision, newest=newest)
        await self._feed.reach(revision, within=reader.PATIENCE)  # our own quiet watches are to outlive it
        request = {"revision": str(max(revision, 0) + self._space.base)}
        try:
            await self._gateway.ask(records.COMPACTION, request, within=reader.PATIENCE)
        except gateway.OutOfRange as refused:
            if not refused.compacted:
                raise
        self._feed.horizon = max(self._feed.horizon, revision)

    async def _out_of_range(self, asked: int, *, compacted: bool) -> contract.Error:
        newest = await self._reader.revision()
        if not compacted:
            return contract.FutureRevision(asked=asked, newest=newest)
        oldest = await feed.oldest(self._gateway, self._space)
        return contract.Compacted(asked=asked, oldest=oldest)

    async def _write(self, jobs: Sequence[_Job]) -> None:
        (job,) = jobs
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        patience = PATIENCE - (now - job.given if self._silent else 0.0)
        try:
            written = await self._pen.write(job.wish, until=asyncio.get_running_loop().time() + patience)
        except contract.Error as error:
            self._silent = isinstance(error, (gateway.Silent, contract.Unsettled))
            job.tell(error)
        else:
            self._silent = False
            self._feed.learn(written.revision)
            job.tell(written.revision)
            self._refuse(job.wish, written)

    def _refuse(self, wish: line.Transaction, written: pen.Written) -> None:
        """Answer those who are next and whose first compare cannot hold behind what was just written.

        They were given before it was sent, so that is their moment; of many who count at once only one goes to etcd.
        """
        while self._jobs and self._jobs[0].given <= written.sent:
            compare = self._jobs[0].wish.compare
            key = min(compare, default="")
            found = written.revision if key in wish.puts else 0
            if not (key in wish.puts or key in wish.deletes) or compare[key] == found:
                return
            self._jobs.popleft().tell(contract.Mismatch(key=key, expected=compare[key], found=found))

    async def _release(self) -> None:
        await self._feed.close()
        await self._reader.close()
        await self._gateway.close()
