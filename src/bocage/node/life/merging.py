"""Makes chains short again: what no snapshot needs any more is merged into what it rests on, while the guest writes.

Only one file counts at any moment. The layer that is merged stays in the chain until it is whole in the one below
it; the store says before that the headers may leave it out (`merging`), and afterwards that it is gone.
"""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import Iterator

from bocage import files
from bocage.engine import base as engine
from bocage.model import ground, snapshot, vm
from bocage.node import notes, tasks
from bocage.node.life import overlaying
from bocage.node.life.overlaying import Later
from bocage.node.life.standing import Standing
from bocage.node.place.preparation import Preparation
from bocage.planner import layers
from bocage.storage import qcow2, volumes
from bocage.store import resources


async def tidy(
    standing: Standing,
    preparation: Preparation,
    run: tasks.Run | None = None,
    *,
    merges: bool = True,
    only: str | None = None,
) -> None:
    """Bring each disk of the VM to the fewest files that hold what is needed, one step after the other.

    Without `merges` only what nobody reads goes; `only` is a volume that no machine writes just now, be it a disk of
    the VM still or not. Raises Later when the machine ended meanwhile.
    """
    while True:
        machine = await standing.read()
        if only is None:
            known = await overlaying.volumes_of(preparation, machine)
            named = [(disk.name, known[disk.volume]) for disk in machine.spec.disks]
        else:
            volume = await standing.ground.resources.get(ground.Volume, standing.project, only)
            named = [(volume.spec.name, volume)]
        needed = await kept(preparation, machine)
        written = standing.machine is not None and only is None
        for disk, volume, step in _steps(named, needed, written=written):
            if isinstance(step, layers.Drop):
                await _write(standing, volume, layers.dropped(volume.spec, step.file))
            elif merges:
                await _merge(standing, preparation, disk, volume, step, run, written=written)
            else:
                continue
            break
        else:
            break
    await preparation.write_definition(await standing.read())
    await sweep(preparation, machine, *(volume for _, volume in named if only is not None))


async def sweep(preparation: Preparation, machine: vm.VM, *apart: ground.Volume) -> None:
    """Remove the layers that no volume of the VM names. `vm.yaml` names none of them by now, either.

    `apart` are volumes that lie with it and need be no disks of it.
    """
    known = [*await preparation.disks.of(machine), *apart]
    disks = {disk.name for disk in machine.spec.disks}.union(*(layers.disks_of(one.spec) for one in apart))
    named = {volume.uid: layers.every(volume.spec) for volume in known}
    places: dict[pathlib.Path, set[str]] = {}
    for volume in known:
        places.setdefault((await preparation.disks.path(volume)).parent, set()).update(named[volume.uid])

    def remove() -> None:
        prefixes = tuple(f"{disk}-" for disk in disks)
        for place, needed in places.items():
            for path in place.iterdir():
                if path.name not in needed and path.name.startswith(prefixes) and layers.is_overlay(path.name):
                    path.unlink()
            files.sync_directory(place)

    await asyncio.to_thread(remove)


async def kept(preparation: Preparation, machine: vm.VM) -> dict[str, set[str]]:
    """The files of snapshots that are not being deleted, by volume."""
    found: dict[str, set[str]] = {}
    for one in await preparation.snapshots(machine):
        if one.status.state != "deleting":
            for disk in one.status.disks:
                found.setdefault(disk.volume, set()).add(disk.file)
    return found


def _steps(
    named: list[tuple[str, ground.Volume]], needed: dict[str, set[str]], *, written: bool
) -> Iterator[tuple[str, ground.Volume, layers.Drop | layers.Merge]]:
    for disk, volume in named:
        step = layers.superfluous(volume.spec, needed.get(volume.uid, ()), written=written)
        if step is not None:
            yield disk, volume, step


async def _merge(
    standing: Standing,
    preparation: Preparation,
    disk: str,
    volume: ground.Volume,
    step: layers.Merge,
    run: tasks.Run | None,
    *,
    written: bool,
) -> None:
    told = (lambda done, total: run.progress(done, total)) if run else (lambda done, total: None)
    path = await preparation.disks.path(volume)
    file, into = path.with_name(step.file), path.with_name(step.into)
    if run:
        run.report(notes.MergingLayer(disk=disk))
    if volume.spec.merging != step.file:
        await _check_room(preparation, volume, file, into)
        await _write(standing, volume, {"merging": step.file})
        await preparation.write_definition(await standing.read())
        volume = await standing.ground.resources.get(ground.Volume, standing.project, volume.uid)
    running, live = standing.machine, layers.chain(volume.spec)
    if running and written and step.file in live:
        try:
            await running.layers.merge(disk, file, into, report=told)
        except (engine.NotRunning, ConnectionError) as error:
            await standing.ends()
            raise Later from error
    elif await asyncio.to_thread(file.exists):
        chain = await preparation.disks.layers(volume, disk, top=step.file)
        await volumes.merge(chain, progress=told)
    for resting in layers.above(volume.spec, step.file):
        await _lead_past(path.with_name(resting), step)
    await _settle(standing, preparation, volume, step)
    await preparation.write_definition(await standing.read())


async def _lead_past(path: pathlib.Path, step: layers.Merge) -> None:
    """Have the header of a file name the one below the one that was merged; QEMU has done so where it has it open."""
    header = await asyncio.to_thread(qcow2.read_header, path)
    if header.backing == step.file:
        await qcow2.rebase(path, backing_relative=step.into, backing_format=step.into.rpartition(".")[2])
    await asyncio.to_thread(files.sync_file, path)  # before the file that it named goes


async def _settle(standing: Standing, preparation: Preparation, volume: ground.Volume, step: layers.Merge) -> None:
    """Say that the merged layer is gone; the snapshot that it was is in the file below it now."""

    async def wanted() -> resources.Transaction:
        transaction = resources.Transaction()
        present = await standing.ground.resources.get(ground.Volume, standing.project, volume.uid)
        overlaying.update(transaction, present, layers.merged(present.spec, step))
        for one in await preparation.snapshots(await standing.read()):
            if any(disk.volume == volume.uid and disk.file == step.file for disk in one.status.disks):
                transaction.set_status(one, _moved(one.status, volume.uid, step))
        return transaction

    await standing.commit(wanted)


def _moved(status: snapshot.SnapshotStatus, volume: str, step: layers.Merge) -> snapshot.SnapshotStatus:
    moved = tuple(
        disk.model_copy(update={"file": step.into}) if (disk.volume, disk.file) == (volume, step.file) else disk
        for disk in status.disks
    )
    return status.model_copy(update={"disks": moved})


async def _check_room(preparation: Preparation, volume: ground.Volume, file: pathlib.Path, into: pathlib.Path) -> None:
    """Both are there until the merge is done. Raises rooms.WouldNotFit."""

    def grows() -> int:
        return min(files.allocated(file), max(volume.spec.size - files.allocated(into), 0))

    await preparation.rooms.check_growth(volume.spec.storage, now=await asyncio.to_thread(grows))


async def _write(standing: Standing, volume: ground.Volume, changes: dict[str, object]) -> None:
    place = (standing.project, volume.uid)
    await standing.ground.resources.change(
        ground.Volume, *place, lambda present: resources.with_spec(present, **changes)
    )
