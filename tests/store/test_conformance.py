"""What every engine must do, written against the contract alone: keys, transactions, lists, many at once."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from bocage.store import contract
from tests.store.conformance import following, keys, put, state

# --- one key


async def test_a_new_store_is_empty_at_revision_0(store):
    assert await store.revision() == 0
    assert await store.get("a") is None
    assert await store.list("") == contract.Page([], 0, None)


async def test_what_was_put_is_there_with_its_revision(store):
    assert await put(store, a="1") == 1
    assert await store.get("a") == contract.Entry("a", b"1", 1, 1)
    assert await store.revision() == 1


async def test_a_second_put_keeps_the_creation_and_moves_the_revision(store):
    await put(store, a="1")
    await put(store, b="1")
    assert await put(store, a="2") == 3
    assert await store.get("a") == contract.Entry("a", b"2", 3, 1)


async def test_a_key_that_comes_back_is_created_anew(store):
    await put(store, a="1")
    await store.apply(deletes=["a"])
    assert await store.get("a") is None
    await put(store, a="2")
    assert await store.get("a") == contract.Entry("a", b"2", 3, 3)


async def test_putting_the_same_value_again_is_a_change(store):
    await put(store, a="1")
    assert await put(store, a="1") == 2


@pytest.mark.parametrize("value", [b"", b"\0", bytes(range(256)), b"x" * 500_000], ids=["empty", "nul", "all", "large"])
async def test_a_value_comes_back_byte_for_byte(store, value):
    await store.apply(puts={"a": value})
    entry = await store.get("a")
    assert entry is not None
    assert entry.value == value


# --- transactions


async def test_all_writes_of_a_transaction_get_one_revision(store):
    await put(store, gone="1")
    assert await store.apply(puts={"a": b"1", "b": b"2"}, deletes=["gone"]) == 2
    assert [(entry.key, entry.revision) for entry in (await store.list("")).entries] == [("a", 2), ("b", 2)]


async def test_compares_that_hold_let_it_write(store):
    first = await put(store, a="1")
    assert await store.apply(compare={"a": first, "new": 0}, puts={"a": b"2", "new": b""}) == 2


async def test_a_compare_that_does_not_hold_writes_nothing_and_names_the_first_key(store):
    await put(store, a="1", b="1", c="1")
    with pytest.raises(contract.Mismatch) as caught:
        await store.apply(compare={"c": 7, "b": 0, "a": 1}, puts={"a": b"2"}, deletes=["c"])
    assert (caught.value.key, caught.value.expected, caught.value.found) == ("b", 0, 1)
    assert await state(store) == {"a": b"1", "b": b"1", "c": b"1"}
    assert await store.revision() == 1


async def test_comparing_a_key_that_is_absent_finds_0(store):
    with pytest.raises(contract.Mismatch) as caught:
        await store.apply(compare={"a": 5}, puts={"a": b""})
    assert caught.value.found == 0


async def test_a_deleted_key_compares_as_absent(store):
    await put(store, a="1")
    await store.apply(deletes=["a"])
    assert await store.apply(compare={"a": 0}, puts={"a": b"2"}) == 3


async def test_a_transaction_that_writes_nothing_makes_no_revision(store):
    assert await store.apply() == 0
    await put(store, a="1")
    assert await store.apply() == 1
    assert await store.apply(deletes=["absent"]) == 1
    assert await store.apply(compare={"a": 1}) == 1
    assert await store.revision() == 1


async def test_a_transaction_that_writes_nothing_still_compares(store):
    with pytest.raises(contract.Mismatch):
        await store.apply(compare={"a": 1}, deletes=["absent"])


@pytest.mark.parametrize(
    "wish",
    [
        {"puts": {"": b""}},
        {"deletes": [""]},
        {"compare": {"": 0}},
        {"puts": {"a": b""}, "deletes": ["a"]},
        {"puts": {"\ud800": b""}},
    ],
    ids=["put", "delete", "compare", "both", "surrogate"],
)
async def test_a_wish_that_makes_no_sense_is_refused(store, wish):
    with pytest.raises(ValueError, match=r"empty|both|surrogates"):
        await store.apply(**wish)
    assert await store.revision() == 0


async def test_deleting_a_key_twice_in_one_transaction_is_one_delete(store):
    await put(store, a="1")
    assert await store.apply(deletes=["a", "a"]) == 2
    assert await state(store) == {}


async def test_the_largest_number_of_operations_is_taken_and_one_more_is_not(store):
    most = contract.MAX_OPERATIONS
    compare = {"absent": 0}
    await store.apply(compare=compare, puts={f"k{n:03}": b"" for n in range(most - 1)})
    assert len(await keys(store)) == most - 1
    with pytest.raises(contract.TooLarge) as caught:
        await store.apply(compare=compare, deletes=[f"k{n:03}" for n in range(most)])
    assert caught.value.operations == most + 1
    assert len(await keys(store)) == most - 1


async def test_the_most_bytes_are_taken_and_one_more_is_not(store):
    await store.apply(puts={"k": bytes(contract.MAX_BYTES - 1)})
    with pytest.raises(contract.TooLarge) as caught:
        await store.apply(puts={"é": bytes(contract.MAX_BYTES - 1)})
    assert caught.value.count == contract.MAX_BYTES + 1
    assert await store.revision() == 1


# --- lists


async def test_a_list_has_its_prefix_only_and_is_sorted(store):
    await store.apply(puts=dict.fromkeys(["b", "a/2", "a0", "a", "a/", "a/10", "a.", "é", "z"], b""))
    assert await keys(store, "a/") == ["a/", "a/10", "a/2"]
    assert await keys(store) == ["a", "a.", "a/", "a/10", "a/2", "a0", "b", "z", "é"]


@pytest.mark.parametrize("prefix", ["\U0010ffff", "x\U0010ffff", "\ud7ff", "a\0", "%", "_", "'", "*"])
async def test_a_prefix_of_any_characters_is_taken_as_it_is(store, prefix):
    inside = sorted([prefix, prefix + "\0", prefix + "\U0010ffff", prefix + "a"])
    outside = ["a", "y", "\ue000", "x\U0010fffe", "x"]
    await store.apply(puts=dict.fromkeys(inside + outside, b""))
    assert await keys(store, prefix) == inside


async def test_pages_together_are_the_list(store):
    names = [f"k{n:02}" for n in range(10)]
    await store.apply(puts=dict.fromkeys([*names, "a", "z"], b""))
    for limit in (1, 3, 5, 10, 11):
        seen: list[str] = []
        after: str | None = None
        while True:
            page = await store.list("k", limit=limit, after=after)
            assert 0 < len(page.entries) <= limit
            seen += [entry.key for entry in page.entries]
            after = page.after
            if after is None:
                break
            assert after == seen[-1]
        assert seen == names


async def test_after_need_not_be_there_nor_have_the_prefix(store):
    await put(store, a1="", a3="", b1="")
    assert await keys(store, "a", after="a2") == ["a3"]
    assert await keys(store, "a", after="A") == ["a1", "a3"]
    assert await keys(store, "a", after="b") == []


@pytest.mark.parametrize("limit", [0, -1])
async def test_a_limit_under_1_is_refused(store, limit):
    with pytest.raises(ValueError, match="limit"):
        await store.list("", limit=limit)


async def test_a_list_shows_each_past_revision_as_it_was(store):
    await put(store, a="1", b="1")
    await put(store, a="2")
    await store.apply(puts={"c": b"1"}, deletes=["a"])
    await put(store, a="3")
    assert await state(store, at=0) == {}
    assert await state(store, at=1) == {"a": b"1", "b": b"1"}
    assert await state(store, at=2) == {"a": b"2", "b": b"1"}
    assert await state(store, at=3) == {"b": b"1", "c": b"1"}
    assert await state(store, at=4) == {"a": b"3", "b": b"1", "c": b"1"}
    page = await store.list("a", at=2)
    assert page == contract.Page([contract.Entry("a", b"2", 2, 1)], 2, None)


async def test_pages_at_one_revision_do_not_see_later_writes(store):
    await store.apply(puts={f"k{n}": b"old" for n in range(8)})
    page = await store.list("k", limit=3)
    seen = list(page.entries)
    while page.after is not None:
        await store.apply(puts={"k7": b"new", f"k{len(seen)}x": b"new"}, deletes=["k0", "k6"])
        page = await store.list("k", limit=3, after=page.after, at=page.revision)
        assert page.revision == 1
        seen += page.entries
    assert [(entry.key, entry.value) for entry in seen] == [(f"k{n}", b"old") for n in range(8)]


async def test_a_revision_to_come_cannot_be_listed(store):
    await put(store, a="1")
    with pytest.raises(contract.FutureRevision) as caught:
        await store.list("", at=2)
    assert (caught.value.asked, caught.value.newest) == (2, 1)


# --- many at once


async def test_200_at_once_on_one_counter_lose_no_count(store):
    async def count() -> None:
        while True:
            entry = await store.get("n")
            value, revision = (int(entry.value), entry.revision) if entry else (0, 0)
            with contextlib.suppress(contract.Mismatch):
                await store.apply(compare={"n": revision}, puts={"n": str(value + 1).encode()})
                return

    async with asyncio.timeout(60):
        await asyncio.gather(*(count() for _ in range(200)))
    entry = await store.get("n")
    assert entry is not None
    assert (entry.value, entry.revision) == (b"200", 200)


async def test_each_of_many_at_once_has_a_revision_of_its_own(store):
    revisions = await asyncio.gather(*(put(store, **{f"k{n}": str(n)}) for n in range(300)))
    assert sorted(revisions) == list(range(1, 301))
    for n, revision in enumerate(revisions):
        assert await store.get(f"k{n}") == contract.Entry(f"k{n}", str(n).encode(), revision, revision)


async def test_one_mismatch_among_many_hurts_no_other(store):
    outcomes = await asyncio.gather(
        *(store.apply(compare={f"k{n}": 0 if n % 3 else 1}, puts={f"k{n}": b""}) for n in range(90)),
        return_exceptions=True,
    )
    refused = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, contract.Mismatch)]
    assert refused == list(range(0, 90, 3))
    assert len(await keys(store)) == 60
    assert await store.revision() == 60


async def test_of_many_who_want_one_absent_key_one_gets_it(store):
    outcomes = await asyncio.gather(
        *(store.apply(compare={"name": 0}, puts={"name": str(n).encode()}) for n in range(50)), return_exceptions=True
    )
    winners = [n for n, outcome in enumerate(outcomes) if outcome == 1]
    assert len(winners) == 1
    assert await state(store) == {"name": str(winners[0]).encode()}
    assert {outcome.found for outcome in outcomes if isinstance(outcome, contract.Mismatch)} == {1}


async def test_lists_and_gets_never_show_half_a_transaction(store):
    async def write(n: int) -> None:
        for m in range(30):
            await store.apply(puts={f"{side}{place}": f"{n}.{m}".encode() for side in "ab" for place in range(3)})

    writing = asyncio.gather(*(write(n) for n in range(5)))
    while not writing.done():
        assert len({entry.value for entry in (await store.list("")).entries}) <= 1
        await asyncio.sleep(0)
    await writing


async def test_a_caller_that_gives_up_disturbs_no_other(store):
    given_up = [asyncio.ensure_future(put(store, **{f"k{n}": "1"})) for n in range(20)]
    others = [asyncio.ensure_future(put(store, **{f"o{n}": "1"})) for n in range(20)]
    await asyncio.sleep(0)
    for one in given_up:
        one.cancel()
    await asyncio.gather(*others)
    assert len(await keys(store, "o")) == 20
    assert await put(store, last="1") == await store.revision()


# --- the end


async def test_after_close_everything_says_so_and_watches_end(store):
    await put(store, a="1")
    watch, idle = store.watch("", since=1), store.watch("", since=0)
    waiting = asyncio.ensure_future(following(watch))
    await asyncio.sleep(0)
    await store.close()
    await store.close()
    with pytest.raises(StopAsyncIteration):
        await waiting
    with pytest.raises(StopAsyncIteration):
        await following(idle)
    for doing in (store.get("a"), store.list(""), store.revision(), store.apply(), store.compact(1)):
        with pytest.raises(contract.Closed):
            await doing
    with pytest.raises(contract.Closed):
        store.watch("", since=0)


async def test_close_answers_everyone_who_waits(store):
    writing = [asyncio.ensure_future(put(store, **{f"k{n}": "1"})) for n in range(500)]
    await asyncio.sleep(0)
    async with asyncio.timeout(30):
        await store.close()
        outcomes = await asyncio.gather(*writing, return_exceptions=True)
    assert all(isinstance(outcome, (int, contract.Closed)) for outcome in outcomes)
