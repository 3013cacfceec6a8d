"""VMs that come in whole: adopted from their directories, or imported from an archive."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
from collections.abc import AsyncIterator
from typing import Any

from bocage import errors, files, threads, words
from bocage.model import ground, requests, vm
from bocage.node import tasks
from bocage.node.carrying import adoption, carried, settling, shelving
from bocage.node.place import directory
from bocage.node.shop import Shop
from bocage.planner import layers
from bocage.storage import archive, half_made, sparse
from bocage.words import N_


class Adopted(words.Message):
    type = "vm-adopted"
    text = N_("{name} was adopted from {path}")
    name: str
    path: str


class Imported(words.Message):
    type = "vm-imported"
    text = N_("{name} was imported")
    name: str


class NoneAdopted(settling.Error, errors.Conflict):
    """None of several directories was taken in; `reasons` says why, one by one."""

    type = "adopt-nothing-taken"
    text = N_("nothing was adopted: {reasons}")
    hint = N_("'bocage adopt DIR', with one of them alone, says what helps")
    reasons: list[str]


async def adopt(shop: Shop, run: tasks.Run) -> dict[str, Any]:
    """Take in directories, or all that a storage has; one that is refused keeps no other out."""
    asked = requests.Adopt.model_validate({**run.params, "storage": None})
    terms = settling.Terms(dead=asked.dead, new_identity=asked.new_identity, name=asked.name, networks=asked.networks)
    storages = (await shop.ground.resources.list(ground.Storage)).items
    wanted: list[pathlib.Path] = list(map(pathlib.Path, asked.directories))
    for storage in storages:
        if storage.uid == run.params.get("storage"):
            await shelving.take_images(shop, storage)
            wanted = [*await adoption.unknown_directories(shop, storage), *wanted]
    refused: list[tuple[pathlib.Path, errors.Problem]] = []
    for done, path in enumerate(wanted):
        run.progress(done, len(wanted), "steps")
        try:
            await _adopt_one(shop, run, storages, await asyncio.to_thread(path.resolve), terms)
        except (errors.Problem, OSError) as error:
            refused.append((path, error if isinstance(error, errors.Problem) else tasks.from_os(error)))
            run.report(refused[-1][1])
    adopted = list(run.remembered.get("adopted", []))
    if refused and not adopted:
        raise refused[0][1] if len(refused) == 1 else NoneAdopted(reasons=[words.say(one) for _, one in refused])
    return {"adopted": adopted, "refused": [_refusal(path, problem) for path, problem in refused]}


def _refusal(path: pathlib.Path, problem: errors.Problem) -> dict[str, str]:
    return {"path": str(path), "type": problem.type, "text": words.say(problem), "hint": words.advise(problem)}


async def _adopt_one(
    shop: Shop, run: tasks.Run, storages: list[ground.Storage], path: pathlib.Path, terms: settling.Terms
) -> None:
    """Take in one directory. What was begun before the daemon ended is found under the uid that was noted then."""
    if path.name.endswith(half_made.SUFFIX):
        raise adoption.HalfMade(path=str(path))
    noted: dict[str, str] = dict(run.remembered.get("uids", {}))
    storage = await asyncio.to_thread(_lies_in, path, storages)
    target = storage or next(one for one in storages if one.name == "local")
    if (uid := noted.get(str(path))) is not None:
        landed = pathlib.Path(target.spec.path) / "vms" / uid
        if await adoption.is_known(shop, uid):
            return await _count(shop, run, uid, path)
        if landed != path and await asyncio.to_thread(landed.is_dir):
            path = landed
    found = await adoption.examine(shop, target, path, terms, uid=uid)
    if noted.get(str(path)) != found.vm.uid:
        await run.remember(uids={**noted, str(path): found.vm.uid})
    async with _placed(shop, target, found, run, moved=storage is not None):
        await adoption.enter(shop, found)
    return await _count(shop, run, found.vm.uid, path)


def _lies_in(path: pathlib.Path, storages: list[ground.Storage]) -> ground.Storage | None:
    return next((one for one in storages if path.parent == pathlib.Path(one.spec.path).resolve() / "vms"), None)


async def _count(shop: Shop, run: tasks.Run, uid: str, path: pathlib.Path) -> None:
    machine = await shop.ground.resources.get(vm.VM, settling.PROJECT, uid)
    adopted = list(run.remembered.get("adopted", []))
    if machine.name not in adopted:
        await run.remember(adopted=[*adopted, machine.name])
        await shop.ground.events.record(Adopted(name=machine.name, path=str(path)), subject=machine.ref)


@contextlib.asynccontextmanager
async def _placed(
    shop: Shop, storage: ground.Storage, found: adoption.Candidate, run: tasks.Run, *, moved: bool
) -> AsyncIterator[None]:
    """Give a directory its place, `vms/UID`, by moving or copying it; when what is done inside fails, it goes back."""
    place = pathlib.Path(storage.spec.path) / "vms" / found.vm.uid
    if found.path == place:
        yield
        return
    await _bring_images(shop, storage, found)
    if moved:
        await asyncio.to_thread(files.rename_durably, found.path, place)
    else:
        await _copy(shop, storage, found, place, run)
    try:
        yield
    except BaseException:
        if moved:
            await asyncio.to_thread(files.rename_durably, place, found.path)
        else:
            await asyncio.to_thread(files.remove_tree, place)
        raise


async def _copy(
    shop: Shop, storage: ground.Storage, found: adoption.Candidate, place: pathlib.Path, run: tasks.Run
) -> None:
    """Copy what belongs to a VM, and only files: a link could lead anywhere."""
    own = [one for one in found.volumes if one.spec.vm == found.vm.uid]
    names = [f"disks/{layer}" for one in own for layer in layers.every(one.spec)]
    beside_disks = (*carried.BESIDE_DISKS, *carried.of_snapshots(found.snapshots))
    names += [name for name in beside_disks if await asyncio.to_thread((found.path / name).is_file)]
    taken = await asyncio.to_thread(lambda: sum(files.allocated(found.path / name) for name in names))
    await shop.preparation.rooms.check_growth(storage.uid, now=taken)
    beside = place.with_name(f"{place.name}{half_made.SUFFIX}")
    await asyncio.to_thread(files.remove_tree, beside)
    try:
        await asyncio.to_thread(directory.Directory(beside).make)
        for name in names:
            await asyncio.to_thread((beside / name).parent.mkdir, mode=0o700, exist_ok=True)
            told = lambda done, total: run.progress(done, total)  # noqa: E731
            await threads.run_job(sparse.copy_now, told, found.path / name, beside / name)
        await asyncio.to_thread(files.sync_tree, beside)
        await asyncio.to_thread(files.rename_durably, beside, place)
    finally:
        await asyncio.to_thread(files.remove_tree, beside)


async def _bring_images(shop: Shop, storage: ground.Storage, found: adoption.Candidate) -> None:
    """The images that its disks are linked to come along, checked, under the names that they had."""
    for digest in {one.spec.image for one in found.volumes if one.spec.linked and one.spec.image}:
        if await shop.preparation.disks.image_file(storage.uid, digest) is None:
            path = await asyncio.to_thread(shelving.beside, found.path, digest)
            assert path is not None
            await shelving.shelve(shop, storage, path, found.names.get(digest))


async def import_(shop: Shop, run: tasks.Run) -> dict[str, Any]:
    """Unpack an uploaded archive beside the other VMs, and take it in."""
    storage = await shop.ground.resources.get(ground.Storage, None, run.params["storage"])
    vms = pathlib.Path(storage.spec.path) / "vms"
    intake, upload = shop.ground.library(storage).intake, str(run.params["upload"])
    uid = run.remembered.get("uid")
    if uid is not None and await adoption.is_known(shop, uid):  # all but the end was done before the daemon ended
        return await _imported(shop, run, uid)
    landing = vms / f"import-{run.uid}{half_made.SUFFIX}"
    await asyncio.to_thread(files.remove_tree, landing)
    try:
        source = landing
        if uid is not None and await asyncio.to_thread((vms / uid).is_dir):
            source = vms / uid
        else:
            limit = await shop.preparation.rooms.left(storage.uid)
            told = lambda done, total: run.progress(done, total)  # noqa: E731
            await archive.unpack(intake.path(upload), landing, limit_bytes=limit, progress=told)
            await _shelve_images(shop, storage, landing)
        terms = settling.Terms(
            name=run.params.get("name"),
            new_identity=bool(run.params.get("new_identity")),
            networks=run.params.get("networks") or {},
        )
        found = await adoption.examine(shop, storage, source, terms, uid=uid)
        await run.remember(uid=found.vm.uid)
        async with _placed(shop, storage, found, run, moved=True):
            await adoption.enter(shop, found)
    finally:
        await asyncio.to_thread(files.remove_tree, landing)
    return await _imported(shop, run, found.vm.uid)


async def _imported(shop: Shop, run: tasks.Run, uid: str) -> dict[str, Any]:
    storage = await shop.ground.resources.get(ground.Storage, None, run.params["storage"])
    await shop.ground.library(storage).intake.discard(str(run.params["upload"]))
    machine = await shop.ground.resources.get(vm.VM, settling.PROJECT, uid)
    await shop.ground.events.record(Imported(name=machine.name), subject=machine.ref)
    return {"vm": machine.name, "uid": machine.uid}


async def _shelve_images(shop: Shop, storage: ground.Storage, landing: pathlib.Path) -> None:
    """Images that an archive brought along go to the library, where the links lead."""
    brought = landing / "images"
    if not await asyncio.to_thread(brought.is_dir):
        return
    held = await asyncio.to_thread(directory.Directory(landing).read)
    for path in await asyncio.to_thread(lambda: sorted(brought.iterdir())):
        if await shop.preparation.disks.image_file(storage.uid, path.stem) is None:
            await shelving.shelve(shop, storage, path, held.names.get(path.stem))
    await asyncio.to_thread(files.remove_tree, brought)
