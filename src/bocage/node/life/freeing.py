"""Volumes that are no disks of their VM any more: each lies by itself once neither QEMU nor the VM's past has it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pathlib

from bocage import errors, reach
from bocage.model import ground, vm
from bocage.node import started
from bocage.node.life.standing import Standing
from bocage.node.place.preparation import Preparation
from bocage.planner import layers
from bocage.store import resources

log = logging.getLogger(__name__)


async def settle(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    """Set free what was left of changes that a cold start carried out, or a daemon that ended in the midst of one.

    What cannot be freed just now is looked at again.
    """
    try:
        await settle_all(standing, preparation, machine)
    except (errors.Problem, OSError) as error:
        log.warning("VM %s: a volume that is no disk of it any more is not free yet: %s", machine.name, error)


async def settle_all(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    """The same, before its place goes: raises what keeps one from being freed.

    Only where a file lies that is no disk's is it looked further.
    """
    says = (machine.metadata.revision, standing.machine.pid if standing.machine else None)
    if standing.freed == says:
        return
    place = await preparation.place(machine)
    way = reach.Way(place.storage)
    own = {name for volume in await preparation.disks.of(machine) for name in layers.every(volume.spec)}
    if strangers := await way.call(_others, place.disks, own):
        await _settle(standing, preparation, machine)
        kept = {name for one in await _lie_with(standing, machine) for name in layers.every(one.spec)}
        await way.call(_drop_second_names, place.disks, strangers - kept)
    standing.freed = says


async def _settle(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    left = await apart(standing, preparation, machine)
    snapshots = await preparation.snapshots(machine) if left else []
    kept = {disk.volume for one in snapshots for disk in one.status.disks}
    for volume in left:
        if volume.uid not in kept and not volume.spec.layers:
            try:
                await free(standing, preparation, machine, volume)
            except FileNotFoundError as error:  # there is nothing of it to keep
                log.warning(
                    "VM %s: the file of a volume that is no disk of it any more is gone: %s", machine.name, error
                )


def _others(place: pathlib.Path, own: set[str]) -> set[str]:
    with contextlib.suppress(FileNotFoundError):
        return set(os.listdir(place)) - own
    return set()


def _drop_second_names(place: pathlib.Path, names: set[str]) -> None:
    """Of files that lie by themselves by now; what has no other name stays."""
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            if (place / name).lstat().st_nlink > 1:
                (place / name).unlink()


async def free(standing: Standing, preparation: Preparation, machine: vm.VM, volume: ground.Volume) -> None:
    """Have a volume that is no disk any more lie by itself. Can be cut off anywhere and done again."""
    old = (await preparation.place(machine)).disks / volume.spec.file_name
    if volume.spec.vm == machine.uid:
        await preparation.disks.free(volume)
        await standing.commit(lambda: _by_itself(standing, volume))
        now = await standing.ground.resources.get(ground.Volume, standing.project, volume.uid)
        if now.spec.vm == machine.uid:  # it was given back meanwhile
            await preparation.disks.unfree(now)
            return
    await preparation.disks.leave(standing.project, volume.uid, old)


async def _by_itself(standing: Standing, volume: ground.Volume) -> resources.Transaction:
    """Written only while the VM does not have it: somebody may give it back just now."""
    kept, transaction = standing.ground.resources, resources.Transaction()
    now = await kept.get(ground.Volume, standing.project, volume.uid)
    present = await standing.read()
    if now.spec.vm == present.uid and all(disk.volume != now.uid for disk in present.spec.disks):
        transaction.expect(present)
        transaction.update(resources.bumped(now, resources.with_spec(now, vm=None)))
    return transaction


async def apart(standing: Standing, preparation: Preparation, machine: vm.VM) -> list[ground.Volume]:
    """The volumes that lie with it and that neither it, its process nor its saved memory has; snapshots may."""
    disks = {disk.volume for disk in machine.spec.disks}
    left = [one for one in await _lie_with(standing, machine) if one.uid not in disks]
    if not left:
        return []
    others = await had(standing, preparation, machine)
    return [one for one in left if one.uid not in others] if others is not None else []


async def _lie_with(standing: Standing, machine: vm.VM) -> list[ground.Volume]:
    listing = await standing.ground.resources.list(ground.Volume, standing.project, holding=machine.uid)
    return [one for one in listing.items if one.spec.vm == machine.uid]


async def had(standing: Standing, preparation: Preparation, machine: vm.VM) -> set[str] | None:
    """The volumes that its process may have, or the machine whose memory is saved; None where nothing tells."""
    if standing.machine is not None:
        held = await asyncio.to_thread(started.held, standing.ground.home.vm_runtime(machine.uid))
        return {disk.volume for disk in held.disks} | preparation.in_use.had_by(machine) if held else None
    if await preparation.has_saved(machine):
        return {disk.volume for disk in (await preparation.as_it_was(machine)).spec.disks}
    return set()
