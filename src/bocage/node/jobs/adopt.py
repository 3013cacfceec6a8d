"""Adoption and import: VMs that come in from directories and archives."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import shutil
from typing import TYPE_CHECKING, Any

from bocage import errors, files, words
from bocage.model import base, ground, requests, vm
from bocage.node import adoption, tasks
from bocage.node.jobs import images as image_jobs
from bocage.storage import archive, half_made, images, space
from bocage.words import N_

if TYPE_CHECKING:
    from bocage.node.agent import Node


class Adopted(words.Message):
    type = "vm-adopted"
    text = N_("{name} was adopted from {path}")
    name: str
    path: str


class Imported(words.Message):
    type = "vm-imported"
    text = N_("{name} was imported")
    name: str


class NoneAdopted(adoption.Error, errors.Conflict):
    """Nothing was taken in; `reasons` says why, directory by directory."""

    type = "adopt-nothing-taken"
    text = N_("nothing was adopted: {reasons}")
    reasons: list[str]


async def adopt(node: Node, run: tasks.Run) -> dict[str, Any]:
    """Take in directories, or all that a storage has; one that is refused keeps no other out."""
    asked = requests.Adopt.model_validate({**run.params, "storage": None})
    terms = adoption.Terms(dead=asked.dead, new_identity=asked.new_identity)
    storages = (await node.ground.resources.list(ground.Storage)).items
    wanted: list[tuple[ground.Storage, pathlib.Path]] = []
    for storage in storages:
        if storage.uid == run.params.get("storage"):
            await adoption.take_images(node, storage)
            wanted += [(storage, path) for path in await adoption.unknown_directories(node, storage)]
    for path in map(pathlib.Path, asked.directories):
        wanted.append(await _brought_in(node, storages, path))
    machines: list[vm.VM] = []
    refused: list[dict[str, Any]] = []
    for done, (storage, path) in enumerate(wanted):
        run.progress(done, len(wanted), "steps")
        try:
            machine = await adoption.take(node, storage, path, terms)
        except (errors.Problem, OSError) as error:
            problem = error if isinstance(error, errors.Problem) else tasks.from_os(error)
            refused.append({"path": str(path), "type": problem.type, "text": words.say(problem)})
            run.report(problem)
            continue
        machines.append(machine)
        await node.ground.events.record(Adopted(name=machine.name, path=str(path)), subject=machine.ref)
    if refused and not machines:
        raise NoneAdopted(reasons=[one["text"] for one in refused])
    return adoption.result(machines, refused)


async def import_(node: Node, run: tasks.Run) -> dict[str, Any]:
    """Unpack an uploaded archive beside the other VMs, and take it in."""
    storage = await node.ground.resources.get(ground.Storage, None, run.params["storage"])
    root = pathlib.Path(storage.spec.path)
    uploaded = node.library(storage).intake.path(run.params["upload"])
    landing = root / "vms" / f"import-{run.uid}{half_made.SUFFIX}"
    await asyncio.to_thread(files.remove_tree, landing)
    try:
        await archive.unpack(
            uploaded,
            landing,
            limit_bytes=space.free(root),
            progress=lambda done, total: run.progress(done, total),
        )
        await _shelve_images(node, storage, landing)
        terms = adoption.Terms(name=run.params.get("name"), new_identity=bool(run.params.get("new_identity")))
        machine = await adoption.take(node, storage, landing, terms)
    finally:
        await asyncio.to_thread(files.remove_tree, landing)
    await node.library(storage).intake.discard(run.params["upload"])
    await node.ground.events.record(Imported(name=machine.name), subject=machine.ref)
    return {"vm": machine.name, "uid": machine.uid}


async def _shelve_images(node: Node, storage: ground.Storage, landing: pathlib.Path) -> None:
    """Images that an archive brought along go to the library, where the links lead."""
    brought = landing / "images"
    if not await asyncio.to_thread(brought.is_dir):
        return
    for path in await asyncio.to_thread(lambda: sorted(brought.iterdir())):
        name = f"image-{path.stem[:12]}"
        wanted = images.Wanted(
            file_name=path.name,
            origin="import",
            format=path.suffix.removeprefix("."),
            sha256=path.stem,
            names={f"default/{name}": base.new_uid()},
        )
        taken = await node.library(storage).add(path, wanted)
        await image_jobs.register(node, "default", name, taken, storage.uid, "import")
    await asyncio.to_thread(files.remove_tree, brought)


async def _brought_in(
    node: Node, storages: list[ground.Storage], path: pathlib.Path
) -> tuple[ground.Storage, pathlib.Path]:
    """The storage that a directory lies in; one that lies elsewhere is copied into `local` first."""
    resolved = await asyncio.to_thread(path.resolve)
    for storage in storages:
        if resolved.parent == pathlib.Path(storage.spec.path).resolve() / "vms":  # noqa: ASYNC240 - no disk is read
            return storage, resolved
    if not await asyncio.to_thread((resolved / "vm.yaml").is_file):
        raise adoption.NoDefinition(path=str(path))
    local = next(storage for storage in storages if storage.name == "local")
    copy = pathlib.Path(local.spec.path) / "vms" / base.new_uid()

    def copy_in() -> None:
        with contextlib.ExitStack() as undo:
            beside = copy.with_name(copy.name + half_made.SUFFIX)
            undo.callback(files.remove_tree, beside)
            shutil.copytree(resolved, beside, symlinks=True)
            files.rename_durably(beside, copy)

    with space.told_when_full(copy.parent):
        await asyncio.to_thread(copy_in)
    return local, copy
