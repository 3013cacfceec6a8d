"""Operations that copy a whole VM that is not running: clone it, move it to another storage."""

from __future__ import annotations

import asyncio
import pathlib
import shutil
from typing import Any

from bocage import errors, files, words
from bocage.model import ground, vm
from bocage.node import directory, notes, tasks
from bocage.node.preparation import Preparation
from bocage.node.standing import Standing
from bocage.planner import definition
from bocage.storage import half_made, volumes
from bocage.store import resources
from bocage.words import N_


class Error(errors.Problem):
    """A VM cannot be copied."""


class WhileRunning(Error, errors.Conflict):
    type = "copy-while-running"
    text = N_("{name} is running: its disks change while they would be copied")
    hint = N_("'bocage vm stop {name}' first")
    name: str


class Moved(words.Message):
    type = "vm-moved"
    text = N_("{name} lies on storage {storage} now")
    name: str
    storage: str


class Cloned(words.Message):
    type = "vm-cloned"
    text = N_("{name} is a copy of {source}")
    name: str
    source: str


async def clone(standing: Standing, preparation: Preparation, machine: vm.VM, run: tasks.Run) -> dict[str, Any]:
    """Make a full copy with an identity of its own; its resources appear when its files are whole."""
    if standing.machine:
        raise WhileRunning(name=machine.name)
    kept = standing.ground.resources
    present = await preparation.volumes_of(machine)
    macs = {nic.mac for other in (await kept.list(vm.VM, trash=True)).items for nic in other.spec.nics}
    made, copies = definition.clone(
        machine,
        {volume.uid: volume for volume in present},
        name=str(run.params["name"]),
        start=bool(run.params.get("start")),
        uid=str(run.params["uid"]),
        macs=macs,
    )
    place = directory.Directory((await preparation.place(machine)).path.parent / made.vm.uid)
    await asyncio.to_thread(files.remove_tree, place.path)
    try:
        await asyncio.to_thread(place.make)
        sources = {volume.uid: volume for volume in present}
        for volume in made.volumes:
            await _copy(preparation, sources[copies[volume.uid]], volume, run)
        old = await preparation.place(machine)
        await asyncio.to_thread(_copy_plain, old.firmware_variables, place.firmware_variables)
        ready = [volume.model_copy(update={"status": ground.VolumeStatus(state="ready")}) for volume in made.volumes]
        await kept.create(made.vm, *ready)
    except BaseException:
        await asyncio.to_thread(files.remove_tree, place.path)
        raise
    await standing.tell(made.vm, Cloned(name=made.vm.name, source=machine.name))
    return {"vm": made.vm.name, "uid": made.vm.uid}


async def move(standing: Standing, preparation: Preparation, machine: vm.VM, run: tasks.Run) -> dict[str, Any]:
    """Carry the directory to another storage of this host; the old one goes when the new one counts."""
    if standing.machine:
        raise WhileRunning(name=machine.name)
    kept = standing.ground.resources
    target = await kept.get(ground.Storage, None, str(run.params["storage"]))
    if target.uid == machine.spec.storage:
        return {"storage": target.name}
    old = await preparation.place(machine)
    new = directory.Directory(pathlib.Path(target.spec.path) / "vms" / machine.uid)
    await asyncio.to_thread(files.remove_tree, new.path)
    moved: list[ground.Volume] = []
    try:
        await asyncio.to_thread(new.make)
        for volume in await preparation.volumes_of(machine):
            if volume.spec.vm != machine.uid:
                moved.append(volume)
                continue
            there = volume.model_copy(
                update={"spec": volume.spec.model_copy(update={"storage": target.uid, "linked": False, "image": None})}
            )
            await _copy(preparation, volume, there, run)
            moved.append(resources.bumped(volume, there))
        for name in ("firmware-vars.fd", "seed.iso", "saved.state", "serial.log", "qemu.log", "vm.yaml"):
            await asyncio.to_thread(_copy_plain, old.path / name, new.path / name)
        transaction = resources.Transaction()
        present = await standing.read()
        transaction.update(resources.bumped(present, resources.with_spec(present, storage=target.uid)))
        for volume in moved:
            if volume.spec.vm == machine.uid:
                transaction.update(volume)
        await kept.commit(transaction)
    except BaseException:
        await asyncio.to_thread(files.remove_tree, new.path)
        raise
    standing.defined = (0, 0)
    await asyncio.to_thread(files.remove_tree, old.path)
    await standing.tell(machine, Moved(name=machine.name, storage=target.name))
    return {"storage": target.name}


async def _copy(preparation: Preparation, source: ground.Volume, copy: ground.Volume, run: tasks.Run) -> None:
    path = await preparation.volume_path(copy)
    run.report(notes.Copying(what=source.name))
    await volumes.convert(
        await preparation.layers(source, source.name),
        path,
        image_format=copy.spec.format,
        progress=lambda done, total: run.progress(done, total),
    )


def _copy_plain(source: pathlib.Path, destination: pathlib.Path) -> None:
    """Copy a small file whole; nothing when it is not there."""
    if not source.exists():
        return
    beside = destination.with_name(f".{destination.name}{half_made.SUFFIX}")
    shutil.copy2(source, beside)
    files.rename_durably(beside, destination)
