"""What every engine must do, written against the contract alone: watches and compaction."""

from __future__ import annotations

import asyncio

import pytest

from bocage.store import contract
from tests.store.conformance import following, is_quiet, put, state, take, turns

# --- watches


async def test_a_watch_tells_what_came_after_its_revision(store):
    await put(store, a="1")
    await put(store, a="2", b="1")
    await store.apply(deletes=["a"])
    watch = store.watch("", since=1)
    assert await take(watch, 3) == [
        contract.Change("a", 2, contract.Entry("a", b"2", 2, 1)),
        contract.Change("b", 2, contract.Entry("b", b"1", 2, 2)),
        contract.Change("a", 3, None),
    ]
    assert await is_quiet(watch)


async def test_a_watch_waits_for_what_is_to_come(store):
    watch = store.watch("a", since=0)
    waiting = asyncio.ensure_future(following(watch))
    await put(store, b="1")
    await put(store, a="1")
    assert await waiting == [contract.Change("a", 2, contract.Entry("a", b"1", 2, 2))]


async def test_changes_of_other_keys_carry_no_watch_past_what_it_has_not_read(store):
    watch = store.watch("a", since=0)
    await put(store, a="1")
    await turns()
    for n in range(3):
        await put(store, b=str(n))
        await turns()
    assert [change.revision for change in await following(watch)] == [1]


async def test_a_watch_sees_its_prefix_only(store):
    watch = store.watch("a/", since=0)
    await store.apply(puts={"a/1": b"", "a0": b"", "b/": b"", "a": b""})
    await store.apply(puts={"b/1": b""})
    await store.apply(puts={"a/2": b""})
    assert [change.key for change in await take(watch, 2)] == ["a/1", "a/2"]
    assert await is_quiet(watch)


async def test_an_item_of_a_watch_has_whole_revisions(store):
    for n in range(60):
        await store.apply(puts={f"k{m:02}": str(n).encode() for m in range(50)})
    watch = store.watch("", since=0)
    seen: dict[int, int] = {}
    while len(seen) < 60:
        item = await following(watch)
        assert not seen.keys() & {change.revision for change in item}
        for change in item:
            seen[change.revision] = seen.get(change.revision, 0) + 1
    assert seen == dict.fromkeys(range(1, 61), 50)


async def test_a_watch_neither_skips_nor_repeats_while_many_write(store):
    async def write(name: str) -> None:
        for n in range(50):
            await store.apply(puts={f"{name}/{n}": b"", f"other/{name}": b""})

    async def read(prefix: str, count: int) -> list[contract.Change]:
        return await take(store.watch(prefix, since=0), count)

    reading = asyncio.gather(read("", 2000), read("w3/", 50))
    await asyncio.gather(*(write(f"w{n}") for n in range(20)))
    everything, one = await reading
    assert [change.revision for change in everything] == [n // 2 + 1 for n in range(2000)]
    assert [change.key for change in one] == [f"w3/{n}" for n in range(50)]


async def test_a_wait_of_a_watch_that_is_cancelled_loses_nothing(store):
    watch = store.watch("", since=0)
    for n in range(1, 20):
        assert await is_quiet(watch)
        await put(store, a=str(n))
        assert [change.revision for change in await following(watch)] == [n]


async def test_a_watch_that_is_closed_ends_also_for_the_one_who_waits(store):
    watch = store.watch("", since=0)
    waiting = asyncio.ensure_future(following(watch))
    await asyncio.sleep(0)
    await watch.aclose()
    await watch.aclose()
    with pytest.raises(StopAsyncIteration):
        await waiting
    await put(store, a="1")
    with pytest.raises(StopAsyncIteration):
        await following(watch)


async def test_a_watch_of_a_revision_to_come_is_refused(store):
    watch = store.watch("", since=3)
    with pytest.raises(contract.FutureRevision):
        await following(watch)


async def test_a_list_and_a_watch_from_its_revision_are_everything(store):
    async def write() -> None:
        for n in range(200):
            await store.apply(puts={f"k{n % 7}": str(n).encode()}, deletes=[f"k{(n + 3) % 7}"])

    writing = asyncio.ensure_future(write())
    await take(store.watch("", since=0), 50)
    page = await store.list("k")
    seen = {entry.key: entry for entry in page.entries}
    await writing
    watch = store.watch("k", since=page.revision)
    position = page.revision
    while position < 200:
        for change in await following(watch):
            position = change.revision
            if change.entry:
                seen[change.key] = change.entry
            else:
                del seen[change.key]
    assert seen == {entry.key: entry for entry in (await store.list("k")).entries}


# --- compaction


async def test_what_was_compacted_can_be_neither_listed_nor_watched(store):
    for n in range(1, 7):
        await put(store, a=str(n))
    await store.compact(4)
    with pytest.raises(contract.Compacted) as caught:
        await store.list("", at=3)
    assert (caught.value.asked, caught.value.oldest) == (3, 4)
    with pytest.raises(contract.Compacted):
        await following(store.watch("", since=3))


@pytest.mark.parametrize("before", [-1, -100])
async def test_what_was_before_the_first_revision_can_be_neither_listed_nor_watched(store, before):
    await put(store, a="1")
    with pytest.raises(contract.Compacted) as caught:
        await store.list("", at=before)
    assert (caught.value.asked, caught.value.oldest) == (before, 0)
    with pytest.raises(contract.Compacted):
        await following(store.watch("", since=before))


async def test_compaction_changes_nothing_from_its_revision_on(store):
    await put(store, a="1", b="1", c="1")
    await put(store, a="2")
    await store.apply(deletes=["b"])
    await store.apply(puts={"d": b"1"}, deletes=["c"])
    await put(store, a="3", b="2")
    then = {at: await state(store, at=at) for at in (3, 4, 5)}
    for upto in (3, 4, 5):
        await store.compact(upto)
        assert {at: await state(store, at=at) for at in (3, 4, 5) if at >= upto} == {
            at: was for at, was in then.items() if at >= upto
        }
    assert await store.get("a") == contract.Entry("a", b"3", 5, 1)
    assert await store.get("b") == contract.Entry("b", b"2", 5, 5)
    assert await store.revision() == 5


async def test_a_watch_from_the_compacted_revision_misses_nothing(store):
    await put(store, a="1")
    await store.apply(deletes=["a"])
    await put(store, b="1")
    await store.compact(1)
    watch = store.watch("", since=1)
    assert [(change.key, change.revision) for change in await take(watch, 2)] == [("a", 2), ("b", 3)]


async def test_the_revision_stays_when_its_deletes_are_all_there_is(store):
    await put(store, a="1")
    await store.apply(deletes=["a"])
    await store.compact(2)
    assert await store.revision() == 2
    assert await put(store, a="1") == 3


async def test_compacting_what_is_compacted_does_nothing(store):
    await put(store, a="1")
    await put(store, a="2")
    await store.compact(2)
    await store.compact(1)
    await store.compact(2)
    assert await state(store, at=2) == {"a": b"2"}
    with pytest.raises(contract.FutureRevision):
        await store.compact(3)


async def test_a_watch_that_was_too_slow_is_told_so(store):
    watch = store.watch("a", since=0)
    await put(store, a="1")
    assert len(await following(watch)) == 1
    await put(store, a="2")
    await put(store, a="3")
    await store.compact(3)
    with pytest.raises(contract.Compacted):
        await following(watch)


async def test_a_watch_that_keeps_up_outlives_the_compaction_of_what_is_not_its_own(store):
    watch = store.watch("a", since=0)
    waiting = asyncio.ensure_future(following(watch))
    await asyncio.sleep(0)
    for n in range(10):
        await put(store, b=str(n))
        await turns()
    await store.compact(10)
    await put(store, a="1")
    assert [change.revision for change in await waiting] == [11]
