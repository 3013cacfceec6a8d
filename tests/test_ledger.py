"""The protocol's records in the store: read as of one revision, written with every compare, whoever else writes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator

import pytest

from bocage import ledger
from bocage.model import keys, vm
from bocage.protocol import records
from tests.store import reference

HOST, MACHINE = "0c5e6a4e-6b0f-4b57-9b43-3f0f6f6f0a01", "0c5e6a4e-6b0f-4b57-9b43-3f0f6f6f0a02"
OWNER = keys.owner("default", MACHINE)


@pytest.fixture
async def store() -> reference.MemoryStore:
    return reference.MemoryStore()


@pytest.fixture
async def book(store: reference.MemoryStore) -> AsyncIterator[ledger.Ledger]:
    made = ledger.Ledger(store, "first")
    following = asyncio.create_task(made.run())
    yield made
    following.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await following


RECORDS: dict[str, object] = {
    records.CLUSTER: records.Cluster("first", settled=False, floor=7),
    records.LEADER: records.Leader(HOST, 3),
    records.RULES: records.Beat(3),
    records.epoch_of(HOST): records.Epoch(4, 3, 2, records.Bounds(True, 5.0, 12.5)),
    records.beat_of(HOST): records.Beat(9),
    records.fence_of(HOST): records.Fence(4),
    records.report_of(HOST): records.Report("first", {MACHINE: 3}, {MACHINE: 4}),
    records.replica_of(MACHINE): records.Replica(HOST, in_sync=True),
}


async def test_every_record_is_read_as_it_was_written(store: reference.MemoryStore, book: ledger.Ledger) -> None:
    compare = dict.fromkeys(RECORDS, 0)
    answer = await book.write(records.Transaction("first", compare, RECORDS))
    seen = await book.read()
    assert isinstance(answer, records.Applied)
    assert {key: entry.record for key, entry in seen.view.entries.items()} == RECORDS
    assert {entry.revision for entry in seen.view.entries.values()} == {answer.revision}


async def test_a_read_shows_what_was_written_before_it_by_anybody(
    store: reference.MemoryStore, book: ledger.Ledger
) -> None:
    for count in range(20):
        before = time.clock_gettime(time.CLOCK_BOOTTIME)
        await store.apply(puts={ledger.ROOT + records.beat_of(HOST): ledger.encoded(records.Beat(count))})
        seen = await book.read()
        assert seen.view.get(records.Beat, records.beat_of(HOST)) == records.Beat(count)
        assert seen.sent >= before
    await store.apply(deletes=[ledger.ROOT + records.beat_of(HOST)])
    assert records.beat_of(HOST) not in (await book.read()).view.entries


async def test_an_owner_is_the_vms_own_record(store: reference.MemoryStore, book: ledger.Ledger) -> None:
    given = vm.Owner(host=HOST, generation=2)
    revision = await store.apply(puts={OWNER: given.model_dump_json().encode()})
    key = records.owner_of(MACHINE)
    seen = await book.read()
    assert seen.view.get(records.Owner, key) == records.Owner(HOST, 2)
    free = records.Owner(None, 3, anew=True)
    assert isinstance(await book.write(records.Transaction("first", {key: revision}, {key: free})), records.Applied)
    entry = await store.get(OWNER)
    assert entry is not None
    assert vm.Owner.model_validate_json(entry.value) == vm.Owner(host=None, generation=3, anew=True)
    refused = await book.write(records.Transaction("first", {key: revision}, {key: free}))
    assert refused == records.Refused(key)


async def test_nothing_is_written_for_another_incarnation(store: reference.MemoryStore, book: ledger.Ledger) -> None:
    put = {records.beat_of(HOST): records.Beat(1)}
    assert await book.write(records.Transaction("second", {}, put)) == records.Refused(records.CLUSTER)
    assert await store.revision() == 0


async def test_what_cannot_be_read_is_there_all_the_same(store: reference.MemoryStore, book: ledger.Ledger) -> None:
    """Its revision stands, so that nobody writes it as if it were absent."""
    key = records.epoch_of(HOST)
    revision = await store.apply(puts={ledger.ROOT + key: json.dumps({"number": "many"}).encode()})
    view = (await book.read()).view
    assert view.get(records.Epoch, key) is None
    assert view.revision(key) == revision


async def test_a_watch_that_fell_behind_reads_all_anew(store: reference.MemoryStore, book: ledger.Ledger) -> None:
    await book.read()
    for count in range(5):
        await store.apply(puts={ledger.ROOT + records.beat_of(HOST): ledger.encoded(records.Beat(count))})
    await store.compact(5)
    assert (await book.read()).view.get(records.Beat, records.beat_of(HOST)) == records.Beat(4)
