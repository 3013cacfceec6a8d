"""The line of those who write, when it ends while something is being written."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Never

import pytest

from bocage.store import contract, line


class Slow(line.Line[Never]):
    """Comes to an end with what it has taken when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[str] = []
        self.serving = asyncio.Event()
        self.ending = asyncio.get_running_loop().create_future()
        self.released = False

    async def _write(self, jobs: Sequence[line.Job[Never]]) -> None:
        self.taken += [key for job in jobs for key in job.wish.puts]
        self.serving.set()
        await self.ending
        for job in jobs:
            job.tell(1)

    async def _release(self) -> None:
        self.released = True


async def given(store: Slow) -> list[asyncio.Task[int]]:
    """Three who want something; the first is being served."""
    wanted = [asyncio.create_task(store.apply(puts={key: b""})) for key in ("a", "b", "c")]
    await store.serving.wait()
    return wanted


async def test_who_is_served_when_it_is_cut_off_is_told_nothing_and_who_is_behind_that_it_is_closed():
    store = Slow()
    served, *behind = await given(store)
    store._task.cancel()
    await asyncio.wait({served, *behind}, timeout=10)
    assert served.cancelled()
    for one in behind:
        with pytest.raises(contract.Closed):
            await one
    assert store.released


async def test_a_fault_of_ours_ends_it_for_all():
    store = Slow()
    wanted = await given(store)
    store.ending.set_exception(RuntimeError("fault"))
    for one in wanted:
        with pytest.raises(contract.Closed):
            await asyncio.wait_for(one, 10)
    with pytest.raises(RuntimeError, match="fault"):
        await store.close()
    with pytest.raises(contract.Closed):
        await store.apply()
    assert store.released


async def test_who_does_not_wait_any_more_is_passed_over():
    store = Slow()
    served, given_up, last = await given(store)
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    store.ending.set_result(None)
    assert (await served, await last) == (1, 1)
    assert store.taken == ["a", "c"]
    await store.close()
    assert store.released
