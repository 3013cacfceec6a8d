"""The replica of a VM that another host has: its files here, served to that host as long as the VM is not this one's.

What is served may be written by the other host at any time, so the process that serves ends before this host opens a
file of them. `replica.json` in the VM's directory says which copy the files are; it goes when they become its disks.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import secrets
import socket
from collections.abc import Sequence
from typing import Any

from bocage import errors, files
from bocage.engine import block
from bocage.engine.qemu import exporting
from bocage.model import base, ground, vm
from bocage.node import clustered, rights
from bocage.node.ground import Ground
from bocage.node.place import directory, disks
from bocage.node.place.preparation import Preparation
from bocage.protocol import records
from bocage.storage import volumes
from bocage.words import N_

_MARK = "replica.json"


class Error(errors.Problem):
    """No replica can be kept here."""


class NotForHere(Error, errors.Conflict):
    type = "replica-not-for-here"
    text = N_("this host keeps no replica of {vm} for that one")
    vm: str


class Asked(base.Part):
    """What the host says that has the VM."""

    project: str
    host: base.Uid
    generation: int
    """Of the ownership."""


def as_here(machine: vm.VM, its: Sequence[ground.Volume], *, before: str) -> tuple[vm.VM, list[ground.Volume]]:
    """The VM as it is where its replica lies, its own replica at the host `before`; its disks rest on nothing."""
    kept = machine.spec.replica
    assert kept is not None
    back = vm.Replica(host=before, storage=machine.spec.storage, mode=kept.mode)
    spec = machine.spec.model_copy(update={"storage": kept.storage, "replica": back})
    flat: dict[str, Any] = {"storage": kept.storage, "linked": False, "layers": {}}
    moved = [one.model_copy(update={"spec": one.spec.model_copy(update=flat)}) for one in its]
    return machine.model_copy(update={"spec": spec}), moved


async def prepare(here: Ground, preparation: Preparation, uid: str, asked: Asked) -> dict[str, Any]:
    """Have the files be there and serve them: on which port, with which key, and which copy they are.

    Raises NotForHere, rights.NoLife, and what keeps the files from being made.
    """
    cluster = here.cluster
    if cluster is None:
        raise clustered.Alone
    async with here.replicas[uid]:
        if cluster.lives.life is None:
            raise rights.NoLife(since="?")
        machine = await here.resources.get(vm.VM, asked.project, uid)
        found = await cluster.book.look_up(records.owner_of(uid), records.replica_of(uid))
        owner = found.get(records.Owner, records.owner_of(uid))
        kept = machine.spec.replica
        theirs = owner is not None and owner.host == asked.host and owner.generation == asked.generation
        if not theirs or asked.host == here.uid or kept is None or kept.host != here.uid or _counts(found, here, uid):
            raise NotForHere(vm=machine.name)
        if not cluster.lives.is_empty(uid):
            raise rights.StillHere(phase="its last process has ended just now")
        await exporting.end(here.home.replica_runtime(uid))
        there, its = as_here(machine, await preparation.disks.of(machine), before=asked.host)
        copy, chains, process_uid = await _files(preparation, there, its, owner)
        key = secrets.token_hex(32)
        with _listening(cluster.address) as listener:
            export = exporting.Export(here.home.replica_runtime(uid), chains, key, process_uid)
            await exporting.start(export, listener)
            return {"port": listener.getsockname()[1], "key": key, "copy": copy}


async def close(here: Ground, uid: str) -> None:
    """Serve them no more: when this returns, the other host writes nothing of them."""
    async with here.replicas[uid]:
        await exporting.end(here.home.replica_runtime(uid))


async def discard(here: Ground, uid: str) -> None:
    """No replica is to be here any more: its files go, unless they are the VM's disks or are to be a replica again."""
    machines = (await here.resources.list(vm.VM, trash=True)).items
    machine = next((one for one in machines if one.uid == uid), None)
    if machine and (
        machine.status.host == here.uid or (machine.spec.replica and machine.spec.replica.host == here.uid)
    ):
        raise NotForHere(vm=machine.name)
    async with here.replicas[uid]:
        if here.cluster is not None:
            key = records.replica_of(uid)
            if _counts(await here.cluster.book.look_up(key), here, uid):
                raise NotForHere(vm=machine.name if machine else uid)
        await exporting.end(here.home.replica_runtime(uid))
        for storage in (await here.resources.list(ground.Storage)).items:
            place = pathlib.Path(storage.spec.path) / "vms" / uid
            if storage.spec.host == here.uid and await asyncio.to_thread((place / _MARK).exists):
                await asyncio.to_thread(files.remove_tree, place)


def _counts(found: records.View, here: Ground, uid: str) -> bool:
    """Whether the records say that the copy here may be started: then nobody touches it."""
    record = found.get(records.Replica, records.replica_of(uid))
    return record is not None and record.host == here.uid and record.in_sync


async def become_disks(here: Ground, preparation: Preparation, machine: vm.VM) -> None:
    """The files are its disks from now on: as a replica they would begin anew. The export has ended."""
    place = await preparation.place(machine)

    def unmark() -> None:
        (place.path / _MARK).unlink(missing_ok=True)
        files.sync_directory(place.path)

    await asyncio.to_thread(unmark)


async def _files(
    preparation: Preparation, there: vm.VM, its: Sequence[ground.Volume], owner: records.Owner | None
) -> tuple[str, dict[str, block.File], int | None]:
    """Make what is missing, and all of it anew where anything does not fit; which copy it is, and whose it is."""
    await preparation.check_storage(there)
    place = await preparation.place(there)
    await asyncio.to_thread(place.make)
    process_uid = await preparation.owner(there)
    root = place.storage
    paths = {disk.name: disks.place_of(one, root) for disk, one in zip(there.spec.disks, its, strict=True)}
    sizes = {str(paths[disk.name]): int(one.spec.size) for disk, one in zip(there.spec.disks, its, strict=True)}
    copy = await asyncio.to_thread(_marked, place.path / _MARK, sizes)
    if copy is None:
        copy = base.new_uid().replace("-", "")
        await asyncio.to_thread(_begin_anew, place, paths.values())
        for one in its:
            path = disks.place_of(one, root)
            await volumes.create(path, image_format=one.spec.format, size=one.spec.size)
        mark = {"copy": copy, "files": sizes}
        await asyncio.to_thread(files.write_durably, place.path / _MARK, json.dumps(mark))
    for path in paths.values():
        await asyncio.to_thread(disks.own, path, process_uid)
    await preparation.make_around(there, place)
    whose = vm.Owner(host=owner.host, generation=owner.generation) if owner else None
    await asyncio.to_thread(place.write, await preparation.held(there, its, whose))
    formats = {disk.name: one.spec.format.value for disk, one in zip(there.spec.disks, its, strict=True)}
    return copy, {name: block.File(path, formats[name], own=True) for name, path in paths.items()}, process_uid


def _marked(mark: pathlib.Path, sizes: dict[str, int]) -> str | None:
    """Which copy the files are; None where they are none, or other ones."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(mark.read_text())
        if kept["files"] == sizes and all(os.path.exists(path) for path in sizes):
            return str(kept["copy"])
    return None


def _begin_anew(place: directory.Directory, paths: Any) -> None:
    """What lies there is of an earlier time, in which this host had the VM, or of another shape."""
    (place.path / _MARK).unlink(missing_ok=True)
    for path in paths:
        path.unlink(missing_ok=True)
    place.disks.mkdir(exist_ok=True, mode=0o711)
    for rest in (place.saved, place.saved_definition):
        rest.unlink(missing_ok=True)


def _listening(address: str) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.bind((address, 0))
        listener.listen(4)
    except OSError:
        listener.close()
        raise
    return listener
