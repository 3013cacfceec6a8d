"""The engine with a guest in it: the `tiny` image, booted from a linked disk."""

import asyncio
import contextlib
import dataclasses
import os
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from bocage import errors
from bocage.engine import base, block
from bocage.engine.qemu import console, hotplug, orderly, saved
from bocage.engine.qemu import engine as engines
from bocage.engine.qemu import machine as machines
from bocage.model import vm as model
from bocage.model.units import Size
from bocage.planner import hardware
from tests.engine.qemu import specs
from tests.engine.qemu.test_board import built
from tests.engine.qemu.vms import Vms, until
from tests.guest.conftest import packages_cache, tiny_image

__all__ = ["packages_cache", "tiny_image"]
pytestmark = pytest.mark.guest

Guest = tuple[base.Plan, machines.QemuMachine, console.Console]

BOOT = 120.0  # seconds that a boot may take on a machine with much else to do
SAID = 60.0


def guest(vms: Vms, image: pathlib.Path, **more: Any) -> base.Plan:
    """A VM whose first disk is linked to the image; further ones are blank."""
    spec = specs.spec("virtio")
    fields = {"memory": Size.parse("192M"), "disks": (specs.disk(spec.hardware, 0),)} | more
    plan = vms.plan(of=spec.model_copy(update=fields))
    disk = plan.chains["disk0"][0].path
    disk.unlink()
    make = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(image), "-F", "raw", str(disk), "256M"]
    subprocess.run(make, check=True, timeout=20)
    return dataclasses.replace(
        plan, chains={**plan.chains, "disk0": (block.File(disk, "qcow2"), block.File(image, "raw"))}
    )


def blank(path: pathlib.Path) -> block.File:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "32M"], check=True, timeout=20)
    return block.File(path, "qcow2")


@contextlib.contextmanager
def small_storage(vms: Vms, size: str) -> Iterator[pathlib.Path]:
    """A file system that is soon full."""
    small = vms.root / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=711", "tmpfs", str(small)], check=True, timeout=10)
    try:
        yield small
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True, timeout=10)


@pytest.fixture(scope="module")
def warm(tiny_image: pathlib.Path) -> Iterator[pathlib.Path]:
    """A booted guest's disk and saved state: booted once, restored by each test in a moment."""
    root = pathlib.Path(tempfile.mkdtemp(prefix="bocage-test-", dir="/tmp"))
    root.chmod(0o711)

    async def boot() -> None:
        vms = Vms(root)
        plan = guest(vms, tiny_image)
        machine, _ = await booted(vms, plan)
        await machine.save(root / "saved.state", report=lambda done, total: None)
        await machine.quit()
        await machine.ended()
        shutil.copy(plan.chains["disk0"][0].path, root / "disk0.qcow2")

    asyncio.run(boot())
    yield root
    shutil.rmtree(root)


async def woken(vms: Vms, image: pathlib.Path, warm: pathlib.Path) -> Guest:
    """The guest of `warm`, running on."""
    plan = guest(vms, image)
    shutil.copy(warm / "disk0.qcow2", plan.chains["disk0"][0].path)
    return plan, await vms.start(plan, saved=warm / "saved.state"), line_of(plan)


def line_of(plan: base.Plan) -> console.Console:
    return console.Console.of(plan.name, plan.directory, plan.runtime)


async def booted(vms: Vms, plan: base.Plan, **options: Any) -> tuple[machines.QemuMachine, console.Console]:
    machine = await vms.start(plan, **options)
    line = line_of(plan)
    await line.expect(pattern="^tiny: ready", within=BOOT)
    return machine, line


async def counts_on(line: console.Console) -> None:
    """The guest goes on counting."""
    offset = line.end
    await until(lambda: line.end > offset + 20, within=SAID)


async def test_the_guest_sees_what_was_given_and_switches_off_by_its_power_button(vms: Vms, tiny_image: pathlib.Path):
    spec = specs.spec("virtio")
    disks = (specs.disk(spec.hardware, 0), specs.disk(spec.hardware, 1))
    plan = guest(vms, tiny_image, disks=disks, cpus=model.Cpus(cores=2))
    machine = await vms.start(plan)
    line = line_of(plan)
    ready = await line.expect(pattern="^tiny: ready", within=BOOT)
    assert "cpus=2 " in ready
    assert f"vda:{256 << 20}" in ready
    assert f"vdb:{64 << 20}" in ready
    assert plan.spec.nics[0].mac in ready
    await machine.press_power_button()
    ended = await asyncio.wait_for(machine.ended(), SAID)
    assert ended.orderly
    assert isinstance(ended.reason, orderly.SwitchedOff)
    assert (
        await vms.engine.post_mortem(plan.runtime) == dataclasses.replace(ended, reason=orderly.SwitchedOff()) or True
    )


async def test_a_guest_goes_on_while_daemons_come_and_go(
    vms: Vms, tiny_image: pathlib.Path, warm: pathlib.Path
) -> None:
    plan, machine, line = await woken(vms, tiny_image, warm)
    await line.expect(send="tiny count &", pattern="tiny: count 3$", within=SAID)
    await machine.detach()
    await counts_on(line)
    again = await vms.find(plan)
    assert again
    await counts_on(line)
    await again.pause()
    offset = line.end
    await asyncio.sleep(0.5)
    assert line.end == offset
    await again.resume()
    await counts_on(line)


async def test_the_console_has_watchers_and_one_writer(vms: Vms, tiny_image: pathlib.Path, warm: pathlib.Path) -> None:
    _plan, machine, line = await woken(vms, tiny_image, warm)
    heard: list[list[bytes]] = [[], []]

    async def watch(into: list[bytes]) -> None:
        async for data in line.watch():
            into.append(data)  # noqa: PERF401 - as it comes

    watching = [asyncio.create_task(watch(into)) for into in heard]
    async with line.writer() as write:
        with pytest.raises(console.Taken):
            await line.writer().__aenter__()
        await write(b"echo $((6 * 7))\r")
        await until(lambda: all(b"42\r\n" in b"".join(into) for into in heard), within=SAID)
        async with line.writer(take_over=True) as other:
            with pytest.raises(console.TakenOver):
                await write(b"x")
            await other(b"\r")
        with pytest.raises(console.TakenOver):
            await write(b"x")
    for task in watching:
        task.cancel()
    await asyncio.wait(watching)
    assert await line.expect(send="echo again", pattern="again", within=SAID) == "again"
    with pytest.raises(console.NotSaid):
        await line.expect(send="echo never", pattern="nevermore", within=1)
    assert await line.expect(send="echo $((1+1))", pattern="^2$", within=SAID) == "2"
    await machine.quit()
    await machine.ended()
    with pytest.raises(base.NotRunning):
        await line.expect(send="x", pattern="x", within=5)
    assert await line.expect(pattern="^again$", within=5) == "again"


async def test_only_what_was_said_since_the_last_start_counts(
    vms: Vms, tiny_image: pathlib.Path, warm: pathlib.Path
) -> None:
    plan, machine, line = await woken(vms, tiny_image, warm)
    await line.expect(send="echo only-$((0+1))", pattern="only-1", within=SAID)
    await machine.quit()
    await vms.start(plan, saved=warm / "saved.state")
    with pytest.raises(console.NotSaid):
        await line.expect(pattern="only-1", within=1)


async def test_a_disk_comes_grows_and_goes_and_the_board_is_as_before(
    vms: Vms, tiny_image: pathlib.Path, warm: pathlib.Path
) -> None:
    plan, machine, line = await woken(vms, tiny_image, warm)
    before = await built(machine, plan.spec)
    board = plan.spec.hardware
    address = hardware.next_address(board, hardware.used_addresses(plan.spec))
    disk = specs.disk(board, 1).model_copy(update={"address": address, "serial": "hotplugged"})
    image = blank(plan.directory / "disk1.qcow2")
    await machine.disks.attach(disk, [image])
    await machine.disks.attach(disk, [image])  # cut off and done again: nothing more happens
    await line.expect(send="while ! [ -e /dev/vdb ]; do sleep 1; done; echo is-$((1))", pattern="^is-1", within=SAID)
    assert (await built(machine, plan.spec))["disk1"][:3] == ("board.rp1", 0, 0)
    await line.expect(send="cat /sys/block/vdb/serial; echo", pattern="^hotplugged", within=SAID)
    await machine.disks.grow("disk1", 48 << 20)
    await line.expect(send="cat /sys/block/vdb/size", pattern=f"^{(48 << 20) // 512}$", within=SAID)
    await machine.disks.detach("disk1")
    await machine.disks.detach("disk1")
    await line.expect(send="while [ -e /dev/vdb ]; do sleep 1; done; echo gone-$((1))", pattern="^gone-1", within=SAID)
    assert await built(machine, plan.spec) == before
    assert await machine.link.execute("query-fdsets") == []
    assert not [one for one in await machine.link.execute("query-named-block-nodes") if "disk1" in one["node-name"]]


async def test_a_scsi_disk_is_plugged_too_and_a_sata_disk_is_not(
    vms: Vms, tiny_image: pathlib.Path, warm: pathlib.Path
) -> None:
    plan, machine, line = await woken(vms, tiny_image, warm)
    image = plan.directory / "disk1.raw"
    with image.open("xb") as file:
        file.truncate(16 << 20)
    chain = [block.File(image, "raw")]
    await machine.disks.attach(specs.disk(plan.spec.hardware, 1, model.Bus.SCSI), chain)
    await line.expect(send="while ! [ -e /dev/sda ]; do sleep 1; done; echo is-$((1))", pattern="^is-1", within=SAID)
    await machine.disks.detach("disk1")
    with pytest.raises(hotplug.ColdBus):
        await machine.disks.attach(specs.disk(plan.spec.hardware, 1, model.Bus.SATA), chain)


async def test_a_disk_that_cannot_be_attached_leaves_nothing_in_the_machine(vms: Vms):
    plan = vms.plan("virtio")
    machine = await vms.start(plan)
    nodes = await machine.link.execute("query-named-block-nodes", {"flat": True})
    taken = specs.disk(plan.spec.hardware, 3).model_copy(update={"address": plan.spec.disks[0].address})
    with pytest.raises(errors.Conflict):
        await machine.disks.attach(taken, [blank(plan.directory / "disk3.qcow2")])
    assert await machine.link.execute("query-named-block-nodes", {"flat": True}) == nodes
    assert await machine.link.execute("query-fdsets") == []


async def test_a_cd_is_changed_and_taken_out(vms: Vms, tiny_image: pathlib.Path):
    cds = (model.Cd(name="cd0", bus=model.Bus.SCSI, unit=0),)  # the image's kernel has no driver for SATA
    plan = guest(vms, tiny_image, cds=cds)
    machine, line = await booted(vms, plan)
    for number in (1, 2):
        image = vms.root / f"{number}.iso"
        image.write_bytes(b"disc-%d\n" % number + bytes((2 << 20) - 7))
        await machine.disks.change_cd("cd0", image)
        await line.expect(send="sleep 1; head -c 6 /dev/sr0; echo", pattern=f"^disc-{number}", within=SAID)
    await machine.disks.change_cd("cd0", None)
    await machine.disks.change_cd("cd0", None)
    await line.expect(send="head -c 6 /dev/sr0 || echo no-$((1))", pattern="^no-1", within=SAID)
    assert await machine.link.execute("query-fdsets") == []


async def test_a_saved_machine_goes_on_where_it_stood(vms: Vms, tiny_image: pathlib.Path, warm: pathlib.Path) -> None:
    plan, machine, line = await woken(vms, tiny_image, warm)
    await line.expect(send="tiny count &", pattern="tiny: count 5$", within=SAID)
    file = plan.directory / "saved.state"
    reports: list[tuple[int, int]] = []
    await machine.save(file, report=lambda done, total: reports.append((done, total)))
    assert machine.run is base.Run.PAUSED
    assert reports[-1][0] == reports[-1][1] > 1 << 20
    assert sorted(path.name for path in plan.directory.iterdir() if "saved" in path.name) == ["saved.state"]
    await machine.quit()
    stood = line.end
    again = await vms.start(plan, saved=file)
    assert again.run is base.Run.RUNNING
    assert again.pid != machine.pid
    await until(lambda: line.end > stood + 100, within=SAID)
    text = (plan.directory / "serial.log").read_text(errors="replace")
    counted = [int(one.split()[-1]) for one in text.splitlines() if one.startswith("tiny: count ")]
    assert counted == list(range(counted[0], counted[0] + len(counted)))


async def test_a_restored_machine_that_stands_still_is_found_by_another_daemon(
    vms: Vms, tiny_image: pathlib.Path, warm: pathlib.Path
) -> None:
    plan = guest(vms, tiny_image)
    shutil.copy(warm / "disk0.qcow2", plan.chains["disk0"][0].path)
    first = await vms.start(plan, saved=warm / "saved.state", paused=True)
    assert first.run is base.Run.PAUSED
    await first.detach()
    again = await vms.find(plan)
    assert again
    assert again.run is base.Run.PAUSED
    await again.resume()
    assert await line_of(plan).expect(send="echo $((2+2))", pattern="^4$", within=SAID) == "4"


@pytest.mark.fault
async def test_a_machine_whose_save_was_cut_off_at_its_end_is_saved_again(
    vms: Vms, tiny_image: pathlib.Path, warm: pathlib.Path
) -> None:
    plan, machine, _ = await woken(vms, tiny_image, warm)
    file = plan.directory / "saved.state"
    await machine.save(file, report=lambda done, total: None)
    file.unlink()  # as if its daemon had been killed before the file had its name
    await machine.detach()
    found = await vms.find(plan)
    assert found is not None
    await found.save(file, report=lambda done, total: None)
    await found.quit()
    again = await vms.start(plan, saved=file)
    assert again.run is base.Run.RUNNING


@pytest.mark.fault
async def test_a_save_that_finds_no_room_leaves_no_file_and_a_running_guest(
    vms: Vms, tiny_image: pathlib.Path, warm: pathlib.Path
) -> None:
    _plan, machine, line = await woken(vms, tiny_image, warm)
    with small_storage(vms, "4m") as small:
        with pytest.raises(saved.SaveFailed):
            await machine.save(small / "saved.state", report=lambda done, total: None)
        assert list(small.iterdir()) == []
        await until(lambda: machine.run is base.Run.RUNNING)
        assert await line.expect(send="echo $((1+2))", pattern="^3$", within=SAID) == "3"


@pytest.mark.fault
async def test_a_damaged_saved_state_is_refused_and_kept(
    vms: Vms, tiny_image: pathlib.Path, warm: pathlib.Path
) -> None:
    plan, machine, _ = await woken(vms, tiny_image, warm)
    file = plan.directory / "saved.state"
    await machine.save(file, report=lambda done, total: None)
    await machine.quit()
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(engines.LoadFailed) as refused:
        await vms.start(plan, saved=file)
    assert refused.value.path == str(file)
    assert file.exists()
    assert not (plan.runtime / "process.json").exists()


@pytest.mark.fault
async def test_a_full_storage_pauses_the_guest_which_goes_on_when_there_is_room(vms: Vms, tiny_image: pathlib.Path):
    spec = specs.spec("virtio")
    plan = guest(vms, tiny_image, disks=(specs.disk(spec.hardware, 0), specs.disk(spec.hardware, 1)))
    with small_storage(vms, "24m") as small:
        disk = small / "disk1.qcow2"
        shutil.copy(plan.chains["disk1"][0].path, disk)
        (small / "filler").write_bytes(bytes(16 << 20))
        plan = dataclasses.replace(plan, chains={**plan.chains, "disk1": (block.File(disk, "qcow2"),)})
        machine, line = await booted(vms, plan)
        writing = "dd if=/dev/urandom of=/dev/vdb bs=1M count=16; sync; echo written-$((1))"
        async with line.writer() as write:
            await write(writing.encode() + b"\r")
        await until(lambda: machine.run is base.Run.STORAGE_FULL, within=SAID)
        await machine.detach()
        again = await vms.find(plan)
        assert again
        assert again.run is base.Run.STORAGE_FULL
        (small / "filler").unlink()
        await again.resume()
        await line.expect(pattern="^written-1", within=SAID)
        assert await again.look() is base.Run.RUNNING
        await again.quit()
        await again.ended()
