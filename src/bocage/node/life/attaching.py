"""Disks that come to a running VM and go: by somebody's word, or as its definition names them."""

from __future__ import annotations

import asyncio
import pathlib

from bocage import errors
from bocage.engine import base as engine
from bocage.model import ground, vm
from bocage.node import started
from bocage.node.life import freeing
from bocage.node.life.standing import Standing
from bocage.node.place import in_use
from bocage.node.place.preparation import Preparation
from bocage.words import N_


class InSnapshot(errors.Conflict):
    """A disk cannot be taken out."""

    type = "disk-in-snapshot"
    text = N_("{disk} of {name} is part of the snapshot {snapshot}")
    hint = N_("delete the snapshots that it is part of first: 'bocage vm snapshot list {name}'")
    name: str
    disk: str
    snapshot: str


async def require_in_no_snapshot(disk: vm.Disk, machine: vm.VM, preparation: Preparation) -> None:
    """Raises InSnapshot."""
    for one in await preparation.snapshots(machine):
        if any(held.volume == disk.volume for held in one.status.disks):
            raise InSnapshot(name=machine.name, disk=disk.name, snapshot=one.name)


async def plug(
    disk: vm.Disk, running: engine.Machine, machine: vm.VM, preparation: Preparation, standing: Standing
) -> None:
    """Give a running machine a disk that the spec has, within its limits. From the note on it may have it."""
    runtime = standing.ground.home.vm_runtime(machine.uid)
    await preparation.make_what_waits(machine)
    await _let_go_of_namesakes(disk, running, machine, preparation, runtime)
    preparation.in_use.hold(machine, disk)
    await asyncio.to_thread(started.note_coming, runtime, disk)
    try:
        await running.disks.attach(disk, (await preparation.plan(machine, connect=False)).chains[disk.name])
    except (errors.TimedOut, ConnectionError):
        raise  # it may be there all the same
    except (errors.Problem, OSError):
        await asyncio.to_thread(started.note_coming, runtime, disk, comes=False)
        preparation.in_use.let_go(machine, disk)
        raise
    if not (disk.limits.none and machine.spec.share.disks.none):
        await running.holding.disk(disk.name, disk.limits, machine.spec.share.disks)
    await asyncio.to_thread(started.note_plugged, runtime, machine, disk.name)
    await preparation.note_running(machine)


async def _let_go_of_namesakes(
    disk: vm.Disk, running: engine.Machine, machine: vm.VM, preparation: Preparation, runtime: pathlib.Path
) -> None:
    """Another disk that may have come under this name would be taken for it."""
    for other in await asyncio.to_thread(started.coming, runtime):
        if other.name == disk.name and other.volume != disk.volume:
            await running.disks.detach(other.name)
            await asyncio.to_thread(started.note_coming, runtime, other, comes=False)
            preparation.in_use.let_go(machine, other)


async def unplug(
    disk: vm.Disk, running: engine.Machine, machine: vm.VM, preparation: Preparation, standing: Standing
) -> str:
    """Take a disk from a running machine whose spec has it no more; the name of its volume, which lies by itself then.

    Raises InSnapshot, BeingMerged, and what the engine raises of a guest that holds it.
    """
    await require_in_no_snapshot(disk, machine, preparation)
    volume = await standing.ground.resources.get(ground.Volume, standing.project, disk.volume)
    if volume.spec.layers:
        raise in_use.BeingMerged(name=machine.name)
    await running.disks.detach(disk.name)
    runtime = standing.ground.home.vm_runtime(machine.uid)
    await asyncio.to_thread(started.note_coming, runtime, disk, comes=False)
    preparation.in_use.let_go(machine, disk)
    await freeing.free(standing, preparation, machine, volume)
    return volume.name
