"""Carries a VM to another storage while it runs. Cut off anywhere, it ends wholly on the old one or on the new one.

All that nobody writes is copied; the disks and the firmware's variables are mirrored. Then its vCPUs stand for a
moment, in which both places hold the same: QEMU goes over, the store says so, the logs go on there. Whoever comes
after a crash within that moment asks QEMU where it is; when it is gone either place is right, and the store's word
holds.
"""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import Coroutine
from typing import Any

from bocage import errors, files, reach, words
from bocage.engine import base as engine
from bocage.engine import block
from bocage.model import base, board, ground, vm
from bocage.node import notes, started, tasks
from bocage.node.life import filling, overlaying
from bocage.node.life.standing import Standing
from bocage.node.place import disks
from bocage.node.place.preparation import Preparation
from bocage.planner import layers as tree
from bocage.words import N_


class Error(filling.Error):
    """A VM that runs cannot be moved."""


class HasOpen(Error, errors.Conflict):
    type = "move-has-open"
    text = N_("{name} cannot be moved while it runs: its {device} cannot be carried over")
    hint = N_("'bocage vm save {name}' first, or stop it; 'bocage vm start {name}' goes on from there afterwards")
    name: str
    device: str


class NotNow(Error, errors.Conflict):
    type = "move-not-now"
    text = N_("{name} neither runs nor is it off: it is {state}")
    hint = N_("'bocage why {name}' says what it waits for")
    name: str
    state: str


class DiskApart(Error, errors.Conflict):
    type = "move-disk-apart"
    text = N_("{disk} of {name} comes or goes with its next cold start, and would be lost on the way")
    hint = N_("'bocage vm diff {name}' shows what waits; 'bocage vm reboot {name}', or stop it, then try again")
    name: str
    disk: str


class VolumeApart(Error, errors.Conflict):
    type = "move-volume-apart"
    text = N_("the volume {volume} lies with {name} and is no disk of it: it would be lost on the way")
    hint = N_(
        "a snapshot or the saved memory has it; 'bocage vm disk attach {name} --volume {volume}' makes it a disk again"
    )
    name: str
    volume: str


class EndedMeanwhile(Error, errors.Unavailable):
    type = "move-ended-meanwhile"
    text = N_("{name} ended by itself while it was carried to {storage}; it stays where it was")
    hint = N_("'bocage why {name}' says what became of it; then try again")
    name: str
    storage: str


class LeftBehind(notes.Note):
    type = "move-left-behind"
    text = N_("{path} does not hold {name} any more, and cannot be removed: {reason}")
    hint = N_("remove it when its storage can be reached again; it is older than where {name} lies now")
    name: str
    path: str
    reason: str


class StandsBetween(notes.Note):
    type = "move-stands-between"
    text = N_("{name} stands still: its QEMU waits for the storage that it was to go over to")
    hint = N_(
        "it goes on when that storage answers; or 'bocage vm kill {name}', and 'bocage vm start {name}' as it was"
    )
    name: str


def is_between(run: tasks.Run) -> bool:
    """Whether it was cut off in the moment in which the vCPUs stand: nothing but the move's end lets them go on."""
    return bool(run.remembered.get("between"))


async def carry(
    standing: Standing, preparation: Preparation, machine: vm.VM, target: ground.Storage, run: tasks.Run
) -> None:
    """Carry it over. Raises HasOpen, NotNow, and EndedMeanwhile when its process ended before it was carried over."""
    running = standing.machine
    assert running
    _check(machine, running)
    try:
        await running.layers.cease()  # what nobody waits for any more would write to files that are copied
        await _while_it_runs(standing, machine, _carry(standing, preparation, machine, target, running, run))
    except BaseException as error:
        await settle(standing, preparation, run)
        if not isinstance(error, Exception):
            raise
        machine = await standing.read()
        if machine.spec.storage == target.uid:
            return
        if standing.machine is None:
            raise EndedMeanwhile(name=machine.name, storage=target.name) from error
        raise


async def _while_it_runs(standing: Standing, machine: vm.VM, doing: Coroutine[Any, Any, None]) -> None:
    """Do it; what may take hours is given up when the process has ended. Raises engine.NotRunning then."""
    carrying, ending = asyncio.ensure_future(doing), asyncio.ensure_future(standing.until_ended())
    try:
        await asyncio.wait([carrying, ending], return_when=asyncio.FIRST_COMPLETED)
        if not carrying.done():
            raise engine.NotRunning(name=machine.name)
    finally:
        for task in (carrying, ending):
            task.cancel()
        await asyncio.wait([carrying, ending])
    await carrying


async def _carry(
    standing: Standing,
    preparation: Preparation,
    machine: vm.VM,
    target: ground.Storage,
    running: engine.Machine,
    run: tasks.Run,
) -> None:
    at = await filling.ways(preparation, machine, target, run)
    try:
        await filling.fill(standing.ground, preparation, machine, target, at, run, running=True)
        others = [
            await _other(preparation, disk, volume, at, target) for disk, volume in await _own(preparation, machine)
        ]
        firmware = at.making.firmware_variables if _has_variables(machine) else None
        if (running_there := await standing.ground.rights.found(machine.uid, target.uid)) is not None:
            await running.show(running_there.admit)
        run.report(notes.Mirroring(name=machine.name))
        told = lambda done, total: run.progress(done, total)  # noqa: E731
        await running.carrying.follow(overlaying.mark_of(run), others, firmware, report=told)
        await preparation.in_use.unread(machine.uid)
        await at.way.job(lambda _: files.sync_tree(at.making.path), None)  # else the vCPUs would stand for as long
        await filling.way_to(at.old.path).job(lambda _: files.sync_tree(at.old.disks), None)
        names = [one.disk.name for one in others]  # what comes into the definition meanwhile is not carried
        async with preparation.in_use.taken_away(machine):
            await run.remember(old=str(at.old.path), new=str(at.new.path), disks=names, between=True)
            await at.way.call(at.check)  # it may have been taken out
            await at.way.call(files.rename_durably, at.making.path, at.new.path)
            await running.pause()
            await running.carrying.go_over(names)
            await filling.commit(standing, preparation, target)
            await _conclude(standing, preparation, running, run)
    finally:
        await at.way.discard(at.making.path)


async def settle(standing: Standing, preparation: Preparation, run: tasks.Run) -> None:
    """Bring what an attempt has left to one of its ends. Raises Later when it cannot be said which."""
    if standing.machine is not None:
        try:
            return await _settle_running(standing, preparation, standing.machine, run)
        except (engine.NotRunning, ConnectionError, errors.TimedOut) as error:
            if not await standing.ends():
                await _say_that_it_stands(standing, run)
                raise overlaying.Later from error
    return await settle_off(standing, preparation, run)


async def _say_that_it_stands(standing: Standing, run: tasks.Run) -> None:
    if is_between(run) and run.uid not in standing.left_behind:
        standing.left_behind.add(run.uid)
        machine = await standing.read()
        note = StandsBetween(name=machine.name)
        run.report(note)
        await standing.tell(machine, note, base.Severity.ERROR)


async def settle_off(standing: Standing, preparation: Preparation, run: tasks.Run) -> None:
    """The same when it has no process: before one starts from the place that counts, the other is none any more."""
    if (new := run.remembered.get("new")) is None:
        return
    machine, old = await standing.read(), pathlib.Path(run.remembered["old"])
    if machine.spec.storage != run.params["storage"]:
        await put_away(standing, machine, pathlib.Path(new))
        return
    place = await preparation.place(machine)
    if await filling.way_to(place.path).call(place.exists):  # else it lies in the trash by now
        await preparation.write_definition(machine)
    await put_away(standing, machine, old)


async def put_away(standing: Standing, machine: vm.VM, loser: pathlib.Path) -> None:
    """Take its name from a directory that does not count, before the other one is written to.

    One that cannot be reached is told of; its definition is the older one, by which adoption knows it.
    """
    try:
        await filling.way_to(loser).put_away(loser, filling.aside(loser))
    except (reach.Hangs, OSError) as error:
        if str(loser) in standing.left_behind:
            return
        standing.left_behind.add(str(loser))
        reason = words.say(error) if isinstance(error, errors.Problem) else str(error)
        note = LeftBehind(name=machine.name, path=str(loser), reason=reason)
        await standing.tell(machine, note, base.Severity.WARNING)


async def _settle_running(
    standing: Standing, preparation: Preparation, running: engine.Machine, run: tasks.Run
) -> None:
    machine = await standing.read()
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
    except (engine.NotRunning, ConnectionError, errors.TimedOut):
        raise
    except Exception as error:
        if not over or await _counts(standing, target):
            raise
        # QEMU went over and the store cannot say so. Both places still hold the same: it ends, and the old one counts.
        await running.kill()
        await standing.ends()
        await settle_off(standing, preparation, run)
        raise overlaying.Later from error


async def _counts(standing: Standing, target: str) -> bool:
    """Whether the store says that it lies there; one that does not answer has not said so."""
    try:
        return (await standing.read()).spec.storage == target
    except errors.Problem:
        return False


async def _conclude(standing: Standing, preparation: Preparation, running: engine.Machine, run: tasks.Run) -> None:
    """The new place counts: its logs go on there, the old one is none any more, and only then its vCPUs run."""
    machine = await standing.read()
    place = await preparation.place(machine)
    await running.log_in(place.path)
    await preparation.write_definition(machine)
    await put_away(standing, machine, pathlib.Path(run.remembered["old"]))
    await _go_on(machine, running, run)
    await running.lie_in(place.path)
    if is_between(run):
        await run.remember(between=False)
    await running.carrying.stay()
    await preparation.note_running(machine)


async def _stay(standing: Standing, running: engine.Machine, run: tasks.Run) -> None:
    """The old place counts: nothing is left of the new one."""
    machine = await standing.read()
    await running.carrying.stay()
    if (new := run.remembered.get("new")) is not None:
        await put_away(standing, machine, pathlib.Path(new))
    await _go_on(machine, running, run)
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


async def check_whole(standing: Standing, machine: vm.VM) -> None:
    """Refuse a VM with which something lies, or that has something open, of which its definition does not know.

    Raises DiskApart, VolumeApart.
    """
    disks_ = {disk.volume: disk.name for disk in machine.spec.disks}
    if standing.machine:
        built = await asyncio.to_thread(started.read, standing.ground.home.vm_runtime(machine.uid))
        there = {disk.volume: disk.name for disk in built.disks} if built else disks_
        if apart := sorted(
            name for volume, name in (disks_ | there).items() if (volume in disks_) != (volume in there)
        ):
            raise DiskApart(name=machine.name, disk=apart[0])
    for volume in (await standing.ground.resources.list(ground.Volume, standing.project)).items:
        if volume.spec.vm == machine.uid and volume.uid not in disks_:
            raise VolumeApart(name=machine.name, volume=volume.name)


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
