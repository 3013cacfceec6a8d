"""Brings one VM back to a snapshot. It is off meanwhile: whatever ran was ended before, as was asked."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
from typing import Any

from bocage import files
from bocage.engine import base as engine
from bocage.model import base, ground, snapshot, vm
from bocage.node import notes, tasks
from bocage.node.life import launching, merging, overlaying, snapshotting
from bocage.node.life.standing import Standing
from bocage.node.place import directory, in_use, saved
from bocage.node.place.preparation import Preparation
from bocage.planner import layers, reverting
from bocage.store import resources


async def revert(standing: Standing, preparation: Preparation, machine: vm.VM, run: tasks.Run) -> dict[str, Any]:
    """Go back: new files over those of the snapshot, the board as it was, its memory where it was kept.

    The files that were written until now go when the store names the new ones.
    """
    kept = standing.ground.resources
    to = await kept.get(snapshot.Snapshot, standing.project, str(run.params["snapshot"]))
    if to.spec.vm != machine.uid:
        raise resources.Missing(kind="snapshot", name=to.uid)
    if to.status.state != "ready":
        raise snapshotting.NotReady(snapshot=to.name, state=to.status.state)
    if standing.machine is not None:
        raise in_use.CopyWhileRunning(name=machine.name)
    held = {disk.volume for disk in to.status.disks}
    known = {uid: one for uid, one in (await overlaying.volumes_of(preparation, machine)).items() if uid in held}
    with preparation.in_use.merged(machine):
        place = await preparation.place(machine)
        if not known or not overlaying.entered(machine, known, overlaying.mark_of(run)):
            await launching.drop_saved(place)
            await _enter(standing, preparation, machine, to, known, run)
        await preparation.write_definition(await standing.read())
        await _small_files(place, to)
        await _memory(standing, place, to)
        await merging.tidy(standing, preparation, merges=False)
        await snapshotting.show_lineage(standing, preparation, await standing.read())
        await _wish(standing, to, start=bool(run.params.get("start")))
    await standing.tell(machine, notes.WentBack(name=machine.name, snapshot=to.name))
    return {"snapshot": to.name, "memory": to.spec.memory}


async def _enter(
    standing: Standing,
    preparation: Preparation,
    machine: vm.VM,
    to: snapshot.Snapshot,
    known: overlaying.Volumes,
    run: tasks.Run,
) -> None:
    """Make the new files, and say in one transaction that the VM is what it was, in them."""
    mark = overlaying.mark_of(run)
    on = {disk.disk: disk.file for disk in to.status.disks}
    sizes = {disk.disk: disk.size for disk in to.status.disks}
    here = await _here(standing)
    identity = base.new_uid()
    reverting.spec(machine, to, here, generation_id=identity)  # refused before anything is made
    if len(known) < len(on):
        raise reverting.DiskGone(name=machine.name, disk=next(iter(on)))
    await overlaying.make(preparation, machine, known, mark, on=on, sizes=sizes)

    async def wanted() -> resources.Transaction:
        present = await standing.read()
        spec = reverting.spec(present, to, here, generation_id=identity)
        transaction = resources.Transaction()
        changed = present.model_copy(update={"spec": spec.model_copy(update={"power": vm.Power.STOPPED})})
        transaction.update(resources.bumped(present, changed))
        volumes = await overlaying.volumes_of(preparation, present)
        for disk in to.status.disks:
            volume = volumes[disk.volume]
            changes = layers.overlaid(volume.spec, layers.file_of(disk.disk, mark), on=disk.file)
            overlaying.update(transaction, volume, {**changes, "size": disk.size})
        return transaction

    await standing.commit(wanted)


async def _here(standing: Standing) -> reverting.Here:
    images = (await standing.ground.resources.list(ground.Image, standing.project)).items
    networks = (await standing.ground.resources.list(ground.Network, standing.project)).items
    return reverting.Here(images={one.uid for one in images}, networks={one.uid for one in networks})


async def _small_files(place: directory.Directory, to: snapshot.Snapshot) -> None:
    """The firmware's variables and what the TPM keeps, as they were; whose the files are stays so."""

    def put_back() -> None:
        for present, kept in place.kept_of(to.uid).items():
            with contextlib.suppress(FileNotFoundError):
                content = kept.read_bytes()
                known = os.stat(present)
                files.write_durably(present, content, mode=0o600)
                os.chown(present, known.st_uid, known.st_gid)

    await asyncio.to_thread(put_back)


async def _memory(standing: Standing, place: directory.Directory, to: snapshot.Snapshot) -> None:
    """Let the next start go on from the memory of the snapshot, under the generation that the VM has now."""
    if not to.spec.memory:
        return
    memory, built = place.memory_of(to.uid)
    present = await standing.read()

    def put_back() -> None:
        try:
            kept, generation = saved.read(built)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise engine.StartFailed(name=present.name, reason=f"{built}: {error}") from error
        board = kept.spec.hardware
        if board.generation_id is not None:
            board = board.model_copy(update={"generation_id": present.spec.hardware.generation_id})
        renewed = dataclasses.replace(kept, spec=kept.spec.model_copy(update={"hardware": board}))
        saved.note(place.saved_definition, renewed, generation)
        saved.link(memory, place.saved)

    await asyncio.to_thread(put_back)


async def _wish(standing: Standing, to: snapshot.Snapshot, *, start: bool) -> None:
    """What it should be from now on: on when that was asked, else as the snapshot has it."""
    off = vm.Power.SAVED if to.spec.memory else vm.Power.STOPPED
    await standing.change(lambda _: {"power": vm.Power.RUNNING if start else off})
    if to.spec.memory:
        await standing.set_state(vm.State.SAVED)
