"""Who uses what: kept up by a watch, always what a fresh reading would find."""

import asyncio

from bocage.api import index
from bocage.model import base, ground, keys, vm
from bocage.store import resources
from tests.api.conftest import VMS, World, create

PARTS = ("vms", "volumes", "macs", "smbios_uuids", "users")


async def same_as_read_anew(world: World, kept: index.Index) -> bool:
    """Whether the index that was carried on is what one that is made now finds."""
    await kept.fresh()
    anew = index.Index(world.kept.store)
    await anew.fresh()
    await anew.close()
    assert kept.revision == anew.revision
    return all(getattr(kept, part) == getattr(anew, part) for part in PARTS)


async def test_it_is_carried_on_through_everything_that_can_happen_to_a_vm(client, app, world):
    held = app.state.api.index
    assert await same_as_read_anew(world, held)
    for step in (
        lambda: create(client, "web1", cds=["windows"]),
        lambda: create(client, "web2", nics=[{}, {}]),
        lambda: client.patch(f"{VMS}/web1", json={"memory": "1G"}),
        lambda: client.post(f"{VMS}/web1/disks", json={"size": "1G"}),
        lambda: client.put(f"{VMS}/web1/cds/cd0", json={"image": None}),
        lambda: client.post(f"{VMS}/web2/rename", json={"name": "web3"}),
        lambda: client.delete(f"{VMS}/web1"),
        lambda: _purge(world, "web3"),
    ):
        await step()
        assert await same_as_read_anew(world, held)
    assert list(held.macs.values()) == ["web1"]  # the one in the trash keeps its own


async def _purge(world: World, name: str) -> None:
    machine = await world.kept.find(vm.VM, "default", name)
    transaction = resources.Transaction()
    transaction.delete(machine)
    for disk in machine.spec.disks:
        transaction.delete(await world.kept.get(ground.Volume, "default", disk.volume))
    await world.kept.commit(transaction)


async def test_it_reads_anew_when_it_was_left_behind_by_a_compaction(client, app, world):
    held = app.state.api.index
    await held.fresh()
    await create(client, "web1")
    await create(client, "web2")
    await world.kept.store.compact(await world.kept.store.revision())
    assert await same_as_read_anew(world, held)
    assert len(held.vms) == 2


async def test_it_waits_for_no_change_of_its_own_where_others_write_too(client, app, world):
    """In a cluster the newest revision is nearly always a beat."""
    held = index.Index(world.kept.store)
    await held.fresh()
    for count in range(3):
        await world.kept.store.apply(puts={f"{keys.ALL}p1/beat/host1": str(count).encode()})
        async with asyncio.timeout(20):
            assert (await held.fresh()).revision == await world.kept.store.revision()
    await held.close()


async def test_many_askers_at_once_read_once(client, app, world):
    for number in range(3):
        await create(client, f"web{number}")
    held = index.Index(world.kept.store)
    await asyncio.gather(*(held.fresh() for _ in range(20)))
    assert len(held.vms) == 3
    await held.close()


async def test_an_asker_that_gave_up_leaves_it_whole(client, app, world):
    held = app.state.api.index
    await held.fresh()
    for number in range(5):
        await create(client, f"web{number}")
        asking = asyncio.create_task(held.fresh())
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
    assert await same_as_read_anew(world, held)


async def test_a_damaged_record_stops_nobody_else(client, app, world):
    await create(client)
    uid = base.new_uid()
    await world.kept.store.apply(
        puts={f"/bocage/1/vm/default/{uid}/spec": b"{", f"/bocage/1/image/default/{uid}/spec": b"[]"}
    )
    await create(client, "web2")
    await app.state.api.index.fresh()
    assert sorted(uses.name for uses in app.state.api.index.vms.values()) == ["web1", "web2"]


async def test_what_vms_stand_on_is_known_by_name_and_uid_as_it_is_now(client, app, world):
    held = await app.state.api.index.fresh()
    assert held.ground.named(ground.Storage, None, "local") == world.storage.model_copy(
        update={
            "metadata": held.ground.get(ground.Storage, None, world.storage.uid).metadata,
        }
    )
    assert held.ground.named(ground.Image, "default", "nope") is None
    await world.kept.change_status(
        ground.Storage, None, world.storage.uid, lambda one: one.status.model_copy(update={"state": "unavailable"})
    )
    await held.fresh()
    assert held.ground.named(ground.Storage, None, "local").status.state == "unavailable"
    transaction = resources.Transaction()
    image = await world.kept.get(ground.Image, "default", world.image.uid)
    transaction.rename(image, "small")
    await world.kept.commit(transaction)
    await held.fresh()
    assert held.ground.named(ground.Image, "default", "tiny") is None
    assert held.ground.named(ground.Image, "default", "small").uid == image.uid
    transaction = resources.Transaction()
    transaction.delete(await world.kept.get(ground.Image, "default", image.uid))
    await world.kept.commit(transaction)
    await held.fresh()
    assert held.ground.named(ground.Image, "default", "small") is None
    assert held.ground.get(ground.Image, "default", image.uid) is None
