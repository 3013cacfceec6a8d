"""Snapshots of one VM: made, gone back to, deleted. Each operation can be cut off anywhere and done again.

The order of what is written durably, and why, is docs/decisions/11-snapshots.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
from typing import Any

from bocage import errors, files, reach, words
from bocage.engine import base as engine
from bocage.model import base, ground, snapshot, vm, work
from bocage.node import notes, tasks
from bocage.node.life import freeing, merging, overlaying, resizing
from bocage.node.life.standing import Standing
from bocage.node.place import saved
from bocage.node.place.preparation import Preparation
from bocage.planner import layers
from bocage.storage import space
from bocage.store import resources
from bocage.words import N_


class Error(errors.Problem):
    """A snapshot cannot be made, gone back to, or deleted."""


class NoDisks(Error, errors.Conflict):
    type = "snapshot-no-disks"
    text = N_("{name} has no disk: there is nothing to go back to")
    name: str


class NoMemory(Error, errors.Conflict):
    type = "snapshot-no-memory"
    text = N_("{name} does not run, so it has no memory to keep")
    hint = N_("take the snapshot without '--memory', or 'bocage vm start {name}' first")
    name: str


class Paused(Error, errors.Conflict):
    type = "snapshot-of-paused-memory"
    text = N_("{name} is paused: its memory can be kept while it runs")
    hint = N_("'bocage vm resume {name}' first, or take the snapshot without '--memory'")
    name: str


class NotReady(Error, errors.Conflict):
    type = "snapshot-not-ready"
    text = N_("the snapshot {snapshot} is {state}")
    hint = N_("'bocage task list' shows how far that is")
    snapshot: str
    state: str


class MemoryKnowsMore(Error, errors.Conflict):
    """A snapshot would have the memory of a disk, and not what that held then."""

    type = "snapshot-memory-knows-more"
    text = N_("the memory of {name} knows the volume {volume}, which is no disk of it any more")
    hint = N_("stop it and start it anew first; or take the snapshot without '--memory'")
    name: str
    volume: str


class MemoryCutOff(Error, errors.Unavailable):
    type = "snapshot-memory-cut-off"
    text = N_("the memory of {name} was being written when the daemon or the VM ended; no snapshot was made")
    hint = N_("take it again")
    name: str


async def create(standing: Standing, preparation: Preparation, machine: vm.VM, run: tasks.Run) -> dict[str, Any]:
    """Make a snapshot that waits. One that cannot be made is gone again, and the VM is as it was."""
    made = await _subject(standing, run)
    if made.status.state != "ready":
        try:
            made = await _create(standing, preparation, machine, made, run)
        except (errors.Problem, OSError) as error:
            await abandon(standing, preparation, machine, run)
            reason = words.say(error) if isinstance(error, errors.Problem) else str(error)
            note = notes.SnapshotLost(name=machine.name, snapshot=made.name, reason=reason)
            await standing.tell(machine, note, base.Severity.WARNING)
            raise
    consistency = made.status.consistency.value if made.status.consistency else ""
    result = {"snapshot": made.name, "uid": made.uid, "consistency": consistency}
    background = run.remembered.get("background")  # None: no memory of a running machine was written
    return result if background is None else {**result, "background": background}


async def _create(
    standing: Standing, preparation: Preparation, machine: vm.VM, made: snapshot.Snapshot, run: tasks.Run
) -> snapshot.Snapshot:
    known, mark = await overlaying.volumes_of(preparation, machine), overlaying.mark_of(run)
    if not known or not overlaying.entered(machine, known, mark):
        await _check(standing, preparation, machine, made, known)
        await overlaying.make(preparation, machine, known, mark)
        await _enter(standing, preparation, machine, made, known, mark)
    overlays = await overlaying.paths(preparation, machine, known, mark)
    consistency, why = await _take(standing, preparation, machine, made, overlays, run)
    taken, size = base.now(), await _size(preparation, machine, await _again(standing, made))

    def ready(present: snapshot.Snapshot) -> snapshot.SnapshotStatus:
        reason = base.Saying.of(why) if why else None
        fields = {"state": "ready", "taken": taken, "consistency": consistency, "reason": reason, "size_bytes": size}
        return present.status.model_copy(update=fields)

    note = notes.SnapshotMade(name=machine.name, snapshot=made.name)
    event = work.event(note, subject=machine.ref)
    made = await standing.ground.resources.change_status(
        snapshot.Snapshot, standing.project, made.uid, ready, also=[event]
    )
    await show_lineage(standing, preparation, machine)
    await preparation.write_definition(await standing.read())
    if standing.machine:
        await preparation.note_running(machine)
    return made


async def _check(
    standing: Standing,
    preparation: Preparation,
    machine: vm.VM,
    made: snapshot.Snapshot,
    known: overlaying.Volumes,
) -> None:
    """Refuse what cannot be, before anything is touched."""
    if not known:
        raise NoDisks(name=machine.name)
    running = standing.machine
    if made.spec.memory and running is None and not await preparation.has_saved(machine):
        raise NoMemory(name=machine.name)
    if made.spec.memory and running is not None and running.run is not engine.Run.RUNNING:
        raise Paused(name=machine.name)
    if made.spec.memory:
        for uid in (await freeing.had(standing, preparation, machine) or set()) - set(known):
            volume = await standing.ground.resources.get(ground.Volume, standing.project, uid)
            raise MemoryKnowsMore(name=machine.name, volume=volume.name)
    preparation.in_use.check_plugged_nowhere_else(machine)
    layers.check_depth(machine, known)
    memory = machine.spec.memory if made.spec.memory else 0
    for storage in {volume.spec.storage for volume in known.values()}:
        later = 0
        for volume in known.values():
            if running and volume.spec.storage == storage:  # what is written anew takes room anew
                later += await asyncio.to_thread(files.allocated, await preparation.disks.path(volume))
        now = memory if storage == machine.spec.storage else 0
        await preparation.rooms.check_growth(storage, now=now, later=later)


async def _enter(
    standing: Standing,
    preparation: Preparation,
    machine: vm.VM,
    made: snapshot.Snapshot,
    known: overlaying.Volumes,
    mark: str,
) -> None:
    """In one transaction: what the snapshot is made of, and that the disks go on elsewhere."""

    async def wanted() -> resources.Transaction:
        transaction = resources.Transaction()
        present = await overlaying.volumes_of(preparation, machine)
        held: list[snapshot.SnapshotDisk] = []
        for disk in machine.spec.disks:
            volume = present[disk.volume]
            file, size = volume.spec.file_name, volume.spec.size
            held.append(snapshot.SnapshotDisk(disk=disk.name, volume=volume.uid, file=file, size=size))
            overlaying.update(transaction, volume, layers.overlaid(volume.spec, layers.file_of(disk.name, mark)))
        now = await _again(standing, made)
        transaction.update(resources.bumped(now, resources.with_spec(now, machine=machine.spec)))
        transaction.set_status(now, now.status.model_copy(update={"disks": tuple(held)}))
        return transaction

    await standing.commit(wanted)
    await preparation.write_definition(await standing.read())


async def _take(
    standing: Standing,
    preparation: Preparation,
    machine: vm.VM,
    made: snapshot.Snapshot,
    overlays: dict[str, pathlib.Path],
    run: tasks.Run,
) -> tuple[snapshot.Consistency, words.Message | None]:
    """The instant itself: how good it is, and why not better."""
    place = await preparation.place(machine)
    memory, built = place.memory_of(made.uid)
    for present, kept in place.kept_of(made.uid).items():
        await reach.Way(place.storage).call(_keep, present, kept)
    running = standing.machine
    if running is None:
        if made.spec.memory and run.remembered.get("ran"):
            raise MemoryCutOff(name=machine.name)
        if made.spec.memory:
            await reach.Way(place.storage).call(saved.link, place.saved_definition, built)
            await reach.Way(place.storage).call(saved.link, place.saved, memory)
            return snapshot.Consistency.MEMORY, None
        if run.remembered.get("ran"):
            return snapshot.Consistency.CRASH, notes.CutOff()
        if await preparation.has_saved(machine):
            return snapshot.Consistency.CRASH, notes.MemoryLeftOut()
        return snapshot.Consistency.STOPPED, None
    gone_on = await _asked(standing, running.layers.goes_on_in(overlays))
    if made.spec.memory:
        whole = await reach.Way(place.storage).call(memory.exists)
        if gone_on and whole:
            return snapshot.Consistency.MEMORY, None
        if gone_on:
            raise MemoryCutOff(name=machine.name)
        now = await resizing.to_be_saved(standing.ground.home.vm_runtime(machine.uid), machine, running)
        await reach.Way(place.storage).call(memory.parent.mkdir, mode=0o700, exist_ok=True)
        await reach.Way(place.storage).call(saved.note, built, now, running.started_generation)
        await run.remember(ran=True)
        told = lambda done, total: run.progress(done, total)  # noqa: E731
        behind = await running.remember(machine.spec.disks, overlays, memory, report=told)
        await run.remember(background=behind)
        return snapshot.Consistency.MEMORY, None
    if set(gone_on) == set(overlays):
        await running.thaw()
        return snapshot.Consistency.CRASH, notes.CutOff()
    await run.remember(ran=True)
    run.report(notes.FreezingGuest())
    why = await running.freeze()
    try:
        await running.layers.go_on_in(machine.spec.disks, overlays)
    finally:
        if why is None:
            await asyncio.shield(running.thaw())
    return (snapshot.Consistency.CRASH, why) if why else (snapshot.Consistency.FILESYSTEM, None)


async def abandon(standing: Standing, preparation: Preparation, machine: vm.VM, run: tasks.Run) -> None:
    """Forget a snapshot that was not made whole. What the disks have gone on in stays, where they have."""
    with contextlib.suppress(resources.Missing):
        made = await _subject(standing, run)
        if made.status.state == "ready":
            return
        known, mark = await overlaying.volumes_of(preparation, machine), overlaying.mark_of(run)
        overlays = await overlaying.paths(preparation, machine, known, mark)
        can_be_told = standing.machine is not None or not run.remembered.get("ran")
        if known and can_be_told and overlaying.entered(machine, known, mark):
            await overlaying.take_back(standing, preparation, machine, known, overlays)
        await standing.ground.resources.delete(await _again(standing, made))
        await _forget_files(preparation, machine, made)
        await merging.tidy(standing, preparation, merges=False)


async def delete(standing: Standing, preparation: Preparation, machine: vm.VM, run: tasks.Run) -> dict[str, Any]:
    """Delete a snapshot: what only it needs goes, what came after it is merged into what it was."""
    name = run.task.spec.params.get("name", "")
    with preparation.in_use.merged(machine):
        with contextlib.suppress(resources.Missing):  # an earlier attempt came to its end, all but the answer
            doomed = await _subject(standing, run)
            await standing.ground.resources.change_status(
                snapshot.Snapshot,
                standing.project,
                doomed.uid,
                lambda present: present.status.model_copy(update={"state": "deleting"}),
            )
            try:
                with space.told_when_full((await preparation.place(machine)).path):
                    await preparation.write_definition(await standing.read())
                    await _forget_files(preparation, machine, doomed)
                    await _free_tip(standing, preparation, machine, doomed, run)
                    await merging.tidy(standing, preparation, run)
                    for volume in await freeing.apart(standing, preparation, machine):
                        await merging.tidy(standing, preparation, run, only=volume.uid)
            except overlaying.NO_ROOM as problem:
                note = notes.WaitsForRoom(name=machine.name, snapshot=doomed.name)
                await _show_reason(standing, doomed, note)
                await overlaying.rest(standing, machine, run, note, problem)
            await show_lineage(standing, preparation, machine)
            await standing.ground.resources.delete(await _again(standing, doomed))
            await standing.tell(machine, notes.SnapshotDeleted(name=machine.name, snapshot=doomed.name))
        await preparation.write_definition(await standing.read())
    if standing.machine:
        await preparation.note_running(machine)
    return {"snapshot": name}


async def _show_reason(standing: Standing, one: snapshot.Snapshot, note: words.Message) -> None:
    """Why it is not gone yet."""
    reason = base.Saying.of(note)
    await standing.ground.resources.change_status(
        snapshot.Snapshot, standing.project, one.uid, lambda now: now.status.model_copy(update={"reason": reason})
    )


async def _free_tip(
    standing: Standing, preparation: Preparation, machine: vm.VM, doomed: snapshot.Snapshot, run: tasks.Run
) -> None:
    """Have a running machine go on in new files, so that those that it wrote to since the snapshot can be merged."""
    if standing.machine is None:
        return
    known = await overlaying.volumes_of(preparation, machine)
    needed = await merging.kept(preparation, machine)
    files_of = {disk.volume: disk.file for disk in doomed.status.disks}
    mark = overlaying.mark_of(run)
    wanted = {}
    for disk in machine.spec.disks:
        spec = known[disk.volume].spec
        below = spec.layers.get(spec.file_name)
        alone = below is not None and layers.above(spec, below) == (spec.file_name,)
        again = spec.name == layers.file_of(disk.name, mark)  # an earlier attempt has said so
        free = below not in needed.get(disk.volume, ())  # else it is another snapshot's by now
        if again or (alone and free and below == files_of.get(disk.volume)):
            wanted[disk.volume] = known[disk.volume]
    if wanted:
        try:
            await overlaying.go_on(standing, preparation, machine, wanted, run)
        except (engine.NotRunning, ConnectionError) as error:
            await standing.ends()
            raise overlaying.Later from error


async def show_lineage(standing: Standing, preparation: Preparation, machine: vm.VM) -> None:
    """Write which snapshot each came from, and which one the VM has gone on from."""
    known = await preparation.snapshots(machine)
    parents, present = layers.lineage(known, await overlaying.volumes_of(preparation, machine))
    for one in known:
        if one.uid in parents and one.status.parent != parents[one.uid]:
            changes = {"parent": parents[one.uid]}
            await standing.ground.resources.change_status(
                snapshot.Snapshot,
                standing.project,
                one.uid,
                lambda now, changes=changes: now.status.model_copy(update=changes),  # type: ignore[misc]
            )
    await standing.show(snapshot=present)


async def _subject(standing: Standing, run: tasks.Run) -> snapshot.Snapshot:
    uid = str(run.params["snapshot"])
    found = await standing.ground.resources.get(snapshot.Snapshot, standing.project, uid)
    if found.spec.vm != standing.uid:
        raise resources.Missing(kind="snapshot", name=uid)
    return found


async def _again(standing: Standing, one: snapshot.Snapshot) -> snapshot.Snapshot:
    return await standing.ground.resources.get(snapshot.Snapshot, standing.project, one.uid)


async def _asked(standing: Standing, answer: Any) -> tuple[str, ...]:
    """What a machine answers; while it cannot be heard nothing is decided."""
    try:
        found: tuple[str, ...] = await answer
    except (engine.NotRunning, ConnectionError, errors.TimedOut) as error:
        await standing.ends()
        raise overlaying.Later from error
    return found


async def _size(preparation: Preparation, machine: vm.VM, made: snapshot.Snapshot) -> int:
    """What its own files take: the layers that it was made of, and its memory."""
    place, taken = await preparation.place(machine), 0
    known = await overlaying.volumes_of(preparation, machine)
    beside = {disk.volume: await preparation.disks.path(known[disk.volume]) for disk in made.status.disks}
    layers_of = [beside[disk.volume].with_name(disk.file) for disk in made.status.disks]
    for path in (place.memory_of(made.uid)[0], *layers_of):
        with contextlib.suppress(FileNotFoundError):
            taken += await asyncio.to_thread(files.allocated, path)
    return taken


async def _forget_files(preparation: Preparation, machine: vm.VM, made: snapshot.Snapshot) -> None:
    place = await preparation.place(machine)

    def forget() -> None:
        for path in place.snapshots.glob(f"{made.uid}.*"):
            path.unlink(missing_ok=True)

    await reach.Way(place.storage).call(forget)


def _keep(source: pathlib.Path, to: pathlib.Path) -> None:
    """Copy what is small and what the guest may write."""
    with contextlib.suppress(FileNotFoundError):
        content = source.read_bytes()
        to.parent.mkdir(mode=0o700, exist_ok=True)
        files.write_durably(to, content, mode=0o600)
