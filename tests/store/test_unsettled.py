"""A change of a resource whose end the store does not tell: it is read again, and made once."""

from __future__ import annotations

import pathlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bocage.model import ground
from bocage.store import contract, resources, sqlite
from tests.planner import things


class Doubtful:
    """A store whose next writes are done, or not, without a word."""

    def __init__(self, store: contract.Store) -> None:
        self._store = store
        self.silent: list[bool] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def apply(self, **transaction: Any) -> int:
        if not self.silent:
            return await self._store.apply(**transaction)
        if self.silent.pop(0):
            await self._store.apply(**transaction)
        raise contract.Unsettled(reason="a test")


@pytest.fixture
async def doubtful(tmp_path: pathlib.Path) -> AsyncIterator[Doubtful]:
    store = await sqlite.open(tmp_path / "bocage.db")
    await resources.Resources(store).create(things.host())
    yield Doubtful(store)
    await store.close()


@pytest.mark.parametrize("silent", [[True], [False], [False, True]])
async def test_it_is_made_once(doubtful: Any, silent: list[bool]) -> None:
    kept = resources.Resources(doubtful)
    host = (await kept.list(ground.Host)).items[0]
    before = await doubtful.revision()

    doubtful.silent = list(silent)
    changed = await kept.change(
        ground.Host,
        None,
        host.uid,
        lambda one: resources.with_metadata(one, title="x"),
        expected=host.metadata.revision,
    )
    assert changed.metadata.title == "x"
    assert await doubtful.revision() == before + 1

    doubtful.silent = list(silent)
    status = await kept.change_status(
        ground.Host, None, host.uid, lambda one: one.status.model_copy(update={"kernel": "x"})
    )
    assert status.status.kernel == "x"
    assert await doubtful.revision() == before + 2
    assert not doubtful.silent
