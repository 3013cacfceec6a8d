"""Makes what a VM needs on this host before it can start: directory, disks, seed, firmware, definition.

Every step looks first at what is there, so that it can be cut off anywhere and done again.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import pathlib
from typing import Any

from bocage import errors, files
from bocage.engine import base as engine
from bocage.engine.qemu import starting
from bocage.guest import seed as seeds
from bocage.model import base, ground, vm
from bocage.model.units import Size
from bocage.node import directory, edits, rooms, uids, wiring
from bocage.node.ground import Ground
from bocage.storage import qcow2, space, volumes
from bocage.store import resources
from bocage.words import N_

_ROOM_TO_GO_ON = 64 << 20  # bytes


class Error(errors.Problem):
    """A VM cannot be prepared on this host."""


class ImageMissing(Error, errors.Unavailable):
    type = "image-file-missing"
    text = N_("the image {digest} of disk {disk} is not on the storage")
    hint = N_("add it again: 'bocage image add'")
    digest: str
    disk: str


class CopyWhileRunning(Error, errors.Conflict):
    type = "copy-while-running"
    text = N_("{name} is running: its disks change while they would be copied")
    hint = N_("'bocage vm stop {name}' first")
    name: str


class VolumeMissing(Error, errors.Unavailable):
    type = "volume-file-missing"
    text = N_("the file {path} of disk {disk} is gone")
    hint = N_("restore it from a backup; nothing was made in its place")
    disk: str
    path: str


class Preparation:
    """The things of one host's VMs."""

    def __init__(self, ground: Ground, wires: wiring.Wires) -> None:
        self._ground = ground
        self._wires = wires
        self._uids = uids.Uids()
        self._rooms = rooms.Rooms(ground)
        self._copied: collections.Counter[str] = collections.Counter()  # VMs whose disks are read for a copy

    async def place(self, machine: vm.VM) -> directory.Directory:
        """Where the VM's directory lies."""
        root = await self._ground.storage_root(machine.spec.storage)
        return directory.Directory(root / "vms" / machine.uid)

    async def trash(self, machine: vm.VM) -> pathlib.Path:
        """Where it lies after it was deleted."""
        root = await self._ground.storage_root(machine.spec.storage)
        return root / "trash" / machine.uid

    async def volumes_of(self, machine: vm.VM) -> list[ground.Volume]:
        """Its disks' volumes, in the order of the disks."""
        project = machine.metadata.project
        return [await self._ground.resources.get(ground.Volume, project, disk.volume) for disk in machine.spec.disks]

    async def volume_path(self, volume: ground.Volume) -> pathlib.Path:
        """Where a volume's file lies, whether it is there or not."""
        root = await self._ground.storage_root(volume.spec.storage)
        file_name = f"{volume.spec.name}.{volume.spec.format}"
        if volume.spec.vm:
            return root / "vms" / volume.spec.vm / "disks" / file_name
        return root / "volumes" / volume.uid / file_name

    async def make(self, machine: vm.VM) -> None:
        """Make all that is missing, and say that its volumes are ready."""
        place = await self.place(machine)
        await asyncio.to_thread(place.make)
        uid = self._uids.of(machine.uid, place.path, place.path.parent)
        for log in (place.serial_log, place.qemu_log):
            await asyncio.to_thread(_own, log, uid)
        for disk, volume in zip(machine.spec.disks, await self.volumes_of(machine), strict=True):
            await self._make_volume(volume, disk.name, uid)
        if machine.spec.seed and not place.seed.exists():
            image = await asyncio.to_thread(seeds.build, _seed(machine, machine.spec.seed))
            await asyncio.to_thread(files.write_durably, place.seed, image, mode=0o444)
        if machine.spec.hardware.firmware is vm.Firmware.UEFI:
            await self._firmware_variables(machine, place)
        await self.write_definition(machine)
        await self.link(machine)

    async def write_definition(self, machine: vm.VM) -> None:
        """Make `vm.yaml` say what the store says."""
        place = await self.place(machine)
        owner, _ = await self._ground.resources.owner(machine)
        held = directory.Held(
            vm=machine, volumes=tuple(await self.volumes_of(machine)), names=await self.names(machine), owner=owner
        )
        await asyncio.to_thread(place.write, held)

    async def link(self, machine: vm.VM) -> None:
        """Make `by-name/PROJECT/NAME` lead to the directory, and no other name."""
        place = await self.place(machine)
        project = self._ground.home.by_name / (machine.metadata.project or "default")
        link = project / machine.name
        target = _relative(place.path, link)
        if link.is_symlink() and os.readlink(link) == target:
            return
        project.mkdir(parents=True, exist_ok=True)
        self.unlink(machine)
        files.link_durably(link, target)

    def unlink(self, machine: vm.VM) -> None:
        """Remove every link to the VM."""
        project = self._ground.home.by_name / (machine.metadata.project or "default")
        if not project.is_dir():
            return
        for link in project.iterdir():
            if link.is_symlink() and pathlib.PurePath(os.readlink(link)).name == machine.uid:
                link.unlink(missing_ok=True)

    async def plan(self, machine: vm.VM, *, connect: bool = True) -> engine.Plan:
        """All that starting it needs to know; its files and, with `connect`, its wires are there when this returns."""
        place = await self.place(machine)
        uid = self._uids.of(machine.uid, place.path, place.path.parent)
        chains = {}
        for disk, volume in zip(machine.spec.disks, await self.volumes_of(machine), strict=True):
            chains[disk.name] = await self._chain(volume, disk.name)
        runtime = self._ground.home.vm_runtime(machine.uid)
        return engine.Plan(
            uid=machine.uid,
            name=machine.name,
            project=machine.metadata.project or "default",
            spec=machine.spec,
            directory=place.path,
            runtime=runtime,
            chains=chains,
            cds={cd.name: await self.image_path(machine, cd.image) for cd in machine.spec.cds},
            nics=await (self._wires.connect(machine, uid) if connect else self._wires.describe(machine, uid)),
            accelerator=self._ground.accelerator,
            seed=place.seed if machine.spec.seed else None,
            process_uid=uid,
            process_gid=uid,
            cgroup=self._ground.cgroup_of(machine.uid),
        )

    async def image_path(self, machine: vm.VM, uid: str | None) -> pathlib.Path | None:
        """The file of an image; None for an empty tray. Raises ImageMissing."""
        if uid is None:
            return None
        image = await self._ground.resources.get(ground.Image, machine.metadata.project, uid)
        path = await self._image_file(image.spec.storage, image.spec.sha256)
        if path is None:
            raise ImageMissing(digest=image.spec.sha256[:12], disk=image.name)
        return path

    async def disconnect(self, machine: vm.VM) -> None:
        """Take down what carried its NICs; it writes no more."""
        self._rooms.promise(machine.uid, [])
        await self._wires.disconnect(machine)

    async def has_room(self, machine: vm.VM) -> bool:
        """Whether a VM that met a full storage can go on: 64 MiB are free again wherever its disks lie."""
        roots = {await self._ground.storage_root(volume.spec.storage) for volume in await self.volumes_of(machine)}
        return all(space.free(root) >= _ROOM_TO_GO_ON for root in roots)

    async def grow(
        self, volume: ground.Volume, size: Size, *, running: engine.Machine | None = None, disk: str = ""
    ) -> None:
        """Make a volume larger; by the machine that runs on it, where one does."""
        path = await self.volume_path(volume)
        await self._rooms.check_growth(volume.spec.storage, later=max(size - volume.spec.size, 0))
        if running:
            await running.grow_disk(disk, size)
        else:
            backing = (await self._chain(volume, disk))[1:]
            await volumes.grow(
                path,
                image_format=volume.spec.format,
                size=size,
                backing=volumes.Backing(relative=_relative(backing[0].path, path), format=backing[0].format)
                if backing
                else None,
            )
        await self._ground.resources.change(
            ground.Volume,
            volume.metadata.project,
            volume.uid,
            lambda present: resources.with_spec(present, size=size),
        )

    async def check_room(self, machine: vm.VM) -> None:
        """Refuse a start that could fill a storage past its reserve; raises WouldNotFit."""
        await self._rooms.check_start(machine.uid, await self._extents(machine))

    async def note_running(self, machine: vm.VM) -> None:
        """It may write from now on: what its disks can still grow by is promised to it, and its wires are known."""
        self._rooms.promise(machine.uid, await self._extents(machine))
        await self._wires.found(machine)

    async def agree(self, machine: vm.VM) -> None:
        """Have its networks know it as it is called now, with the NICs that it has."""
        await self._wires.agree(machine)

    async def forget(self, machine: vm.VM) -> None:
        """It is deleted: what its networks kept for it is free."""
        await self._wires.forget(machine)

    async def carriers(self, machine: vm.VM) -> dict[str, engine.Backend]:
        """What carries the NICs that a running VM was started with."""
        place = await self.place(machine)
        uid = self._uids.of(machine.uid, place.path, place.path.parent)
        started = edits.started_with(self._ground.home.vm_runtime(machine.uid)) or machine.spec
        return await self._wires.describe(machine.model_copy(update={"spec": started}), uid)

    async def _extents(self, machine: vm.VM) -> list[rooms.Extent]:
        return [
            rooms.Extent(volume.spec.storage, await self.volume_path(volume), volume.spec.size)
            for volume in await self.volumes_of(machine)
        ]

    async def layers(self, volume: ground.Volume, disk: str) -> list[volumes.Layer]:
        """A volume's chain as the storage's tools take it, its own file first."""
        return [volumes.Layer(file.path, file.format) for file in await self._chain(volume, disk)]

    async def _make_volume(self, volume: ground.Volume, disk: str, uid: int | None) -> None:
        path = await self.volume_path(volume)
        if volume.status.state == "ready":
            if not path.exists():
                raise VolumeMissing(disk=disk, path=str(path))
            return
        if not path.exists():
            await self.make_volume_file(volume, path, disk)
        await asyncio.to_thread(_own, path, uid)
        await self._ground.resources.change_status(
            ground.Volume,
            volume.metadata.project,
            volume.uid,
            lambda present: present.status.model_copy(
                update={"state": "ready", "path": str(path), "allocated_bytes": files.allocated(path), "problem": None}
            ),
        )

    async def make_volume_file(self, volume: ground.Volume, path: pathlib.Path, disk: str) -> None:
        """Make a volume's file whole: blank, linked to its image, or a full copy of it."""
        spec = volume.spec
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
        await self._rooms.check_growth(spec.storage, now=spec.size if spec.preallocated else 0)
        if spec.source:
            await self._copy(volume, path)
            return
        if spec.image is None:
            await volumes.create(path, image_format=spec.format, size=spec.size, preallocate=spec.preallocated)
            return
        image = await self._image_file(spec.storage, spec.image, anywhere=not spec.linked)
        if image is None:
            raise ImageMissing(digest=spec.image[:12], disk=disk)
        image_format = image.suffix.removeprefix(".")
        if spec.linked:
            backing = volumes.Backing(relative=_relative(image, path), format=image_format)
            await volumes.create(path, image_format="qcow2", size=spec.size, backing=backing)
            return
        await volumes.convert([volumes.Layer(image, image_format)], path, image_format=spec.format)
        await volumes.grow(path, image_format=spec.format, size=spec.size)

    async def _copy(self, volume: ground.Volume, path: pathlib.Path) -> None:
        """Fill a volume from another one, which nobody may write meanwhile."""
        assert volume.spec.source
        project = volume.metadata.project
        source = await self._ground.resources.get(ground.Volume, project, volume.spec.source)
        machines = (await self._ground.resources.list(vm.VM, project)).items
        users = [one for one in machines if any(disk.volume == source.uid for disk in one.spec.disks)]
        with contextlib.ExitStack() as undo:
            for user in users:
                self._copied[user.uid] += 1
                undo.callback(self._copied.subtract, [user.uid])
                if user.status.pid is not None:
                    raise CopyWhileRunning(name=user.name)
            await volumes.convert(await self.layers(source, source.name), path, image_format=volume.spec.format)
            await volumes.grow(path, image_format=volume.spec.format, size=volume.spec.size)

    def is_copied(self, vm_uid: str) -> bool:
        """Whether a VM's disks are being read for a copy just now, so that it must not start."""
        return self._copied[vm_uid] > 0

    async def _firmware_variables(self, machine: vm.VM, place: directory.Directory) -> None:
        """The copy's are those of the VM it was copied from; else the firmware's own."""
        for volume in await self.volumes_of(machine):
            if volume.spec.source and not place.firmware_variables.exists():
                with contextlib.suppress(resources.Missing, FileNotFoundError):
                    source = await self._ground.resources.get(
                        ground.Volume, machine.metadata.project, volume.spec.source
                    )
                    old = (await self.volume_path(source)).parent.parent / place.firmware_variables.name
                    content = await asyncio.to_thread(old.read_bytes)
                    await asyncio.to_thread(files.write_durably, place.firmware_variables, content, mode=0o600)
        await asyncio.to_thread(starting.make_firmware_variables, place.firmware_variables)

    async def _chain(self, volume: ground.Volume, disk: str) -> tuple[engine.File, ...]:
        path = await self.volume_path(volume)
        if not path.exists():
            raise VolumeMissing(disk=disk, path=str(path))
        own = engine.File(path=path, format=volume.spec.format)
        if not volume.spec.linked:
            if own.format == "qcow2":
                qcow2.check_header(path, backing=None, backing_format=None)
            return (own,)
        assert volume.spec.image
        image = await self._image_file(volume.spec.storage, volume.spec.image)
        if image is None:
            raise ImageMissing(digest=volume.spec.image[:12], disk=disk)
        base_file = engine.File(path=image, format=image.suffix.removeprefix("."))
        backing = _relative(image, path)
        qcow2.check_header(path, backing=backing, backing_format=base_file.format)
        return (own, base_file)

    async def _image_file(self, storage: str, digest: str, *, anywhere: bool = False) -> pathlib.Path | None:
        roots = [await self._ground.storage_root(storage)]
        if anywhere:
            known = await self._ground.resources.list(ground.Storage)
            roots += [pathlib.Path(one.spec.path) for one in known.items if one.spec.host == self._ground.uid]
        for root in roots:
            for suffix in ("qcow2", "raw", "iso"):
                if (path := root / "images" / f"{digest}.{suffix}").is_file():
                    return path
        return None

    async def names(self, machine: vm.VM) -> dict[str, str]:
        """What it refers to is called so now, by uid: for those who read its definition elsewhere."""
        names: dict[str, str] = {}
        project = machine.metadata.project
        wanted: list[tuple[type[base.Resource[Any, Any]], str | None, str]] = [
            (ground.Storage, None, machine.spec.storage)
        ]
        wanted += [(ground.Network, project, nic.network) for nic in machine.spec.nics]
        wanted += [(ground.Image, project, cd.image) for cd in machine.spec.cds if cd.image]
        for kind, of, uid in wanted:
            try:
                names[uid] = (await self._ground.resources.get(kind, of, uid)).name
            except resources.Missing:
                continue
        return names


def _seed(machine: vm.VM, seed: vm.Seed) -> seeds.Seed:
    static = {one.nic: one for one in seed.network}
    nics = []
    for nic in machine.spec.nics:
        one = static.get(nic.name)
        nics.append(
            seeds.NicSeed(mac=nic.mac, address=one.address, gateway=one.gateway, dns=one.dns)
            if one
            else seeds.NicSeed(mac=nic.mac)
        )
    return seeds.Seed(
        instance_id=machine.uid,
        hostname=seed.hostname,
        user=seed.user,
        ssh_keys=seed.ssh_keys,
        password_hash=seed.password_hash,
        user_data=seed.user_data,
        network=tuple(nics),
    )


def _own(path: pathlib.Path, uid: int | None) -> None:
    """Make a file that is missing, and give it to the VM's uid alone."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if uid is not None and os.fstat(descriptor).st_uid != uid:
            os.fchown(descriptor, uid, uid)
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def _relative(target: pathlib.Path, link: pathlib.Path) -> str:
    """How a file beside `link` names `target`."""
    return os.path.relpath(target, link.parent)
