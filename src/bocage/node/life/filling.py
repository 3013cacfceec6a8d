"""Another directory for a whole VM: filled with all that is its own, and made the one that counts.

It is made whole under another name, so that whatever a crash leaves is swept or carried on.
"""

from __future__ import annotations

import asyncio
import dataclasses
import pathlib
import secrets

from bocage import errors, files, reach, threads
from bocage.model import ground, vm
from bocage.node import notes, tasks
from bocage.node.carrying import carried, shelving
from bocage.node.ground import Ground
from bocage.node.life.standing import Standing
from bocage.node.place import directory, disks
from bocage.node.place.preparation import Preparation
from bocage.planner import layers as tree
from bocage.storage import directory as storage_directory
from bocage.storage import half_made, qcow2, sparse, volumes
from bocage.store import resources
from bocage.words import N_


class Error(errors.Problem):
    """A VM cannot be moved."""


class InTheWay(Error, errors.Conflict):
    type = "move-in-the-way"
    text = N_("{path} is there already, and it is not of this move")
    hint = N_("look what it holds; move it aside or remove it, then try again")
    path: str


@dataclasses.dataclass(frozen=True, slots=True)
class Ways:
    """From where, to where, and the name that it has until it is whole, which no other attempt has."""

    old: directory.Directory
    new: directory.Directory
    making: directory.Directory
    storage: ground.Storage  # where to

    @property
    def way(self) -> reach.Way:
        """To where the new one is made."""
        return way_to(self.new.path)

    def check(self) -> None:
        """Raise storage's Gone unless it is still there; blocking."""
        storage_directory.open(pathlib.Path(self.storage.spec.path), self.storage.uid)


def way_to(path: pathlib.Path) -> reach.Way:
    """The way to the storage of a VM's directory."""
    return reach.Way(path.parent.parent)


def aside(path: pathlib.Path) -> str:
    """What a VM's directory is called while it is made, or removed: nobody takes it for one, and it is swept."""
    return f"{path.name}.{secrets.token_hex(4)}{half_made.SUFFIX}"


async def ways(preparation: Preparation, machine: vm.VM, target: ground.Storage, run: tasks.Run) -> Ways:
    """What an earlier attempt has left there is gone. Raises InTheWay, reach.Hangs, and storage's Gone."""
    old = await preparation.place(machine)
    new = directory.Directory(pathlib.Path(target.spec.path) / "vms" / machine.uid)
    found = Ways(old, new, directory.Directory(new.path.with_name(aside(new.path))), target)
    await found.way.free()
    await found.way.call(found.check)
    if await found.way.call(new.exists) and run.remembered.get("new") != str(new.path):
        raise InTheWay(path=str(new.path))
    await found.way.put_away(new.path, aside(new.path))
    return found


async def own_volumes(preparation: Preparation, machine: vm.VM) -> list[ground.Volume]:
    """The volumes that lie in its directory."""
    return [volume for volume in await preparation.disks.of(machine) if volume.spec.vm == machine.uid]


async def fill(
    host: Ground,
    preparation: Preparation,
    machine: vm.VM,
    target: ground.Storage,
    at: Ways,
    run: tasks.Run,
    *,
    running: bool = False,
) -> None:
    """Fill the new directory, durably. The files that a `running` guest writes are made there, and are empty.

    The images that disks are linked to come along, the definition does not: what has none counts for nothing.
    Raises rooms.WouldNotFit before anything is copied.
    """
    await at.way.do(_fill(host, preparation, machine, target, at, run, running=running))


async def _fill(
    host: Ground,
    preparation: Preparation,
    machine: vm.VM,
    target: ground.Storage,
    at: Ways,
    run: tasks.Run,
    *,
    running: bool,
) -> None:
    await at.way.call(at.making.make)
    own = await own_volumes(preparation, machine)
    beside = [*carried.BESIDE_DEFINITION, *carried.of_snapshots(await preparation.snapshots(machine)), "vm.yaml.edited"]
    beside += [f"{port.name}.out" for port in machine.spec.ports if port.to == "file"]
    await _check_room(preparation, at, own, beside, target, running=running)
    told = lambda done, total: run.progress(done, total)  # noqa: E731
    brought: set[str] = set()
    for volume in own:
        path = at.making.disks / volume.spec.file_name
        layers = await preparation.disks.layers(volume, volume.name)
        if volume.spec.linked and volume.spec.image and volume.spec.image not in brought:
            await _bring_image(host, preparation, volume, layers[-1].path, target, run)
            brought.add(volume.spec.image)
        run.report(notes.Copying(what=volume.name))
        if running or volume.spec.linked or volume.spec.layers:
            for name in tree.every(volume.spec):
                if running and name == volume.spec.file_name:
                    await _make_empty(preparation, volume, layers[0], path, target)
                    continue
                source = layers[0].path.with_name(name)
                await at.way.job(sparse.copy_now, told, source, path.with_name(name))
            first = tree.chain(volume.spec)[-1]
            if volume.spec.linked and not (running and first == volume.spec.file_name):
                await _lead_to_image(preparation, volume, layers[-1].path, path.with_name(first), target)
            continue
        limit = await preparation.rooms.left(target.uid)
        await volumes.convert(layers, path, image_format=volume.spec.format, limit=limit, progress=told)
        if volume.spec.format == "raw":
            await volumes.grow(path, image_format="raw", size=volume.spec.size)
    for name in beside:
        source = at.old.path / name
        if await way_to(at.old.path).call(source.exists):
            await at.way.call((at.making.path / name).parent.mkdir, mode=0o700, exist_ok=True)
            await at.way.job(sparse.copy_now, None, source, at.making.path / name)
    await _give_away(preparation, machine, at, own)
    await at.way.job(lambda _: files.sync_tree(at.making.path), None)


async def commit(standing: Standing, preparation: Preparation, target: ground.Storage) -> None:
    """Let the new place count: the VM and its volumes in one transaction.

    The storage and the images are written as they are: one that was deleted meanwhile fails the move, and cannot be
    deleted after it.
    """
    kept = standing.ground.resources

    async def wanted() -> resources.Transaction:
        transaction, present = resources.Transaction(), await standing.read()
        own = await own_volumes(preparation, present)
        transaction.update(resources.bumped(present, resources.with_spec(present, storage=target.uid)))
        for volume in own:
            transaction.update(resources.bumped(volume, resources.with_spec(volume, storage=target.uid)))
        transaction.update(await kept.get(ground.Storage, None, target.uid))
        known = (await kept.list(ground.Image)).items
        for digest in {volume.spec.image for volume in own if volume.spec.linked and volume.spec.image}:
            here = [one for one in known if (one.spec.sha256, one.spec.storage) == (digest, target.uid)]
            if not here:
                raise resources.Missing(kind="image", name=digest[:12])
            transaction.update(here[0])
        return transaction

    # Who is cancelled waits for it: else it could come to count after somebody saw that it does not.
    await threads.to_its_end(asyncio.ensure_future(standing.commit(wanted)))


async def _check_room(
    preparation: Preparation,
    at: Ways,
    own: list[ground.Volume],
    beside: list[str],
    target: ground.Storage,
    *,
    running: bool,
) -> None:
    def sizes() -> tuple[int, int]:
        there = [at.old.path / name for name in beside]
        there += [at.old.disks / name for volume in own for name in tree.every(volume.spec)]
        now = sum(files.allocated(path) for path in there if path.exists())
        tips = [(volume.spec.size, at.old.disks / volume.spec.file_name) for volume in own]
        later = sum(max(size - files.allocated(path), 0) for size, path in tips)
        return now, later if running else 0

    now, later = await way_to(at.old.path).call(sizes)
    await preparation.rooms.check_growth(target.uid, now=now, later=later)


async def _make_empty(
    preparation: Preparation, volume: ground.Volume, now: volumes.Layer, path: pathlib.Path, target: ground.Storage
) -> None:
    """The file that a running guest is to go on in, over what the one that it writes now rests on."""
    spec, backing = volume.spec, None
    below = spec.layers.get(spec.file_name)
    if below is not None:
        backing = volumes.Backing(below, below.rpartition(".")[2])
    elif spec.linked and spec.image:
        image = await preparation.disks.image_file(target.uid, spec.image)
        if image is None:
            raise disks.ImageMissing(digest=spec.image[:12], disk=volume.name)
        backing = volumes.Backing(disks.relative(image, path), image.suffix.removeprefix("."))
    size = await asyncio.to_thread(volumes.virtual_size, now)
    preallocated = spec.preallocated and backing is None
    await volumes.create(path, image_format=spec.format, size=size, preallocate=preallocated, backing=backing)


async def _give_away(preparation: Preparation, machine: vm.VM, at: Ways, own: list[ground.Volume]) -> None:
    """The VM's process may write what is its own."""
    owner = await preparation.owner(machine)
    written = [at.making.serial_log, at.making.qemu_log, at.making.firmware_variables]
    written += [at.making.disks / name for volume in own for name in tree.every(volume.spec)]
    for path in written:
        if await at.way.call(path.exists):
            await at.way.call(disks.own, path, owner)


async def _bring_image(
    host: Ground,
    preparation: Preparation,
    volume: ground.Volume,
    file: pathlib.Path,
    target: ground.Storage,
    run: tasks.Run,
) -> None:
    """Have the image that a disk is linked to on the other storage; it is copied there when it is not there yet."""
    assert volume.spec.image
    if await preparation.disks.image_file(target.uid, volume.spec.image) is None:
        await preparation.rooms.check_growth(target.uid, now=await asyncio.to_thread(files.allocated, file))
    source = await host.resources.get(ground.Storage, None, volume.spec.storage)
    run.report(notes.Copying(what=f"image {volume.spec.image[:12]}"))
    told = lambda done, total: run.progress(done, total)  # noqa: E731
    await shelving.bring(host, source, target, volume.spec.image, told)


async def _lead_to_image(
    preparation: Preparation, volume: ground.Volume, old: pathlib.Path, path: pathlib.Path, target: ground.Storage
) -> None:
    """The image lies at the same place there, but may be stored in another format."""
    assert volume.spec.image
    image = await preparation.disks.image_file(target.uid, volume.spec.image)
    if image is not None and image.name != old.name:
        backing_format = image.suffix.removeprefix(".")
        await qcow2.rebase(path, backing_relative=disks.relative(image, path), backing_format=backing_format)
