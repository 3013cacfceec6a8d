"""Carries a VM to another storage while it runs. Cut off anywhere, it ends wholly on the old one or on the new one.

All that nobody writes is copied; the disks and the firmware's variables are mirrored. Then its vCPUs stand for a
moment, in which both places hold the same: QEMU goes over, the store says so, the logs go on there. Whoever comes
after a crash within that moment asks QEMU where it is; when it is gone either place is right, and the store's word
holds.
"""

from __future__ import annotations

import asyncio
import pathlib

from bocage import errors, files
from bocage.engine import base as engine
from bocage.engine import block
from bocage.model import board, ground, vm
from bocage.node import notes, tasks
from bocage.node.life import filling, overlaying
from bocage.node.life.standing import Standing
from bocage.node.place import disks
from bocage.node.place.preparation import Preparation
from bocage.planner import layers as tree
from bocage.words import N_

_LOOK = 0.2  # seconds between two looks whether somebody still reads its snapshots


class Error(filling.Error):
    """A VM that runs cannot be moved."""


class HasOpen(Error, errors.Conflict):
    type = "move-has-open"
    text = N_("{name} can be moved only while it is off: its {device} cannot be carried over while it runs")
    hint = N_("'bocage vm stop {name}' first")
    name: str
    device: str


class NotNow(Error, errors.Conflict):
    type = "move-not-now"
    text = N_("{name} neither runs nor is it off: it is {state}")
    hint = N_("'bocage why {name}' says what it waits for")
    name: str
    state: str


def is_between(run: tasks.Run) -> bool:
    """Whether it was cut off in the moment in which the vCPUs stand: nothing but the move's end lets them go on."""
    return bool(run.remembered.get("between"))


async def carry(
    standing: Standing, preparation: Preparation, machine: vm.VM, target: ground.Storage, run: tasks.Run
) -> None:
    """Carry it over. Raises HasOpen, NotNow, and Later when its process ended meanwhile."""
    running = standing.machine
    assert running
    _check(machine, running)
    await running.layers.cease()  # what nobody waits for any more would write to files that are copied
    try:
        at = await filling.ways(preparation, machine, target, run)
        try:
            await filling.fill(standing.ground, preparation, machine, target, at, run, running=True)
            others = [
                await _other(preparation, disk, volume, at, target) for disk, volume in await _own(preparation, machine)
            ]
            firmware = at.making.firmware_variables if _has_variables(machine) else None
            run.report(notes.Mirroring(name=machine.name))
            told = lambda done, total: run.progress(done, total)  # noqa: E731
            await running.carrying.follow(overlaying.mark_of(run), others, firmware, report=told)
            while preparation.disks.is_read(machine.uid):  # noqa: ASYNC110 - a copy may take hours
                await asyncio.sleep(_LOOK)
            for place in (at.making.path, at.old.disks):  # else the vCPUs would stand for as long as that
                await asyncio.to_thread(files.sync_tree, place)
            names = [one.disk.name for one in others]  # what comes into the definition meanwhile is not carried
            await run.remember(old=str(at.old.path), new=str(at.new.path), disks=names, between=True)
            await asyncio.to_thread(files.rename_durably, at.making.path, at.new.path)
        finally:
            await asyncio.to_thread(files.remove_tree, at.making.path)
        with preparation.disks.merged(machine):
            await running.pause()
            await running.carrying.go_over(names)
            await filling.commit(standing, preparation, target)
            await _conclude(standing, preparation, running, run)
    except BaseException:
        await settle(standing, preparation, run)
        raise


async def settle(standing: Standing, preparation: Preparation, run: tasks.Run) -> None:
    """Bring what an attempt has left to one of its ends. Raises Later when it cannot be said which."""
    running, machine = standing.machine, await standing.read()
    if running is None:
        return
    target, over = str(run.params["storage"]), False
    try:
        if machine.spec.storage != target:
            over = await _is_over(preparation, machine, running, run)
            if not over:
                await _stay(standing, running, run)
                return
            await filling.commit(
                standing, preparation, await standing.ground.resources.get(ground.Storage, None, target)
            )
        if run.remembered.get("old") is not None:
            await _conclude(standing, preparation, running, run)
    except (engine.NotRunning, ConnectionError, errors.TimedOut) as error:
        await standing.ends()
        raise overlaying.Later from error
    except Exception as error:
        if not over or await _counts(standing, target):
            raise
        # QEMU went over and the store cannot say so. Both places still hold the same: it ends, and the old one counts.
        await running.kill()
        await standing.ends()
        raise overlaying.Later from error


async def _counts(standing: Standing, target: str) -> bool:
    """Whether the store says that it lies there; one that does not answer has not said so."""
    try:
        return (await standing.read()).spec.storage == target
    except errors.Problem:
        return False


async def _conclude(standing: Standing, preparation: Preparation, running: engine.Machine, run: tasks.Run) -> None:
    """The new place counts: its logs go on there, its vCPUs run, and nothing of the old place is used any more."""
    machine = await standing.read()
    place = await preparation.place(machine)
    await running.log_in(place.path)
    await _go_on(machine, running, run)
    await running.lie_in(place.path)
    await preparation.write_definition(machine)
    if is_between(run):
        await run.remember(between=False)
    await running.carrying.stay()
    await preparation.note_running(machine)


async def _stay(standing: Standing, running: engine.Machine, run: tasks.Run) -> None:
    """The old place counts: nothing is left of the new one."""
    await running.carrying.stay()
    if (new := run.remembered.get("new")) is not None:
        await asyncio.to_thread(files.remove_tree, pathlib.Path(new))
    await _go_on(await standing.read(), running, run)
    if is_between(run):
        await run.remember(between=False)


async def _go_on(machine: vm.VM, running: engine.Machine, run: tasks.Run) -> None:
    if is_between(run) and machine.spec.power is vm.Power.RUNNING and await running.look() is engine.Run.PAUSED:
        await running.resume()


async def _is_over(preparation: Preparation, machine: vm.VM, running: engine.Machine, run: tasks.Run) -> bool:
    """Whether QEMU has gone over. When some disks have and others have not it ends: both places hold the same."""
    if not is_between(run):
        return False
    names = run.remembered.get("disks")
    if names is None:
        names = [disk.name for disk, _ in await _own(preparation, machine)]
    over = await running.carrying.gone_over(overlaying.mark_of(run), names, firmware=_has_variables(machine))
    if over is None:
        await running.kill()
        raise engine.NotRunning(name=machine.name)
    return over


def _check(machine: vm.VM, running: engine.Machine) -> None:
    """Refuse what cannot be, before anything is touched."""
    if running.run not in (engine.Run.RUNNING, engine.Run.PAUSED):
        raise NotNow(name=machine.name, state=running.run.value)
    if machine.spec.hardware.tpm is not board.Tpm.NONE:
        raise HasOpen(name=machine.name, device="TPM")
    if port := next((port for port in machine.spec.ports if port.to == "file"), None):
        raise HasOpen(name=machine.name, device=port.name)


def _has_variables(machine: vm.VM) -> bool:
    return machine.spec.hardware.firmware is vm.Firmware.UEFI


async def _own(preparation: Preparation, machine: vm.VM) -> list[tuple[vm.Disk, ground.Volume]]:
    both = zip(machine.spec.disks, await preparation.disks.of(machine), strict=True)
    return [(disk, volume) for disk, volume in both if volume.spec.vm == machine.uid]


async def _other(
    preparation: Preparation, disk: vm.Disk, volume: ground.Volume, at: filling.Ways, target: ground.Storage
) -> block.Carried:
    """The chain of a disk at the new place."""
    path = at.making.disks / volume.spec.file_name
    chain = [disks.file_beside(path, name) for name in tree.chain(volume.spec)]
    if volume.spec.linked and volume.spec.image:
        image = await preparation.disks.image_file(target.uid, volume.spec.image)
        if image is None:
            raise disks.ImageMissing(digest=volume.spec.image[:12], disk=disk.name)
        chain.append(block.File(path=image, format=image.suffix.removeprefix(".")))
    return block.Carried(disk, tuple(chain))
