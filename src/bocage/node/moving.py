"""Carries a whole VM that is not running to another storage."""

from __future__ import annotations

import asyncio
import pathlib
import shutil
from typing import Any

from bocage import errors, files, words
from bocage.model import ground, vm
from bocage.node import directory, notes, tasks
from bocage.node import preparation as preparing
from bocage.node.preparation import Preparation
from bocage.node.standing import Standing
from bocage.storage import half_made, volumes
from bocage.store import resources
from bocage.words import N_


class Error(errors.Problem):
    """A VM cannot be moved."""


class Moved(words.Message):
    type = "vm-moved"
    text = N_("{name} lies on storage {storage} now")
    name: str
    storage: str


async def move(standing: Standing, preparation: Preparation, machine: vm.VM, run: tasks.Run) -> dict[str, Any]:
    """Carry the directory to another storage of this host; the old one goes when the new one counts."""
    if standing.machine:
        raise preparing.CopyWhileRunning(name=machine.name)
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
