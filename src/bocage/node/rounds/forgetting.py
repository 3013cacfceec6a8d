"""Keeps the store bounded: of events and of ended tasks only the newest stay."""

from __future__ import annotations

import itertools
import json

from bocage.model import keys, work
from bocage.store import contract

EVENTS = 5000
TASKS = 1000  # that have ended
_TOGETHER = 50  # resources that go in one transaction


async def old_events(store: contract.Store) -> int:
    """Forget all events but the newest; how many went."""
    return await _forget(store, await _stems(store, work.Event.kind), EVENTS)


async def old_tasks(store: contract.Store) -> int:
    """Forget the ended tasks that are older than the newest of them; how many went."""
    stems = await _stems(store, work.Task.kind)
    if len(stems) <= TASKS:
        return 0
    return await _forget(store, [stem for stem in stems if _has_ended(stem[1])], TASKS)


_Stem = tuple[int, list[contract.Entry]]  # the revision at which it was made, and its keys


async def _stems(store: contract.Store, kind: str) -> list[_Stem]:
    """All of a kind in the order in which they were made: by the store's revisions, which no clock can disturb."""
    page = await store.list(keys.prefix(kind))
    groups = [list(group) for _, group in itertools.groupby(page.entries, lambda entry: entry.key.rpartition("/")[0])]
    return sorted(((min(entry.created for entry in group), group) for group in groups), key=lambda stem: stem[0])


def _has_ended(entries: list[contract.Entry]) -> bool:
    status = next((entry for entry in entries if entry.key.endswith("/status")), None)
    if status is None:
        return False
    return work.TaskState(json.loads(status.value).get("state", work.TaskState.PENDING)).ended


async def _forget(store: contract.Store, stems: list[_Stem], kept: int) -> int:
    surplus = stems[: max(len(stems) - kept, 0)]
    for start in range(0, len(surplus), _TOGETHER):
        doomed = [entry.key for _, entries in surplus[start : start + _TOGETHER] for entry in entries]
        await store.apply(deletes=doomed)
    return len(surplus)
