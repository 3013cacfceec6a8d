"""What is known of a store that gives no answer: as it was last, said to be so; and never written behind its back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bocage.store import contract, remembered
from tests.store import reference


class Sometimes:
    """A store that is silent while it is told to be: by an error, or without a word."""

    def __init__(self) -> None:
        self.inner = reference.MemoryStore()
        self.how: str | None = None
        self.asked = 0

    def watch(self, prefix: str, *, since: int) -> contract.Watch:
        return self.inner.watch(prefix, since=since)

    def __getattr__(self, name: str) -> Any:
        async def ask(*arguments: Any, **named: Any) -> Any:
            self.asked += 1
            if self.how == "error":
                raise contract.Silent(reason="a test", bound=10.0)
            if self.how == "nothing":
                await asyncio.sleep(3600)
            return await getattr(self.inner, name)(*arguments, **named)

        return ask


@pytest.fixture
async def pair(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Sometimes, remembered.Remembered]]:
    monkeypatch.setattr(remembered, "PATIENCE", 0.05)
    monkeypatch.setattr(remembered, "_AGAIN", 0.2)
    store = Sometimes()
    for number in range(5):
        await store.inner.apply(puts={f"/a/{number}": b"%d" % number})
    memory = remembered.Remembered(store)
    following = asyncio.create_task(memory.run())
    yield store, memory
    following.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await following
    await store.inner.close()


async def told(memory: remembered.Remembered, revision: int) -> None:
    async with asyncio.timeout(10):
        while memory._revision < revision:
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("how", ["error", "nothing"])
async def test_reads_are_as_they_were_last_and_say_so(pair: tuple[Sometimes, remembered.Remembered], how: str) -> None:
    store, memory = pair
    await store.inner.apply(puts={"/a/1": b"x"}, deletes=["/a/0"])
    await told(memory, 6)
    whole = await memory.list("/a/")
    assert remembered.silence.get() is None
    store.how = how
    assert await memory.list("/a/") == whole
    assert remembered.silence.get() is not None
    assert await memory.get("/a/1") == whole.entries[0]
    assert await memory.get("/a/0") is None
    assert await memory.revision() == 6
    first = await memory.list("/a/", limit=2)
    rest = await memory.list("/a/", after=first.after, at=first.revision)
    assert [*first.entries, *rest.entries] == whole.entries
    with pytest.raises(contract.Compacted):
        await memory.list("/a/", at=3)


async def test_a_silent_store_is_asked_again_after_a_while(pair: tuple[Sometimes, remembered.Remembered]) -> None:
    store, memory = pair
    await told(memory, 5)
    store.how = "error"
    for _ in range(20):
        await memory.get("/a/1")
    asked = store.asked
    assert asked < 20
    store.how = None
    await store.inner.apply(puts={"/a/1": b"new"})
    async with asyncio.timeout(10):
        while (entry := await memory.get("/a/1")) is None or store.asked == asked:
            await asyncio.sleep(0.01)
    assert entry.value == b"new"


async def test_without_a_memory_it_is_silent_and_writes_go_to_the_store_alone(
    pair: tuple[Sometimes, remembered.Remembered],
) -> None:
    store, memory = pair
    fresh = remembered.Remembered(store)
    store.how = "nothing"
    with pytest.raises(contract.Silent):
        await fresh.get("/a/1")
    store.how = "error"
    with pytest.raises(contract.Silent):
        await memory.apply(puts={"/a/9": b""})
    assert await store.inner.get("/a/9") is None
