"""What the engine for etcd does beyond the contract: which store it is, foreign values, limits, a full etcd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from bocage.store import contract
from bocage.store.etcd import access, engine, founding, gateway, records
from tests.store import members
from tests.store.conformance import following, put, state


@pytest.fixture
async def store(etcd: members.Cluster) -> AsyncIterator[engine.EtcdStore]:
    root = members.new_root()
    await members.found(etcd.access(), root)
    opened = await members.opened(etcd.access(), root)
    yield opened
    await opened.close()


@pytest.fixture
async def by(etcd: members.Cluster) -> AsyncIterator[gateway.Gateway]:
    made = gateway.Gateway(etcd.access())
    yield made
    await made.close()


def root_of(store: engine.EtcdStore) -> str:
    return store._space.root.decode()


# --- which store it is


async def test_a_store_is_founded_once_and_the_same_one_again_is_the_same(by, etcd):
    root = members.new_root()
    with pytest.raises(founding.Unfounded):
        await members.opened(etcd.access(), root)
    await founding.found(by, "one", root=root)
    await founding.found(by, "one", root=root)
    with pytest.raises(founding.Founded) as caught:
        await founding.found(by, "two", root=root)
    assert caught.value.incarnation == "one"
    opened = await members.opened(etcd.access(), root)
    assert (opened.incarnation, await opened.revision()) == ("one", 0)
    await opened.close()


async def test_a_store_that_was_replaced_is_neither_read_nor_written_nor_watched_any_more(store, by, etcd):
    await put(store, a="1")
    watch = store.watch("", since=1)
    waiting = asyncio.ensure_future(following(watch))
    another = {"key": records.text(store._space.founding), "value": records.text(b"another")}
    await by.ask("kv/put", another, within=10)
    doings = (store.get("a"), store.list(""), store.revision(), put(store, b="1"), store.apply(compare={"a": 1}))
    for doing in (*doings, store.compact(1), waiting, following(store.watch("", since=0))):
        with pytest.raises(contract.Replaced):
            await doing
    again = await members.opened(etcd.access(), root_of(store))
    assert again.incarnation == "another"
    assert await state(again) == {"a": b"1"}
    assert (await again.get("a")) == contract.Entry("a", b"1", 1, 1)
    assert await put(again, b="1") == 3
    await again.close()


# --- what others put there


@pytest.mark.parametrize("value", [b"", b"{}", b"00000000{}"], ids=["empty", "bare", "wrong"])
async def test_a_value_that_is_not_ours_is_told_and_harms_no_other(store, by, value):
    await put(store, b="1")
    foreign = records.text(store._space.key("a"))
    await by.ask("kv/put", {"key": foreign, "value": records.text(value)}, within=10)
    with pytest.raises(contract.Failed, match=r"malformed: .*data/a"):
        await store.get("a")
    with pytest.raises(contract.Failed, match="malformed"):
        await store.list("")
    watch = store.watch("a", since=0)
    for _ in range(2):
        with pytest.raises(contract.Failed, match="malformed"):
            await following(watch)
    assert await state_of(store, "b") == b"1"
    await put(store, a="2")
    assert await state_of(store, "a") == b"2"


async def test_a_value_under_another_key_is_not_believed(store, by):
    await put(store, a="1")
    read = await by.ask("kv/range", {"key": records.text(store._space.key("a"))}, within=10)
    moved = {"key": records.text(store._space.key("b")), "value": read["kvs"][0]["value"]}
    await by.ask("kv/put", moved, within=10)
    with pytest.raises(contract.Failed, match="malformed"):
        await store.get("b")


async def state_of(store: contract.Store, key: str) -> bytes | None:
    entry = await store.get(key)
    return entry.value if entry else None


# --- limits


async def test_the_largest_transactions_of_each_kind_are_taken(store):
    names = [f"k{n:03}" for n in range(contract.MAX_OPERATIONS)]
    assert await store.apply(puts=dict.fromkeys(names, b"1")) == 1
    assert await store.apply(compare=dict.fromkeys(names, 1)) == 1
    assert await store.apply(compare=dict.fromkeys(names[1:], 1), puts={names[0]: b"2"}) == 2
    with pytest.raises(contract.Mismatch):
        await store.apply(compare=dict.fromkeys(names, 1))
    assert await store.apply(deletes=names) == 3
    long = {f"{n:03}" + "x" * 8000: 0 for n in range(contract.MAX_OPERATIONS)}
    assert await store.apply(compare=long) == 3
    with pytest.raises(contract.Mismatch):
        await store.apply(compare=dict.fromkeys(long, 1))
    assert await store.apply(puts={"k": bytes(contract.MAX_BYTES - 1)}) == 4


async def test_lists_and_watches_of_many_megabytes_are_whole(store):
    told = {f"k{n:02}": bytes([n]) * 900_000 for n in range(12)}
    watch = store.watch("", since=0)
    for key, value in told.items():
        await store.apply(puts={key: value})
    assert await state(store) == told
    seen: dict[str, bytes] = {}
    while len(seen) < len(told):
        seen |= {change.key: change.entry.value for change in await following(watch) if change.entry}
    assert seen == told


async def test_a_list_of_many_pages_is_of_one_revision(store):
    names = [f"k{n:04}" for n in range(2500)]
    for first in range(0, len(names), 100):
        await store.apply(puts=dict.fromkeys(names[first : first + 100], b""))
    page = await store.list("k")
    assert [entry.key for entry in page.entries] == names
    assert (page.revision, page.after) == (25, None)
    page = await store.list("k", limit=1500)
    assert [entry.key for entry in page.entries] == names[:1500]
    assert page.after == names[1499]


# --- where it cannot be reached


async def test_an_etcd_that_is_not_there_is_told():
    with pytest.raises(ValueError, match="members"):
        access.Access(())
    by = gateway.Gateway(access.Access(("http://127.0.0.1:9", "http://127.0.0.1:10")))
    async with by.race("kv/range", {"key": "YQ=="}) as race:
        with pytest.raises(gateway.Silent):
            await race.answer(until=asyncio.get_running_loop().time() + 0.5)
        assert not race.loose
    await by.close()


async def test_a_member_that_is_no_etcd_is_passed_over(etcd):
    async def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    stranger = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    by = gateway.Gateway(access.Access((stranger, etcd.members[0].client)))
    assert "header" in await by.ask("kv/range", {"key": "YQ=="}, within=10)
    await by.close()
    server.close()


# --- a full etcd


@pytest.mark.fault
async def test_a_full_etcd_says_so_can_be_read_and_takes_writes_when_it_has_room():
    with members.cluster(1, ["--unsafe-no-fsync", "--quota-backend-bytes", str(8 << 20)]) as small:
        root = members.new_root()
        await members.found(small.access(), root)
        store = await members.opened(small.access(), root)
        count = await fill(store)
        with pytest.raises(gateway.Full):
            await put(store, b="")
        assert await store.get("b") is None
        assert await state_of(store, "a") == bytes([count]) * 500_000
        assert await store.apply(deletes=["a"]) == count + 1
        await store.compact(count + 1)
        async with httpx.AsyncClient(base_url=small.members[0].client, timeout=60, trust_env=False) as plain:
            await plain.post("/v3/maintenance/defragment", json={})
            raised = (await plain.post("/v3/maintenance/alarm", json={"action": "GET"})).json()["alarms"]
            for alarm in raised:
                await plain.post("/v3/maintenance/alarm", json={"action": "DEACTIVATE", **alarm})
        assert await put(store, a="1") == count + 2
        await store.close()


async def fill(store: contract.Store) -> int:
    """Write until it is full; how often that went."""
    for count in range(1, 100):
        try:
            assert await store.apply(puts={"a": bytes([count]) * 500_000}) == count
        except gateway.Full:
            return count - 1
    raise AssertionError("it was never full")
