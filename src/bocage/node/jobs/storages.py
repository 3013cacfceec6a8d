"""Storage of this host: prepared and let go. Letting go removes no file."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
from typing import TYPE_CHECKING, Any

from bocage import errors
from bocage.model import base, ground, vm
from bocage.node import tasks
from bocage.planner import usage
from bocage.storage import directory
from bocage.store import resources

if TYPE_CHECKING:
    from bocage.node.agent import Node


class Error(errors.Problem):
    """Anything that goes wrong with storage on this host."""


async def create(node: Node, run: tasks.Run) -> dict[str, Any]:
    """Prepare the directory; when that cannot be done the resource goes again and the task says why."""
    storage = await _subject(node, run)
    try:
        await prepare(node, storage)
    except (errors.Problem, OSError):
        transaction = resources.Transaction()
        transaction.delete(await node.ground.resources.get(ground.Storage, None, storage.uid))
        await node.ground.resources.commit(transaction)
        raise
    return {"storage": storage.name}


async def delete(node: Node, run: tasks.Run) -> None:
    """Forget a storage that holds nothing of ours."""
    try:
        storage = await _subject(node, run)
    except resources.Missing:
        return
    held: list[str] = []
    for kind in (vm.VM, ground.Volume, ground.Image):
        listing = await node.ground.resources.list(kind, trash=True)
        held += [f"{one.kind} {one.name}" for one in listing.items if one.spec.storage == storage.uid]
    if held:
        raise usage.StorageInUse(name=storage.name, users=sorted(held)[:10])
    transaction = resources.Transaction()
    transaction.delete(storage)
    await node.ground.resources.commit(transaction)


async def prepare(node: Node, storage: ground.Storage) -> None:
    """Make a new storage in its directory, and measure it."""
    await asyncio.to_thread(directory.create, pathlib.Path(storage.spec.path), storage.uid)
    await measure(node, storage)


async def reopen(node: Node, storage: ground.Storage) -> None:
    """Open a storage that was made before, sweep what a crash left half made, and measure it.

    One whose marker is not there is unavailable, never made anew: its file system may not be mounted.
    Called at the daemon's start alone, since what is being made looks like what a crash left.
    """
    with contextlib.suppress(errors.Problem):
        place = await asyncio.to_thread(directory.open, pathlib.Path(storage.spec.path), storage.uid)
        await asyncio.to_thread(place.sweep)
    await measure(node, storage)


async def measure(node: Node, storage: ground.Storage) -> None:
    """Write how full a storage is; one that is not there is unavailable, and says why."""
    try:
        place = await asyncio.to_thread(directory.open, pathlib.Path(storage.spec.path), storage.uid)
        capacity = await asyncio.to_thread(place.capacity)
    except errors.Problem as problem:
        status = storage.status.model_copy(update={"state": "unavailable", "reason": base.Saying.of(problem)})
    else:
        volumes = await node.ground.resources.list(ground.Volume)
        provisioned = sum(one.spec.size for one in volumes.items if one.spec.storage == storage.uid)
        status = ground.StorageStatus(
            state="ready",
            total_bytes=capacity.total,
            free_bytes=capacity.free,
            allocated_bytes=capacity.allocated,
            provisioned_bytes=provisioned,
        )
    await node.ground.resources.change_status(ground.Storage, None, storage.uid, lambda _: status)


async def _subject(node: Node, run: tasks.Run) -> ground.Storage:
    subject = run.task.spec.subject
    assert subject
    return await node.ground.resources.get(ground.Storage, None, subject.uid)
