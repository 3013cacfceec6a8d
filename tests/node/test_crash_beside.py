"""The same for what stands beside a VM: its rescue, burned CDs, the firewall, templates, another kind of drivers."""

from __future__ import annotations

import asyncio
import pathlib
import random
import re
import shutil
from typing import Any

import pytest

from bocage import home
from bocage.cli import burning
from bocage.model import base, firewall, ground, template, vm
from bocage.network import fences
from bocage.node import started
from tests.network.machines import run
from tests.node import crash
from tests.node.house import BLANK, House
from tests.node.test_crash import Case, at_points, box, defined, one_disk_and_a_volume
from tests.node.test_saved import change
from tests.node.test_wires import make_network, network_named

pytestmark = [pytest.mark.fault, pytest.mark.slow]


def medium(house: House, name: str, size: int = 0) -> pathlib.Path:
    """A CD with a file of so many bytes."""
    folder, path = house.homes.path / "medium", house.homes.path / f"{name}.iso"
    folder.mkdir()
    (folder / "note").write_bytes(bytes(size))
    path.unlink(missing_ok=True)
    burning.burn(str(folder), str(path))
    shutil.rmtree(folder)
    return path


async def beside_a_medium(house: House) -> vm.VM:
    await house.add_image(medium(house, "medium"), "medium")
    return await house.create("box", cds=["medium"], **BLANK)


async def in_rescue(house: House) -> None:
    await beside_a_medium(house)
    await crash.DEEDS["rescue"](house)


async def is_rescued_or_off(house: House) -> bool:
    found = await box(house)
    assert found is not None
    return found.status.state is (vm.State.RUNNING if found.spec.rescue else vm.State.STOPPED)


async def is_off_and_itself(house: House) -> bool:
    found = await box(house)
    return found is not None and found.status.state is vm.State.STOPPED and found.spec.rescue is None


async def with_an_upload(house: House) -> vm.VM:
    made = await beside_a_medium(house)
    await house.upload(medium(house, "burned", 1 << 20))
    return made


async def with_an_upload_and_running(house: House) -> None:
    await house.ask("vm.start", await with_an_upload(house))


async def has_what_was_burned(house: House) -> bool:
    """In the drive, in the library and, while it runs, in the guest's own drive."""
    found, images = await box(house), {one.uid: one for one in (await house.resources.list(ground.Image)).items}
    assert found is not None
    image = images.get(found.spec.cds[0].image or "")
    if image is None or not image.spec.temporary or image.spec.virtual_size < 1 << 20:
        return False
    assert await house.node.preparation.image_path(found, image.uid)
    actor = house.node.crew.of(found.uid)
    assert actor
    await actor.looked.wait()
    running: Any = actor.standing.machine  # past the engine's door
    if running is None:
        return found.status.state is vm.State.STOPPED
    told = next(one for one in await running.link.execute("query-block") if one["qdev"] == "cd0")
    return bool(told["inserted"]["image"]["virtual-size"] == image.spec.virtual_size)


async def behind_a_fence(house: House) -> None:
    await make_network(house, "lan", kind="isolated")
    for name, port in (("web", "80"), ("ssh", "22")):
        spec = firewall.FirewallGroupSpec.model_validate({"rules": [{"ports": [port]}]})
        await house.resources.create(
            firewall.FirewallGroup(metadata=base.Metadata(name=name, project="default"), spec=spec)
        )
    nics = [{"network": "lan", "firewall": ["web"]}]
    await house.create("box", start=True, **{**BLANK, "nics": nics})


async def is_held_to_what_is_said(house: House) -> bool:
    """The kernel lets in what the groups of its NIC say now, and nothing else."""
    found = await box(house)
    assert found is not None
    [name] = (await house.adapted(found)).spec.nics[0].firewall
    [rule] = (await house.resources.find(firewall.FirewallGroup, "default", name)).spec.rules
    net = await network_named(house, "lan")
    listed = await asyncio.to_thread(run, "nft", "list", "table", "bridge", fences.table_of(net.uid))
    return set(re.findall(r"tcp \. (\d+) : accept", listed)) == set(rule.ports)


async def sealed(house: House) -> bool:
    """It is there whole: each disk of its version is an image whose file is there."""
    held = await house.resources.find(template.Template, "default", "web")
    images = {one.spec.sha256: one.spec.storage for one in (await house.resources.list(ground.Image)).items}
    [only] = held.spec.versions
    files_of = [await house.node.preparation.disks.image_file(images[one.sha256], one.sha256) for one in only.disks]
    return len(files_of) == 1 and all(files_of)


async def on_its_own_drivers(house: House) -> vm.VM:
    return await house.create("box", board={"disk_bus": "sata"}, **BLANK)


async def driven_by_virtio(house: House) -> bool:
    found = await box(house)
    assert found is not None
    built = started.read(house.homes.vm_runtime(found.uid))
    return built is not None and built.disks == found.spec.disks and built.disks[0].bus is vm.Bus.VIRTIO


async def with_a_disk_that_goes(house: House) -> None:
    made = await house.create("box", disks=[{"size": "1M", "bus": "sata"}], start=True, **BLANK)
    await change(house, made, disks=made.spec.disks[:1])


CASES = {
    "take-out": Case(with_a_disk_that_goes, one_disk_and_a_volume),
    "rescue": Case(beside_a_medium, is_rescued_or_off, is_a_task=False),
    "rescue-end": Case(in_rescue, is_off_and_itself),
    "burn": Case(with_an_upload, has_what_was_burned),
    "burn-running": Case(with_an_upload_and_running, has_what_was_burned),
    "rule": Case(behind_a_fence, is_held_to_what_is_said, is_a_task=False),
    "fence": Case(behind_a_fence, is_held_to_what_is_said, is_a_task=False),
    "seal": Case(defined, sealed),
    "drive": Case(on_its_own_drivers, driven_by_virtio),
}


@pytest.mark.parametrize("deed", CASES)
async def test_killed_at_any_point_of_it_it_is_as_it_was_or_as_it_was_asked_for(
    deed: str, homes: home.Home, dice: random.Random
):
    await at_points(homes, deed, CASES[deed], dice)
