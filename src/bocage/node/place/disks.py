"""The disk files of one host: where they lie, made, copied, grown, and told to the engine as chains.

Every step looks first at what is there, so that it can be cut off anywhere and done again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
from collections.abc import Callable, Sequence

from bocage import errors, files, reach, words
from bocage.engine import base as engine
from bocage.engine import block
from bocage.model import base, ground, vm
from bocage.model.units import Size
from bocage.node import notes
from bocage.node.ground import Ground
from bocage.node.place import in_use, rooms, slicing
from bocage.planner import layers, onlun
from bocage.storage import directory, half_made, lun, qcow2, sparse, volumes
from bocage.store import resources
from bocage.words import N_

Report = Callable[[words.Message], None]
Progress = Callable[[int, int], None]


class Error(errors.Problem):
    """A disk cannot be had on this host."""


class ImageMissing(Error, errors.Unavailable):
    type = "image-file-missing"
    text = N_("the image {digest} of disk {disk} is not on the storage")
    hint = N_("add it again: 'bocage image add'")
    digest: str
    disk: str


class VolumeMissing(Error, errors.Unavailable):
    type = "volume-file-missing"
    text = N_("the file {path} of disk {disk} is gone")
    hint = N_("restore it from a backup; nothing was made in its place")
    disk: str
    path: str


class Disks:
    """The disks of one host's VMs."""

    def __init__(self, ground: Ground, room: rooms.Rooms, use: in_use.InUse) -> None:
        self._ground = ground
        self._rooms = room
        self._in_use = use
        self.slicing = slicing.Slicing(ground)

    async def refuse(self, storage: str, what: str) -> None:
        """Raises onlun.NotThere where a storage cannot have that done."""
        if what in onlun.CANNOT and await self.slicing.place(storage) is not None:
            onlun.refuse(await self._ground.resources.get(ground.Storage, None, storage), what)

    async def of(self, machine: vm.VM) -> list[ground.Volume]:
        """A VM's volumes, in the order of its disks."""
        project = machine.metadata.project
        return [await self._ground.resources.get(ground.Volume, project, disk.volume) for disk in machine.spec.disks]

    async def path(self, volume: ground.Volume) -> pathlib.Path:
        """Where a volume's file lies, whether it is there or not."""
        return place_of(volume, await self._ground.storage_root(volume.spec.storage))

    async def extents(self, machine: vm.VM) -> list[rooms.Extent]:
        """What its disks may come to take; a slice of a LUN has all of it already."""
        return [
            rooms.Extent(volume.spec.storage, await self.path(volume), volume.spec.size)
            for volume in await self.of(machine)
            if await self.slicing.place(volume.spec.storage) is None
        ]

    async def make(
        self,
        volume: ground.Volume,
        disk: str,
        owner: int | None,
        *,
        report: Report | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Make a volume that waits, and say that it is ready, or why it cannot be made. Raises VolumeMissing."""
        path, sliced = await self.path(volume), await self.slicing.of(volume.spec.storage)
        if volume.status.state == "ready":
            if sliced is None:
                await self._check_there(volume, path, disk)
            return
        try:
            if report:
                report(notes.MakingDisk(disk=disk))
            if sliced is not None:
                await self._make_slice(sliced, volume, path, disk, progress)
                return
            await self.make_file(volume, path, disk, progress=progress)
        except (errors.Problem, OSError) as error:
            said = base.Saying.of(error) if isinstance(error, errors.Problem) else None
            await self._show(volume, ground.VolumeStatus(state="failed", problem=said))
            raise

        def give() -> int:
            own(path, owner)
            return files.allocated(path)

        allocated = await asyncio.to_thread(give)
        await self._show(volume, ground.VolumeStatus(state="ready", path=str(path), allocated_bytes=allocated))

    async def _make_slice(
        self, on: lun.Lun, volume: ground.Volume, path: pathlib.Path, disk: str, progress: Progress | None
    ) -> None:
        """Give a volume its slice and write all of it. Raises ImageMissing, slices.Full, lun.Unreachable."""
        spec, image = volume.spec, None
        if spec.source:
            await self.refuse(spec.storage, "copy")
        if spec.image and (found := await self.image_file(spec.storage, spec.image, anywhere=True)):
            image = found, found.suffix.removeprefix(".")
        elif spec.image:
            raise ImageMissing(digest=spec.image[:12], disk=disk)
        part = await self.slicing.give(volume)
        scratch = path.with_name(f".{path.name}{half_made.SUFFIX}")
        await lun.fill(on, part, scratch, image=image, progress=progress)
        await self._show(volume, ground.VolumeStatus(state="ready", allocated_bytes=part.size))

    async def make_file(
        self, volume: ground.Volume, path: pathlib.Path, disk: str, *, progress: Progress | None = None
    ) -> None:
        """Make a volume's file whole: blank, linked to its image, or a full copy of it or of another volume.

        Raises storage's Gone, Full and Exists, rooms.WouldNotFit, ImageMissing, CopyWhileRunning.
        """
        spec = volume.spec
        root = await self._ground.storage_root(spec.storage)

        def is_there() -> bool:
            directory.expect(root, spec.storage)
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
            return os.path.lexists(path)

        if not await asyncio.to_thread(is_there):
            await self._rooms.check_growth(spec.storage, now=spec.size if spec.preallocated else 0)
            if spec.source and spec.source_file:
                await self._copy_layer(volume, spec.source, spec.source_file, path, progress)
            elif spec.source:
                await self._copy(volume, path, progress)
            elif spec.image is None:
                await volumes.create(path, image_format=spec.format, size=spec.size, preallocate=spec.preallocated)
            else:
                await self._from_image(volume, spec.image, path, disk, progress)
        if not spec.linked:  # a copy has the size of what it was made from at first
            await volumes.grow(path, image_format=spec.format, size=spec.size)

    async def grow(
        self, volume: ground.Volume, size: Size, *, running: engine.Machine | None = None, disk: str = ""
    ) -> None:
        """Make a volume larger; by the machine that runs on it, where one does. Raises rooms.WouldNotFit."""
        await self.refuse(volume.spec.storage, "grow")
        path = await self.path(volume)
        await self._rooms.check_growth(volume.spec.storage, later=max(size - volume.spec.size, 0))
        if running:
            await running.disks.grow(disk, size)
        else:
            below = (await self.chain(volume, disk))[1:]
            backing = volumes.Backing(relative(below[0].path, path), below[0].format) if below else None
            await volumes.grow(path, image_format=volume.spec.format, size=size, backing=backing)
        await self._ground.resources.change(
            ground.Volume,
            volume.metadata.project,
            volume.uid,
            lambda present: resources.with_spec(present, size=size),
        )

    async def chain(self, volume: ground.Volume, disk: str, *, top: str | None = None) -> tuple[block.File, ...]:
        """A volume's file, or `top` among its files, and what that rests on, each header as it is recorded.

        Raises VolumeMissing, ImageMissing, and what a changed header gives.
        """
        path = await self.path(volume)
        if await self.slicing.place(volume.spec.storage) is not None:
            return (await self.slicing.file(volume, path),)
        found = [file_beside(path, name) for name in layers.chain(volume.spec, top)]
        for file in found:
            await self._check_there(volume, file.path, disk)
        if volume.spec.linked:
            assert volume.spec.image
            image = await self.image_file(volume.spec.storage, volume.spec.image)
            if image is None:
                raise ImageMissing(digest=volume.spec.image[:12], disk=disk)
            found.append(block.File(path=image, format=image.suffix.removeprefix(".")))
        return await asyncio.to_thread(check_chain, found, volume.spec)

    async def layers(self, volume: ground.Volume, disk: str, *, top: str | None = None) -> list[volumes.Layer]:
        """A volume's chain as the storage's tools take it, its own file first. Raises onlun.NotThere."""
        await self.refuse(volume.spec.storage, "copy")
        return [volumes.Layer(file.path, file.format) for file in await self.chain(volume, disk, top=top)]

    async def image_file(self, storage: str, digest: str, *, anywhere: bool = False) -> pathlib.Path | None:
        """The file of an image on a storage, or with `anywhere` on any storage of this host."""
        roots = [await self._ground.storage_root(storage)]
        if anywhere:
            known = await self._ground.resources.list(ground.Storage)
            roots += [pathlib.Path(one.spec.path) for one in known.items if one.reached_by(self._ground.uid)]
        there = [root / "images" / f"{digest}.{suffix}" for root in roots for suffix in ("qcow2", "raw", "iso")]
        return await asyncio.to_thread(lambda: next((path for path in there if path.is_file()), None))

    async def free(self, volume: ground.Volume) -> None:
        """Give the file of a VM's volume the name too that it has when it lies by itself; it stays the same file."""
        await self.refuse(volume.spec.storage, "vm.disk-detach")
        there, by_itself = await self.path(volume), await self.path(_by_itself(volume))
        root = await self._ground.storage_root(volume.spec.storage)

        def link() -> None:
            directory.expect(root, volume.spec.storage)
            if not there.exists() and (by_itself.exists() or volume.status.state != "ready"):
                return
            if by_itself.exists():
                if by_itself.samefile(there):
                    return
                by_itself.unlink()  # of an earlier time: what the VM has had since is another file
            by_itself.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
            try:
                os.link(there, by_itself, follow_symlinks=False)
            except OSError:  # a file system without hard links
                files.rename_durably(there, by_itself, replace=False)
            files.sync_directory(by_itself.parent)
            files.sync_directory(by_itself.parent.parent)
            own(by_itself, os.geteuid())

        await reach.Way(root).call(link)

    async def unfree(self, volume: ground.Volume) -> None:
        """Take back what `free` did for a volume that stays its VM's: a second name would outlive what it names."""
        there, by_itself = await self.path(volume), await self.path(_by_itself(volume))
        root = await self._ground.storage_root(volume.spec.storage)

        def take_back() -> None:
            directory.expect(root, volume.spec.storage)
            if there == by_itself or not by_itself.exists():
                return
            if there.exists():
                by_itself.unlink()
            else:
                files.rename_durably(by_itself, there, replace=False)
            with contextlib.suppress(OSError):
                root.joinpath("volumes", volume.uid, "disks").rmdir()
            with contextlib.suppress(OSError):
                root.joinpath("volumes", volume.uid).rmdir()

        await reach.Way(root).call(take_back)

    async def leave(self, project: str, volume_uid: str, old: pathlib.Path) -> None:
        """Take the name away that a freed volume's file had in its VM's directory."""
        with contextlib.suppress(resources.Missing):
            volume = await self._ground.resources.get(ground.Volume, project, volume_uid)
            path, root = await self.path(volume), await self._ground.storage_root(volume.spec.storage)

            def take_away() -> None:
                if volume.spec.vm is None and path != old and path.exists():
                    old.unlink(missing_ok=True)

            await reach.Way(root).call(take_away)

    async def _check_there(self, volume: ground.Volume, path: pathlib.Path, disk: str) -> None:
        if not await asyncio.to_thread(os.path.exists, path):
            root = await self._ground.storage_root(volume.spec.storage)
            await asyncio.to_thread(
                directory.expect, root, volume.spec.storage
            )  # another matter when the whole storage is away
            raise VolumeMissing(disk=disk, path=str(path))

    async def _from_image(
        self, volume: ground.Volume, digest: str, path: pathlib.Path, disk: str, progress: Progress | None
    ) -> None:
        spec = volume.spec
        image = await self.image_file(spec.storage, digest, anywhere=not spec.linked)
        if image is None:
            raise ImageMissing(digest=digest[:12], disk=disk)
        image_format = image.suffix.removeprefix(".")
        if spec.linked:
            backing = volumes.Backing(relative=relative(image, path), format=image_format)
            await volumes.create(path, image_format="qcow2", size=spec.size, backing=backing)
            return
        layer = volumes.Layer(image, image_format)
        limit = await self._rooms.left(spec.storage)
        await volumes.convert([layer], path, image_format=spec.format, limit=limit, progress=progress)

    async def _copy(self, volume: ground.Volume, path: pathlib.Path, progress: Progress | None) -> None:
        """Fill a volume from another one, which nobody may write meanwhile. Raises what `in_use.copied` does."""
        assert volume.spec.source
        project, spec = volume.metadata.project, volume.spec
        source = await self._ground.resources.get(ground.Volume, project, volume.spec.source)
        machines = (await self._ground.resources.list(vm.VM, project, trash=True)).items
        with self._in_use.copied(
            (one for one in machines if any(disk.volume == source.uid for disk in one.spec.disks)), source
        ):
            found, limit = await self.layers(source, source.name), await self._rooms.left(spec.storage)
            same = len(found) == 1 and found[0].format == spec.format
            if same and await sparse.share(found[0].path, path):
                return
            await volumes.convert(found, path, image_format=spec.format, limit=limit, progress=progress)

    async def _copy_layer(
        self, volume: ground.Volume, uid: str, file: str, path: pathlib.Path, progress: Progress | None
    ) -> None:
        """Fill a volume from a snapshot's file of another one, whose VM may run meanwhile."""
        source = await self._ground.resources.get(ground.Volume, volume.metadata.project, uid)
        with self._in_use.read(source.spec.vm or "", source.name):
            found = await self.layers(source, source.name, top=file)
            limit = await self._rooms.left(volume.spec.storage)
            await volumes.convert(found, path, image_format=volume.spec.format, limit=limit, progress=progress)

    async def _show(self, volume: ground.Volume, status: ground.VolumeStatus) -> None:
        place = (volume.metadata.project, volume.uid)
        await self._ground.resources.change_status(ground.Volume, *place, lambda _: status)


def place_of(volume: ground.Volume, root: pathlib.Path) -> pathlib.Path:
    """Where a volume's file lies below the root of its storage.

    One that is linked lies as deep by itself as in a VM, so that its header leads to the image from both.
    """
    if volume.spec.vm:
        return root / "vms" / volume.spec.vm / "disks" / volume.spec.file_name
    own_place = root / "volumes" / volume.uid
    return (own_place / "disks" if volume.spec.linked else own_place) / volume.spec.file_name


def check_chain(files: Sequence[block.File], spec: ground.VolumeSpec) -> tuple[block.File, ...]:
    """Hold the headers of a chain against what is recorded; the chain as the headers have it.

    The layer that is being merged and the image that is being copied belong to the chain until the store says
    otherwise: a header that leaves them out already may have become durable before what was copied has.
    Raises qcow2.HeaderDiffers and refusals.Refused.
    """
    for place, file in enumerate(files):
        if file.format != "qcow2":
            return tuple(files[: place + 1])
        below = files[place + 1] if place + 1 < len(files) else None
        named = below
        if below is not None and below.path.name == spec.merging and place + 2 < len(files):
            other = files[place + 2]
            named = other if qcow2.read_header(file.path).backing == relative(other.path, file.path) else below
        if below is not None and not below.own and spec.flattening and qcow2.read_header(file.path).backing is None:
            named = None
        backing = relative(named.path, file.path) if named else None
        qcow2.check_header(file.path, backing=backing, backing_format=named.format if named else None)
    return tuple(files)


def file_beside(path: pathlib.Path, name: str) -> block.File:
    """A layer of a VM, which lies beside `path`."""
    return block.File(path=path.with_name(name), format=name.rpartition(".")[2], own=True)


def _by_itself(volume: ground.Volume) -> ground.Volume:
    return volume.model_copy(update={"spec": volume.spec.model_copy(update={"vm": None})})


def own(path: pathlib.Path, uid: int | None) -> None:
    """Make a file that is missing, and give it to one uid alone; None: it stays the daemon's."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if uid is not None and os.fstat(descriptor).st_uid != uid:
            os.fchown(descriptor, uid, uid)
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def relative(target: pathlib.Path, link: pathlib.Path) -> str:
    """How a file beside `link` names `target`."""
    return os.path.relpath(target, link.parent)
