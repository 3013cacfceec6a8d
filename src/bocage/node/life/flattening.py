"""Makes a VM independent of the images that its disks are linked to, while it runs or not."""

from __future__ import annotations

import asyncio
from typing import Any

from bocage import errors, files
from bocage.engine import base as engine
from bocage.engine import block
from bocage.model import ground, vm
from bocage.node import notes, tasks
from bocage.node.life import overlaying
from bocage.node.life.overlaying import Later
from bocage.node.life.standing import Standing
from bocage.node.place import disks
from bocage.node.place.preparation import Preparation
from bocage.planner import layers
from bocage.storage import qcow2, space
from bocage.store import resources
from bocage.words import N_


class Error(errors.Problem):
    """A VM cannot be made independent of its images."""


class LiesByItself(Error, errors.Conflict):
    type = "flatten-lies-by-itself"
    text = N_("{disk} of {name} is a volume that lies by itself, linked to its image where it lies")
    hint = N_("'bocage vm clone {name} NEW' makes a copy that is linked to nothing")
    name: str
    disk: str


async def flatten(standing: Standing, preparation: Preparation, machine: vm.VM, run: tasks.Run) -> dict[str, Any]:
    """Copy what each disk has of its image into its own first file. Can be cut off anywhere and done again.

    The store says before that the header may name the image or nothing, and afterwards that it names nothing.
    """
    flat: list[str] = []
    with preparation.in_use.merged(machine):
        for disk, volume in zip(machine.spec.disks, await preparation.disks.of(machine), strict=True):
            if volume.spec.linked and volume.spec.vm is None:
                raise LiesByItself(name=machine.name, disk=disk.name)
            if volume.spec.linked:
                await _flatten(standing, preparation, disk, volume, run)
                flat.append(disk.name)
        await preparation.write_definition(await standing.read())
    await standing.tell(machine, notes.Flattened(name=machine.name))
    return {"disks": flat}


async def _flatten(
    standing: Standing, preparation: Preparation, disk: vm.Disk, volume: ground.Volume, run: tasks.Run
) -> None:
    run.report(notes.Flattening(disk=disk.name))
    chain = await preparation.disks.chain(volume, disk.name)
    first = next(file for file in reversed(chain) if file.own)
    if not volume.spec.flattening:
        taken = await asyncio.to_thread(files.allocated, chain[-1].path)
        await preparation.rooms.check_growth(volume.spec.storage, now=min(taken, volume.spec.size))
        await _write(standing, volume, flattening=True)
    try:
        with space.told_when_full(first.path.parent):
            await preparation.write_definition(await standing.read())
            await _copy(standing, disk, chain, first, run)
    except overlaying.NO_ROOM as problem:
        note = notes.FlattenWaitsForRoom(name=(await standing.read()).name)
        await overlaying.rest(standing, await standing.read(), run, note, problem)
    assert first.path.name == layers.chain(volume.spec)[-1]
    await _write(standing, volume, flattening=False, linked=False)


async def _copy(
    standing: Standing, disk: vm.Disk, chain: tuple[block.File, ...], first: block.File, run: tasks.Run
) -> None:
    if standing.machine:
        told = lambda done, total: run.progress(done, total)  # noqa: E731
        try:
            await standing.machine.layers.stand_alone(disk.name, report=told)
        except (engine.NotRunning, ConnectionError) as error:
            await standing.ends()
            raise Later from error
    if standing.machine is None:
        image = chain[-1]
        if (await asyncio.to_thread(qcow2.read_header, first.path)).backing is None:  # who knows what became durable
            leads = disks.relative(image.path, first.path)
            await qcow2.rebase(first.path, backing_relative=leads, backing_format=image.format)
        await qcow2.absorb(first.path)


async def _write(standing: Standing, volume: ground.Volume, **changes: bool) -> None:
    place = (standing.project, volume.uid)
    await standing.ground.resources.change(
        ground.Volume, *place, lambda present: resources.with_spec(present, **changes)
    )
