"""From SQLite to etcd: every entry, key and value as they are, while nothing writes."""

from __future__ import annotations

from collections.abc import AsyncIterator

from bocage import errors, ledger
from bocage.protocol import records as protocol
from bocage.store import contract
from bocage.words import N_

OPERATIONS = 100  # of one transaction
_BYTES = contract.MAX_BYTES // 2
_PAGE = 500


class Differs(errors.Problem):
    type = "cluster-copy-differs"
    text = N_("what was copied into etcd is not what the database holds ({key})")
    hint = N_("nothing was changed; please report it")
    key: str


async def copy(source: contract.Store, into: contract.Store) -> int:
    """Copy all into an empty store and read it back; how many entries there are. Raises Differs."""
    puts, size, count = dict[str, bytes](), 0, 0
    async for entry in _all(source):
        more = len(entry.key.encode()) + len(entry.value)
        if puts and (len(puts) >= OPERATIONS or size + more > _BYTES):
            await into.apply(puts=puts)
            puts, size = {}, 0
        puts[entry.key] = entry.value
        size += more
        count += 1
    if puts:
        await into.apply(puts=puts)
    await _compare(source, into)
    return count


async def begin_protocol(into: contract.Store, incarnation: str) -> None:
    """The protocol's first record: a store that knows who runs what, since nobody else can run anything."""
    key = ledger.ROOT + protocol.CLUSTER
    await into.apply(compare={key: 0}, puts={key: ledger.encoded(protocol.Cluster(incarnation))})


async def _compare(source: contract.Store, into: contract.Store) -> None:
    ours, theirs = _all(source), _all(into)
    async for entry in ours:
        copied = await anext(theirs, None)
        if copied is None or (copied.key, copied.value) != (entry.key, entry.value):
            raise Differs(key=entry.key)
    if (more := await anext(theirs, None)) is not None:
        raise Differs(key=more.key)


async def _all(store: contract.Store) -> AsyncIterator[contract.Entry]:
    after: str | None = None
    while True:
        page = await store.list("", limit=_PAGE, after=after)
        for entry in page.entries:
            yield entry
        after = page.after
        if after is None:
            return
