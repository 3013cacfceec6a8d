"""The disks, CDs and NICs of a VM while they are being laid out on its board."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import pydantic

from bocage import errors
from bocage.model import base, device_requests, faults, ground, osinfo, requests
from bocage.model import vm as model
from bocage.model.units import Size
from bocage.planner import hardware, usage
from bocage.words import N_

M = TypeVar("M", bound=pydantic.BaseModel)
T = TypeVar("T")

_CD_FORMATS = ("iso", "raw")
_FLOPPIES = frozenset(size << 10 for size in (160, 180, 320, 360, 720, 1200, 1440, 2880))  # bytes
_SECTOR = 512


class Error(errors.Problem):
    """A VM cannot be defined as it was asked for."""


class NoSuch(Error, errors.NotFound):
    """Something that the request names is not there."""

    type = "no-such-reference"
    text = N_("there is no {kind:kind} named {name}")
    hint = N_("'bocage {kind} list' shows what there is")
    kind: str
    name: str


class NoSuchImage(NoSuch):
    """An image that nobody has added yet."""

    type = "no-such-image"
    hint = N_("'bocage image list' shows what there is; 'bocage image add FILE' takes another one in")


class NoSuchGroup(NoSuch):
    """A group of firewall rules that nobody has made yet."""

    type = "no-such-firewall-group"
    hint = N_("'bocage firewall group list' shows what there is; 'bocage firewall group create {name}' makes it")


class NoVlans(Error, errors.Invalid):
    type = "network-has-no-vlans"
    text = N_("the network {network} was not made for VLANs")
    hint = N_("'bocage network create NAME … --vlans' makes one that is")
    network: str


class NoFences(Error, errors.Invalid):
    type = "network-has-no-fences"
    text = N_("a NIC on the network {network} is alone there: it has neither a firewall nor an address to choose")
    hint = N_("nothing comes in but published ports; a network of kind 'nat', 'isolated' or 'bridge' has fences")
    network: str


class NoSuchDevice(Error, errors.NotFound):
    """The VM has nothing of that name."""

    type = "vm-no-such-device"
    text = N_("{vm} has no {kind:kind} named {name}")
    hint = N_("'bocage vm show {vm}' shows what it has")
    vm: str
    kind: str
    name: str


class DiskTooSmall(Error, errors.Invalid):
    type = "disk-smaller-than-image"
    text = N_("the disk of {asked:size} is smaller than the image {image}, which has {needed:size}")
    hint = N_("leave the size out, or ask for {needed:size} or more")
    image: str
    asked: int
    needed: int


class NotBootable(Error, errors.Invalid):
    """A CD's image was given for the system disk."""

    type = "image-is-a-cd"
    text = N_("{image} is a CD, not a disk to make a system disk from")
    hint = N_("give it as a CD ('--cd {image}'): the VM then gets a blank disk and boots from the CD")
    image: str


class NotACd(Error, errors.Invalid):
    type = "image-is-no-cd"
    text = N_("{image} is a {format} disk and cannot lie in a CD drive")
    hint = N_("give it as the image of the system disk ('--image {image}')")
    image: str
    format: str


class NotAFloppy(Error, errors.Invalid):
    type = "image-is-no-floppy"
    text = N_("{image} is no floppy disk: it has {size:size}")
    hint = N_("a raw image of 360K, 720K, 1200K, 1440K or 2880K is needed")
    image: str
    size: int


class VolumeInUse(Error, errors.Conflict):
    type = "volume-in-use"
    text = N_("the volume {name} is a disk of {by}")
    hint = N_("take it from there first ('bocage vm disk detach'), or make another volume")
    name: str
    by: str


class MacTaken(Error, errors.Conflict):
    type = "mac-taken"
    text = N_("the MAC address {mac} is that of {by}")
    hint = N_("leave it out: a free one is chosen")
    mac: str
    by: str


class IdentityTaken(Error, errors.Conflict):
    """Two machines with one SMBIOS uuid would be one to the software that is licensed by it."""

    type = "smbios-uuid-taken"
    text = N_("the SMBIOS uuid {uuid} is that of {by}")
    hint = N_("leave it out: a fresh one is made")
    uuid: str
    by: str


class FirmwareMissing(Error, errors.Unavailable):
    type = "firmware-missing"
    text = N_("this host has no {firmware} firmware; there is {known}")
    hint = N_("'bocage doctor' says which package brings it")
    firmware: str
    known: list[str]


class TpmMissing(Error, errors.Unavailable):
    type = "tpm-missing"
    text = N_("{host} cannot give a TPM: swtpm is not installed")
    hint = N_("apt install swtpm; or do without: '--board tpm=none'")
    host: str


class HostNotReady(Error, errors.Unavailable):
    type = "host-not-ready"
    text = N_("the host {host} does not know its QEMU yet")
    hint = N_("'bocage doctor' says what is missing; else try again in a moment")
    host: str


class StorageUnavailable(Error, errors.Unavailable):
    type = "storage-unavailable"
    text = N_("the storage {storage} is not available")
    hint = N_("'bocage storage show {storage}' says why")
    storage: str


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    """What the world looks like for one request; what is named in it by its name.

    `macs`, `smbios_uuids` and `users` have the name of the VM that has the address, has the uuid, uses the volume;
    `keepers` that of the VM whose directory the volume lies in, be it a disk of it or not.
    """

    host: ground.Host
    storage: Mapping[str, ground.Storage]
    hosts: Collection[ground.Host] = ()  # all that there are
    images: Mapping[str, ground.Image] = dataclasses.field(default_factory=dict)
    networks: Mapping[str, ground.Network] = dataclasses.field(default_factory=dict)
    volumes: Mapping[str, ground.Volume] = dataclasses.field(default_factory=dict)
    macs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    smbios_uuids: Mapping[str, str] = dataclasses.field(default_factory=dict)
    users: Mapping[str, str] = dataclasses.field(default_factory=dict)
    keepers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    groups: Collection[str] = ()  # of firewall rules
    files: Collection[str] = ()  # names that files of the VM's disks bear, though it may have no such disk any more
    system: osinfo.System | None = None  # that the VM is to run


@dataclasses.dataclass(slots=True)
class Parts:
    """The devices of a VM while they are being laid out."""

    uid: str
    name: str
    project: str
    board: model.Hardware
    storage: ground.Storage
    disks: list[model.Disk] = dataclasses.field(default_factory=list)
    volumes: list[ground.Volume] = dataclasses.field(default_factory=list)
    names: set[str] = dataclasses.field(default_factory=set)
    addresses: set[str] = dataclasses.field(default_factory=set)
    units: set[tuple[model.Bus, int]] = dataclasses.field(default_factory=set)
    macs: set[str] = dataclasses.field(default_factory=set)

    def system_disk(self, request: requests.VMCreate, facts: Facts) -> None:
        """The first disk: made from the image, else blank."""
        asked = request.disk or Size(1)  # of the image's size
        disk = asked if isinstance(asked, device_requests.DiskRequest) else device_requests.DiskRequest(size=asked)
        if request.image is None or disk.volume is not None:
            self.disk(disk, facts)
            return
        image = named(facts.images, "image", request.image)
        if image.spec.format == "iso":
            raise NotBootable(image=image.name)
        size = (disk.size if request.disk else None) or image.spec.virtual_size
        if size < image.spec.virtual_size:
            raise DiskTooSmall(image=image.name, asked=size, needed=image.spec.virtual_size)
        linked = (
            disk.format is ground.VolumeFormat.QCOW2
            and not request.full
            and self.storage.spec.kind != "iscsi"
            and image.spec.storage == self.storage.uid
        )
        self.disk(disk, facts, size=_whole_sectors(size), image=image.spec.sha256, linked=linked)

    def disk(self, request: device_requests.DiskRequest, facts: Facts, **more: Any) -> None:
        """One disk and, unless it is a volume that is there already, the volume to make for it."""
        name = hardware.next_name("disk", {*self.names, *facts.files})
        if request.volume is not None:
            volume = named(facts.volumes, "volume", request.volume)
            if by := facts.users.get(volume.uid):
                raise VolumeInUse(name=volume.name, by=by)
            if volume.spec.vm not in (None, self.uid):
                raise usage.VolumeKept(name=volume.name, vm=facts.keepers.get(volume.uid, volume.spec.vm or ""))
        else:
            spec = {
                "storage": self.storage.uid,
                "size": _whole_sectors(request.size or Size(0)),
                "format": ground.VolumeFormat.RAW if self.storage.spec.kind == "iscsi" else request.format,
                "preallocated": request.preallocated,
                "vm": self.uid,
                "name": name,
            }
            volume = new_volume(
                validated(ground.VolumeSpec, {**spec, **more}, name), vm_name=self.name, project=self.project
            )
            self.volumes.append(volume)
        bus = request.bus or self.board.disk_bus
        address = unit = None
        if bus is model.Bus.VIRTIO:
            address = hardware.next_address(self.board, self.addresses)
            self.addresses.add(address)
        else:
            unit = hardware.next_unit(self.board, bus, {taken for on, taken in self.units if on is bus})
            self.units.add((bus, unit))
        self.names.add(name)
        serial = request.serial or hardware.serial(volume.uid)
        self.disks.append(
            model.Disk(
                name=name,
                volume=volume.uid,
                bus=bus,
                cache=request.cache,
                serial=serial,
                address=address,
                unit=unit,
                limits=request.limits,
            )
        )

    def nic(self, request: device_requests.NicRequest, facts: Facts) -> model.Nic:
        """One NIC, at the next address that takes its model."""
        network = named(facts.networks, "network", request.network)
        check_groups(facts, request.firewall)
        check_network(network, request)
        name = hardware.next_name("nic", self.names)
        if request.mac and (by := facts.macs.get(request.mac)):
            raise MacTaken(mac=request.mac, by=by)
        mac = request.mac or hardware.mac(self.uid, name, _Either(facts.macs, self.macs))
        card = request.model or self.board.nic_model
        address = hardware.next_address(self.board, self.addresses, card)
        self.names.add(name)
        self.macs.add(mac)
        self.addresses.add(address)
        return model.Nic(
            name=name,
            network=network.uid,
            model=card,
            mac=mac,
            address=address,
            publish=request.publish,
            connected=request.connected,
            rate=request.rate,
            ip=request.ip,
            allowed=request.allowed,
            vlan=request.vlan,
            trunk=request.trunk,
            spoofing=request.spoofing,
            firewall=request.firewall,
        )


def check_network(network: ground.Network, nic: device_requests.NicRequest | model.Nic) -> None:
    """Raises NoVlans and NoFences when a NIC is to have what its network cannot give it."""
    if (nic.vlan or nic.trunk) and not network.spec.vlans:
        raise NoVlans(network=network.name)
    if network.spec.kind == "user" and (nic.ip or nic.allowed or nic.firewall or nic.spoofing == "allow"):
        raise NoFences(network=network.name)


def check_groups(facts: Facts, names: Iterable[str]) -> None:
    """Raises NoSuchGroup for a firewall group that is not there."""
    for name in names:
        if name not in facts.groups:
            raise NoSuchGroup(kind="firewall group", name=name)


def cds(request: requests.VMCreate, board: model.Hardware, facts: Facts, *, floppy: bool) -> tuple[model.Cd, ...]:
    """The drives of a new VM, each with its image in it; with `floppy` an empty floppy drive if need be.

    Raises NoSuch, NotACd, NotAFloppy and hardware.NoUnit.
    """
    drives = list[model.Cd]()
    wanted = [("cd", hardware.cd_bus(board), name) for name in request.cds]
    wanted += [("floppy", model.Bus.FLOPPY, name) for name in request.floppies]
    for prefix, bus, name in wanted:
        image = named(facts.images, "image", name)
        unit = hardware.next_unit(board, bus, {drive.unit for drive in drives if drive.bus is bus})
        drive = model.Cd(
            name=hardware.next_name(prefix, [one.name for one in drives]), image=image.uid, bus=bus, unit=unit
        )
        check_medium(drive, image)
        drives.append(drive)
    if floppy and not request.floppies:
        drives.append(model.Cd(name="floppy0", bus=model.Bus.FLOPPY, unit=0))
    return tuple(drives)


def check_medium(drive: model.Cd, image: ground.Image) -> None:
    """Raises NotACd or NotAFloppy when the image cannot lie in the drive."""
    if drive.bus is not model.Bus.FLOPPY:
        if image.spec.format not in _CD_FORMATS:
            raise NotACd(image=image.name, format=image.spec.format)
    elif image.spec.format != "raw" or image.spec.virtual_size not in _FLOPPIES:
        raise NotAFloppy(image=image.name, size=int(image.spec.virtual_size))


def new_volume(spec: ground.VolumeSpec, *, vm_name: str, project: str | None) -> ground.Volume:
    """A volume of a VM. Part of its uid is in its name, so that no renamed VM's volume is in another's way."""
    uid = base.new_uid()
    name = f"{vm_name[:40].rstrip('-')}-{spec.name}-{uid[:8]}"
    return ground.Volume(metadata=base.Metadata(uid=uid, name=name, project=project), spec=spec)


def named(things: Mapping[str, T], kind: str, name: str) -> T:
    """Raises NoSuch."""
    if name not in things:
        raise (NoSuchImage if kind == ground.Image.kind else NoSuch)(kind=kind, name=name)
    return things[name]


def validated(cls: type[M], values: Mapping[str, Any], path: str) -> M:
    """The model of these values; raises errors.InvalidFields with paths below `path`."""
    try:
        return cls.model_validate(values)
    except pydantic.ValidationError as error:
        raise faults.problem(faults.read(error.errors(include_url=False), prefix=path)) from error


def _whole_sectors(size: Size) -> Size:
    return Size(-(-size // _SECTOR) * _SECTOR)


class _Either(Collection[str]):
    """What is in one or in the other, without a copy of either."""

    def __init__(self, one: Collection[str], other: Collection[str]) -> None:
        self._both = (one, other)

    def __contains__(self, item: object) -> bool:
        return any(item in part for part in self._both)

    def __iter__(self) -> Iterator[str]:
        return iter({*self._both[0], *self._both[1]})

    def __len__(self) -> int:
        return len({*self._both[0], *self._both[1]})
