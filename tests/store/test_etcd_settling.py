"""No answer is neither yes nor no: requests and answers that come late, and what the caller is told meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Coroutine
from typing import Any, NamedTuple

import pytest

from bocage.store import contract
from bocage.store.etcd import access, engine, gateway, pen
from tests.store import lane, members
from tests.store.conformance import following, put, state


class Ground(NamedTuple):
    """A store that reaches one member over two lanes, the first one first; and its twin, who reaches it directly."""

    store: engine.EtcdStore
    first: lane.Lane
    second: lane.Lane
    twin: engine.EtcdStore


@pytest.fixture
async def ground(etcd: members.Cluster) -> AsyncIterator[Ground]:
    async with contextlib.AsyncExitStack() as stack:
        member = etcd.members[0].client
        first, second = [await stack.enter_async_context(lane.lane(member)) for _ in range(2)]
        root = members.new_root()
        await members.found(etcd.access(), root)
        store = await members.opened(access.Access((first.address, second.address)), root)
        stack.push_async_callback(store.close)
        twin = await members.opened(etcd.access(), root, client="twin")
        stack.push_async_callback(twin.close)
        yield Ground(store, first, second, twin)
        first.open()
        second.open()


async def release(held: lane.Lane) -> None:
    """Let through what was held back, until it has been answered."""
    held.open()
    async with asyncio.timeout(20):
        await held.late.wait()


async def history(store: contract.Store) -> list[tuple[int, str, bytes | None]]:
    """All changes, oldest first."""
    newest, told = await store.revision(), list[contract.Change]()
    watch = store.watch("", since=0)
    await store.apply(puts={"end": b""})
    while not told or told[-1].key != "end":
        told += await following(watch)
    return [(one.revision, one.key, one.entry.value if one.entry else None) for one in told if one.revision <= newest]


async def test_an_answer_that_is_lost_is_found_over_another_lane(ground):
    ground.first.hold_answers()
    assert await put(ground.store, a="1") == 1
    assert await put(ground.store, a="2") == 2
    assert await history(ground.twin) == [(1, "a", b"1"), (2, "a", b"2")]


async def test_a_request_that_comes_late_is_not_written_again(ground):
    ground.first.hold_requests()
    assert await put(ground.store, a="1") == 1
    assert ground.first.held.is_set()
    await ground.twin.apply(deletes=["a"])
    await release(ground.first)
    assert await put(ground.store, b="1") == 3
    assert await history(ground.twin) == [(1, "a", b"1"), (2, "a", None), (3, "b", b"1")]


async def test_a_refusal_is_final_where_the_revision_has_passed_and_costs_no_revision(ground, voids):
    await put(ground.store, a="1")
    await put(ground.store, a="2")
    ground.first.hold_requests()
    with pytest.raises(contract.Mismatch) as caught:
        await ground.store.apply(compare={"a": 1}, puts={"a": b"3"})
    assert caught.value.found == 2
    assert voids == []
    assert await ground.twin.revision() == 2


async def test_what_was_refused_is_never_written_though_it_would_hold_later(ground, voids):
    await put(ground.twin, a="1")
    ground.first.hold_requests()
    with pytest.raises(contract.Mismatch) as caught:
        await ground.store.apply(compare={"a": 0}, puts={"a": b"2"})
    assert caught.value.found == 1
    assert voids == [2]
    await ground.twin.apply(deletes=["a"])
    await release(ground.first)
    assert await ground.store.apply(compare={"a": 0}, puts={"a": b"3"}) == 4
    assert await history(ground.twin) == [(1, "a", b"1"), (3, "a", None), (4, "a", b"3")]


async def test_a_deletion_of_what_is_absent_is_never_done_later(ground):
    ground.first.hold_requests()
    assert await ground.store.apply(deletes=["a"]) == 1  # the newest by then: what is behind was made void
    await put(ground.twin, a="1")
    await release(ground.first)
    await put(ground.store, b="1")
    assert await state(ground.twin) == {"a": b"1", "b": b"1"}


async def test_one_that_is_behind_and_holds_when_it_comes_has_been_written(ground, monkeypatch, voids):
    monkeypatch.setattr(pen, "GRACE", 30.0)
    await put(ground.twin, a="1")
    ground.first.hold_requests()
    writing = asyncio.ensure_future(ground.store.apply(compare={"a": 0}, puts={"a": b"2"}))
    async with asyncio.timeout(10):
        await ground.first.held.wait()
    while ground.store._gateway.order[0] != ground.second.address:  # until the second has refused
        await asyncio.sleep(0.01)
    await ground.twin.apply(deletes=["a"])
    ground.first.open()
    assert await writing == 3
    assert voids == []
    assert await state(ground.twin) == {"a": b"2"}


async def test_of_two_answers_that_come_together_the_one_that_wrote_counts(ground, monkeypatch):
    gate, real, came = asyncio.Event(), gateway.Gateway.attempt, list[str]()

    async def together(self: gateway.Gateway, member: str, path: str, content: bytes) -> gateway.Answer:
        answer = await real(self, member, path, content)
        came.append(member)
        await gate.wait()
        return answer

    async def come(member: str) -> None:
        async with asyncio.timeout(20):
            while member not in came:
                await asyncio.sleep(0.01)

    await put(ground.twin, a="1")
    ground.second.hold_requests()
    monkeypatch.setattr(ground.store._gateway, "attempt", functools.partial(together, ground.store._gateway))
    writing = asyncio.ensure_future(ground.store.apply(compare={"a": 0}, puts={"a": b"2"}))
    await come(ground.first.address)  # refused
    await ground.twin.apply(deletes=["a"])
    ground.second.open()
    await come(ground.second.address)  # written
    gate.set()
    assert await writing == 3
    assert await state(ground.twin) == {"a": b"2"}


async def test_without_an_answer_it_is_unsettled_and_what_comes_late_is_void(ground, monkeypatch):
    await put(ground.store, a="1")
    monkeypatch.setattr(engine, "PATIENCE", 2.0)
    ground.first.hold_requests()
    ground.second.hold_requests()
    with pytest.raises(contract.Unsettled):
        await put(ground.store, a="2")
    monkeypatch.undo()
    assert await state(ground.twin) == {"a": b"1"}
    ground.second.open()
    told = await put(ground.store, b="1")
    await release(ground.first)
    assert await put(ground.store, c="1") == told + 1
    told_once = [change for change in await history(ground.twin) if change[2] == b"2"]
    assert len(told_once) <= 1  # it was on its way and may have come first; nobody was told that it failed
    assert (await ground.twin.get("b")) == contract.Entry("b", b"1", told, told)


async def test_without_an_answer_it_may_have_been_written_and_the_next_knows(ground, monkeypatch, voids):
    monkeypatch.setattr(engine, "PATIENCE", 2.0)
    ground.first.hold_answers()
    ground.second.hold_answers()
    with pytest.raises(contract.Unsettled):
        await put(ground.store, a="1")
    async with asyncio.timeout(20):
        while await ground.twin.get("a") is None:
            await asyncio.sleep(0.01)
    monkeypatch.undo()
    ground.first.open()
    ground.second.open()
    assert await put(ground.store, b="1") == 2
    assert voids == []


async def test_what_was_never_sent_has_failed_and_those_behind_it_too(ground, monkeypatch):
    monkeypatch.setattr(engine, "PATIENCE", 0.7)
    ground.first.hold_requests()
    ground.second.hold_requests()
    first, second = asyncio.ensure_future(put(ground.store, a="1")), asyncio.ensure_future(put(ground.store, b="1"))
    with pytest.raises(contract.Unsettled):
        await first
    with pytest.raises(contract.Failed):
        await second
    assert await ground.twin.get("b") is None
    with pytest.raises(contract.Failed):
        await asyncio.wait_for(put(ground.store, c="1"), 10)
    with pytest.raises(gateway.Silent):
        await ground.store._gateway.ask("kv/range", {"key": "YQ=="}, within=0.7)


async def test_where_all_is_slow_all_is_done_in_the_end_and_less_is_asked_twice(ground, monkeypatch):
    monkeypatch.setattr(engine, "PATIENCE", 2.0)
    ground.first.delay = ground.second.delay = 0.35
    await ground.store.get("a")
    assert await asyncio.gather(*(put(ground.store, **{f"k{n}": "1"}) for n in range(6))) == list(range(1, 7))
    assert ground.store._gateway.hedge > gateway.HEDGE


async def test_a_process_that_has_the_same_name_after_one_that_was_killed_writes_behind_it(ground, etcd):
    successor = await members.opened(etcd.access(), ground.store._space.root.decode())
    await put(ground.store, a="1")  # was on its way when the successor looked
    assert await put(successor, a="2") == 2
    ground.first.hold_answers()
    assert await put(ground.store, a="3") == 3
    assert await history(ground.twin) == [(1, "a", b"1"), (2, "a", b"2"), (3, "a", b"3")]
    await successor.close()


async def test_when_the_mark_was_moved_twice_nobody_can_tell(ground, etcd):
    successor = await members.opened(etcd.access(), ground.store._space.root.decode())
    await put(successor, a="1")
    await put(successor, a="2")
    with pytest.raises(contract.Unsettled, match="same name"):
        await put(ground.store, a="3")
    assert await put(ground.store, a="4") == 3
    await successor.close()


async def test_reads_and_watches_go_over_the_lane_that_is_open(ground):
    watch = ground.store.watch("", since=0)
    ground.first.hold_answers()
    await put(ground.twin, a="1")
    assert (await ground.store.get("a")) == contract.Entry("a", b"1", 1, 1)
    assert [change.revision for change in await following(watch)] == [1]
    ground.first.open()
    ground.second.hold_answers()
    await put(ground.twin, a="2")
    assert [change.revision for change in await following(watch)] == [2]


async def test_a_refusal_of_what_is_only_read_is_an_answer_though_another_was_lost(ground):
    ground.first.hold_answers()
    with pytest.raises(contract.FutureRevision):
        await ground.store.list("", at=5)


async def test_who_is_without_an_answer_when_it_is_closed_is_told_so(ground, etcd):
    await put(ground.twin, a="1")
    way = access.Access((ground.first.address, ground.second.address))
    store = await members.opened(way, ground.store._space.root.decode(), client="third")
    ground.first.hold_answers()
    ground.second.hold_answers()
    doings: list[Coroutine[Any, Any, object]] = [store.get("a"), store.list(""), store.revision()]
    reading = [asyncio.ensure_future(doing) for doing in doings]
    watching = [asyncio.ensure_future(following(store.watch("", since=since))) for since in (0, 1, 9)]
    await asyncio.sleep(0.1)
    await asyncio.wait_for(store.close(), 20)
    for one in reading:
        with pytest.raises(contract.Closed):
            await one
    for one in watching:
        with pytest.raises(StopAsyncIteration):
            await one


async def test_a_quiet_watch_outlives_a_compaction_of_what_its_stream_did_not_bring_yet(ground):
    left = ground.store.watch("quiet", since=0)
    waiting = asyncio.ensure_future(following(ground.store.watch("quiet", since=0)))
    ground.first.hold_answers()
    for n in range(5):
        await put(ground.twin, loud=str(n))
    await ground.store.compact(5)
    await put(ground.twin, quiet="1")
    for changes in (await waiting, await following(left)):
        assert [change.revision for change in changes] == [6]
