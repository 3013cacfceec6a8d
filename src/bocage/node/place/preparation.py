"""Makes what a VM needs on this host before it can start: directory, disks, seed, firmware, definition.

Every step looks first at what is there, so that it can be cut off anywhere and done again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
from collections.abc import Iterable

from bocage import errors, files, reach
from bocage.engine import base as engine
from bocage.engine.qemu import affinity, starting
from bocage.guest import seed as seeds
from bocage.model import ground, share, snapshot, vm
from bocage.node import started
from bocage.node.ground import Ground
from bocage.node.place import admission, directory, disks, in_use, referred, rooms, saved, trash, uids, usb
from bocage.node.wires import wiring
from bocage.planner import onlun, rescue
from bocage.storage import directory as storage_directory
from bocage.storage import half_made, space
from bocage.words import N_

_ROOM_TO_GO_ON = 64 << 20  # bytes


class Error(errors.Problem):
    """What a VM needs cannot be had."""


class NoLongerIts(Error, errors.Conflict):
    type = "vm-saved-with-what-it-lost"
    text = N_("the memory of {name} was saved with {device}, which does not belong to it any more")
    hint = N_("give it back, then start it; or throw the memory away: 'bocage vm kill {name}'")
    name: str
    device: str


class Preparation:
    """The things of one host's VMs."""

    def __init__(self, ground: Ground, wires: wiring.Wires) -> None:
        self._ground = ground
        self._wires = wires
        self._uids = uids.Uids(ground.home.path)
        self.rooms = rooms.Rooms(ground)
        self.in_use = in_use.InUse()
        self.disks = disks.Disks(ground, self.rooms, self.in_use)
        self.admission = admission.Admission(ground)
        self.usb = usb.Usb()

    async def place(self, machine: vm.VM) -> directory.Directory:
        """Where the VM's directory lies."""
        root = await self._ground.storage_root(machine.spec.storage)
        return directory.Directory(root / "vms" / machine.uid)

    def work(self, machine: vm.VM) -> contextlib.AbstractAsyncContextManager[None]:
        """To do something in its directory that no actor does; see rights.Rights."""
        return self._ground.rights.work(machine.spec.storage)

    async def check_storage(self, machine: vm.VM) -> None:
        """Raise storage's Gone, AnotherStorage, TooNew or Hangs unless the VM's storage, and no other, is there.

        So nothing is taken for missing or made anew.
        """
        root = await self._ground.storage_root(machine.spec.storage)
        await reach.Way(root).call(storage_directory.expect, root, machine.spec.storage)

    async def has_saved(self, machine: vm.VM) -> bool:
        """Whether its memory lies in a file; while its storage is away, as it was last known."""
        try:
            await self.check_storage(machine)
        except (storage_directory.Gone, storage_directory.AnotherStorage, storage_directory.TooNew, reach.Hangs):
            return machine.status.state is vm.State.SAVED or machine.spec.power is vm.Power.SAVED
        place = await self.place(machine)
        return await reach.Way(place.storage).call(place.saved.exists)

    async def as_it_was(self, machine: vm.VM) -> vm.VM:
        """The machine that its saved memory fits. Raises reach.Hangs."""
        place = await self.place(machine)
        return await reach.Way(place.storage).call(saved.as_it_was, place, machine)

    async def as_saved(self, machine: vm.VM) -> vm.VM:
        """The machine that its saved memory fits, its NICs on the networks that they had, as far as these are here.

        Raises NoLongerIts: what was saved may come from elsewhere, and gives nobody a disk or an address of others.
        """
        built = await self.as_it_was(machine)
        own = {disk.volume for disk in machine.spec.disks}
        for disk, volume in zip(built.spec.disks, await self.disks.of(built), strict=True):
            if volume.uid not in own and volume.spec.vm != machine.uid:
                raise NoLongerIts(name=machine.name, device=disk.name)
        others = (await self._ground.resources.list(vm.VM, trash=True)).items
        taken = {nic.mac for other in others if other.uid != machine.uid for nic in other.spec.nics}
        for nic in built.spec.nics:
            if nic.mac in taken:
                raise NoLongerIts(name=machine.name, device=nic.name)
        here = {one.uid for one in (await self._ground.resources.list(ground.Network, machine.metadata.project)).items}
        now = {nic.name: nic.network for nic in machine.spec.nics}
        nics = tuple(
            nic if nic.network in here else nic.model_copy(update={"network": now.get(nic.name, nic.network)})
            for nic in built.spec.nics
        )
        return built.model_copy(update={"spec": built.spec.model_copy(update={"nics": nics})})

    async def as_rescue(self, machine: vm.VM) -> vm.VM:
        """The machine that its rescue system runs in. Raises hardware.NoMachine."""
        host = await self._ground.resources.get(ground.Host, None, self._ground.uid)
        return machine.model_copy(update={"spec": rescue.machine(machine, host.status)})

    async def trash(self, machine: vm.VM) -> pathlib.Path:
        """Where it lies after it was deleted."""
        root = await self._ground.storage_root(machine.spec.storage)
        return root / "trash" / machine.uid

    async def make(
        self, machine: vm.VM, *, report: disks.Report | None = None, progress: disks.Progress | None = None
    ) -> None:
        """Make all that is missing but its definition, and say that its volumes are ready."""
        await self.check_storage(machine)
        place = await self.place(machine)
        await asyncio.to_thread(place.make)
        uid = await self._uid(machine, place)
        for log in (place.serial_log, place.qemu_log):
            await asyncio.to_thread(disks.own, log, uid)
        for disk, volume in zip(machine.spec.disks, await self.disks.of(machine), strict=True):
            await self.disks.make(volume, disk.name, uid, report=report, progress=progress)
        await self.make_around(machine, place)

    async def make_around(self, machine: vm.VM, place: directory.Directory) -> None:
        """What stands beside its disks and can be made of its definition: seed, and the firmware's first variables."""
        if machine.spec.seed and not place.seed.exists():
            image = await asyncio.to_thread(seeds.build, _seed(machine, machine.spec.seed))
            await asyncio.to_thread(files.write_durably, place.seed, image, mode=0o444)
        if machine.spec.hardware.firmware is vm.Firmware.UEFI:
            await self._firmware_variables(machine, place)

    async def make_what_waits(self, machine: vm.VM) -> None:
        """Make the disks that were added to a VM which is made, and what another host has kept beside its disks."""
        await self._make_beside(machine)
        if any(volume.status.state != "ready" for volume in await self.disks.of(machine)):
            await self.make(machine)
            await self.write_definition(machine)

    async def _make_beside(self, machine: vm.VM) -> None:
        """Of a VM on a LUN: what each host has by itself. Raises onlun.NotThere."""
        if await self.disks.slicing.place(machine.spec.storage) is None:
            return
        onlun.check(await self._ground.resources.get(ground.Storage, None, machine.spec.storage), machine.spec)
        if not (await self.place(machine)).disks.exists():
            await self.make(machine)

    async def write_definition(self, machine: vm.VM) -> bool:
        """Make `vm.yaml` say what the store says; False when it did."""
        await self._make_beside(machine)
        place = await self.place(machine)
        owner, _ = await self._ground.resources.owner(machine)
        held = await self.held(machine, await self.disks.of(machine), owner, await self.snapshots(machine))
        return await reach.Way(place.storage).call(place.write, held)

    async def held(
        self,
        machine: vm.VM,
        volumes: Iterable[ground.Volume],
        owner: vm.Owner | None,
        kept: Iterable[snapshot.Snapshot] = (),
    ) -> directory.Held:
        """All that its definition says, for those too who read it elsewhere."""
        store = self._ground.resources
        names, networks = await referred.things(store, machine, await self.disks.of(machine))
        return directory.Held(
            vm=machine,
            volumes=tuple(volumes),
            names=names,
            owner=owner,
            networks=networks,
            groups=tuple(await referred.groups(store, machine)),
            snapshots=tuple(kept),
        )

    async def snapshots(self, machine: vm.VM) -> list[snapshot.Snapshot]:
        """A VM's snapshots, the oldest first."""
        return await trash.snapshots(self._ground.resources, machine)

    async def link(self, machine: vm.VM) -> None:
        """Make `by-name/PROJECT/NAME` lead to the directory, and no other name."""
        place = await self.place(machine)
        project = self._ground.home.by_name / (machine.metadata.project or "default")
        link = project / machine.name
        target = disks.relative(place.path, link)
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
        """All that starting it needs to know; its files are there when this returns, and its taps with `connect`."""
        place = await self.place(machine)
        uid = await self._uid(machine, place)
        chains = {}
        for disk, volume in zip(machine.spec.disks, await self.disks.of(machine), strict=True):
            chains[disk.name] = await self.disks.chain(volume, disk.name)
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
            merge=await self._merges(),
            memory_node=_node(machine),
            process_uid=uid,
            process_gid=uid,
            cgroup=self._ground.cgroup_of(machine.uid),
        )

    async def _merges(self) -> bool:
        host = await self._ground.resources.get(ground.Host, None, self._ground.uid)
        return host.spec.merge_pages

    async def image_path(self, machine: vm.VM, uid: str | None) -> pathlib.Path | None:
        """The file of an image; None for an empty tray. Raises disks.ImageMissing."""
        if uid is None:
            return None
        image = await self._ground.resources.get(ground.Image, machine.metadata.project, uid)
        path = await self.disks.image_file(image.spec.storage, image.spec.sha256)
        if path is None:
            raise disks.ImageMissing(digest=image.spec.sha256[:12], disk=image.name)
        return path

    async def image_name(self, machine: vm.VM, uid: str) -> str:
        """What an image is called. Raises resources.Missing."""
        return (await self._ground.resources.get(ground.Image, machine.metadata.project, uid)).name

    async def claim(self, machine: vm.VM) -> None:
        """It is about to run: nobody copies its disks, and what it needs of the host and its disks can grow by is its.

        Raises in_use's BeingCopied and StillPlugged, admission.NotAdmitted, rooms.WouldNotFit; `disconnect` gives all
        back.
        """
        await self.disks.slicing.end_writes(machine.spec.storage)
        self.in_use.write(machine)
        await self.admission.claim(machine, machine.spec)
        await self.rooms.claim(machine.uid, await self.disks.extents(machine))

    def recall(self, machines: Iterable[vm.VM]) -> None:
        """Know again what the VMs of this host were given, before the first of them is looked at."""
        for machine in machines:
            if machine.status.pid is not None and not self._ground.rebooted:
                runtime = self._ground.home.vm_runtime(machine.uid)
                spec = started.held(runtime) or machine.spec
                self.admission.find(machine.uid, spec)
                self.in_use.found(machine, spec)

    async def own_again(self, machine: vm.VM) -> None:
        """Another host has had its files be its own, for a process that did not come to run there."""
        place = await self.place(machine)
        uid = await self._uid(machine, place)
        chains = [await self.disks.chain(one, one.name) for one in await self.disks.of(machine)]
        written = [file.path for chain in chains for file in chain if file is chain[0] or file.own]
        for path in (place.serial_log, place.firmware_variables, *written):
            if path.exists():
                await asyncio.to_thread(disks.own, path, uid)

    async def plug_in(self, machine: vm.VM) -> None:
        """Before its vCPUs run: have its NICs be on their networks, held to their rules."""
        await self._wires.plug_in(machine)

    async def note_running(self, machine: vm.VM) -> None:
        """It runs: what its disks can still grow by is promised to it, and its wires are known."""
        built = started.held(self._ground.home.vm_runtime(machine.uid)) or machine.spec
        self.in_use.found(machine, built)
        self.rooms.promise(machine.uid, await self.disks.extents(machine))
        self.admission.note(machine.uid, built)
        await self._wires.found(machine)

    async def carrier_of(self, machine: vm.VM, nic: vm.Nic) -> engine.Backend:
        """What is to carry a NIC; nothing is made."""
        place = await self.place(machine)
        return (await self._wires.describe(machine, await self._uid(machine, place)))[nic.name]

    async def plug_nic(self, machine: vm.VM, nic: vm.Nic) -> tuple[engine.Backend, bool]:
        """Make what carries one NIC of a running VM; and whether the card has to be plugged in anew for it."""
        place = await self.place(machine)
        was_bridged = self._wires.is_bridged(machine, nic)
        backend = await self._wires.plug(machine, nic, await self._uid(machine, place))
        other_kind = was_bridged is not None and was_bridged != self._wires.is_bridged(machine, nic)
        return backend, other_kind or isinstance(backend, engine.UserMode)

    async def rate_nic(self, machine: vm.VM, nic: vm.Nic, rate: share.NetRate) -> None:
        """Hold a NIC of a running VM to a rate. Raises engine.CannotHold."""
        await self._wires.hold(machine, nic, rate)

    async def network_name(self, machine: vm.VM, nic: vm.Nic) -> str:
        """What the network of a NIC is called."""
        found = await self._ground.resources.get(ground.Network, machine.metadata.project, nic.network)
        return found.name

    async def fence_nic(self, machine: vm.VM, nic: vm.Nic) -> None:
        """Hold one NIC of a running VM to its addresses and its firewall."""
        await self._wires.fence(machine, nic)

    async def unplug_nic(self, machine: vm.VM, nic: vm.Nic) -> None:
        """Take away what carried one NIC of a running VM."""
        await self._wires.unplug(machine, nic)

    async def disconnect(self, machine: vm.VM) -> None:
        """Take down what carried its NICs; it writes no more."""
        await self.disks.slicing.end_writes(machine.spec.storage)
        self.in_use.rest(machine)
        self.rooms.promise(machine.uid, [])
        self.admission.note(machine.uid, None)
        self.usb.forget(machine.uid)
        await self._wires.disconnect(machine)

    @property
    def host(self) -> str:
        """The uid of this host."""
        return self._ground.uid

    async def ran_elsewhere(self, machine: vm.VM) -> str | None:
        """The uid of the other host that ran it last; empty for one that nobody knows. None: it was this one.

        On a LUN each host has a definition of its own, which is as old as its last run there. Raises reach.Hangs.
        """
        owner = await self.last_owner(machine)
        if owner and owner.host != self.host:
            return owner.host
        sliced = await self.disks.slicing.place(machine.spec.storage) is not None
        return "" if sliced and (owner.generation if owner else 0) < machine.status.owner_generation else None

    async def last_owner(self, machine: vm.VM) -> vm.Owner | None:
        """Whose it was when its definition was written last. Raises reach.Hangs."""
        place = await self.place(machine)

        def read() -> vm.Owner | None:
            with contextlib.suppress(FileNotFoundError, directory.Unreadable):
                return place.read().owner
            return None

        return await reach.Way(place.storage).call(read)

    async def sweep(self, machine: vm.VM) -> None:
        """Remove what its last host left half made of it."""
        await self._make_beside(machine)
        place = await self.place(machine)
        await reach.Way(place.storage).call(half_made.sweep, place.path, depth=1)

    async def leave(self, machine: vm.VM) -> None:
        """Another host has it: what this one knew of it, and the link to it, go."""
        await self.disconnect(machine)
        await self._wires.forget(machine)
        await asyncio.to_thread(self.unlink, machine)
        self._uids.forget(machine.uid)
        if await self.disks.slicing.place(machine.spec.storage) is not None:
            await asyncio.to_thread(files.remove_tree, (await self.place(machine)).path)

    async def has_room(self, machine: vm.VM) -> bool:
        """Whether a VM that met a full storage can go on: 64 MiB are free again wherever its disks lie."""
        roots = {await self._ground.storage_root(volume.spec.storage) for volume in await self.disks.of(machine)}
        return all(space.free(root) >= _ROOM_TO_GO_ON for root in roots)

    async def purge(self, machine: vm.VM) -> None:
        """Remove what lies in the trash of it, then its resources. Raises storage's Gone."""
        await self.check_storage(machine)
        await trash.purge(self._ground.resources, machine, await self.trash(machine))
        self._uids.forget(machine.uid)

    async def agree(self, machine: vm.VM) -> None:
        """Have its networks know it as it is called now, with the NICs that it has."""
        await self._wires.agree(machine)

    async def forget(self, machine: vm.VM) -> None:
        """It is deleted: what its networks kept for it is free."""
        await self._wires.forget(machine)

    async def carriers(self, machine: vm.VM) -> dict[str, engine.Backend]:
        """What carries the NICs that a running VM was started with."""
        place = await self.place(machine)
        uid = await self._uid(machine, place)
        built = started.read(self._ground.home.vm_runtime(machine.uid)) or machine.spec
        return await self._wires.describe(machine.model_copy(update={"spec": built}), uid)

    async def owner(self, machine: vm.VM) -> int | None:
        """The uid that its files belong to; None for the daemon's own."""
        return await self._uid(machine, await self.place(machine))

    async def _uid(self, machine: vm.VM, place: directory.Directory) -> int | None:
        """The uid that its process has, and no other VM's on any storage of this host."""
        if machine.uid in self._uids:
            return self._uids.of(machine.uid, place.path, [])
        known = await self._ground.resources.list(ground.Storage)
        siblings = [pathlib.Path(one.spec.path) / "vms" for one in known.items if one.reached_by(self._ground.uid)]
        return await asyncio.to_thread(self._uids.of, machine.uid, place.path, siblings)

    async def _firmware_variables(self, machine: vm.VM, place: directory.Directory) -> None:
        """The copy's are those of the VM it was copied from; else the firmware's own."""
        if not place.firmware_variables.exists() and (source := await self._copied_from(machine)):
            old = (await self.place(source)).firmware_variables
            with contextlib.suppress(FileNotFoundError):
                content = await asyncio.to_thread(old.read_bytes)
                await asyncio.to_thread(files.write_durably, place.firmware_variables, content, mode=0o600)
        await asyncio.to_thread(starting.make_firmware_variables, place.firmware_variables, machine.spec.hardware)

    async def _copied_from(self, machine: vm.VM) -> vm.VM | None:
        """The VM that has the disks which this one's were copied from."""
        sources = {volume.spec.source for volume in await self.disks.of(machine) if volume.spec.source}
        if not sources:
            return None
        others = (await self._ground.resources.list(vm.VM, machine.metadata.project, trash=True)).items
        return next((one for one in others if any(disk.volume in sources for disk in one.spec.disks)), None)


def _node(machine: vm.VM) -> int | None:
    """The NUMA node that its memory is to come from, if this host has it."""
    node = machine.spec.share.cpu.node
    return node if node is not None and affinity.of_node(node) else None


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
