"""VMs that are carried to another storage of the same host, their disks linked as they were."""

from __future__ import annotations

import asyncio
import pathlib
import subprocess
from typing import Any

import pytest

from bocage.model import ground, vm, work
from bocage.node.life import filling
from bocage.storage import images, qcow2
from tests.node.house import House
from tests.node.test_wishes import problem

LINKED: dict[str, Any] = {"image": "small", "memory": "32M", "disk": "4M", "nics": []}


@pytest.fixture
def small(tmp_path: pathlib.Path) -> pathlib.Path:
    """An image that nothing boots from."""
    path = tmp_path / "small.raw"
    path.write_bytes(b"".join(number.to_bytes(512) for number in range(4096)))
    return path


async def image_named(house: House, name: str) -> ground.Image:
    return await house.resources.find(ground.Image, "default", name)


async def volume_of(house: House, made: vm.VM) -> ground.Volume:
    return await house.resources.get(ground.Volume, "default", (await house.read(made)).spec.disks[0].volume)


async def contents(house: House, made: vm.VM) -> bytes:
    """What a guest would read."""
    chain = await house.node.preparation.disks.chain(await volume_of(house, made), "disk0")
    raw = house.homes.path / "contents"
    command = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(chain[0].path), str(raw)]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    return await asyncio.to_thread(raw.read_bytes)


async def write(house: House, made: vm.VM, text: str) -> None:
    """Have something of its own on its disk."""
    [path, *_] = await house.node.preparation.disks.chain(await volume_of(house, made), "disk0")
    await asyncio.to_thread(
        subprocess.run,
        ["qemu-io", "-f", "qcow2", "-c", f"write -s {text} 2M 4k", str(path.path)],
        check=True,
        capture_output=True,
    )


async def move(house: House, made: vm.VM, to: str) -> work.Task:
    target = await house.resources.find(ground.Storage, None, to)
    return await house.ask("vm.move", await house.read(made), storage=target.uid)


async def test_a_linked_disk_stays_linked_and_its_image_comes_along_once(
    house: House, small: pathlib.Path, tmp_path: pathlib.Path
):
    await house.add_image(small, "small")
    other = await house.storage("other")
    (own := tmp_path / "own").write_bytes(b"heron" * 1000)
    boxes = [await house.create(name, **LINKED) for name in ("one", "two")]
    for made in boxes:
        await write(house, made, str(own))
    before = [await contents(house, made) for made in boxes]
    for made in boxes:
        assert (await move(house, made, "other")).status.state is work.TaskState.DONE
    known = (await house.resources.list(ground.Image)).items
    assert sorted((one.name, one.spec.storage == other.uid) for one in known) == [
        ("small", False),
        ("small-other", True),
    ]
    for made, was in zip(boxes, before, strict=True):
        volume = await volume_of(house, made)
        assert (volume.spec.linked, volume.spec.storage) == (True, other.uid)
        [top, base] = await house.node.preparation.disks.chain(volume, "disk0")
        assert base.path.parent == pathlib.Path(other.spec.path) / "images"
        assert top.path.stat().st_blocks * 512 < 1 << 20, "its own file holds what it wrote, not the image"
        assert await contents(house, made) == was
    assert problem(await house.ask("image.delete", await image_named(house, "small-other"))) == "image-in-use"
    assert (await house.ask("image.delete", await image_named(house, "small"))).status.state is work.TaskState.DONE
    for made in boxes:
        assert (await house.ask("vm.start", await house.read(made))).status.state is work.TaskState.DONE
        held = (pathlib.Path(other.spec.path) / "vms" / made.uid / "vm.yaml").read_text()
        assert "linked: true" in held


async def test_the_image_may_be_stored_in_another_format_there(house: House, small: pathlib.Path):
    await house.add_image(small, "small")
    other = await house.storage("other")
    made = await house.create(**LINKED)
    before = await contents(house, made)
    digest = (await image_named(house, "small")).spec.sha256
    wanted = images.Wanted(
        file_name="small.raw", origin="", format="raw", into="qcow2", names={"default/mine": other.uid}
    )
    await house.node.ground.library(other).add(small, wanted)
    assert (await move(house, made, "other")).status.state is work.TaskState.DONE
    assert (await image_named(house, "mine")).spec.sha256 == digest
    [top, base] = await house.node.preparation.disks.chain(await volume_of(house, made), "disk0")
    assert qcow2.read_header(top.path).backing == f"../../../images/{digest}.qcow2"
    assert base.format == "qcow2"
    assert await contents(house, made) == before
    assert (await house.read(made)).spec.hardware.generation_id == made.spec.hardware.generation_id


async def test_an_image_that_is_deleted_while_its_disk_is_moved_costs_nothing(
    house: House, small: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    await house.add_image(small, "small")
    other = await house.storage("other")
    made = await house.create(**LINKED)
    before, commit = await contents(house, made), filling.commit

    async def deleted_first(*arguments) -> None:
        ended = await house.ask("image.delete", await image_named(house, "small-other"))
        assert ended.status.state is work.TaskState.DONE
        await commit(*arguments)

    monkeypatch.setattr(filling, "commit", deleted_first)
    assert problem(await move(house, made, "other")) == "not-found"
    assert list((pathlib.Path(other.spec.path) / "vms").iterdir()) == []
    assert await contents(house, made) == before
    monkeypatch.setattr(filling, "commit", commit)
    assert (await move(house, made, "other")).status.state is work.TaskState.DONE
    assert await contents(house, made) == before


async def test_a_disk_and_its_image_that_do_not_fit_stay_where_they_are(
    house: House, small: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    await house.add_image(small, "small")
    other = await house.storage("other", reserve_percent=90)
    made = await house.create(**LINKED)
    before = await contents(house, made)
    refused = await move(house, made, "other")
    assert problem(refused) == "storage-would-not-fit"
    left = [path for path in pathlib.Path(other.spec.path).rglob("*") if path.is_file()]
    assert {path.name for path in left} <= {"storage.yaml", "boot-id"}
    assert await contents(house, made) == before
    assert (await house.ask("vm.start", made)).status.state is work.TaskState.DONE
