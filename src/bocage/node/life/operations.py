"""What is done to a VM at somebody's word and is no state to be kept: the reset button, its disks and CDs.

They run one after another, when the VM is as it should be. Each can be done twice: a daemon that ends in the
midst of one carries it out again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pathlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from bocage import errors, files
from bocage.engine import base as engine
from bocage.model import ground, requests, vm
from bocage.node import clock, notes, started, tasks
from bocage.node.carrying import burned
from bocage.node.life import (
    adapting,
    attaching,
    departing,
    flattening,
    merging,
    moving,
    overlaying,
    relocating,
    reverting,
    snapshotting,
    upgrading,
)
from bocage.node.life.standing import Standing
from bocage.node.place.preparation import Preparation
from bocage.planner import equipment, onlun, replicas, rescue
from bocage.store import resources
from bocage.words import N_

log = logging.getLogger(__name__)

Handler = Callable[[Standing, Preparation, vm.VM, tasks.Run], Awaitable[dict[str, Any] | None]]


class Error(errors.Problem):
    """An operation on a VM could not be done."""


class SavedWithDisk(Error, errors.Conflict):
    type = "vm-saved-with-disk"
    text = N_("the memory of {name} was saved with {disk} in use")
    hint = N_("'bocage vm start {name}' goes on from there; 'bocage vm kill {name}' throws the memory away")
    name: str
    disk: str


def _running(standing: Standing, machine: vm.VM) -> engine.Machine:
    if standing.machine is None:
        raise engine.NotRunning(name=machine.name)
    return standing.machine


def first(waiting: Sequence[tasks.Run], *, running: bool, comes_before: bool) -> tasks.Run | None:
    """The one that is done next. `comes_before`: something was asked for that others give way to.

    While a move stands between its two places nobody else knows where the disks are.
    """
    if running and any(map(relocating.is_between, waiting)):
        waiting = [run for run in waiting if relocating.is_between(run)]
    elif comes_before:
        waiting = [run for run in waiting if run.action not in GIVES_WAY or relocating.is_between(run)]
    return next((run for run in waiting if run.rests <= clock.boottime()), None)


async def carry_out(
    handler: Handler, standing: Standing, preparation: Preparation, machine: vm.VM, run: tasks.Run
) -> dict[str, Any] | None:
    """Do one; what is about the hardware of a VM's own system is taken back while it is in rescue."""
    if run.action in _NOT_IN_RESCUE and machine.spec.rescue:
        await undo(standing, preparation, machine, run)
        raise rescue.InRescue(name=machine.name)
    if run.action != "vm.disk-attach" or standing.machine is not None:
        try:
            await preparation.disks.refuse(machine.spec.storage, run.action)
        except onlun.NotThere:
            await undo(standing, preparation, machine, run)
            raise
    if run.action in replicas.NOT_MEANWHILE and machine.spec.replica:
        await undo(standing, preparation, machine, run)
        raise replicas.NotMeanwhile(name=machine.name)
    return await handler(standing, preparation, machine, run)


async def reset(standing: Standing, preparation: Preparation, machine: vm.VM, run: tasks.Run) -> None:
    """Press the reset button."""
    await _running(standing, machine).reset()
    await standing.tell(machine, notes.Reset(name=machine.name))


async def attach_disk(
    standing: Standing, preparation: Preparation, machine: vm.VM, run: tasks.Run
) -> dict[str, Any] | None:
    """Plug in a disk that the spec has and the running machine has not; what does not work is taken back."""
    name = str(run.params["disk"])
    disk = _disk(machine, name)
    try:
        if standing.machine:
            await attaching.plug(disk, standing.machine, machine, preparation, standing)
        else:
            preparation.in_use.check_plugged_nowhere_else(machine, disk)
            await preparation.make_what_waits(machine)
    except (errors.Problem, OSError):
        if standing.ended is None:  # else its process ended meanwhile, and the next one has the disk from the start
            await undo(standing, preparation, machine, run)
            raise
    return {"disk": name, "now": standing.machine is not None}


async def detach_disk(
    standing: Standing, preparation: Preparation, machine: vm.VM, run: tasks.Run
) -> dict[str, Any] | None:
    """Unplug a disk, then take it out of the spec. Its volume stays, by itself from now on."""
    name = str(run.params["disk"])
    disk = next((one for one in machine.spec.disks if one.name == name), None)
    if disk is None and "path" not in run.remembered:
        raise resources.Missing(kind="disk", name=name)
    if disk is not None:
        await attaching.require_in_no_snapshot(disk, machine, preparation)
        if standing.machine:
            await standing.machine.disks.detach(name)
            started.note_plugged(standing.ground.home.vm_runtime(machine.uid), machine, name, there=False)
            preparation.in_use.let_go(machine, disk)
        elif await preparation.has_saved(machine):
            built = await preparation.as_it_was(machine)
            if any(one.volume == disk.volume for one in built.spec.disks):
                raise SavedWithDisk(name=machine.name, disk=name)
        volume = await _without_layers(standing, preparation, machine, disk)
        await run.remember(path=str(await preparation.disks.path(volume)), volume=volume.uid)
        await preparation.disks.free(volume)
        await _take_out(standing, name, freed=volume)
    old = pathlib.Path(run.remembered["path"])
    await preparation.disks.leave(standing.project, run.remembered["volume"], old)
    return {"disk": name, "volume": run.remembered["volume"]}


async def _without_layers(standing: Standing, preparation: Preparation, machine: vm.VM, disk: vm.Disk) -> ground.Volume:
    """The volume of a disk that nobody writes any more, as one file. Raises InSnapshot."""
    volume = await standing.ground.resources.get(ground.Volume, standing.project, disk.volume)
    if volume.spec.layers:
        await merging.tidy(standing, preparation, only=volume.uid)
        volume = await standing.ground.resources.get(ground.Volume, standing.project, disk.volume)
    return volume


async def _take_out(
    standing: Standing, name: str, *, freed: ground.Volume | None = None, doomed: ground.Volume | None = None
) -> None:
    """Take a disk out of the spec; in the same transaction its volume lies by itself, or is there no more."""
    kept = standing.ground.resources

    async def wanted() -> resources.Transaction:
        present = await standing.read()
        left = tuple(disk for disk in present.spec.disks if disk.name != name)
        changed = resources.with_spec(present, disks=left, boot=present.spec.boot.without(name))
        transaction = resources.Transaction()
        transaction.update(resources.bumped(present, changed))
        if freed is not None and freed.spec.vm == present.uid:
            now = await kept.get(ground.Volume, standing.project, freed.uid)
            transaction.update(resources.bumped(now, resources.with_spec(now, vm=None)))
        if doomed is not None:
            transaction.delete(await kept.get(ground.Volume, standing.project, doomed.uid))
        return transaction

    await standing.commit(wanted)


async def undo(standing: Standing, preparation: Preparation, machine: vm.VM, run: tasks.Run) -> None:
    """Take back what was written when the task was asked for: a disk that could not be had would keep the VM down."""
    if run.action == "vm.snapshot-create":
        with contextlib.suppress(overlaying.Later):
            await snapshotting.abandon(standing, preparation, machine, run)
    if run.action == "vm.move":
        try:
            await relocating.settle(standing, preparation, run)
        except (overlaying.Later, errors.Problem, OSError) as error:  # the next look finds it as it is then
            log.warning("VM %s: what a move has left: %s", machine.name, error)
    if run.action != "vm.disk-attach":
        return
    disk = next((one for one in machine.spec.disks if one.name == run.params["disk"]), None)
    if disk is None:
        return
    volume: ground.Volume | None = None
    with contextlib.suppress(resources.Missing):
        volume = await standing.ground.resources.get(ground.Volume, standing.project, disk.volume)
    # What the process may have is not removed: an adaptation takes it from there, and then it lies by itself.
    own = volume is not None and volume.spec.vm == machine.uid and not _may_have(standing, disk)
    await _take_out(standing, disk.name, doomed=volume if own else None)
    if volume is not None and own:
        path = await preparation.disks.path(volume)
        await asyncio.to_thread(files.remove_tree, path)


def _may_have(standing: Standing, disk: vm.Disk) -> bool:
    held = started.held(standing.ground.home.vm_runtime(standing.uid)) if standing.machine else None
    return held is not None and any(one.volume == disk.volume for one in held.disks)


async def grow_disk(
    standing: Standing, preparation: Preparation, machine: vm.VM, run: tasks.Run
) -> dict[str, Any] | None:
    """Make a disk larger, while it runs or not."""
    name, size = str(run.params["disk"]), requests.Grow.model_validate({"size": run.params["size"]}).size
    disk = _disk(machine, name)
    volume = await standing.ground.resources.get(ground.Volume, standing.project, disk.volume)
    if standing.machine is None:
        preparation.in_use.check_plugged_nowhere_else(machine, disk)
        preparation.in_use.check_not_copied(disk.volume, disk.name)
    await preparation.disks.grow(volume, size, running=standing.machine, disk=name)
    return {"disk": name, "size": str(size)}


async def change_cd(
    standing: Standing, preparation: Preparation, machine: vm.VM, run: tasks.Run
) -> dict[str, Any] | None:
    """Put what the spec says, or what was uploaded for it, into the running machine's tray."""
    name = str(run.params["cd"])
    if "upload" in run.params:
        machine = await _burned(standing, preparation, machine, run)
    cd = next((one for one in machine.spec.cds if one.name == name), None)
    if cd is None:
        raise resources.Missing(kind="cd", name=name)
    if standing.machine and not machine.spec.rescue:  # whose only CD is the rescue's
        await adapting.change_medium(cd, standing.machine, machine, preparation)
        runtime = standing.ground.home.vm_runtime(machine.uid)
        if (built := await asyncio.to_thread(started.read, runtime)) is not None:
            await asyncio.to_thread(started.change, runtime, cds=adapting.media(built, cd))
    await burned.forget(standing.ground)
    return {"cd": name}


async def _burned(standing: Standing, preparation: Preparation, machine: vm.VM, run: tasks.Run) -> vm.VM:
    """Enter the uploaded CD and the drive that it lies in, in one transaction."""
    limit = await preparation.rooms.left(run.params["storage"])
    image = await burned.take_in(standing.ground, machine, run, limit=limit)

    async def wanted() -> resources.Transaction:
        present, transaction = await standing.read(), resources.Transaction()
        if not await burned.has(standing.ground.resources, image):
            transaction.create(image)
            transaction.update(resources.bumped(present, equipment.change_cd(present, run.params["cd"], image)))
        return transaction

    try:
        await standing.commit(wanted)
    except errors.Problem:
        if not await burned.has(standing.ground.resources, image):
            await burned.discard(standing.ground, image)
        raise
    return await standing.read()


def _disk(machine: vm.VM, name: str) -> vm.Disk:
    disk = next((one for one in machine.spec.disks if one.name == name), None)
    if disk is None:
        raise resources.Missing(kind="disk", name=name)
    return disk


HANDLERS: dict[str, Handler] = {
    "vm.reset": reset,
    "vm.disk-attach": attach_disk,
    "vm.disk-detach": detach_disk,
    "vm.disk-grow": grow_disk,
    "vm.cd-change": change_cd,
    "vm.move": moving.move,
    "vm.migrate": departing.migrate,
    "vm.upgrade-hardware": upgrading.upgrade,
    "vm.snapshot-create": snapshotting.create,
    "vm.snapshot-revert": reverting.revert,
    "vm.snapshot-delete": snapshotting.delete,
    "vm.flatten": flattening.flatten,
}
_NOT_IN_RESCUE = ("vm.disk-attach", "vm.disk-detach", "vm.disk-grow", "vm.snapshot-create", "vm.move")
GIVES_WAY = ("vm.snapshot-delete", "vm.flatten", "vm.move", "vm.migrate")
"""What may take long and can wait: it is broken off when the VM is asked to be something else, and carried on then."""
