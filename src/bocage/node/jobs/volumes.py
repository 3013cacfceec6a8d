"""Volumes that lie by themselves, outside any VM's directory."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
from typing import Any

from bocage import errors
from bocage.model import ground, requests, vm
from bocage.node import tasks
from bocage.node.place import in_use
from bocage.node.shop import Shop
from bocage.planner import usage
from bocage.store import resources
from bocage.words import N_


class Error(errors.Problem):
    """Anything that goes wrong with volumes on this host."""


class Attached(Error, errors.Conflict):
    type = "volume-attached"
    text = N_("the volume {name} belongs to the VM {vm}")
    hint = N_("'bocage vm disk detach {vm} {disk}' frees it")
    name: str
    vm: str
    disk: str


async def create(shop: Shop, run: tasks.Run) -> dict[str, Any]:
    """Make the file of a volume that the store has; when that cannot be done the volume goes again."""
    volume = await _subject(shop, run)
    try:
        await shop.preparation.disks.make(
            volume, volume.name, None, report=run.report, progress=lambda done, total: run.progress(done, total)
        )
    except (errors.Problem, OSError):
        await _drop(shop, volume)
        raise
    except asyncio.CancelledError:
        if run.unwanted:
            await asyncio.shield(_drop(shop, volume))
        raise
    return {"volume": volume.name}


async def delete(shop: Shop, run: tasks.Run) -> None:
    """Remove a volume that no VM has."""
    try:
        volume = await _subject(shop, run)
    except resources.Missing:
        pass  # an earlier attempt ended before the file was gone
    else:
        await _check_free(shop, volume)
        path = await shop.preparation.disks.path(volume)
        await run.remember(path=str(path))
        await shop.ground.resources.delete(
            await shop.ground.resources.get(ground.Volume, volume.metadata.project, volume.uid)
        )
    if path_ := run.remembered.get("path"):
        await asyncio.to_thread(_remove, pathlib.Path(path_))


async def _drop(shop: Shop, volume: ground.Volume) -> None:
    await asyncio.to_thread(_remove, await shop.preparation.disks.path(volume))
    with contextlib.suppress(resources.Missing):
        await shop.ground.resources.delete(
            await shop.ground.resources.get(ground.Volume, volume.metadata.project, volume.uid)
        )


def _remove(path: pathlib.Path) -> None:
    """Remove a volume's file, and the directories that it had for itself."""
    path.unlink(missing_ok=True)
    for directory in (path.parent, path.parent.parent):
        if directory.name not in ("vms", "volumes") and directory.parent.name != "vms":
            with contextlib.suppress(OSError):
                directory.rmdir()


async def grow(shop: Shop, run: tasks.Run) -> dict[str, Any]:
    """Make a volume larger that no VM has."""
    volume = await _subject(shop, run)
    await _check_free(shop, volume)
    size = requests.Grow.model_validate({"size": run.params["size"]}).size
    await shop.preparation.disks.grow(volume, size)
    return {"volume": volume.name, "size": str(size)}


async def _subject(shop: Shop, run: tasks.Run) -> ground.Volume:
    subject = run.task.spec.subject
    assert subject
    return await shop.ground.resources.get(ground.Volume, subject.project, subject.uid)


async def _check_free(shop: Shop, volume: ground.Volume) -> None:
    """Raises Attached, in_use's StillPlugged and VolumeBeingCopied, and usage.VolumeKept."""
    machines = await shop.ground.resources.list(vm.VM, volume.metadata.project, trash=True)
    for machine in machines.items:
        for disk in machine.spec.disks:
            if disk.volume == volume.uid:
                raise Attached(name=volume.name, vm=machine.name, disk=disk.name)
    if by := shop.preparation.in_use.plugged_in(volume.uid):
        raise in_use.StillPlugged(disk=volume.name, vm=by)
    shop.preparation.in_use.check_not_copied(volume.uid, volume.name)
    for machine in machines.items:
        if machine.uid == volume.spec.vm:
            raise usage.VolumeKept(name=volume.name, vm=machine.name)
