"""Disks and CDs that come, go and grow; the guest itself is asked what it sees."""

from __future__ import annotations

import asyncio
import io
import pathlib
from typing import Any

import pycdlib
import pytest

from bocage import process
from bocage.cli import burning
from bocage.engine.qemu import holding, hotplug, qmp
from bocage.model import base, ground, vm, work
from bocage.model.units import Size
from bocage.node import started
from bocage.node.jobs import storages
from bocage.node.life import freeing
from bocage.node.place import edits, in_use
from bocage.planner import usage
from bocage.storage import sparse
from bocage.store import resources
from tests.engine.qemu import bootsector
from tests.node.house import BLANK, BOUND, House
from tests.node.test_adapting import carried_out
from tests.node.test_saved import change, waiting
from tests.node.test_wishes import cancel, newest, problem

SMALL: dict[str, Any] = {"image": "tiny", "memory": "128M", "disk": "64M", "nics": []}
_DISKS = "echo disks: $(for d in /sys/block/vd*; do echo ${d##*/}=$(cat $d/size); done)"


async def seen(house: House, made: vm.VM) -> dict[str, int]:
    """The guest's virtio disks and their sizes in bytes."""
    said: dict[str, int] = {}
    lines = await house.says(made, "^disks:.*", send=_DISKS)
    for part in lines.removeprefix("disks:").split():
        name, _, sectors = part.partition("=")
        said[name] = int(sectors) * 512
    return said


async def sees(house: House, made: vm.VM, wanted: dict[str, int]) -> None:
    """Wait until the guest sees just these disks: it takes a moment to notice a plug."""
    async with asyncio.timeout(BOUND):
        while await seen(house, made) != wanted:
            pass


def done(task: work.Task) -> None:
    assert task.status.state is work.TaskState.DONE, task.status.problem


@pytest.mark.guest
async def test_a_running_guest_gets_a_disk_sees_it_grow_and_lets_it_go_as_a_volume_that_another_may_have(
    tiny_house: House,
):
    house = tiny_house
    made = await house.create(start=True, **SMALL)
    await house.says(made, "^tiny: ready")
    random = "head -c 16 /dev/hwrng"
    source = "/sys/class/misc/hw_random/rng_current"
    differ = f'[ "$({random} | md5sum)" != "$({random} | md5sum)" ] && echo differ'
    await house.says(
        made, "^random 16 differ virtio_rng", send=f"echo random $({random} | wc -c) $({differ}) $(cat {source})"
    )
    done(await house.attach(made, size="8M"))
    await sees(house, made, {"vda": 64 << 20, "vdb": 8 << 20})
    await house.says(made, "^kept", send="echo heron | dd of=/dev/vdb conv=fsync 2>/dev/null; echo kept")
    done(await house.ask("vm.disk-grow", made, disk="disk1", size="16M"))
    await sees(house, made, {"vda": 64 << 20, "vdb": 16 << 20})
    now = await house.read(made)
    assert now.status.applied_generation == now.metadata.generation  # nothing waits for a cold start
    with_it = now.spec.disks
    await change(house, made, disks=with_it[:1])  # as an edited definition does
    assert (await carried_out(house, made))["disks[disk1]"].saying.type == "disk-gone"
    assert [path.name for path in house.place(made).disks.iterdir()] == ["disk0.qcow2"]
    await sees(house, made, {"vda": 64 << 20})
    await change(house, made, disks=with_it)
    assert (await carried_out(house, made))["disks[disk1]"].saying.type == "disk-there"
    await sees(house, made, {"vda": 64 << 20, "vdb": 16 << 20})
    assert waiting(house, await house.read(made)) == []
    done(await house.ask("vm.disk-detach", made, disk="disk1"))
    await sees(house, made, {"vda": 64 << 20})
    assert [path.name for path in house.place(made).disks.iterdir()] == ["disk0.qcow2"]
    free = next(one for one in (await house.volumes()).values() if one.spec.vm is None)
    done(await house.ask("vm.stop", made))
    done(await house.ask("vm.delete", made, purge=True))
    second = await house.create("second", start=True, **SMALL)
    await house.says(second, "^tiny: ready")
    done(await house.attach(second, volume=free.name))
    await sees(house, second, {"vda": 64 << 20, "vdb": 16 << 20})
    said = await house.says(second, "^heron", send="dd if=/dev/vdb bs=512 count=1 2>/dev/null | head -c 5; echo")
    assert said == "heron"


async def test_a_linked_disk_still_finds_its_image_when_it_lies_by_itself(tiny_house: House):
    house = tiny_house
    made = await house.create(disks=[{"size": "1M"}], **SMALL)
    done(await house.ask("vm.disk-detach", made, disk="disk0"))
    volume = next(one for one in (await house.volumes()).values() if one.spec.linked)
    assert volume.spec.vm is None
    done(await house.attach(made, volume=volume.name))
    done(await house.ask("vm.start", made))
    done(await house.ask("vm.kill", made))
    last = (await house.read(made)).spec.disks[-1]
    assert last.volume == volume.uid
    done(await house.ask("vm.disk-detach", made, disk=last.name))
    assert (await house.read(made)).spec.boot.order == ()
    done(await house.ask("volume.delete", volume))
    assert list((house.homes.local_storage / "volumes").iterdir()) == []


async def test_a_stopped_vm_gets_a_disk_and_starts_with_it_however_soon(house: House):
    made = await house.create(**BLANK)
    done(await house.attach(made, size="1M"))
    done(await house.ask("vm.disk-grow", made, disk="disk1", size="3M"))
    done(await house.ask("vm.start", made))
    sizes = sorted(int(one.spec.size) for one in (await house.volumes()).values())
    assert sizes == [1 << 20, 3 << 20]


async def disks_are(house: House, made: vm.VM, *disks: vm.Disk) -> None:
    """As an edited definition does. SATA disks stay in a machine that runs until its next cold start."""
    await house.resources.change(vm.VM, "default", made.uid, lambda one: resources.with_spec(one, disks=disks))


async def lies_by_itself(house: House, volume: str) -> ground.Volume:
    """A volume once it is nobody's, and its file has one name, its own."""

    async def look() -> ground.Volume:
        return await house.resources.get(ground.Volume, "default", volume)

    free = await house.until(look, lambda one: one.spec.vm is None)
    path = await house.node.preparation.disks.path(free)
    await house.until(lambda: asyncio.to_thread(lambda: path.stat().st_nlink), lambda links: links == 1)
    assert path.is_relative_to(house.homes.local_storage / "volumes")
    return free


async def test_a_disk_that_is_taken_out_at_a_cold_start_is_free_from_then_on_and_not_before(house: House):
    made = await house.create(disks=[{"size": "1M"}, {"size": "1M", "bus": "sata"}], start=True, **BLANK)
    last = made.spec.disks[-1]
    volume = await house.resources.get(ground.Volume, "default", last.volume)
    await disks_are(house, made, *made.spec.disks[:-1])
    assert (await carried_out(house, made))["disks[disk2]"].how == "pending"
    assert problem(await house.ask("volume.delete", volume)) == "disk-still-plugged"
    assert problem(await house.ask("volume.grow", volume, size="2M")) == "disk-still-plugged"
    second = await house.create("second", **BLANK)
    with pytest.raises(usage.VolumeKept):
        await house.attach(second, volume=volume.name)
    done(await house.ask("vm.kill", made))
    done(await house.ask("vm.start", made))  # at once: nobody waits for what is freed
    await lies_by_itself(house, volume.uid)
    done(await house.attach(second, volume=volume.name))
    done(await house.ask("vm.start", second))
    assert sorted(path.name for path in house.place(made).disks.iterdir()) == ["disk0.qcow2", "disk1.qcow2"]


async def test_what_lies_where_a_volume_comes_to_lie_by_itself_is_never_taken_for_it(house: House):
    made = await house.create(disks=[{"size": "1M"}], **BLANK)
    volume = (await house.read(made)).spec.disks[1].volume
    by_itself = house.homes.local_storage / "volumes" / volume / "disk1.qcow2"
    by_itself.parent.mkdir(parents=True)
    by_itself.write_text("of an earlier time")
    here = (house.place(made).disks / "disk1.qcow2").stat().st_ino
    await disks_are(house, made, *(await house.read(made)).spec.disks[:1])
    await lies_by_itself(house, volume)
    assert by_itself.stat().st_ino == here


@pytest.mark.fault
async def test_a_vm_is_not_deleted_before_what_is_no_disk_of_it_any_more_is_safe(house: House):
    made = await house.create(disks=[{"size": "1M"}], **BLANK)
    volume, volumes = made.spec.disks[1].volume, house.homes.local_storage / "volumes"
    volumes.rmdir()
    volumes.write_text("no directory")
    await disks_are(house, made, *made.spec.disks[:1])
    refused = await house.ask("vm.delete", made, purge=True)
    assert refused.status.state is work.TaskState.FAILED
    assert (house.place(made).disks / "disk1.qcow2").exists()
    volumes.unlink()
    free = await lies_by_itself(house, volume)
    assert (await house.node.preparation.disks.path(free)).exists()
    await house.until(lambda: asyncio.to_thread(house.place(made).path.exists), lambda there: not there)


async def test_a_volume_that_is_given_back_while_it_is_freed_leaves_no_second_name(house: House):
    made = await house.create(disks=[{"size": "1M"}], **BLANK)
    machine, path = await house.read(made), house.place(made).disks / "disk1.qcow2"
    volume = await house.resources.get(ground.Volume, "default", machine.spec.disks[1].volume)
    actor = house.node.crew.of(made.uid)
    assert actor
    await freeing.free(actor.standing, house.node.preparation, machine, volume)  # its definition names it still
    assert path.stat().st_nlink == 1
    assert list((house.homes.local_storage / "volumes").iterdir()) == []
    assert (await house.volumes())[volume.name].spec.vm == made.uid
    done(await house.ask("vm.start", made))


async def test_a_volume_of_its_own_stays_with_the_process_that_has_it_open(house: House, tmp_path: pathlib.Path):
    made, second = await house.create(**BLANK), await house.create("second", **BLANK)
    done(await house.attach(made, size="1M", bus="sata"))
    done(await house.ask("vm.disk-detach", made, disk="disk1"))
    volume = next(one for one in (await house.volumes()).values() if one.spec.vm is None)
    done(await house.attach(made, volume=volume.name, bus="sata"))
    with_it = (await house.read(made)).spec.disks
    done(await house.ask("vm.start", made))
    await disks_are(house, made, *made.spec.disks[:1])
    assert (await carried_out(house, made))["disks[disk1]"].how == "pending"
    assert problem(await house.ask("volume.delete", volume)) == "disk-still-plugged"
    assert problem(await house.attach(second, volume=volume.name)) == "disk-still-plugged"
    assert problem(await copied_alone(house, volume)) == "disk-still-plugged"
    disk = next(one for one in with_it if one.volume == volume.uid)
    await disks_are(house, second, *second.spec.disks, disk)  # its definition may name it: nothing is done with it
    assert problem(await house.ask("vm.start", second)) == "disk-still-plugged"
    assert problem(await house.ask("vm.disk-grow", second, disk=disk.name, size="2M")) == "disk-still-plugged"
    assert problem(await house.keep(second, "first")) == "disk-still-plugged"
    assert await house.kept(second) == {}
    with pytest.raises(in_use.StillPlugged):
        await house.export(second, tmp_path / "second.tar")
    _, cloned = await house.clone(second, "fourth")
    assert problem(cloned) == "disk-still-plugged"
    await house.close()
    await house.open()  # the next daemon knows it, too
    assert problem(await house.ask("vm.start", second)) == "disk-still-plugged"
    done(await house.ask("vm.kill", made))
    done(await house.ask("vm.start", second))


@pytest.mark.fault
@pytest.mark.parametrize("way", ["timed-out", "disconnected", "cancelled", "not-held"])
async def test_a_disk_of_which_it_is_not_known_whether_it_came_is_its_machines_until_that_ends(
    house: House, monkeypatch: pytest.MonkeyPatch, way: str
):
    made, second = await house.create(start=True, **BLANK), await house.create("second", **BLANK)
    there, attach = asyncio.Event(), hotplug.Disks.attach

    async def cut_off(*arguments: Any) -> None:
        await attach(*arguments)
        there.set()
        match way:
            case "timed-out":
                raise qmp.TimedOut(what="device_add", bound=0.0)
            case "disconnected":
                raise qmp.Disconnected
            case "cancelled":
                await asyncio.Event().wait()

    async def not_held(*_: Any) -> None:
        raise qmp.CommandFailed(command="qom-set", kind="GenericError", description="no")

    monkeypatch.setattr(hotplug, "_UNPLUG_BOUND", 0.2)  # nobody is there who could let go of it
    monkeypatch.setattr(hotplug.Disks, "attach", cut_off)
    monkeypatch.setattr(holding.Holding, "disk", not_held)
    limits = {"limits": {"iops": 100}} if way == "not-held" else {}
    attaching = asyncio.create_task(house.attach(made, size="1M", **limits))
    await asyncio.wait_for(there.wait(), BOUND)
    if way == "cancelled":
        task = await newest(house, "vm.disk-attach", made)
        assert task is not None
        await cancel(house, task)
    assert (await attaching).status.state is not work.TaskState.DONE
    await house.until(lambda: house.read(made), lambda one: len(one.spec.disks) == 1)
    await house.adapted(made)
    [volume] = [one for one in (await house.volumes()).values() if one.uid not in _volumes(made, second)]
    for _ in range(2):
        assert volume.spec.vm == made.uid
        assert (await house.node.preparation.disks.path(volume)).exists()
        assert problem(await house.ask("volume.delete", volume)) == "disk-still-plugged"
        await house.close()
        await house.open()  # the next daemon knows it, too
        await house.becomes(made, vm.State.RUNNING)
        await house.ask("vm.pause", made)  # by then it has looked what it could set free
        await house.ask("vm.resume", made)
        volume = await house.resources.get(ground.Volume, "default", volume.uid)
    done(await house.ask("vm.kill", made))
    await lies_by_itself(house, volume.uid)


@pytest.mark.fault
async def test_memory_is_saved_with_a_disk_of_which_nobody_noted_that_it_came(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    made, attach = await house.create(start=True, **BLANK), hotplug.Disks.attach

    async def timed_out(*arguments: Any) -> None:
        await attach(*arguments)
        raise qmp.TimedOut(what="device_add", bound=0.0)

    monkeypatch.setattr(hotplug, "_UNPLUG_BOUND", 0.2)  # nobody is there who could let go of it
    monkeypatch.setattr(hotplug.Disks, "attach", timed_out)
    assert (await house.attach(made, size="1M")).status.state is not work.TaskState.DONE
    await house.adapted(made)
    assert problem(await house.keep(made, "first", memory=True)) == "snapshot-memory-knows-more"
    done(await house.ask("vm.save", made))
    assert problem(await house.keep(made, "second", memory=True)) == "snapshot-memory-knows-more"
    done(await house.ask("vm.start", made))
    assert "vm-restored" in await house.events()
    actor = house.node.crew.of(made.uid)
    assert actor
    assert actor.standing.machine
    assert await actor.standing.machine.disks.there("disk1")


def _volumes(*machines: vm.VM) -> set[str]:
    return {disk.volume for one in machines for disk in one.spec.disks}


async def copied_alone(house: House, source: ground.Volume) -> work.Task:
    """A volume by itself that is to be a copy of another."""
    spec = ground.VolumeSpec(storage=source.spec.storage, size=source.spec.size, source=source.uid)
    one = ground.Volume(metadata=base.Metadata(name="copy", project="default"), spec=spec)
    await house.resources.create(one)
    return await house.ask("volume.create", one)


async def by_itself(house: House, name: str) -> ground.Volume:
    """A volume that no VM has."""
    local = await house.resources.find(ground.Storage, None, "local")
    spec = ground.VolumeSpec(storage=local.uid, size=Size(1 << 20))
    volume = ground.Volume(metadata=base.Metadata(name=name, project="default"), spec=spec)
    await house.resources.create(volume)
    done(await house.ask("volume.create", volume))
    return volume


async def test_a_volume_that_is_being_copied_is_written_by_nobody_meanwhile(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    made, second = await house.create(start=True, **BLANK), await house.create("second", **BLANK)
    volume = await by_itself(house, "data")
    copies, goes_on, share = asyncio.Event(), asyncio.Event(), sparse.share

    async def waits(source: pathlib.Path, to: pathlib.Path) -> bool:
        copies.set()
        await goes_on.wait()
        return await share(source, to)

    monkeypatch.setattr(sparse, "share", waits)
    copying = asyncio.create_task(copied_alone(house, volume))
    await asyncio.wait_for(copies.wait(), BOUND)
    assert problem(await house.attach(made, volume="data")) == "volume-being-copied"
    for action in ("volume.grow", "volume.delete"):
        assert problem(await house.ask(action, volume, size="2M")) == "volume-being-copied"
    done(await house.attach(second, volume="data"))
    assert problem(await house.ask("vm.disk-grow", second, disk="disk1", size="2M")) == "volume-being-copied"
    starting = asyncio.create_task(house.ask("vm.start", second))
    waiting = await house.until(lambda: house.read(second), lambda one: one.status.reason is not None)
    assert waiting.status.reason is not None
    assert waiting.status.reason.type == "vm-being-copied"
    goes_on.set()
    done(await copying)
    done(await starting)


async def test_a_volume_that_could_not_be_plugged_in_is_as_free_as_before(house: House):
    made = await house.create(start=True, **BLANK)
    volume = await by_itself(house, "data")
    assert problem(await house.attach(made, volume="data", bus="sata")) == "bus-not-hot-pluggable"
    done(await house.ask("volume.delete", volume))


async def test_a_disk_that_a_snapshot_has_is_free_when_that_is_gone_and_another_does_not_take_its_files(house: House):
    made = await house.create(disks=[{"size": "1M"}], **BLANK)
    done(await house.keep(made, "first"))
    volume = (await house.read(made)).spec.disks[1].volume
    await disks_are(house, made, *(await house.read(made)).spec.disks[:1])
    done(await house.attach(made, size="2M"))
    assert [disk.name for disk in (await house.read(made)).spec.disks] == ["disk0", "disk2"]
    refused = await house.ask("volume.delete", await house.resources.get(ground.Volume, "default", volume))
    assert problem(refused) == "volume-kept"
    done(await house.forget(made, "first"))
    free = await lies_by_itself(house, volume)
    assert free.spec.layers == {}
    assert sorted(path.name for path in house.place(made).disks.iterdir()) == ["disk0.qcow2", "disk2.qcow2"]
    done(await house.ask("volume.delete", free))


async def test_what_is_taken_out_of_a_vm_stays_when_that_is_deleted_and_its_past_goes_with_it(house: House):
    made = await house.create(disks=[{"size": "1M"}, {"size": "1M", "bus": "sata"}], start=True, **BLANK)
    kept, taken = made.spec.disks[1:]
    done(await house.keep(made, "first"))
    with_all = (await house.read(made)).spec.disks
    done(await house.attach(made, size="1M", bus="scsi"))
    done(await house.ask("vm.kill", made))
    last = (await house.read(made)).spec.disks[-1]
    await disks_are(house, made, with_all[0])
    await lies_by_itself(house, last.volume)
    assert {one.spec.vm for one in (await house.volumes()).values() if one.uid in (kept.volume, taken.volume)} == {
        made.uid
    }
    done(await house.ask("vm.delete", made, purge=True))
    assert [one.uid for one in (await house.volumes()).values()] == [last.volume]


@pytest.mark.fault
async def test_a_disk_that_cannot_be_had_is_taken_out_again_and_the_vm_still_starts(house: House):
    made = await house.create(start=True, **BLANK)
    refused = await house.attach(made, size="60T", preallocated=True)
    assert problem(refused) == "storage-would-not-fit"
    after = await house.read(made)
    assert [disk.name for disk in after.spec.disks] == ["disk0"]
    assert len(await house.volumes()) == 1
    assert problem(await house.attach(made, size="1M", bus="sata")) == "bus-not-hot-pluggable"
    assert len(await house.volumes()) == 1
    assert len(list(house.place(made).disks.iterdir())) == 1
    await house.ask("vm.kill", made)
    done(await house.ask("vm.start", made))


async def boots(house: House, made: vm.VM, *order: str, once: str) -> None:
    boot = vm.Boot(order=order, once=once)
    await house.resources.change(vm.VM, "default", made.uid, lambda one: resources.with_spec(one, boot=boot))


async def test_taking_a_disk_out_leaves_what_boots_once_alone(house: House):
    made = await house.create(disks=[{"size": "1M"}, {"size": "1M"}], **BLANK)
    await boots(house, made, "disk1", "disk0", once="disk2")
    done(await house.ask("vm.disk-detach", made, disk="disk1"))
    assert (await house.read(made)).spec.boot == vm.Boot(order=("disk0",), once="disk2")


async def test_what_boots_once_does_so_once(house: House):
    made = await house.create(disks=[{"size": "1M"}], **BLANK)
    await boots(house, made, "disk0", once="disk1")
    done(await house.ask("vm.start", made))
    running = await house.read(made)
    assert running.spec.boot.once is None
    assert running.status.applied_generation == running.metadata.generation


@pytest.mark.guest
async def test_another_boot_order_counts_from_the_next_restart_of_the_guest_on(house: House, tmp_path: pathlib.Path):
    made = await house.create(disks=[{"size": "1M"}], **BLANK)
    for volume, name in zip(await house.node.preparation.disks.of(made), ("first", "second"), strict=True):
        sector = tmp_path / name
        sector.write_bytes(bootsector.Sector().say(f"this is the {name}").finish())
        path = await house.node.preparation.disks.path(volume)
        await process.run("qemu-io", "-f", "qcow2", "-c", f"write -s {sector} 0 512", path, within=BOUND)
    done(await house.ask("vm.start", made))
    await house.says(made, "^this is the first")
    order = vm.Boot(order=("disk1", "disk0"))
    await house.resources.change(
        vm.VM, "default", made.uid, lambda one: resources.bumped(one, resources.with_spec(one, boot=order))
    )
    [became] = (await house.adapted(made)).status.outcomes
    assert (became.path, became.how, became.saying.type) == ("boot", "done", "boots-from")
    done(await house.ask("vm.reset", made))
    await house.says(made, "^this is the second")


@pytest.mark.guest
async def test_a_cd_is_put_in_and_taken_out_while_the_guest_runs(tiny_house: House, tmp_path: pathlib.Path):
    house = tiny_house
    for name in ("red", "blue"):
        iso(tmp_path / f"{name}.iso", name)
        await house.add_image(tmp_path / f"{name}.iso", name)
    made = await house.create(cds=["red"], **SMALL)
    images = (await house.facts()).images
    scsi = (vm.Cd(name="cd0", image=images["red"].uid, bus=vm.Bus.SCSI, unit=0),)  # its kernel knows no SATA
    await house.resources.change(vm.VM, "default", made.uid, lambda one: resources.with_spec(one, cds=scsi))
    done(await house.ask("vm.start", made))
    await house.says(made, "^tiny: ready")
    label = "head -c 32812 /dev/sr0 | tail -c 4; echo"
    assert await house.says(made, "^RED", send=label)
    await put_in(house, made, images["blue"].uid)
    done(await house.ask("vm.cd-change", made, cd="cd0"))
    assert await house.says(made, "^BLUE", send=f"sleep 1; {label}")
    await put_in(house, made, None)
    done(await house.ask("vm.cd-change", made, cd="cd0"))
    assert await house.says(made, "^no-1", send="head -c 6 /dev/sr0 || echo no-$((1))")

    folder = tmp_path / "patches"
    (folder / "Sous dossier").mkdir(parents=True)
    (folder / "Sous dossier" / "a long name, née été.conf").write_text("from the CD")
    burning.burn(str(folder), str(tmp_path / "burned.iso"))
    await house.upload(tmp_path / "burned.iso")
    storage = (await house.facts()).storage["local"].uid
    burned = base.new_uid()
    inserting = {"cd": "cd0", "upload": "upload-1", "image": burned, "storage": storage}
    done(await house.ask("vm.cd-change", made, **inserting))
    assert (await house.read(made)).spec.cds[0].image == burned
    wait = "until mount -t iso9660 -o ro /dev/sr0 /cd; do sleep 1; done 2>/dev/null"
    mount = f". /usr/lib/tiny/devices; load_named isofs; mkdir -p /cd; {wait}"
    read = f"{mount}; cat /cd/Sous*/*.conf; echo; umount /cd"
    assert await house.says(made, "^from the CD", send=read)
    done(await house.ask("vm.cd-change", made, **inserting))  # once more, as after a daemon that was killed
    shelf = house.homes.local_storage / "images"
    assert len((await house.facts()).images) == 4
    files = sorted(shelf.iterdir())
    await put_in(house, made, None)
    done(await house.ask("vm.cd-change", made, cd="cd0"))
    assert sorted((await house.facts()).images) == ["blue", "red", "tiny"]
    assert len(sorted(shelf.iterdir())) == len(files) - 2, "the ISO and what is known of it are gone"


@pytest.mark.guest
async def test_a_cd_that_is_named_in_the_definition_comes_while_the_guest_runs(
    tiny_house: House, tmp_path: pathlib.Path
):
    house = tiny_house
    for name in ("red", "blue"):
        iso(tmp_path / f"{name}.iso", name)
        await house.add_image(tmp_path / f"{name}.iso", name)
    images = (await house.facts()).images
    drive = vm.Cd(name="cd0", image=images["red"].uid, bus=vm.Bus.SCSI, unit=0)
    made = await house.create(**SMALL)
    await house.resources.change(vm.VM, "default", made.uid, lambda one: resources.with_spec(one, cds=(drive,)))
    done(await house.ask("vm.start", made))
    await house.says(made, "^tiny: ready")
    await put_in(house, made, images["blue"].uid)
    [became] = (await house.adapted(made)).status.outcomes
    assert (became.path, became.how, became.saying.type) == ("cds[cd0]", "done", "medium-in")
    assert await house.says(made, "^BLUE", send="sleep 1; head -c 32812 /dev/sr0 | tail -c 4; echo")
    built = started.read(house.homes.vm_runtime(made.uid))
    assert built is not None
    assert edits.pending(built, await house.read(made)) == []
    await put_in(house, made, None)
    [became] = (await house.adapted(made)).status.outcomes
    assert (became.how, became.saying.type) == ("done", "medium-out")


async def put_in(house: House, made: vm.VM, image: str | None) -> None:
    def changed(one: vm.VM) -> vm.VM:
        cds = tuple(cd.model_copy(update={"image": image}) for cd in one.spec.cds)
        return resources.bumped(one, resources.with_spec(one, cds=cds))

    await house.resources.change(vm.VM, "default", made.uid, changed)


def iso(path: pathlib.Path, label: str) -> None:
    """A CD with one file."""
    made = pycdlib.PyCdlib()
    made.new(vol_ident=label.upper())
    made.add_fp(io.BytesIO(label.encode()), len(label), f"/{label.upper()}.TXT;1")
    made.write(str(path))
    made.close()


async def test_an_image_in_a_tray_and_one_that_is_being_copied_are_in_use(tiny_house: House):
    made = await tiny_house.create(full=True, **SMALL)
    image = (await tiny_house.facts()).images["tiny"]
    done(await tiny_house.ask("image.delete", image))  # a full copy needs it no more
    assert list((tiny_house.homes.local_storage / "images").iterdir()) == []
    done(await tiny_house.ask("vm.start", made))


async def test_a_network_of_changes_that_wait_is_told_apart_from_what_is_so_already(house: House):
    made = await house.create(start=True, **BLANK)
    runtime = house.homes.vm_runtime(made.uid)
    built = started.read(runtime)
    assert built is not None
    await house.ask("vm.pause", made)
    await house.ask("vm.resume", made)
    same = await house.read(made)
    assert edits.pending(built, same) == []
    assert same.status.applied_generation == same.metadata.generation
    await house.resources.change(vm.VM, "default", made.uid, _bigger)
    waiting = await house.until(
        lambda: house.read(made), lambda one: one.status.observed_generation == one.metadata.generation
    )
    assert [one["path"] for one in edits.pending(built, waiting)] == ["memory"]
    assert waiting.status.applied_generation != waiting.metadata.generation
    await house.ask("vm.kill", made)
    await house.ask("vm.start", made)
    cold = await house.read(made)
    assert cold.status.applied_generation == cold.metadata.generation


def _bigger(one: vm.VM) -> vm.VM:
    return resources.with_spec(one, memory=Size(48 << 20))


async def test_what_a_disk_takes_is_measured_again_and_where_it_lies_is_told_after_an_adoption(house: House):
    await house.create(**BLANK)
    one = next(iter((await house.volumes()).values()))
    path = pathlib.Path(one.status.path or "")
    with path.open("ab") as file:
        file.write(b"x" * (3 << 20))
    adopted = ground.VolumeStatus(state="ready")  # as it comes in
    await house.resources.change_status(ground.Volume, "default", one.uid, lambda _: adopted)
    shop = house.node.shop
    await storages.measure(shop, await house.resources.find(ground.Storage, None, "local"))
    now = (await house.volumes())[one.name].status
    assert (now.path, now.allocated_bytes) == (str(path), path.stat().st_blocks * 512)
    assert now.allocated_bytes >= 3 << 20


async def test_a_volume_by_itself_is_made_grown_and_removed(house: House):
    storage = await house.resources.find(ground.Storage, None, "local")
    spec = {"storage": storage.uid, "size": "1M", "format": "raw", "preallocated": True}
    one = ground.Volume(
        metadata=base.Metadata(name="data", project="default"), spec=ground.VolumeSpec.model_validate(spec)
    )
    await house.resources.create(one)
    done(await house.ask("volume.create", one))
    made = (await house.volumes())["data"]
    assert (made.status.state, made.status.allocated_bytes) == ("ready", 1 << 20)
    done(await house.ask("volume.grow", made, size="2M"))
    assert (await house.volumes())["data"].spec.size == 2 << 20
    machine = await house.create(**BLANK)
    done(await house.attach(machine, volume="data"))
    assert problem(await house.ask("volume.delete", made)) == "volume-attached"
    done(await house.ask("vm.delete", machine, purge=True))
    assert list(await house.volumes()) == ["data"]
    done(await house.ask("volume.delete", made))
    assert list((house.homes.local_storage / "volumes").iterdir()) == []
