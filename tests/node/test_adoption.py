"""VMs that come in whole: from directories, from archives, with an identity of their own."""

from __future__ import annotations

import asyncio
import hashlib
import os
import pathlib
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from bocage.model import ground, vm, work
from bocage.node.carrying import export
from tests.node.house import BLANK, House
from tests.node.test_wishes import problem


def files_of(house: House) -> set[str]:
    """What lies in `local` beside its marker."""
    root = house.homes.local_storage
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.name != "boot-id"}


@pytest.mark.parametrize("chain", [False, True])
@pytest.mark.guest
async def test_an_exported_vm_is_the_same_on_another_machine(
    tiny_house: House, other: House, tmp_path: pathlib.Path, chain: bool
):
    made = await tiny_house.create(image="tiny", memory="128M", disk="64M", start=True)
    await tiny_house.says(made, "^tiny: ready")
    write = "echo heron | dd of=/dev/vda bs=1M seek=60 conv=notrunc,fsync 2>/dev/null; echo written"
    await tiny_house.says(made, "^written", send=write)
    await tiny_house.ask("vm.stop", made)
    path = tmp_path / "box.tar.zst"
    await tiny_house.export(made, path, chain=chain)
    ended = await other.bring(path)
    assert ended.status.state is work.TaskState.DONE, ended.status.problem
    there = await other.read(made)
    before = await tiny_house.read(made)
    assert there.spec.hardware == before.spec.hardware
    assert [disk.serial for disk in there.spec.disks] == [disk.serial for disk in before.spec.disks]
    assert [nic.mac for nic in there.spec.nics] == [nic.mac for nic in before.spec.nics]
    volume = next(iter((await other.volumes()).values()))
    images = {image.name for image in (await other.resources.list(ground.Image)).items}
    assert (volume.spec.linked, images) == ((True, {"tiny"}) if chain else (False, set()))
    assert (await other.ask("vm.start", there)).status.state is work.TaskState.DONE
    await other.says(there, "^tiny: ready")
    said = await other.says(there, "^heron", send="dd if=/dev/vda bs=1M skip=60 count=1 2>/dev/null | head -c 5; echo")
    assert said == "heron"


async def test_a_running_vm_is_not_exported_and_one_that_is_exported_does_not_start(
    house: House, tmp_path: pathlib.Path
):
    made = await house.create(start=True, **BLANK)
    with pytest.raises(Exception, match="is running"):
        await house.export(made, tmp_path / "box")
    await house.ask("vm.kill", made)
    with house.node.preparation.in_use.copied([made]):
        starting = asyncio.create_task(house.ask("vm.start", made))
        waiting = await house.until(
            lambda: house.read(made),
            lambda one: one.status.reason is not None and one.status.reason.type == "vm-being-copied",
        )
        assert waiting.status.pid is None
    assert (await starting).status.state is work.TaskState.DONE


async def test_an_export_that_nobody_reads_to_its_end_leaves_nothing(house: House):
    made = await house.create(**{**BLANK, "disk": "64M"})
    before = files_of(house)
    pieces = await export.started(export.stream(house.node.preparation, made, chain=False))
    await anext(pieces)
    await pieces.aclose()
    await house.until(lambda: asyncio.to_thread(files_of, house), lambda now: now == before)
    assert (await house.ask("vm.start", made)).status.state is work.TaskState.DONE


@pytest.mark.parametrize("request_", [{"disk": "8M"}, {"image": "small", "disk": "8M"}])
async def test_an_export_is_the_same_each_time_and_gone_on_with_until_the_vm_is_another(
    house: House, tmp_path: pathlib.Path, request_: dict[str, Any]
):
    (image := tmp_path / "small.raw").write_bytes(os.urandom(3 << 20))
    await house.add_image(image, "small")
    made = await house.create(memory="32M", nics=[], **request_)
    await house.export(made, tmp_path / "once")
    whole = (tmp_path / "once").read_bytes()
    await asyncio.sleep(1.1)  # past the second that the archive's headers tell

    async def rest_of(have: bytes) -> bytes:
        pieces = export.stream(house.node.preparation, await house.read(made), chain=False)
        digest = hashlib.sha256(have).hexdigest()
        rest = await export.started(export.rest(pieces, made, offset=len(have), sha256=digest))
        return b"".join([piece async for piece in rest])

    for length in (1, 700, len(whole) // 2, len(whole) - 1, len(whole)):
        assert whole[:length] + await rest_of(whole[:length]) == whole
    for have in (b"x" + whole[1:700], whole + b"x"):
        with pytest.raises(export.Differs):
            await rest_of(have)
    assert (await house.ask("vm.disk-grow", made, disk="disk0", size="9M")).status.state is work.TaskState.DONE
    with pytest.raises(export.Differs):
        await rest_of(whole[: len(whole) // 2])
    assert not list(house.place(made).path.glob(".export*"))


async def test_an_archive_that_is_cut_off_or_damaged_leaves_nothing(house: House, other: House, tmp_path: pathlib.Path):
    made = await house.create(**BLANK)
    path = tmp_path / "box.tar.zst"
    await house.export(made, path)
    whole = path.read_bytes()
    before = files_of(other)
    for damaged in (whole[: len(whole) // 2], whole[:-20], whole[:200] + bytes(50) + whole[250:], b"nonsense" * 100):
        path.write_bytes(damaged)
        assert (problem(await other.bring(path)) or "").startswith("archive-")
        assert (await other.resources.list(vm.VM)).items == []
        await discard(other)
        assert files_of(other) == before


async def discard(house: House) -> None:
    shelf = house.node.ground.library(await house.resources.find(ground.Storage, None, "local"))
    await shelf.intake.discard("upload-1")


async def test_what_is_there_already_is_refused_and_a_new_identity_makes_it_another(
    house: House, tmp_path: pathlib.Path
):
    made = await house.create(firmware="uefi", nics=[{"mac": "52:54:00:00:00:01"}], memory="32M", disk="1M")
    house.place(made).firmware_variables.write_bytes(b"my own boot entries")
    path = tmp_path / "box.tar.zst"
    await house.export(made, path)
    before = files_of(house)
    for params, expected in (
        ({}, "adopt-known-already"),
        ({"name": "copy"}, "adopt-known-already"),
        ({"new_identity": True}, "adopt-name-taken"),
    ):
        assert problem(await house.bring(path, **params)) == expected
        await discard(house)
        assert files_of(house) == before
    ended = await house.bring(path, name="copy", new_identity=True)
    assert ended.status.state is work.TaskState.DONE, ended.status.problem
    copy = (await house.facts(), await house.resources.find(vm.VM, "default", "copy"))[1]
    for one in (made.uid != copy.uid, made.spec.hardware.smbios.uuid != copy.spec.hardware.smbios.uuid):
        assert one
    assert copy.spec.hardware.generation_id not in (None, made.spec.hardware.generation_id)
    assert copy.spec.nics[0].mac != "52:54:00:00:00:01"
    assert copy.spec.disks[0].serial != made.spec.disks[0].serial
    assert house.place(copy).firmware_variables.read_bytes() == b"my own boot entries"


async def test_an_address_that_another_vm_has_is_refused(house: House, other: House, tmp_path: pathlib.Path):
    made = await house.create(nics=[{"mac": "52:54:00:00:00:01"}], memory="32M", disk="1M")
    await other.create("first", nics=[{"mac": "52:54:00:00:00:01"}], memory="32M", disk="1M")
    path = tmp_path / "box.tar.zst"
    await house.export(made, path)
    before = files_of(other)
    assert problem(await other.bring(path)) == "adopt-mac-taken"
    await discard(other)
    assert files_of(other) == before


async def test_an_archive_goes_to_the_storage_that_was_named(house: House, other: House, tmp_path: pathlib.Path):
    made = await house.create(**BLANK)
    path = tmp_path / "box.tar.zst"
    await house.export(made, path)
    second = await other.storage("second")
    assert (await other.bring(path, storage="second")).status.state is work.TaskState.DONE
    assert (await other.read(made)).spec.storage == second.uid
    assert (pathlib.Path(second.spec.path) / "vms" / made.uid / "vm.yaml").exists()


async def carried(house: House, made: vm.VM, to: pathlib.Path) -> pathlib.Path:
    """A VM's directory, carried away by hand."""
    await asyncio.to_thread(shutil.copytree, house.place(made).path, to)
    return to


async def adopt(house: House, *paths: pathlib.Path, **params: Any) -> work.Task:
    return await house.ask("adopt", directories=[str(path) for path in paths], **params)


def why(task: work.Task) -> str:
    assert task.status.problem is not None, task.status
    return task.status.problem.text


async def test_a_directory_of_another_host_needs_a_word_that_it_is_dead(
    house: House, other: House, tmp_path: pathlib.Path
):
    made = await house.create(**BLANK)
    brought = await carried(house, made, tmp_path / "box")
    before = files_of(other)
    refused = await adopt(other, brought)
    assert "belongs to the host" in why(refused)
    assert files_of(other) == before
    taken = await adopt(other, brought, dead=house.node.ground.uid)
    assert taken.status.state is work.TaskState.DONE, taken.status
    there = await other.read(made)
    assert (there.status.owner_generation, there.spec.power) == (2, vm.Power.STOPPED)
    assert (await other.ask("vm.start", there)).status.state is work.TaskState.DONE
    held = other.place(made).read()
    assert held.owner == vm.Owner(host=other.node.ground.uid, generation=2)


async def test_a_directory_beside_its_original_needs_an_identity_and_a_name(house: House, tmp_path: pathlib.Path):
    made = await house.create(nics=[{"network": "default"}], memory="32M", disk="1M")
    brought = await carried(house, made, tmp_path / "box")
    refusals: list[tuple[dict[str, Any], str]] = [
        ({}, "adopt-known-already"),
        ({"name": "twin"}, "adopt-known-already"),
        ({"new_identity": True}, "adopt-name-taken"),
    ]
    for params, expected in refusals:
        assert problem(await adopt(house, brought, **params)) == expected
    taken = await adopt(house, brought, new_identity=True, name="twin")
    assert taken.status.result["adopted"] == ["twin"]
    twin = await house.resources.find(vm.VM, "default", "twin")
    assert len({made.uid, twin.uid, made.spec.nics[0].mac, twin.spec.nics[0].mac}) == 4
    assert twin.spec.hardware.generation_id not in (None, made.spec.hardware.generation_id)
    for one in (made, twin):
        assert (await house.ask("vm.start", await house.read(one))).status.state is work.TaskState.DONE


async def test_of_several_directories_each_is_taken_in_or_refused_by_itself(
    house: House, other: House, tmp_path: pathlib.Path
):
    nics = [{"mac": "52:54:00:00:00:01"}]
    good, twin = [await house.create(name, **BLANK) for name in ("good", "good-too")]
    clashing = await house.create("clashing", nics=nics, memory="32M", disk="1M")
    await other.create("first", nics=nics, memory="32M", disk="1M")
    paths = [await carried(house, one, tmp_path / one.name) for one in (good, clashing, twin)]
    (tmp_path / "empty").mkdir()
    task = await adopt(other, *paths, tmp_path / "empty", dead=house.node.ground.uid)
    result = task.status.result
    assert result["adopted"] == ["good", "good-too"]
    assert [(one["path"], one["type"]) for one in result["refused"]] == [
        (str(tmp_path / "clashing"), "adopt-mac-taken"),
        (str(tmp_path / "empty"), "adopt-no-definition"),
    ]
    assert "--new-identity" in result["refused"][0]["hint"]
    refused = await adopt(other, tmp_path / "clashing", tmp_path / "empty", dead=house.node.ground.uid)
    assert problem(refused) == "adopt-nothing-taken"


async def test_a_vms_own_directory_is_never_taken_from_it(house: House):
    made = await house.create(start=True, **BLANK)
    for new_identity in (False, True):
        refused = await adopt(house, house.place(made).path, new_identity=new_identity)
        assert "is the directory of the VM box" in why(refused)
    assert house.place(made).definition.exists()


@pytest.mark.fault
async def test_a_running_vm_is_not_made_another_behind_its_back(house: House):
    made = await house.create(start=True, **BLANK)
    await house.close()
    for path in house.homes.path.glob("bocage.db*"):
        path.unlink()
    again = await House(house.homes).open()
    try:
        refused = await adopt(again, again.place(made).path, new_identity=True)
        assert "is running" in why(refused)
        assert (await again.adopt_local()).status.state is work.TaskState.DONE
        await again.becomes(made, vm.State.RUNNING)
    finally:
        await again.close()


def _replaced(old: str, new: str) -> Callable[[pathlib.Path], object]:
    def change(brought: pathlib.Path) -> object:
        text = (brought / "vm.yaml").read_text()
        assert old in text
        return (brought / "vm.yaml").write_text(text.replace(old, new))

    return change


def _disk(brought: pathlib.Path) -> pathlib.Path:
    return next((brought / "disks").iterdir())


def _img(brought: pathlib.Path, *command: str) -> None:
    """Let QEMU's own tool write the disk's header."""
    subprocess.run(["qemu-img", *command, str(_disk(brought))], cwd=brought, check=True, capture_output=True)


def _data_file(brought: pathlib.Path) -> None:
    own = _disk(brought)
    command = ["qemu-img", "create", "-f", "qcow2", "-o", f"data_file={brought}/data.raw", str(own), "1M"]
    subprocess.run(command, check=True, capture_output=True)


def _elsewhere(brought: pathlib.Path, name: str, to: str = "/etc/shadow") -> None:
    path = brought / name
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.symlink_to(to)


def _pipe(brought: pathlib.Path) -> None:
    (brought / "vm.yaml").unlink()
    os.mkfifo(brought / "vm.yaml")


TRICKS: dict[str, tuple[str, Callable[[pathlib.Path], object]]] = {
    "disk-link": ("adopt-not-a-file", lambda brought: _elsewhere(brought, f"disks/{_disk(brought).name}")),
    "disks-link": ("adopt-not-a-file", lambda brought: _elsewhere(brought, "disks", "/etc")),
    "vars-link": ("adopt-not-a-file", lambda brought: _elsewhere(brought, "firmware-vars.fd")),
    "memory-link": ("adopt-not-a-file", lambda brought: _elsewhere(brought, "saved.state")),
    "yaml-link": ("adopt-not-a-file", lambda brought: _elsewhere(brought, "vm.yaml")),
    "yaml-pipe": ("adopt-not-a-file", _pipe),
    "no-disk": ("adopt-disk-missing", lambda brought: _disk(brought).unlink()),
    "backing": (
        "qcow2-header-differs",
        lambda brought: _img(brought, "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", "/etc/shadow"),
    ),
    "data-file": ("qcow2-header-differs", _data_file),
    "half-a-disk": ("image-", lambda brought: os.truncate(_disk(brought), 50)),
    "half": ("vm-yaml-unreadable", lambda brought: os.truncate(brought / "vm.yaml", 300)),
    "huge": ("vm-yaml-unreadable", lambda brought: os.truncate(brought / "vm.yaml", 1 << 30)),
    "volume": ("adopt-inconsistent", _replaced("volumes:", "others:")),
    "up": ("vm-yaml-unreadable", _replaced("name: disk0\n", "name: ../../../../../etc/shadow\n")),
    "uid": ("vm-yaml-unreadable", _replaced("kind: VM\nmetadata:\n  uid: ", "kind: VM\nmetadata:\n  uid: ../../")),
    "format": ("vm-yaml-unreadable", _replaced("format: qcow2", "format: qcow2/../../x")),
    "not-a-number": ("vm-yaml-unreadable", _replaced("memory: 32M", "memory: .nan")),
    "no-yaml": ("adopt-no-definition", lambda brought: (brought / "vm.yaml").unlink()),
}


@pytest.mark.parametrize("trick", list(TRICKS))
async def test_a_directory_that_does_not_hold_or_leads_elsewhere_is_refused_and_changes_nothing(
    house: House, other: House, tmp_path: pathlib.Path, trick: str
):
    brought = await carried(house, await house.create(**BLANK), tmp_path / "box")
    expected, play = TRICKS[trick]
    play(brought)
    before = files_of(other)
    refused = await adopt(other, brought, dead=house.node.ground.uid)
    assert (problem(refused) or "").startswith(expected)
    assert "pydantic" not in str(refused.status.problem), "a fault is told in words of our own"
    assert (await other.resources.list(vm.VM)).items == []
    assert files_of(other) == before


@pytest.mark.guest
async def test_an_image_comes_along_with_a_directory_that_rests_on_it(
    tiny_house: House, other: House, tmp_path: pathlib.Path
):
    made = await tiny_house.create(image="tiny", memory="128M", disk="64M", nics=[])
    storage = tmp_path / "storage"
    await asyncio.to_thread(shutil.copytree, tiny_house.homes.local_storage, storage)
    taken = await adopt(other, storage / "vms" / made.uid, dead=tiny_house.node.ground.uid)
    assert taken.status.state is work.TaskState.DONE, taken.status.problem
    assert [image.name for image in (await other.resources.list(ground.Image)).items] == ["tiny"]
    assert (await other.ask("vm.start", await other.read(made))).status.state is work.TaskState.DONE
    await other.says(made, "^tiny: ready")


async def test_an_image_whose_name_is_taken_keeps_no_vm_out(tiny_house: House, tiny_image: pathlib.Path):
    made = await tiny_house.create(image="tiny", memory="32M", disk="64M", nics=[])
    await tiny_house.close()
    for path in tiny_house.homes.path.glob("bocage.db*"):
        path.unlink()
    again = await House(tiny_house.homes).open()
    try:
        storage = await again.resources.find(ground.Storage, None, "local")
        spec = {"sha256": "a" * 64, "format": "raw", "virtual_size": "1M", "storage": storage.uid}
        stranger = {"metadata": {"name": "tiny", "project": "default"}, "spec": spec}
        await again.resources.create(ground.Image.model_validate(stranger))
        assert (await again.adopt_local()).status.result["adopted"] == ["box"]
        names = {image.name for image in (await again.resources.list(ground.Image)).items}
        assert len(names) == 2
        assert (await again.ask("vm.start", await again.read(made))).status.state is work.TaskState.DONE
    finally:
        await again.close()


async def test_many_disks_fit_into_an_adoption_a_move_and_a_purge(house: House):
    made = await house.create(disks=[{"size": "1M", "bus": "scsi"}] * 31, **BLANK)
    await house.storage("other")
    moved = await house.ask("vm.move", made, storage=(await house.facts()).storage["other"].uid)
    assert moved.status.state is work.TaskState.DONE, moved.status.problem
    back = await house.ask("vm.move", made, storage=(await house.facts()).storage["local"].uid)
    assert back.status.state is work.TaskState.DONE
    await house.close()
    for path in house.homes.path.glob("bocage.db*"):
        path.unlink()
    again = await House(house.homes).open()
    try:
        assert (await again.adopt_local()).status.result["adopted"] == ["box"]
        assert len(await again.volumes()) == 32
        assert (await again.ask("vm.delete", await again.read(made), purge=True)).status.state is work.TaskState.DONE
        assert await again.volumes() == {}
    finally:
        await again.close()


async def test_what_lies_in_the_way_of_a_move_is_not_removed(house: House):
    made = await house.create(**BLANK)
    other = await house.storage("other")
    in_the_way = pathlib.Path(other.spec.path) / "vms" / made.uid / "precious"
    in_the_way.parent.mkdir()
    in_the_way.write_text("kept")
    assert problem(await house.ask("vm.move", made, storage=other.uid)) == "move-in-the-way"
    assert in_the_way.read_text() == "kept"
    assert (await house.ask("vm.start", made)).status.state is work.TaskState.DONE


async def test_a_copy_has_an_identity_of_its_own_and_the_firmware_variables_of_its_model(house: House):
    model = await house.create("model", firmware="uefi", memory="32M", disk="1M", seed={"hostname": "model"})
    house.place(model).firmware_variables.write_bytes(b"my own boot entries")
    copy, task = await house.clone(model, "copy")
    assert task.status.state is work.TaskState.DONE, task.status.problem
    copy = await house.read(copy)
    assert model.spec.hardware.smbios.uuid != copy.spec.hardware.smbios.uuid
    assert model.spec.nics[0].mac != copy.spec.nics[0].mac
    assert model.spec.disks[0].serial != copy.spec.disks[0].serial
    assert house.place(copy).firmware_variables.read_bytes() == b"my own boot entries"
    assert house.place(copy).seed.read_bytes() != house.place(model).seed.read_bytes()
    held = house.place(copy).read()
    assert (held.vm.uid, held.vm.name) == (copy.uid, "copy")
