"""Volumes that lie by themselves, outside any VM's directory."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from bocage import errors, files
from bocage.model import ground, requests, vm
from bocage.node import tasks
from bocage.storage import half_made
from bocage.store import resources
from bocage.words import N_

if TYPE_CHECKING:
    from bocage.node.agent import Node


class Error(errors.Problem):
    """Anything that goes wrong with volumes on this host."""


class Attached(Error, errors.Conflict):
    type = "volume-attached"
    text = N_("the volume {name} belongs to the VM {vm}")
    hint = N_("'bocage vm disk detach {vm} {disk}' frees it")
    name: str
    vm: str
    disk: str


async def create(node: Node, run: tasks.Run) -> dict[str, Any]:
    """Make the file of a volume that the store has."""
    volume = await _subject(node, run)
    if volume.status.state != "ready":
        path = await node.preparation.volume_path(volume)
        with contextlib.suppress(half_made.Exists):
            await node.preparation.make_volume_file(volume, path, volume.name)
        allocated = await asyncio.to_thread(files.allocated, path)
        await node.ground.resources.change_status(
            ground.Volume,
            volume.metadata.project,
            volume.uid,
            lambda _: ground.VolumeStatus(state="ready", path=str(path), allocated_bytes=allocated),
        )
    return {"volume": volume.name}


async def delete(node: Node, run: tasks.Run) -> None:
    """Remove a volume that no VM has."""
    try:
        volume = await _subject(node, run)
    except resources.Missing:
        return
    if user := await _user(node, volume):
        raise Attached(name=volume.name, vm=user[0], disk=user[1])
    path = await node.preparation.volume_path(volume)
    await asyncio.to_thread(files.remove_tree, path.parent if not volume.spec.vm else path)
    transaction = resources.Transaction()
    transaction.delete(volume)
    await node.ground.resources.commit(transaction)


async def grow(node: Node, run: tasks.Run) -> dict[str, Any]:
    """Make a volume larger that no VM has."""
    volume = await _subject(node, run)
    if user := await _user(node, volume):
        raise Attached(name=volume.name, vm=user[0], disk=user[1])
    size = requests.Grow.model_validate({"size": run.params["size"]}).size
    await node.preparation.grow(volume, size)
    return {"volume": volume.name, "size": str(size)}


async def _subject(node: Node, run: tasks.Run) -> ground.Volume:
    subject = run.task.spec.subject
    assert subject
    return await node.ground.resources.get(ground.Volume, subject.project, subject.uid)


async def _user(node: Node, volume: ground.Volume) -> tuple[str, str] | None:
    machines = await node.ground.resources.list(vm.VM, volume.metadata.project, trash=True)
    for machine in machines.items:
        for disk in machine.spec.disks:
            if disk.volume == volume.uid:
                return machine.name, disk.name
    return None
