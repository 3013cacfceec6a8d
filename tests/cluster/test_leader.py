"""The leader gives each VM to a host, once there is one that can have it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from bocage.cluster import leader
from bocage.model import base, ground, vm
from bocage.store import resources, sqlite
from tests.planner import things

OTHER = base.new_uid()
SHARED = base.new_uid()


@pytest.fixture
async def kept(tmp_path) -> AsyncIterator[resources.Resources]:
    store = await sqlite.open(tmp_path / "bocage.db")
    kept = resources.Resources(store)
    await kept.create(things.host(status={"memory_bytes": 8 << 30, "cpus": 4}))
    await kept.create(things.storage())
    led = asyncio.create_task(leader.Leader(kept).run())
    yield kept
    led.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await led
    await store.close()


async def host_of(kept: resources.Resources, name: str) -> str:
    async with asyncio.timeout(30):
        while not (host := (await kept.find(vm.VM, "default", name)).status.host):
            await asyncio.sleep(0.01)
    return host


def other_host(**metadata: object) -> ground.Host:
    about = {"uid": OTHER, "name": "host2", **metadata}
    return things.host(metadata=about, status={"memory_bytes": 8 << 30, "cpus": 4})


async def test_a_vm_lives_where_its_storage_is_also_when_that_host_has_no_room(kept):
    await kept.create(things.machine(power="running", memory="16G"))
    assert await host_of(kept, "web") == things.HOST


async def test_one_that_no_host_could_have_gets_one_when_its_storage_comes(kept):
    await kept.create(things.machine(name="first", storage=SHARED))
    await kept.create(things.machine(uid=base.new_uid(), name="second"))
    assert await host_of(kept, "second") == things.HOST
    assert (await kept.find(vm.VM, "default", "first")).status.host is None
    about = {"uid": SHARED, "name": "fast"}
    await kept.create(ground.Storage.model_validate({"metadata": about, "spec": {"host": OTHER, "path": "/fast"}}))
    await kept.create(other_host())
    assert await host_of(kept, "first") == OTHER


async def test_one_gets_a_host_when_what_it_wishes_changes_or_a_host_does(kept):
    await kept.create(other_host())
    wish = {"host_tags": ["ssd"]}
    asked = things.machine(name="first", placement=wish)
    await kept.create(asked)
    await kept.create(things.machine(uid=base.new_uid(), name="second", placement=wish))
    await kept.create(things.machine(uid=base.new_uid(), name="third"))
    assert await host_of(kept, "third") == things.HOST
    await kept.change(vm.VM, "default", asked.uid, lambda one: one.model_copy(update={"spec": things.machine().spec}))
    assert await host_of(kept, "first") == things.HOST
    assert (await kept.find(vm.VM, "default", "second")).status.host is None

    def tagged(one: ground.Host) -> ground.Host:
        return one.model_copy(update={"metadata": one.metadata.model_copy(update={"tags": ("ssd",)})})

    await kept.change(ground.Host, None, things.HOST, tagged)
    assert await host_of(kept, "second") == things.HOST
