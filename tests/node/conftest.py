"""A host for each test, in the test's own process; nothing of it is left afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator

import pytest

from bocage import home
from bocage.engine.qemu import cgroup, processes
from bocage.node.rounds import mending
from tests.network.conftest import connect, namespace, serve  # noqa: F401 - fixtures
from tests.node import house as houses


@pytest.fixture
def homes(monkeypatch: pytest.MonkeyPatch) -> Iterator[home.Home]:
    with new_home(monkeypatch) as made:
        yield made


@contextlib.contextmanager
def new_home(patch: pytest.MonkeyPatch) -> Iterator[home.Home]:
    """A home of its own, which is `BOCAGE_HOME` from now on; at the end nothing of it is left."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="bocage-test-", dir="/var/tmp"))
    path.chmod(0o711)
    patch.setenv("BOCAGE_HOME", str(path))
    made = home.Home.from_environment()
    try:
        yield made
    finally:
        clear(made)


def clear(made: home.Home) -> None:
    """End every process of a home, and remove all its files."""
    for found in processes.find(made.runtime):
        with contextlib.suppress(processes.Gone):
            processes.send(found.identity, signal.SIGKILL)
    if place := cgroup.place():
        for name in place.names(made.runtime.name):
            group = place.group(made.runtime.name, name)
            group.kill()
            asyncio.run(group.remove())
    shutil.rmtree(made.runtime, ignore_errors=True)
    shutil.rmtree(made.path, ignore_errors=True)


@pytest.fixture
async def house(homes: home.Home) -> AsyncIterator[houses.House]:
    """A running host without an image."""
    opened = await houses.House(homes).open()
    try:
        yield opened
    finally:
        await opened.close()


@pytest.fixture
async def tiny_house(house: houses.House, tiny_image: pathlib.Path) -> houses.House:
    """A running host with the image `tiny`."""
    await house.add_image(tiny_image)
    return house


@pytest.fixture
async def wired(
    namespace: None,  # noqa: F811 - the fixture
    homes: home.Home,
    tiny_image: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[houses.House]:
    """A host whose daemon chooses its default network by itself."""
    monkeypatch.delenv("BOCAGE_DEFAULT_NETWORK")
    monkeypatch.setattr(mending, "_EVERY", 1.0)
    opened = await houses.House(homes).open()
    try:
        await opened.add_image(tiny_image)
        yield opened
    finally:
        await opened.close()


@pytest.fixture
def other_homes(monkeypatch: pytest.MonkeyPatch) -> Iterator[home.Home]:
    """Another machine's home."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="bocage-test-", dir="/var/tmp"))
    path.chmod(0o711)
    with monkeypatch.context() as patch:
        patch.setenv("BOCAGE_HOME", str(path))
        made = home.Home.from_environment()
    yield made
    clear(made)


@pytest.fixture
async def other(other_homes: home.Home) -> AsyncIterator[houses.House]:
    opened = await houses.House(other_homes).open()
    yield opened
    await opened.close()
