"""A host that is waited for, and what its records say meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bocage import ledger
from bocage.model import base, ground
from bocage.node import clustered
from bocage.node.life import handing
from bocage.protocol import records

HOST = ground.Host(metadata=base.Metadata(name="host2"), spec=ground.HostSpec())


class _Book:
    """The records: a host that lives, and beats until it is told not to."""

    def __init__(self) -> None:
        self.epoch, self.count, self.beats = records.Epoch(2, 2, 1), 0, True

    async def read(self) -> ledger.Seen:
        self.count += self.beats
        epoch = records.Entry(self.epoch, 1)
        beat = records.Entry(records.Beat(self.count), 1 + self.count)
        view = records.View({records.epoch_of(HOST.uid): epoch, records.beat_of(HOST.uid): beat})
        return ledger.Seen(view, 0.0, 1)


@pytest.fixture
def book(monkeypatch: pytest.MonkeyPatch) -> _Book:
    monkeypatch.setattr(handing, "_LOOKED_EVERY", 0.01)
    monkeypatch.setattr(handing, "_SILENT", 0.1)
    return _Book()


async def _ask(book: _Book, asking: asyncio.Future[str]) -> str:
    cluster: Any = type("Cluster", (), {"book": book})
    async with asyncio.timeout(60.0):
        return await handing.while_it_lives(HOST, cluster, asking)


async def test_one_that_beats_is_waited_for(book: _Book) -> None:
    asking = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(_ask(book, asking))
    while book.count < 30:
        await asyncio.sleep(0.01)
    assert not waiting.done()
    asking.set_result("here")
    assert await waiting == "here"


@pytest.mark.parametrize("how", ["given up", "silent"])
async def test_one_that_was_given_up_or_beats_no_more_is_not(book: _Book, how: str) -> None:
    asking: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    if how == "given up":
        book.epoch = records.Epoch(3, 2, 1)
    else:
        book.beats = False
    with pytest.raises(clustered.Silent):
        await _ask(book, asking)
    assert asking.cancelled()
