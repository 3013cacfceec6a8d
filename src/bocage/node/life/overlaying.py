"""Has a VM's disks go on in new, empty files, so that what they held until then is kept.

The store and `vm.yaml` name the new files before anything is written to them: an empty file over another holds the
same, so either answer to "which one is it?" is right until the guest writes.
"""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import Mapping
from typing import NoReturn

from bocage import errors, files
from bocage.engine import base as engine
from bocage.model import base, ground, vm
from bocage.node import clock, notes, tasks
from bocage.node.life.standing import Standing
from bocage.node.place import disks, rooms
from bocage.node.place.preparation import Preparation
from bocage.planner import layers
from bocage.storage import space, volumes
from bocage.store import resources


class Later(asyncio.CancelledError):
    """It cannot be said how things stand: the task stays open, and is carried on when they can be seen again."""


class NoRoom(Later):
    """There is no room just now: the task stays open, and is tried again after a while."""


_TRY_AGAIN = 5.0  # seconds


async def rest(
    standing: Standing, machine: vm.VM, run: tasks.Run, note: notes.Note, problem: errors.Problem
) -> NoReturn:
    """Have it be tried again later, and say so once. Raises NoRoom."""
    run.report(note)
    if not run.rests:
        await standing.tell(machine, note, base.Severity.WARNING)
    run.rests = clock.boottime() + _TRY_AGAIN
    raise NoRoom from problem


NO_ROOM = (rooms.WouldNotFit, space.Full, engine.NoSpace)
Volumes = dict[str, ground.Volume]


def mark_of(run: tasks.Run) -> str:
    """What the files are called after that a task makes: the same each time it is carried out."""
    return run.uid[-8:]


async def volumes_of(preparation: Preparation, machine: vm.VM) -> Volumes:
    """A VM's volumes by uid, in the order of its disks."""
    return {one.uid: one for one in await preparation.disks.of(machine)}


async def paths(preparation: Preparation, machine: vm.VM, known: Volumes, mark: str) -> dict[str, pathlib.Path]:
    """The new file of each disk that has a volume among `known`, by the disk's name."""
    found = {}
    for disk in machine.spec.disks:
        if disk.volume in known:
            beside = await preparation.disks.path(known[disk.volume])
            found[disk.name] = beside.with_name(f"{layers.file_of(disk.name, mark)}.qcow2")
    return found


def entered(machine: vm.VM, known: Volumes, mark: str) -> bool:
    """Whether the store says already that these volumes go on in the files of that mark."""
    held = [disk for disk in machine.spec.disks if disk.volume in known]
    return all(known[disk.volume].spec.name == layers.file_of(disk.name, mark) for disk in held)


async def make(
    preparation: Preparation,
    machine: vm.VM,
    known: Volumes,
    mark: str,
    *,
    on: Mapping[str, str] | None = None,
    sizes: Mapping[str, int] | None = None,
) -> None:
    """Make the new files over what is written now, or over the files `on`, by disk; what an earlier try left goes."""
    owner = await preparation.owner(machine)
    for name, path in (await paths(preparation, machine, known, mark)).items():
        volume = known[next(disk.volume for disk in machine.spec.disks if disk.name == name)]
        below = (on or {}).get(name) or volume.spec.file_name
        await preparation.disks.chain(volume, name, top=below)  # what it is to rest on is whole
        await asyncio.to_thread(files.remove_tree, path)
        backing = volumes.Backing(below, below.rpartition(".")[2])
        size = (sizes or {}).get(name) or volume.spec.size
        await volumes.create(path, image_format="qcow2", size=size, backing=backing)
        await asyncio.to_thread(disks.own, path, owner)


def update(transaction: resources.Transaction, volume: ground.Volume, changes: Mapping[str, object]) -> None:
    """Enter changes of a volume's spec into a transaction."""
    transaction.update(resources.bumped(volume, resources.with_spec(volume, **changes)))


async def go_on(
    standing: Standing, preparation: Preparation, machine: vm.VM, known: Volumes, run: tasks.Run
) -> dict[str, pathlib.Path]:
    """Have the disks of `known` go on in new files, a running machine's at one instant. Can be done twice."""
    mark = mark_of(run)
    if not entered(machine, known, mark):
        await make(preparation, machine, known, mark)
        await enter(standing, preparation, machine, known, mark)
    overlays = await paths(preparation, machine, known, mark)
    if standing.machine:
        try:
            await standing.machine.layers.go_on_in(machine.spec.disks, overlays)
        except (errors.Problem, OSError):
            await take_back(standing, preparation, machine, known, overlays)
            raise
    return overlays


async def enter(standing: Standing, preparation: Preparation, machine: vm.VM, known: Volumes, mark: str) -> None:
    """Say, in the store and in `vm.yaml`, that the disks go on in the new files."""

    async def wanted() -> resources.Transaction:
        transaction = resources.Transaction()
        present = await volumes_of(preparation, machine)
        for disk in machine.spec.disks:
            if disk.volume in known:
                volume = present[disk.volume]
                update(transaction, volume, layers.overlaid(volume.spec, layers.file_of(disk.name, mark)))
        return transaction

    await standing.commit(wanted)
    await preparation.write_definition(await standing.read())


async def take_back(
    standing: Standing,
    preparation: Preparation,
    machine: vm.VM,
    known: Volumes,
    overlays: Mapping[str, pathlib.Path],
) -> bool:
    """Say again that the disks are written where they were; False when a running machine has gone on already.

    Raises Later when it does not say what it does.
    """
    if standing.machine:
        try:
            if await standing.machine.layers.goes_on_in(overlays):
                return False
        except errors.Problem as error:
            await standing.ends()
            raise Later from error

    async def wanted() -> resources.Transaction:
        transaction = resources.Transaction()
        for disk in machine.spec.disks:
            path = overlays.get(disk.name)
            volume = await standing.ground.resources.get(ground.Volume, standing.project, disk.volume)
            if path is not None and disk.volume in known and volume.spec.file_name == path.name:
                into = volume.spec.layers[path.name]
                update(transaction, volume, layers.merged(volume.spec, layers.Merge(path.name, into)))
        return transaction

    await standing.commit(wanted)
    await preparation.write_definition(await standing.read())
    for path in overlays.values():
        await asyncio.to_thread(files.remove_tree, path)
    return True
