"""Carries a whole VM that is not running to another storage."""

from __future__ import annotations

import asyncio
import pathlib
from typing import Any

from bocage import errors, files, words
from bocage.model import ground, vm
from bocage.node import carried, directory, disks, notes, tasks
from bocage.node.preparation import Preparation
from bocage.node.standing import Standing
from bocage.storage import directory as storage_directory
from bocage.storage import half_made, sparse, threads, volumes
from bocage.store import resources
from bocage.words import N_


class Error(errors.Problem):
    """A VM cannot be moved."""


class InTheWay(Error, errors.Conflict):
    type = "move-in-the-way"
    text = N_("{path} is there already, and it is not of this move")
    hint = N_("look what it holds; move it aside or remove it, then try again")
    path: str


class Moved(words.Message):
    type = "vm-moved"
    text = N_("{name} lies on storage {storage} now")
    name: str
    storage: str


async def move(standing: Standing, preparation: Preparation, machine: vm.VM, run: tasks.Run) -> dict[str, Any]:
    """Carry the directory to another storage of this host; the old one goes when the new one counts.

    It is made whole under another name, so that whatever a crash leaves is swept or carried on.
    """
    kept = standing.ground.resources
    target = await kept.get(ground.Storage, None, str(run.params["storage"]))
    if target.uid != machine.spec.storage:
        if standing.machine:
            raise disks.CopyWhileRunning(name=machine.name)
        await _carry(standing, preparation, machine, target, run)
    if (old := run.remembered.get("old")) is not None:  # also that of an attempt which ended just before this
        await asyncio.to_thread(files.remove_tree, pathlib.Path(old))
        await preparation.link(await standing.read())
    await standing.tell(machine, Moved(name=machine.name, storage=target.name))
    return {"storage": target.name}


async def _carry(
    standing: Standing, preparation: Preparation, machine: vm.VM, target: ground.Storage, run: tasks.Run
) -> None:
    root = pathlib.Path(target.spec.path)
    await asyncio.to_thread(storage_directory.open, root, target.uid)
    old, new = await preparation.place(machine), directory.Directory(root / "vms" / machine.uid)
    if await asyncio.to_thread(new.exists):
        if run.remembered.get("new") != str(new.path):
            raise InTheWay(path=str(new.path))
        await asyncio.to_thread(files.remove_tree, new.path)
    making = directory.Directory(new.path.with_name(f"{machine.uid}{half_made.SUFFIX}"))
    with preparation.disks.copied([machine]):
        try:
            await asyncio.to_thread(files.remove_tree, making.path)
            moved = await _copy(preparation, machine, target, old, making, run)
            await run.remember(old=str(old.path), new=str(new.path))
            await asyncio.to_thread(files.rename_durably, making.path, new.path)
        finally:
            await asyncio.to_thread(files.remove_tree, making.path)
        try:
            await _commit(standing, target, moved)
        except BaseException:
            if (await standing.read()).spec.storage != target.uid:
                await asyncio.to_thread(files.remove_tree, new.path)
            raise


async def _copy(
    preparation: Preparation,
    machine: vm.VM,
    target: ground.Storage,
    old: directory.Directory,
    making: directory.Directory,
    run: tasks.Run,
) -> list[tuple[ground.Volume, ground.Volume]]:
    """Fill the new directory; each volume of the VM's own, as it was and as it is there."""
    await asyncio.to_thread(making.make)
    own = [volume for volume in await preparation.disks.of(machine) if volume.spec.vm == machine.uid]
    there = [
        volume.model_copy(
            update={"spec": volume.spec.model_copy(update={"storage": target.uid, "linked": False, "image": None})}
        )
        for volume in own
    ]
    for before, after in zip(own, there, strict=True):
        run.report(notes.Copying(what=before.name))
        path = making.disks / f"{after.spec.name}.{after.spec.format}"
        layers = await preparation.disks.layers(before, before.name)
        limit = await preparation.rooms.left(target.uid)
        told = lambda done, total: run.progress(done, total)  # noqa: E731
        await volumes.convert(layers, path, image_format=after.spec.format, limit=limit, progress=told)
        if after.spec.format == "raw":
            await volumes.grow(path, image_format="raw", size=after.spec.size)
    for name in (*carried.BESIDE_DISKS, "vm.yaml.edited"):
        source = old.path / name
        if await asyncio.to_thread(source.exists):
            await threads.run_job(sparse.copy_now, None, source, making.path / name)
    await asyncio.to_thread(files.sync_tree, making.path)
    return list(zip(own, there, strict=True))


async def _commit(standing: Standing, target: ground.Storage, moved: list[tuple[ground.Volume, ground.Volume]]) -> None:
    """Let the new place count: the VM and its volumes in one transaction."""
    present = await standing.read()
    transaction = resources.Transaction()
    transaction.update(resources.bumped(present, resources.with_spec(present, storage=target.uid)))
    for before, after in moved:
        transaction.update(resources.bumped(before, after))
    await standing.ground.resources.commit(transaction)
