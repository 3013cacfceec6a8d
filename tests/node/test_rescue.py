"""A VM whose system does not boot is rescued by another one on its disks, and boots again."""

from __future__ import annotations

import pathlib

import pytest

from bocage.engine.qemu import balloon
from bocage.model import ground, vm, work
from bocage.model.units import MiB
from bocage.node import started
from bocage.node.place import edits
from bocage.planner import rescue
from bocage.store import resources
from tests.node.house import House
from tests.node.test_disks import done
from tests.node.test_wishes import problem

pytestmark = pytest.mark.guest

_MOUNTED = ". /usr/lib/tiny/devices; until [ -b /dev/sda1 ]; do sleep 1; done; rescue-mount /dev/sda1"


@pytest.mark.slow
async def test_what_keeps_a_guest_from_booting_is_mended_from_its_rescue(tiny_house: House, rescue_image: pathlib.Path):
    house = tiny_house
    await house.add_image(rescue_image, "rescue")
    image = (await house.facts()).images["rescue"]
    made = await house.create(image="tiny", memory="128M", disk="64M", disks=[{"size": "8M"}], firmware="uefi")
    before = await house.read(made)
    files = {path.name for path in house.place(made).path.iterdir()}

    await begin(house, made, image)
    said = await house.says(made, "^tiny: ready")
    assert "disks=sda:67108864,sdb:8388608" in said
    assert f"macs={made.spec.nics[0].mac}" in said
    running = await house.read(made)
    assert running.status.state is vm.State.RUNNING
    assert running.status.applied_generation == running.metadata.generation, "nothing of it waits"
    refused = await house.attach(made, size="4M")
    assert problem(refused) == "vm-in-rescue"
    await house.says(made, "^:/usr/sbin:", send='echo ":$PATH"')  # where a chroot finds its programs
    await house.says(
        made, "^clean-0", send="mke2fs /dev/sdb >/dev/null; fsck.ext4 -fn /dev/sdb >/dev/null; echo clean-$?"
    )
    write = "sed -i 's/panic=-1/panic=-1 rescued=yes/' /mnt/syslinux.cfg; umount /mnt && sync && echo writ''ten"
    await house.says(made, "^written", send=f"{_MOUNTED}; {write}")
    script = house.place(made).path / "start-by-hand"
    assert "rescue" not in script.read_text()

    done(await house.ask("vm.stop", made))
    ended = await house.until(lambda: house.read(made), lambda one: one.spec.rescue is None)
    assert ended.status.state is vm.State.STOPPED
    assert ended.spec == before.spec
    assert {path.name for path in house.place(made).path.iterdir()} >= files
    await house.resources.change(vm.VM, "default", made.uid, _by_bios)
    done(await house.ask("vm.start", made))
    await house.says(made, "^tiny: ready")
    assert await house.says(made, "rescued=yes", send="cat /proc/cmdline")
    assert "vm-rescue-ended" in await house.events()


@pytest.mark.slow
async def test_a_rescue_ends_with_its_systems_own_end_and_with_a_start_that_fails(
    tiny_house: House, rescue_image: pathlib.Path
):
    house = tiny_house
    await house.add_image(rescue_image, "rescue")
    image = (await house.facts()).images["rescue"]
    made = await house.create(image="tiny", memory="64M", nics=[], restart={"policy": "always"})
    await begin(house, made, image)
    await house.says(made, "^tiny: ready")
    await house.says(made, "^tiny: stopping", send="rescue-end")
    ended = await house.until(lambda: house.read(made), lambda one: one.spec.rescue is None)
    assert ended.spec.power is vm.Power.STOPPED
    for path in (house.homes.local_storage / "images").glob(f"{image.spec.sha256}.*"):
        path.unlink()
    failed = await begin(house, made, image, state=work.TaskState.FAILED)
    assert failed.status.problem is not None
    after = await house.until(lambda: house.read(made), lambda one: one.spec.rescue is None)
    assert (after.spec.power, after.status.state) == (vm.Power.STOPPED, vm.State.STOPPED)


async def test_a_rescue_system_is_left_the_memory_that_it_lives_in(
    tiny_house: House, rescue_image: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    house, asked = tiny_house, []
    ask = balloon.Balloon.ask

    async def asks(self: balloon.Balloon, size: int) -> None:
        asked.append(size)
        await ask(self, size)

    monkeypatch.setattr(balloon.Balloon, "ask", asks)
    await house.add_image(rescue_image, "rescue")
    image = (await house.facts()).images["rescue"]
    small = await house.create("small", memory="32M", disk="1M", nics=[])
    follows = {"minimum": "32M", "startup": "64M", "maximum": "300M"}
    dynamic = await house.create("dynamic", memory=follows, disk="1M", nics=[])
    for made in (small, dynamic):
        await begin(house, made, image)
    await house.node.balancing.look()  # as it does each second
    assert all(size >= 256 * MiB for size in asked), asked
    assert (await house.node.preparation.admission.shown()).memory == 512 * MiB
    for made in (small, dynamic):
        built = started.read(house.homes.vm_runtime(made.uid))
        assert built
        assert not edits.pending(built, await house.read(made)), "nothing of its own system waits"
        done(await house.ask("vm.kill", made))


async def test_memory_that_is_saved_is_never_met_by_a_rescue(tiny_house: House, rescue_image: pathlib.Path):
    house = tiny_house
    await house.add_image(rescue_image, "rescue")
    image = (await house.facts()).images["rescue"]
    made = await house.create(memory="32M", disk="1M", nics=[], start=True)
    done(await house.ask("vm.save", made))
    failed = await begin(house, made, image, state=work.TaskState.FAILED)
    assert problem(failed) == rescue.SavedFirst.type
    assert house.place(made).saved.exists()


async def begin(
    house: House, made: vm.VM, image: ground.Image, *, state: work.TaskState = work.TaskState.DONE
) -> work.Task:
    """As the API does: the wish ends when the VM is off, so it comes together with that to run."""
    wish = {"rescue": image.uid, "power": vm.Power.RUNNING}
    await house.resources.change(vm.VM, "default", made.uid, lambda one: resources.with_spec(one, **wish))
    task = await house.ask("vm.start", made)
    assert task.status.state is state, task.status
    return task


def _by_bios(one: vm.VM) -> vm.VM:
    return resources.with_spec(one, hardware=one.spec.hardware.model_copy(update={"firmware": vm.Firmware.BIOS}))
