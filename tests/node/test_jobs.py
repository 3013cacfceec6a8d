"""What a host is asked to do beside its VMs: images, storage, networks; refused whole, and cut off cleanly."""

from __future__ import annotations

import asyncio
import os
import pathlib
from typing import Any

import pytest

from bocage import process
from bocage.model import base, ground, work
from bocage.node import jobs, tasks
from tests.node.house import BLANK, House
from tests.node.test_adoption import files_of
from tests.node.test_wires import make_network, network_named
from tests.node.test_wishes import problem


async def add(house: House, path: pathlib.Path, name: str) -> work.Task:
    storage = await house.resources.find(ground.Storage, None, "local")
    subject = base.Ref(kind="image", uid=base.new_uid(), project="default", name=name)
    return await house.ask("image.add", subject, name=name, path=str(path), storage=storage.uid)


async def image_names(house: House) -> list[str]:
    return sorted(image.name for image in (await house.resources.list(ground.Image)).items)


def image_files(house: House) -> list[pathlib.Path]:
    return sorted((house.homes.local_storage / "images").glob("*.raw"))


async def test_one_file_under_two_names_lies_there_once_and_goes_with_the_last(house: House, tmp_path: pathlib.Path):
    (path := tmp_path / "small.raw").write_bytes(b"\1" * (1 << 20))
    for name in ("one", "two"):
        assert (await add(house, path, name)).status.state is work.TaskState.DONE
    assert len(image_files(house)) == 1
    for name, left in (("one", 1), ("two", 0)):
        image = await house.resources.find(ground.Image, "default", name)
        assert (await house.ask("image.delete", image)).status.state is work.TaskState.DONE
        assert len(image_files(house)) == left
    assert await image_names(house) == []


async def test_an_image_whose_name_is_taken_or_that_is_none_leaves_nothing(house: House, tmp_path: pathlib.Path):
    (path := tmp_path / "small.raw").write_bytes(b"\1" * (1 << 20))
    await add(house, path, "one")
    before = files_of(house)
    (other := tmp_path / "other.raw").write_bytes(b"\2" * (1 << 20))
    (liar := tmp_path / "liar.qcow2").write_bytes(b"\3" * (1 << 20))
    assert problem(await add(house, other, "one")) == "name-taken"
    assert (problem(await add(house, liar, "two")) or "").startswith("image-")
    assert (await add(house, tmp_path / "none.raw", "two")).status.state is work.TaskState.FAILED
    assert await image_names(house) == ["one"]
    assert files_of(house) == before


@pytest.mark.fault
async def test_a_build_that_finds_no_room_says_so_and_leaves_nothing(house: House):
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    cache = house.homes.cache
    await process.run("mount", "-t", "tmpfs", "-o", "size=2m", "bocage-test", cache, within=10)
    try:
        storage = await house.resources.find(ground.Storage, None, "local")
        subject = base.Ref(kind="image", uid=base.new_uid(), project="default", name="tiny")
        built = await house.ask("image.build", subject, name="tiny", what="tiny", storage=storage.uid)
        assert problem(built) == "storage-full", built.status.problem
        assert list(cache.glob("build-*")) == []
    finally:
        await process.run("umount", "-l", cache, within=10)
    assert await image_names(house) == []


async def test_a_directory_that_was_a_storage_is_that_storage_again(house: House, tmp_path: pathlib.Path):
    first = await house.storage("fast", tmp_path / "fast")
    assert (await house.ask("storage.delete", first)).status.state is work.TaskState.DONE
    again = await house.storage("quick", tmp_path / "fast")
    assert again.uid == first.uid


async def test_a_storage_that_cannot_be_made_goes_again_and_one_that_is_used_stays(
    house: House, tmp_path: pathlib.Path
):
    (tmp_path / "file").write_text("no directory")
    spec = {"host": house.node.ground.uid, "path": str(tmp_path / "file")}
    made = ground.Storage(metadata=base.Metadata(name="fast"), spec=ground.StorageSpec.model_validate(spec))
    await house.resources.create(made)
    assert (await house.ask("storage.create", made)).status.state is work.TaskState.FAILED
    assert [one.name for one in (await house.resources.list(ground.Storage)).items] == ["local"]
    await house.create(**BLANK)
    local = await house.resources.find(ground.Storage, None, "local")
    refused = await house.ask("storage.delete", local)
    assert problem(refused) == "storage-in-use"
    assert refused.status.problem
    assert "vm box" in refused.status.problem.params["users"]


async def test_a_network_that_a_vm_is_on_stays_also_when_the_vm_lies_in_the_trash(house: House):
    await make_network(house, "lab", kind="user")
    made = await house.create(**{**BLANK, "nics": [{"network": "lab"}]})
    lab = await network_named(house, "lab")
    assert problem(await house.ask("network.delete", lab)) == "network-in-use"
    await house.ask("vm.delete", made)
    assert problem(await house.ask("network.delete", lab)) == "network-in-use"
    await house.ask("vm.delete", made, purge=True)
    assert (await house.ask("network.delete", lab)).status.state is work.TaskState.DONE


async def test_what_a_newer_version_asked_for_fails_with_words(house: House):
    assert problem(await house.ask("moon.land")) == tasks.UnknownAction.type


async def test_a_job_that_waits_for_its_turn_can_be_cancelled_and_those_before_it_go_on(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    gate, begun = asyncio.Event(), list[str]()

    async def slow(_: Any, run: tasks.Run) -> None:
        begun.append(run.uid)
        await gate.wait()

    monkeypatch.setitem(jobs.HANDLERS, "image.add", slow)
    asked = [work.task("image.add", host=house.node.ground.uid) for _ in range(5)]
    await house.resources.create(*asked)
    await house.until(lambda: asyncio.to_thread(lambda: len(begun)), lambda count: count == 4)
    [waiting] = [task for task in asked if task.uid not in begun]
    await house.resources.change(
        work.Task,
        "default",
        waiting.uid,
        lambda present: present.model_copy(update={"spec": present.spec.model_copy(update={"cancel": True})}),
    )
    assert (await house.ended(waiting.uid)).status.state is work.TaskState.CANCELLED
    gate.set()
    for task in asked:
        if task.uid != waiting.uid:
            assert (await house.ended(task.uid)).status.state is work.TaskState.DONE
    assert waiting.uid not in begun
