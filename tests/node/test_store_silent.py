"""A store that gives no answer for a while fails nothing: what was asked for is done when it answers again."""

from __future__ import annotations

import collections
from typing import Any

import pytest

from bocage.model import base, ground, keys, vm, work
from bocage.store import contract, resources
from tests.node import house as houses


class Mute:
    """A store that gives no answer when it is asked certain things for the first time."""

    def __init__(self, store: contract.Store) -> None:
        self._store = store
        self.reads: set[str] = set()
        """Prefixes that are not read once."""
        self.writes: collections.Counter[str] = collections.Counter()
        """Keys that are not written so many times."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def list(self, prefix: str, **how: Any) -> contract.Page:
        if prefix in self.reads:
            self.reads.remove(prefix)
            raise contract.Silent(reason="a test", bound=10.0)
        return await self._store.list(prefix, **how)

    async def apply(self, *, puts: dict[str, bytes], **others: Any) -> int:
        if unwritten := self.writes.keys() & puts.keys():
            self.writes -= collections.Counter(unwritten)
            raise contract.Silent(reason="a test", bound=10.0)
        return await self._store.apply(puts=puts, **others)


@pytest.fixture
def mute(house: houses.House) -> Mute:
    """What the node asks; the tests ask the store itself."""
    node = house.node.ground.resources
    made = Mute(node.store)
    house.resources = resources.Resources(node.store)
    node.store = made  # type: ignore[assignment]
    return made


async def test_a_vm_is_started_all_the_same(house: houses.House, mute: Mute) -> None:
    machine = await house.create(**houses.BLANK)
    mute.writes[keys.status("vm", "default", machine.uid)] = 2  # that it starts, and that it runs
    ended = await house.ask("vm.start", machine)
    assert not mute.writes
    assert ended.status.state is work.TaskState.DONE, ended.status.problem
    assert (await house.read(machine)).status.state is vm.State.RUNNING


async def test_a_job_is_begun_again(house: houses.House, mute: Mute) -> None:
    storage = ground.Storage(
        metadata=base.Metadata(name="more"),
        spec=ground.StorageSpec(host=house.node.ground.uid, path=str(house.homes.path / "more")),
    )
    await house.resources.create(storage)
    task = work.task("storage.create", subject=storage.ref, host=house.node.ground.uid)
    mute.writes[keys.status("task", "default", task.uid)] = 1
    mute.reads.add(keys.base("storage", None, storage.uid))
    await house.resources.create(task)
    ended = await house.ended(task.uid)
    assert not mute.writes
    assert not mute.reads
    assert ended.status.state is work.TaskState.DONE, ended.status.problem
    assert (await house.resources.find(ground.Storage, None, "more")).status.state == "ready"
