"""Every engine that the conformance suite runs against; a new one is one line in ENGINES."""

from __future__ import annotations

import pathlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from bocage.store import contract, sqlite
from bocage.store.etcd import pen
from tests.network.conftest import connect, namespace  # noqa: F401 - fixtures
from tests.network.machines import Machine, run
from tests.store import members, reference


async def _memory(_: pytest.FixtureRequest) -> contract.Store:
    return reference.MemoryStore()


async def _sqlite(request: pytest.FixtureRequest) -> contract.Store:
    home: pathlib.Path = request.getfixturevalue("tmp_path")
    return await sqlite.open(home / "bocage.db")


async def _etcd(request: pytest.FixtureRequest) -> contract.Store:
    member: members.Cluster = request.getfixturevalue("etcd")
    root = members.new_root()
    await members.found(member.access(), root)
    return await members.opened(member.access(), root)


ENGINES: dict[str, Callable[[pytest.FixtureRequest], Awaitable[contract.Store]]] = {
    "memory": _memory,
    "sqlite": _sqlite,
    "etcd": _etcd,
}


@pytest.fixture(scope="session")
def etcd() -> Iterator[members.Cluster]:
    """An etcd of one member; each test has a root of its own in it."""
    with members.cluster(1, ["--unsafe-no-fsync"]) as made:
        yield made


@pytest.fixture
def voids() -> Iterator[list[int]]:
    """The revisions with which the stores of this test made something void, as they come."""
    told, real = list[int](), pen.Pen._void

    async def void(self: pen.Pen, identity: str, until: float, began: float = 0.0) -> pen.Written | None:
        if (written := await real(self, identity, until, began)) is None:
            told.append(self._space.revision(self._mark))
        return written

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pen.Pen, "_void", void)
        yield told


@pytest.fixture(params=ENGINES)
async def store(request: pytest.FixtureRequest) -> AsyncIterator[contract.Store]:
    """An empty store of each engine."""
    opened = await ENGINES[request.param](request)
    yield opened
    await opened.close()


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    """Where a database may be made."""
    return tmp_path / "bocage.db"


@pytest.fixture
def seats(namespace: None, connect: Callable[..., Machine]) -> list[members.Seat]:  # noqa: F811 - fixtures
    """Three machines on a bridge, on which we are, too."""
    run("ip", "link", "add", "lan", "type", "bridge")
    run("ip", "address", "add", "10.77.9.254/24", "dev", "lan")
    run("ip", "link", "set", "lan", "up")
    run("nft", "add table bridge cuts; add chain bridge cuts between { type filter hook forward priority 0; }")
    machines = [connect("lan", address=f"10.77.9.{n}/24") for n in (1, 2, 3)]
    return [members.Seat(f"10.77.9.{n}", one.entry, one.port) for n, one in enumerate(machines, 1)]
