"""Storage of this host, or of several: prepared, looked at and let go. Letting go removes no file."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import time
from typing import Any

from bocage import errors, files, reach, words
from bocage.model import base, ground, keys, vm, work
from bocage.node import rights, tasks
from bocage.node.life.crew import Crew
from bocage.node.place import slicing
from bocage.node.shop import Shop
from bocage.planner import layers, usage
from bocage.storage import directory, filesystems, mirror, slices
from bocage.store import contract, resources
from bocage.words import N_

_ON_STORAGE = frozenset({vm.VM.kind, ground.Volume.kind, ground.Image.kind, ground.Storage.kind})
_AGAIN = 1.0  # seconds before it is seen again whether this host may write
_UPLOADS_KEPT = 7 * 86_400.0  # seconds
_TURN = 120  # seconds for which one of those that reach a storage tells how full it is
_WALK_BUSY, _WALK_IDLE = 8, 40  # rounds between two walks through all files: two minutes, ten minutes


class Error(errors.Problem):
    """Anything that goes wrong with storage on this host."""


class MakingFileSystem(words.Message):
    type = "step-making-file-system"
    text = N_("making a file system on {disks}")
    disks: list[str]


async def create(shop: Shop, run: tasks.Run) -> dict[str, Any]:
    """Prepare the directory; when that cannot be done the resource goes again and the task says why.

    A directory that was a storage before the database was lost is that storage again, under its old uid: the VMs in
    it name it by that.
    """
    try:
        storage = await _subject(shop, run)
    except resources.Missing:
        storage = await _taken_over(shop, run)
    try:
        storage = await _known_of_old(shop, storage)
        if storage.spec.disks:
            await _make_file_system(storage, run)
        await prepare(shop, storage)
    except contract.NO_ANSWER:
        raise
    except (errors.Problem, OSError):
        if storage.spec.lun:  # what was begun there would be another storage's for whoever tries again
            with contextlib.suppress(errors.Problem, OSError):
                await shop.preparation.disks.slicing.let_go(storage)
        await shop.ground.resources.delete(await shop.ground.resources.get(ground.Storage, None, storage.uid))
        raise
    return {"storage": storage.name}


async def _make_file_system(storage: ground.Storage, run: tasks.Run) -> None:
    async def begin() -> None:
        await run.remember(emptied=True)
        run.report(MakingFileSystem(disks=list(storage.spec.disks)))

    await filesystems.make(
        pathlib.Path(storage.spec.path),
        storage.uid,
        storage.spec.disks,
        begun=bool(run.remembered.get("emptied")),
        begin=begin,
    )


async def _known_of_old(shop: Shop, storage: ground.Storage) -> ground.Storage:
    """The storage with the uid that its directory bears, when no other storage here has that."""
    try:
        uid = await asyncio.to_thread(directory.uid_at, pathlib.Path(storage.spec.path))
    except directory.Gone:
        return storage
    kept = shop.ground.resources
    if uid in {one.uid for one in (await kept.list(ground.Storage)).items}:
        return storage
    old = storage.model_copy(update={"metadata": storage.metadata.model_copy(update={"uid": uid, "revision": 0})})
    transaction = resources.Transaction()
    transaction.create(old)
    present = await kept.get(ground.Storage, None, storage.uid)
    transaction.compare |= {keys.spec(ground.Storage.kind, None, storage.uid): present.metadata.revision}
    transaction.deletes += [part(ground.Storage.kind, None, storage.uid) for part in (keys.spec, keys.status)]
    transaction.compare.pop(keys.name(ground.Storage.kind, None, storage.name))  # it has the name, and keeps it
    await kept.commit(transaction)
    return await kept.get(ground.Storage, None, uid)


async def _taken_over(shop: Shop, run: tasks.Run) -> ground.Storage:
    """The storage that an earlier attempt made of the subject."""
    assert run.task.spec.subject
    return await shop.ground.resources.find(ground.Storage, None, run.task.spec.subject.name)


async def repair(shop: Shop, run: tasks.Run) -> dict[str, Any]:
    """Put a disk into a mirror that lacks one; that it is being filled, and how far, is in the storage's status."""
    storage, disk = await _subject(shop, run), str(run.params["disk"])
    root = pathlib.Path(storage.spec.path)
    found = await asyncio.to_thread(mirror.look, root) if len(storage.spec.disks) > 1 else None
    if found is None:
        raise mirror.NoMirror(name=storage.name)
    begun = bool(run.remembered.get("begun"))
    if found.working == found.disks and not begun:
        raise mirror.Whole(name=storage.name, disks=" and ".join(found.members))
    if await _leads_to(disk) not in found.members:
        await run.remember(begun=True)
        await mirror.put_in(storage.uid, disk)
    stay = [one for one in storage.spec.disks if one != disk and await _leads_to(one) in found.members]
    disks = (*stay[: found.disks - 1], disk)
    await shop.ground.resources.change(
        ground.Storage, None, storage.uid, lambda one: resources.with_spec(one, disks=disks)
    )
    await measure(shop, await _subject(shop, run))
    return {"storage": storage.name, "disk": disk}


async def _leads_to(disk: str) -> str:
    """The device that a name of a disk stands for."""
    return await asyncio.to_thread(os.path.realpath, disk)


async def delete(shop: Shop, run: tasks.Run) -> None:
    """Forget a storage that holds nothing of ours."""
    try:
        storage = await _subject(shop, run)
    except resources.Missing:
        return
    async with shop.storages[storage.uid]:
        await _delete(shop, storage)


async def _delete(shop: Shop, storage: ground.Storage) -> None:
    held: list[str] = []
    for kind in (vm.VM, ground.Volume, ground.Image):
        listing = await shop.ground.resources.list(kind, trash=True)
        held += [f"{one.kind} {one.name}" for one in listing.items if one.spec.storage == storage.uid]
    for task in (await shop.ground.resources.list(work.Task)).items:
        if not task.status.state.ended and _uses(task, storage):
            held.append(f"task {task.spec.action} {task.spec.subject.name if task.spec.subject else ''}".rstrip())
    if held:
        raise usage.StorageInUse(name=storage.name, users=sorted(held)[:10])
    if storage.spec.disks:
        await filesystems.let_go(pathlib.Path(storage.spec.path), storage.uid, storage.spec.disks)
    if storage.spec.lun:
        await shop.preparation.disks.slicing.let_go(storage)
    await shop.ground.resources.delete(await shop.ground.resources.get(ground.Storage, None, storage.uid))
    shop.ground.forget_storage(storage.uid)


def _uses(task: work.Task, storage: ground.Storage) -> bool:
    """Whether a task that stands open puts something there, or has not yet removed what it moved from there."""
    old = task.status.result.get("old")
    there = isinstance(old, str) and pathlib.PurePath(old).is_relative_to(storage.spec.path)
    return there or task.spec.params.get("storage") == storage.uid


async def prepare(shop: Shop, storage: ground.Storage) -> None:
    """Make a new storage in its directory, and measure it. Raises directory.Gone when its disks are not mounted."""
    if storage.spec.disks and not await asyncio.to_thread(os.path.ismount, storage.spec.path):
        raise directory.Gone(path=storage.spec.path)
    if storage.spec.lun:
        await shop.preparation.disks.slicing.take(storage)
    host = shop.ground.opens_as(storage)
    place = await asyncio.to_thread(directory.create, pathlib.Path(storage.spec.path), storage.uid, host)
    await asyncio.to_thread(place.library.intake.sweep, _UPLOADS_KEPT)  # which notes the boot that uploads belong to
    await measure(shop, storage)


async def reopen(shop: Shop, storage: ground.Storage) -> None:
    """Open a storage that was made before, sweep what a crash left half made, and measure it.

    One whose marker is not there is unavailable, never made anew: its file system may not be mounted.
    Called while nothing can be made there by this host: at the daemon's start, and while its disks are not mounted;
    what is being made looks like what a crash left.
    """
    root = pathlib.Path(storage.spec.path)
    with contextlib.suppress(errors.Problem):
        if storage.spec.disks:
            await filesystems.mount(root, storage.uid, storage.spec.disks)
        if storage.spec.lun:
            await shop.preparation.disks.slicing.open(storage)
            await _forget_strangers(shop, storage)
        place = await reach.Way(root).call(directory.open, root, storage.uid, shop.ground.opens_as(storage))
        await asyncio.to_thread(place.sweep)
    await measure(shop, storage)


async def reopen_shared(shop: Shop) -> None:
    """The same of those of several hosts, each as soon as this one may write to it. Can be cut off and done again."""
    for storage in (await shop.ground.resources.list(ground.Storage)).items:
        while storage.shared and storage.status.state != "pending":
            with contextlib.suppress(rights.Waits):
                async with shop.ground.rights.work(storage.uid):
                    await reopen(shop, storage)
                break
            await asyncio.sleep(_AGAIN)


async def measure(shop: Shop, storage: ground.Storage, *, whole: bool = True) -> None:
    """Write how full a storage is; one that is not there is unavailable, and says why.

    What its files take is found by walking through all of them, with `whole`; else as it was found last.
    Of a storage that several reach each host writes how it finds it, and one of them at a time all the rest.
    """
    if storage.shared:
        await _measure_shared(shop, storage, whole=whole)
        return
    status = await _measured(shop, storage, whole=whole)
    await shop.ground.resources.change_status(ground.Storage, None, storage.uid, lambda _: status)


async def _measure_shared(shop: Shop, storage: ground.Storage, *, whole: bool) -> None:
    host, hosts = shop.ground.uid, {one.uid for one in (await shop.ground.resources.list(ground.Host)).items}
    mine = _is_turn_of(host, storage)
    found = await _measured(shop, storage, whole=whole and mine)

    def told(present: ground.Storage) -> ground.StorageStatus:
        before = present.status
        reach = ground.Reach(state="ready" if found.state == "ready" else "unavailable", reason=found.reason)
        every = {**{uid: one for uid, one in before.hosts.items() if uid in hosts}, host: reach}
        if found.state == "ready":
            decided = {"slices": before.slices, "map_generation": before.map_generation}
            now = (found if mine else before).model_copy(update=decided)
            return now.model_copy(update={"state": "ready", "reason": None, "hosts": every})
        if any(one.state == "ready" for one in every.values()):
            return before.model_copy(update={"hosts": every})
        return before.model_copy(update={"state": "unavailable", "reason": found.reason, "hosts": every})

    await shop.ground.resources.change_status(ground.Storage, None, storage.uid, told)


def _is_turn_of(host: str, storage: ground.Storage) -> bool:
    """Whether it is this host that tells of a storage what all see alike. Nobody has to know who is alive for it."""
    others = sorted(uid for uid, one in storage.status.hosts.items() if one.state == "ready")
    return not storage.status.total_bytes or not others or others[int(time.time()) // _TURN % len(others)] == host


async def _measured_lun(shop: Shop, storage: ground.Storage, *, whole: bool) -> ground.StorageStatus:
    """How this host finds a LUN, whose map it mends where that tells of an older state."""
    luns, before = shop.preparation.disks.slicing, storage.status
    try:
        total = await luns.open(storage)
        if whole and _is_turn_of(shop.ground.uid, storage):
            with contextlib.suppress(rights.Waits):  # while this host has no life it writes nothing there
                async with shop.ground.rights.work(storage.uid):
                    await luns.mend(storage)
    except (errors.Problem, OSError) as error:
        problem = error if isinstance(error, errors.Problem) else tasks.from_os(error)
        return before.model_copy(update={"state": "unavailable", "reason": base.Saying.of(problem)})
    taken = sum(one.size for one in before.slices.values())
    sizes = {"total_bytes": total, "free_bytes": max(total - slices.FIRST - taken, 0)}
    return ground.StorageStatus(state="ready", **sizes, allocated_bytes=taken, provisioned_bytes=taken)


async def _forget_strangers(shop: Shop, storage: ground.Storage) -> None:
    machines = (await shop.ground.resources.list(vm.VM, trash=True)).items
    strangers = {one.uid for one in machines if one.status.host not in (None, shop.ground.uid)}
    await asyncio.to_thread(slicing.forget, pathlib.Path(storage.spec.path), strangers)


async def _measured(shop: Shop, storage: ground.Storage, *, whole: bool) -> ground.StorageStatus:
    """How this host finds a storage."""
    if storage.spec.lun:
        return await _measured_lun(shop, storage, whole=whole)
    root, before = pathlib.Path(storage.spec.path), storage.status
    way = reach.Way(root)  # one that hangs holds up no other
    try:
        place = await way.call(directory.open, root, storage.uid, shop.ground.opens_as(storage))
        known = await way.call(os.statvfs, root)
        mirrored = await asyncio.to_thread(mirror.look, root) if len(storage.spec.disks) > 1 else None
        allocated, provisioned = before.allocated_bytes, before.provisioned_bytes
        if whole:
            allocated = (await asyncio.to_thread(place.capacity)).allocated
            listing = await shop.ground.resources.list(ground.Volume)
            volumes = [one for one in listing.items if one.spec.storage == storage.uid]
            provisioned = sum(one.spec.size for one in volumes)
            for volume in volumes:
                if volume.status.state == "ready":
                    with contextlib.suppress(errors.Problem, OSError):  # one that is gone is no trouble of the others
                        await _measure_volume(shop, volume)
    except (errors.Problem, OSError) as error:
        problem = error if isinstance(error, errors.Problem) else tasks.from_os(error)
        return before.model_copy(update={"state": "unavailable", "reason": base.Saying.of(problem)})
    status = ground.StorageStatus(
        state="ready",
        total_bytes=known.f_blocks * known.f_frsize,
        free_bytes=known.f_bavail * known.f_frsize,
        allocated_bytes=allocated,
        provisioned_bytes=provisioned,
        mirror=mirrored,
    )
    if abs(status.free_bytes - before.free_bytes) < max(status.total_bytes // 1000, 1 << 20):
        status = status.model_copy(update={"free_bytes": before.free_bytes})  # not worth a write
    return status


async def _measure_volume(shop: Shop, volume: ground.Volume) -> None:
    """Write where the file of a volume lies and what it takes by now, where it is worth a write."""
    status = volume.status
    path = await shop.preparation.disks.path(volume)
    every = [path.with_name(name) for name in layers.every(volume.spec)]
    taken = await asyncio.to_thread(lambda: sum(files.allocated(one) for one in every))
    grown = abs(taken - status.allocated_bytes) >= max(status.allocated_bytes // 50, 1 << 20)
    if grown or status.path != str(path):
        found = {"path": str(path), "allocated_bytes": taken}
        await shop.ground.resources.change_status(
            ground.Volume,
            volume.metadata.project,
            volume.uid,
            lambda present: present.status.model_copy(update=found),
        )


class Measuring:
    """Measures the storages of one node again and again; their files only when some may have grown."""

    def __init__(self, shop: Shop, crew: Crew) -> None:
        self._shop, self._crew = shop, crew
        self._rounds = 0
        self._changed = True
        self._new: set[str] = set()  # storages of several hosts that were made, or told of by another host, just now

    def see(self, kind: str, part: str) -> None:
        """A part of a resource was written."""
        self._changed = self._changed or (part == "spec" and kind in _ON_STORAGE)

    def see_storage(self, uid: str) -> None:
        """A host told of a storage: it may be new, and this one has not looked for it yet."""
        self._new.add(uid)

    async def look_for_new(self) -> None:
        """Tell at once how this host finds what others have made for all."""
        new, self._new = self._new, set()
        for uid in new:
            with contextlib.suppress(resources.Missing):
                storage = await self._shop.ground.resources.get(ground.Storage, None, uid)
                known = self._shop.ground.uid in storage.status.hosts
                if storage.shared and not known and storage.status.state != "pending":
                    await measure(self._shop, storage, whole=False)

    async def look(self) -> None:
        """Measure."""
        every = _WALK_BUSY if self._crew.running() else _WALK_IDLE
        whole = self._changed or self._rounds % every == 0
        self._rounds += 1
        self._changed = False
        listing = await self._shop.ground.resources.list(ground.Storage)
        for storage in listing.items:
            if storage.concerns(self._shop.ground.uid) and storage.status.state != "pending":
                async with self._shop.storages[storage.uid]:
                    with contextlib.suppress(resources.Missing):  # it was let go of meanwhile
                        present = await self._shop.ground.resources.get(ground.Storage, None, storage.uid)
                        await self._look(present, whole=whole)

    async def _look(self, storage: ground.Storage, *, whole: bool) -> None:
        if storage.spec.disks and not await asyncio.to_thread(os.path.ismount, storage.spec.path):
            await reopen(self._shop, storage)  # its disks may have come by now
        else:
            await measure(self._shop, storage, whole=whole)


async def _subject(shop: Shop, run: tasks.Run) -> ground.Storage:
    subject = run.task.spec.subject
    assert subject
    return await shop.ground.resources.get(ground.Storage, None, subject.uid)
