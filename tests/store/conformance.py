"""What the conformance tests say to a store, in few words."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from bocage.store import contract


async def put(store: contract.Store, **values: str) -> int:
    return await store.apply(puts={key: value.encode() for key, value in values.items()})


async def keys(store: contract.Store, prefix: str = "", **how: Any) -> list[str]:
    return [entry.key for entry in (await store.list(prefix, **how)).entries]


async def state(store: contract.Store, at: int | None = None) -> dict[str, bytes]:
    return {entry.key: entry.value for entry in (await store.list("", at=at)).entries}


async def following(watch: contract.Watch) -> list[contract.Change]:
    async with asyncio.timeout(10):
        return await anext(watch)


async def take(watch: contract.Watch, count: int) -> list[contract.Change]:
    """The next `count` changes at least."""
    taken: list[contract.Change] = []
    while len(taken) < count:
        taken += await following(watch)
    return taken


async def turns() -> None:
    """Let everyone who can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def is_quiet(watch: contract.Watch) -> bool:
    """Whether a watch has nothing to tell, seen over several turns of the loop."""
    waiting = asyncio.ensure_future(anext(watch))
    await turns()
    if waiting.done():
        return False
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    return True
