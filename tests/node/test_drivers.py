"""A guest goes over to virtio's drivers, and back, at a cold start."""

from __future__ import annotations

import pytest

from bocage.model import requests, vm
from bocage.node.rounds import switching
from bocage.planner import definition
from tests.node.house import House
from tests.node.test_disks import done

pytestmark = [pytest.mark.guest, pytest.mark.slow]


async def test_a_guest_that_has_virtios_drivers_goes_over_to_them_and_back(tiny_house: House):
    house = tiny_house
    made = await house.create(
        image="tiny", machine="pc", memory="128M", board={"disk_bus": "ide", "nic_model": "e1000"}, start=True
    )
    assert "disks=sda:" in await house.says(made, "^tiny: ready")
    mac = made.spec.nics[0].mac
    switched = await switch(house, made, "virtio")
    waiting = await house.until(
        lambda: house.read(made), lambda one: one.status.observed_generation == one.metadata.generation
    )
    assert waiting.status.applied_generation != waiting.metadata.generation, "it waits for a cold start"
    assert "sda" in await house.says(made, "^seen.*", send="echo seen $(ls /sys/block)"), "and runs on as it is"
    done(await house.ask("vm.stop", made))
    done(await house.ask("vm.start", made))
    said = await house.says(made, "^tiny: ready")
    assert "disks=vda:" in said
    assert f"macs={mac}" in said
    now = await house.read(made)
    assert now.status.applied_generation == now.metadata.generation >= switched.metadata.generation
    await switch(house, made, "inbox")
    done(await house.ask("vm.stop", made))
    done(await house.ask("vm.start", made))
    assert "disks=sda:" in await house.says(made, "^tiny: ready")
    await switch(house, made, "virtio-when-driven")
    looks = switching.Switching(house.node.shop, house.node.crew)
    await looks.look()
    assert (await house.read(made)).spec.disks[0].bus is vm.Bus.IDE, "it has no virtio disk yet"
    done(await house.attach(made, size="16M", bus="virtio"))
    await house.says(made, "^seen vda", send="until [ -b /dev/vda ]; do sleep 1; done; echo seen vda")
    await looks.look()
    over = await house.read(made)
    assert [disk.bus for disk in over.spec.disks] == [vm.Bus.VIRTIO, vm.Bus.VIRTIO]
    assert not over.spec.virtio_when_driven


async def switch(house: House, made: vm.VM, kind: str) -> vm.VM:
    patch = requests.VMPatch.model_validate({"drivers": kind})
    return await house.resources.change(vm.VM, "default", made.uid, lambda one: definition.change(one, patch))
