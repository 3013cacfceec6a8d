"""Reads: what many ask for at once is one request; each is linearizable, and any member's answer counts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from bocage.store import contract
from bocage.store.etcd import founding, gateway, records

PATIENCE = 10.0  # seconds
_TOGETHER = 100  # keys of one request
_BESIDE = 8  # requests on their way at a time
_PAGE = 1000  # keys of one answer


class Reader:
    """Reads of one store."""

    def __init__(self, by: gateway.Gateway, space: records.Space) -> None:
        self._gateway = by
        self._space = space
        self._wanted: dict[str, list[asyncio.Future[contract.Entry | None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """End what is being read; it raises Closed."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tell([future for futures in self._wanted.values() for future in futures], contract.Closed())

    async def revision(self) -> int:
        """The newest revision."""
        return self._space.revision((await self._ask([]))[0])

    async def get(self, key: str) -> contract.Entry | None:
        """The key as it stands now."""
        future: asyncio.Future[contract.Entry | None] = asyncio.get_running_loop().create_future()
        self._wanted.setdefault(key, []).append(future)
        if len(self._tasks) < _BESIDE:
            task = asyncio.create_task(self._get_on())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await future

    async def list(self, prefix: str, *, limit: int | None, after: str | None, at: int | None) -> contract.Page:
        """See contract.Store.list; raises gateway.OutOfRange for revisions that are not to be had."""
        space = self._space
        low, end = space.key(prefix), records.past(space.key(prefix))
        if after is not None:
            low = max(low, space.key(after + "\0"))
        entries: list[contract.Entry] = []
        found, more = 0 if at is None else at + space.base, low < end
        if not more:
            found, _ = await self._ask([])
        while more:
            count = min(_PAGE, _PAGE if limit is None else limit - len(entries))
            newest, (page,) = await self._ask([records.span(low, end, limit=count, at=found)])
            found = found or newest
            entries += [space.entry(record) for record in page.get("kvs", ())]
            more = bool(page.get("more"))
            if len(entries) == limit:
                break
            low = space.key(entries[-1].key + "\0") if entries else low
        return contract.Page(entries, space.revision(found) if at is None else at, entries[-1].key if more else None)

    async def _ask(self, spans: Sequence[records.Document]) -> tuple[int, Sequence[records.Document]]:
        """etcd's revision, and what each span found, all at one moment. Raises Replaced, Silent, Refused."""
        answer = await self._gateway.ask(records.TXN, founding.look(self._space, *spans), within=PATIENCE)
        return records.revision(answer), founding.seen(self._space, answer)

    async def _get_on(self) -> None:
        while self._wanted:
            keys = [*self._wanted][:_TOGETHER]
            batch = {key: self._wanted.pop(key) for key in keys}
            try:
                _, found = await self._ask([records.get(self._space.key(key)) for key in keys])
            except asyncio.CancelledError:
                self._tell([future for futures in batch.values() for future in futures], contract.Closed())
                raise
            except Exception as error:  # noqa: BLE001 - told to those who asked
                self._tell([future for futures in batch.values() for future in futures], error)
                continue
            for futures, one in zip(batch.values(), found, strict=True):
                record = records.first(one)
                try:
                    self._tell(futures, self._space.entry(record) if record else None)
                except contract.Failed as failed:
                    self._tell(futures, failed)

    def _tell(
        self, futures: Sequence[asyncio.Future[contract.Entry | None]], answer: contract.Entry | Exception | None
    ) -> None:
        for future in futures:
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
