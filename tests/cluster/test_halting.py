"""The next step of a shutdown is written by who leads, and over nothing that somebody has asked for meanwhile."""

from __future__ import annotations

import datetime
from typing import Any, cast

from bocage.cluster.halting import Halting
from bocage.model import standstill
from bocage.planner import standstill as planner
from tests.store import reference

NOW = datetime.datetime(2026, 1, 31, 3, 0, tzinfo=datetime.UTC)


class _Mirror:
    """What a host has seen of the store."""

    def __init__(self, seen: bytes) -> None:
        self.seen = seen

    def setting(self, key: str) -> bytes:
        return self.seen

    def every(self, kind: object) -> list[Any]:
        return []


async def test_who_does_not_lead_or_has_not_seen_the_newest_wish_writes_nothing() -> None:
    store = reference.MemoryStore()
    asked = planner.begin([], by="root", now=NOW)
    meanwhile = planner.again(asked, within=5, kill=True, now=NOW).model_dump_json().encode()
    await store.apply(puts={standstill.KEY: meanwhile})
    mirror = _Mirror(asked.model_dump_json().encode())
    halting = Halting(store, cast(Any, mirror), now=lambda: NOW)

    async def kept() -> bytes:
        entry = await store.get(standstill.KEY)
        assert entry is not None
        return entry.value

    await halting.look({}, frozenset())
    assert await kept() == meanwhile
    mirror.seen = meanwhile
    await halting.look({"who-leads": 7}, frozenset())
    assert await kept() == meanwhile
    await halting.look({}, frozenset())
    after = standstill.read(await kept())
    assert after is not None
    assert (after.phase, after.kill) == ("down", True)
