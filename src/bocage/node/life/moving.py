"""Carries a whole VM that is not running to another storage."""

from __future__ import annotations

import asyncio
import pathlib
from typing import Any

from bocage import errors, files, words
from bocage.model import ground, vm
from bocage.node import notes, tasks
from bocage.node.carrying import carried, shelving
from bocage.node.ground import Ground
from bocage.node.life.standing import Standing
from bocage.node.place import directory, disks
from bocage.node.place.preparation import Preparation
from bocage.planner import layers as tree
from bocage.storage import directory as storage_directory
from bocage.storage import half_made, qcow2, sparse, threads, volumes
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
            moved, images = await _copy(standing.ground, preparation, machine, target, old, making, run)
            await run.remember(old=str(old.path), new=str(new.path))
            await asyncio.to_thread(files.rename_durably, making.path, new.path)
        finally:
            await asyncio.to_thread(files.remove_tree, making.path)
        try:
            await _commit(standing, target, moved, images)
        except BaseException:
            if (await standing.read()).spec.storage != target.uid:
                await asyncio.to_thread(files.remove_tree, new.path)
            raise


async def _copy(
    host: Ground,
    preparation: Preparation,
    machine: vm.VM,
    target: ground.Storage,
    old: directory.Directory,
    making: directory.Directory,
    run: tasks.Run,
) -> tuple[list[ground.Volume], dict[str, ground.Image]]:
    """Fill the new directory; the volumes of the VM's own, and the images there that they rest on."""
    await asyncio.to_thread(making.make)
    own = [volume for volume in await preparation.disks.of(machine) if volume.spec.vm == machine.uid]
    images: dict[str, ground.Image] = {}
    for volume in own:
        path = making.disks / volume.spec.file_name
        layers = await preparation.disks.layers(volume, volume.name)
        told = lambda done, total: run.progress(done, total)  # noqa: E731
        if volume.spec.linked and volume.spec.image not in images:
            image = await _bring_image(host, preparation, volume, layers[-1].path, target, run)
            images[image.spec.sha256] = image
        run.report(notes.Copying(what=volume.name))
        if volume.spec.linked or volume.spec.layers:
            for name in tree.every(volume.spec):
                source = layers[0].path.with_name(name)
                allocated = await asyncio.to_thread(files.allocated, source)
                await preparation.rooms.check_growth(target.uid, now=allocated)
                await threads.run_job(sparse.copy_now, told, source, path.with_name(name))
            if volume.spec.linked:
                first = tree.chain(volume.spec)[-1]
                await _lead_to_image(preparation, volume, layers[-1].path, path.with_name(first), target)
            continue
        limit = await preparation.rooms.left(target.uid)
        await volumes.convert(layers, path, image_format=volume.spec.format, limit=limit, progress=told)
        if volume.spec.format == "raw":
            await volumes.grow(path, image_format="raw", size=volume.spec.size)
    for name in (*carried.BESIDE_DISKS, "vm.yaml.edited", *carried.of_snapshots(await preparation.snapshots(machine))):
        source = old.path / name
        if await asyncio.to_thread(source.exists):
            await asyncio.to_thread((making.path / name).parent.mkdir, mode=0o700, exist_ok=True)
            await threads.run_job(sparse.copy_now, None, source, making.path / name)
    await asyncio.to_thread(files.sync_tree, making.path)
    return own, images


async def _bring_image(
    host: Ground,
    preparation: Preparation,
    volume: ground.Volume,
    file: pathlib.Path,
    target: ground.Storage,
    run: tasks.Run,
) -> ground.Image:
    """The image that a disk is linked to, on the other storage; it is copied there when it is not there yet."""
    assert volume.spec.image
    if await preparation.disks.image_file(target.uid, volume.spec.image) is None:
        await preparation.rooms.check_growth(target.uid, now=await asyncio.to_thread(files.allocated, file))
    source = await host.resources.get(ground.Storage, None, volume.spec.storage)
    run.report(notes.Copying(what=f"image {volume.spec.image[:12]}"))
    told = lambda done, total: run.progress(done, total)  # noqa: E731
    return await shelving.bring(host, source, target, volume.spec.image, told)


async def _lead_to_image(
    preparation: Preparation, volume: ground.Volume, old: pathlib.Path, path: pathlib.Path, target: ground.Storage
) -> None:
    """The image lies at the same place there, but may be stored in another format."""
    assert volume.spec.image
    image = await preparation.disks.image_file(target.uid, volume.spec.image)
    if image is not None and image.name != old.name:
        backing_format = image.suffix.removeprefix(".")
        await qcow2.rebase(path, backing_relative=disks.relative(image, path), backing_format=backing_format)


async def _commit(
    standing: Standing, target: ground.Storage, moved: list[ground.Volume], images: dict[str, ground.Image]
) -> None:
    """Let the new place count: the VM and its volumes in one transaction.

    The images are written as they are: one that was deleted meanwhile fails the move, and cannot be deleted after it.
    """
    kept, present = standing.ground.resources, await standing.read()
    transaction = resources.Transaction()
    transaction.update(resources.bumped(present, resources.with_spec(present, storage=target.uid)))
    for volume in moved:
        transaction.update(resources.bumped(volume, resources.with_spec(volume, storage=target.uid)))
    for image in images.values():
        transaction.update(await kept.get(ground.Image, image.metadata.project, image.uid))
    await kept.commit(transaction)
