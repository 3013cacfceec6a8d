"""From the short request to the full definition of a VM, and from one definition to the next."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from bocage.model import base, device_requests, faults, ground, requests, share, snapshot
from bocage.model import board as boards
from bocage.model import memory as memories
from bocage.model import vm as model
from bocage.planner import (
    cpumodels,
    drivers,
    fitting,
    growth,
    hardware,
    limits,
    onlun,
    parts,
    profiles,
    reverting,
    shares,
)

_FOR_PEOPLE = ("title", "notes", "tags", "protected")  # metadata that a document may change
_SET_ELSEWHERE = (  # read with it, never taken
    "created",
    "deleted",
    "goes",
    "generation",
    "revision",
    "status_revision",
)


@dataclasses.dataclass(frozen=True, slots=True)
class Definition:
    """A VM and the volumes that are to be made for it."""

    vm: model.VM
    volumes: tuple[ground.Volume, ...] = ()


def define(
    request: requests.VMCreate,
    facts: parts.Facts,
    *,
    project: str,
    uid: str | None = None,
    password_hash: str | None = None,
) -> Definition:
    """The full definition of a new VM.

    `uid` is a fresh one when it is not given. Raises the errors of `parts` and `hardware`, and errors.InvalidFields.
    """
    uid = uid or base.new_uid()
    storage = _storage(facts, request.storage)
    profile = _profile(request, facts)
    request = profiles.fill(request, profile)
    board = _board(request, facts, profile)
    cds = parts.cds(request, board, facts, floppy=profile.floppy)
    made = parts.Parts(uid=uid, name=request.name, project=project, board=board, storage=storage)
    made.units = {(cd.bus, cd.unit) for cd in cds}
    made.system_disk(request, facts)
    for disk in request.disks:
        made.disk(disk, facts)
    nics = tuple(made.nic(nic, facts) for nic in request.nics)
    spec = _spec(
        storage=storage.uid,
        power=model.Power.RUNNING if request.start else model.Power.STOPPED,
        cpus=request.cpus,
        **memories.fields(request.memory),
        disks=tuple(made.disks),
        cds=cds,
        nics=nics,
        ports=request.ports,
        boot={"order": request.boot or _boot_order(request, made.disks, cds)},
        seed=_seed(request, password_hash),
        restart=request.restart,
        autostart=autostart(request.autostart),
        stop=request.stop,
        snapshots=request.snapshots,
        share=request.share,
        placement=request.placement,
        hardware=board,
    )
    for index, device in enumerate(request.usb):
        spec = with_usb(spec, device, path=f"usb.{index}")
    hardware.check(spec)
    limits.check(spec, facts.host)
    onlun.check(storage, spec)
    metadata = base.Metadata(uid=uid, project=project, **request.model_dump(include={"name", *_FOR_PEOPLE}))
    return Definition(model.VM(metadata=metadata, spec=spec), tuple(made.volumes))


def autostart(request: requests.AutostartRequest) -> model.Autostart:
    """Whoever it comes after must be there by uid. Raises errors.InvalidFields."""
    return parts.validated(model.Autostart, request.model_dump(), "autostart")


def with_usb(spec: model.VMSpec, request: device_requests.UsbRequest, *, path: str = "") -> model.VMSpec:
    """One more USB device of its host, in the first port that is free.

    Raises errors.InvalidFields with paths below `path`.
    """
    taken, free = {one.unit for one in spec.usb}, fitting.usb_ports(spec.hardware)
    unit = next((one for one in free if one not in taken), free.stop or 1)
    names = [one.name for one in (*spec.devices, *spec.ports, *spec.usb)]
    given = {**request.model_dump(), "name": hardware.next_name("usb", names), "unit": unit}
    return _spec(**{**dict(spec), "usb": (*spec.usb, parts.validated(boards.UsbDevice, given, path))})


def boot_once(vm: model.VM, device: str) -> model.Boot:
    """The boot order, with `device` first at the next start. Raises NoSuchDevice."""
    if device not in {one.name for one in vm.spec.devices}:
        raise parts.NoSuchDevice(vm=vm.name, kind="device", name=device)
    return vm.spec.boot.model_copy(update={"once": device})


def change(
    vm: model.VM, patch: requests.VMPatch, *, host: ground.Host | None = None, hosts: Collection[ground.Host] = ()
) -> model.VM:
    """The VM with the fields of `patch` that are set; `host` of `hosts` is to carry it.

    Raises errors.InvalidFields, cpumodels.NeedsKvm and the errors of `hardware` and `drivers`.
    """
    given = {name: getattr(patch, name) for name in patch.model_fields_set if getattr(patch, name) is not None}
    for_people = {name: given.pop(name) for name in _FOR_PEOPLE if name in given}
    if "autostart" in given:
        given["autostart"] = autostart(given["autostart"])
    given.pop("replica", None)  # it takes a look at the hosts: see planner.replicas
    fittings, room = given.pop("board", None), {name: given.pop(name, None) for name in ("max_cpus", "max_memory")}
    if fittings:
        given["hardware"] = hardware.refit(vm.spec, fittings.model_dump(exclude_none=True, exclude_unset=True))
    if "share" in given:
        asked = given["share"].model_dump(exclude_unset=True)
        given["share"] = parts.validated(share.Share, shares.merged(vm.spec.share.model_dump(), asked), "share")
    if (memory := given.pop("memory", None)) is not None:
        present = (vm.spec.memory, vm.spec.dynamic_memory)
        given |= memory.over(*present) if isinstance(memory, memories.MemoryRange) else memories.fields(memory)
    if given.get("snapshots") == "off":
        given["snapshots"] = None
    if any(room.values()):
        given["hardware"] = growth.with_room(vm.spec, given.get("hardware", vm.spec.hardware), **room)
    if cpu := given.pop("cpu_model", None):
        board = given.get("hardware", vm.spec.hardware)
        given["hardware"] = board.model_copy(update={"cpu_model": _cpu(cpu, host, hosts)})
    driven = given.pop("drivers", None)
    changed = with_spec(vm, **given) if given else vm
    if driven:
        wanted = drivers.wait(changed) if driven == "virtio-when-driven" else drivers.switch(changed, driven)
        changed = changed.model_copy(update={"spec": wanted})
    if fittings:
        hardware.check(changed.spec)
    limits.check(changed.spec, host, present=vm.spec)
    if not for_people:
        return changed
    return changed.model_copy(update={"metadata": changed.metadata.model_copy(update=for_people)})


def replace(
    vm: model.VM, document: requests.Document, *, host: ground.Host | None = None, hosts: Collection[ground.Host] = ()
) -> model.VM:
    """The VM as an edited document says; `host` of `hosts` is to carry it. Identity and name are not changed this way.

    Raises errors.InvalidFields, cpumodels.NeedsKvm and the errors of `hardware`.
    """
    wanted = {**document.metadata}
    found = [
        faults.At(f"metadata.{field}", faults.Fixed(given=str(wanted[field]), present=str(present)))
        for field, present in (("uid", vm.uid), ("name", vm.name), ("project", vm.metadata.project))
        if field in wanted and wanted[field] != present
    ]
    storage = document.spec.get("storage", vm.spec.storage)
    if storage != vm.spec.storage:
        found.append(faults.At("spec.storage", faults.Fixed(given=str(storage), present=vm.spec.storage)))
    for field in ("uid", "name", "project", *_SET_ELSEWHERE):
        wanted.pop(field, None)
    kept = vm.metadata.model_dump(exclude=set(_FOR_PEOPLE))
    if found:
        raise faults.problem(found)
    metadata = parts.validated(base.Metadata, {**kept, **wanted}, "metadata")
    spec = parts.validated(model.VMSpec, {**document.spec, "replica": vm.spec.replica}, "spec")
    if spec.hardware.cpu_model != vm.spec.hardware.cpu_model:
        board = spec.hardware.model_copy(update={"cpu_model": _cpu(spec.hardware.cpu_model, host, hosts)})
        spec = spec.model_copy(update={"hardware": board})
    hardware.check(spec)
    limits.check(spec, host, present=vm.spec, path="spec")
    return vm.model_copy(update={"metadata": metadata, "spec": spec})


def clone(
    vm: model.VM,
    volumes: Mapping[str, ground.Volume],
    *,
    name: str,
    start: bool = False,
    uid: str | None = None,
    macs: Collection[str] = (),
) -> tuple[Definition, dict[str, str]]:
    """A copy with an identity of its own: uid, SMBIOS uuid and serial, MAC addresses, disk serials.

    `volumes` are its disks' by uid, `macs` the addresses that are taken. Also returns which volume each of
    the new ones is a copy of. Raises NoSuch.
    """
    uid = uid or base.new_uid()
    copies: dict[str, str] = {}
    made: list[ground.Volume] = []
    disks: list[model.Disk] = []
    for disk in vm.spec.disks:
        if disk.volume not in volumes:
            raise parts.NoSuch(kind="volume", name=disk.volume)
        spec = _copied(volumes[disk.volume].spec, disk, storage=vm.spec.storage, vm=uid)
        volume = parts.new_volume(spec, vm_name=name, project=vm.metadata.project)
        made.append(volume)
        copies[volume.uid] = disk.volume
        disks.append(disk.model_copy(update={"volume": volume.uid, "serial": hardware.serial(volume.uid)}))
    taken = set(macs)
    nics: list[model.Nic] = []
    for nic in vm.spec.nics:
        mac = hardware.mac(uid, nic.name, taken)
        taken.add(mac)
        nics.append(nic.model_copy(update={"mac": mac, "publish": (), "ip": None}))  # a port leads to one guest
    identity = base.new_uid()
    smbios = vm.spec.hardware.smbios.model_copy(update={"uuid": identity, "serial": identity})
    copied = with_spec(
        vm,
        power=model.Power.RUNNING if start else model.Power.STOPPED,
        disks=tuple(disks),
        nics=tuple(nics),
        usb=(),  # there is one of each
        replica=None,
        boot=vm.spec.boot.model_copy(update={"once": None}),
        seed=vm.spec.seed.model_copy(update={"hostname": name}) if vm.spec.seed else None,
        hardware=hardware.with_generation_id(vm.spec.hardware.model_copy(update={"smbios": smbios}), base.new_uid()),
    )
    about = vm.metadata
    metadata = base.Metadata(
        uid=uid, name=name, project=about.project, title=about.title, notes=about.notes, tags=about.tags
    )
    return Definition(model.VM(metadata=metadata, spec=copied.spec), tuple(made)), copies


def _copied(source: ground.VolumeSpec, disk: model.Disk, *, storage: str, vm: str) -> ground.VolumeSpec:
    """A volume for a copy of what the guest of `source` sees now, whatever that was made of and rests on."""
    kept = source.model_dump(include={"size", "format", "preallocated"})
    return ground.VolumeSpec(**kept, storage=storage, vm=vm, name=disk.name, source=disk.volume)


def clone_of_moment(
    vm: model.VM,
    moment: snapshot.Snapshot,
    volumes: Mapping[str, ground.Volume],
    here: reverting.Here,
    *,
    name: str,
    start: bool = False,
    macs: Collection[str] = (),
) -> Definition:
    """A copy of what a VM was at a snapshot, with an identity of its own. Raises what `clone` and `reverting` do."""
    then = reverting.spec(vm, moment, here, generation_id=base.new_uid())
    held = {disk.disk: disk for disk in moment.status.disks}
    disks = tuple(disk for disk in then.disks if disk.name in held)
    since = {disk.name for disk in then.disks} - held.keys()
    boot = model.Boot(order=tuple(one for one in then.boot.order if one not in since))
    was = vm.model_copy(update={"spec": _spec(**{**dict(then), "disks": disks, "boot": boot})})
    made, copies = clone(was, volumes, name=name, start=start, macs=macs)
    files = {disk.volume: disk for disk in moment.status.disks}
    filled = []
    for volume in made.volumes:
        of = files[copies[volume.uid]]
        changes = {"source_file": of.file, "size": of.size}
        filled.append(volume.model_copy(update={"spec": volume.spec.model_copy(update=changes)}))
    return Definition(made.vm, tuple(filled))


def _cpu(asked: str, host: ground.Host | None, hosts: Collection[ground.Host]) -> str:
    return cpumodels.settled(asked, host, hosts) if host else asked


def _profile(request: requests.VMCreate, facts: parts.Facts) -> profiles.Profile:
    if facts.system is None:
        return profiles.usual(request.machine or "q35")
    return profiles.choose(facts.system, request.machine)


def _board(request: requests.VMCreate, facts: parts.Facts, profile: profiles.Profile) -> model.Hardware:
    host = facts.host.status
    cpu_model = cpumodels.settled(request.cpu_model, facts.host, facts.hosts)
    if not host.machines or not cpu_model:
        raise parts.HostNotReady(host=facts.host.name)
    chosen = profiles.fittings(request, profile)
    if chosen.firmware is model.Firmware.UEFI and model.Firmware.UEFI not in host.firmware:
        raise parts.FirmwareMissing(firmware=chosen.firmware, known=list(host.firmware) or ["bios"])
    if chosen.secure_boot and "secure-boot" not in host.firmware:
        raise parts.FirmwareMissing(firmware="secure-boot", known=list(host.firmware))
    if chosen.tpm is not boards.Tpm.NONE and not host.tpm:
        raise parts.TpmMissing(host=facts.host.name)
    max_cpus, max_memory = request.max_cpus, request.max_memory
    if profile.alias == "q35" and profile.paravirtual:  # an old system meets no memory that comes later
        most, largest = growth.room_for(
            request.cpus, memories.fields(request.memory)["memory"], host_cpus=host.cpus, host_memory=host.memory_bytes
        )
        most = min(most, chosen.limits.cpus or most)
        largest = min(largest, chosen.limits.memory or largest) if largest else None
        max_cpus, max_memory = max_cpus or most, max_memory or largest
    return hardware.lay_out(
        alias=profile.alias,
        machines=host.machines,
        cpu_model=cpu_model,
        smbios=_smbios(request.smbios, facts),
        fittings=chosen,
        paravirtual=profile.paravirtual,
        generation_id=base.new_uid() if profile.paravirtual else None,
        max_cpus=max_cpus,
        max_memory=max_memory,
    )


def _smbios(request: requests.SmbiosRequest, facts: parts.Facts) -> model.Smbios:
    given = request.model_dump(exclude_none=True)
    identity = str(given.setdefault("uuid", base.new_uid())).lower()
    given["uuid"] = identity
    given.setdefault("serial", identity)
    if by := facts.smbios_uuids.get(identity):
        raise parts.IdentityTaken(uuid=identity, by=by)
    return parts.validated(model.Smbios, given, "smbios")


def _storage(facts: parts.Facts, name: str) -> ground.Storage:
    storage = parts.named(facts.storage, "storage", name)
    if storage.status.state == "unavailable":
        raise parts.StorageUnavailable(storage=name)
    return storage


def _seed(request: requests.VMCreate, password_hash: str | None) -> dict[str, Any] | None:
    if request.seed is None:
        return None
    given = request.seed.model_dump(exclude={"password"})
    return {**given, "hostname": request.seed.hostname or request.name, "password_hash": password_hash}


def _boot_order(
    request: requests.VMCreate, disks: Collection[model.Disk], cds: Collection[model.Cd]
) -> tuple[str, ...]:
    """An image boots from its disk; an installation from its first floppy or CD, later from the disk."""
    removable = sorted(cds, key=lambda one: one.bus is not model.Bus.FLOPPY)
    first_disk, first_medium = [disk.name for disk in disks][:1], [one.name for one in removable][:1]
    return (*first_disk, *first_medium) if request.image else (*first_medium, *first_disk)


def _spec(**values: Any) -> model.VMSpec:
    return parts.validated(model.VMSpec, values, "")


def with_spec(vm: model.VM, **values: Any) -> model.VM:
    """Raises errors.InvalidFields."""
    return vm.model_copy(update={"spec": _spec(**{**dict(vm.spec), **values})})
