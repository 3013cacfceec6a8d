"""Every engine that the conformance suite runs against; a new one is one line in ENGINES."""

from __future__ import annotations

import pathlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from bocage.store import contract, sqlite
from tests.store import reference


async def _memory(_: pathlib.Path) -> contract.Store:
    return reference.MemoryStore()


async def _sqlite(home: pathlib.Path) -> contract.Store:
    return await sqlite.open(home / "bocage.db")


ENGINES: dict[str, Callable[[pathlib.Path], Awaitable[contract.Store]]] = {
    "memory": _memory,
    "sqlite": _sqlite,
}


@pytest.fixture(params=ENGINES)
async def store(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> AsyncIterator[contract.Store]:
    """An empty store of each engine."""
    opened = await ENGINES[request.param](tmp_path)
    yield opened
    await opened.close()


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    """Where a database may be made."""
    return tmp_path / "bocage.db"
