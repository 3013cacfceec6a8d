"""What people send: shorter than the resources that come of it, with a default for all but name and image."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from bocage.model import board as boards
from bocage.model import device_requests, vm
from bocage.model import memory as memories
from bocage.model import share as shares
from bocage.model.base import Line, Name, Part, Tag
from bocage.model.firewall import FirewallGroupSpec, FirewallRule
from bocage.model.ground import AbsolutePath, NetworkSpec, Overcommit, Sha256, VolumeFormat
from bocage.model.lun import LunRequest
from bocage.model.power import BmcRequest
from bocage.model.schedule import SnapshotSchedule
from bocage.model.units import Size

SshKey = Annotated[str, StringConstraints(max_length=16_384, pattern=r"^[a-z0-9@.-]+ [A-Za-z0-9+/=]+( [^\n]*)?$")]


CpuModel = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class FirewallGroupCreate(FirewallGroupSpec):
    name: Name
    title: Line = ""


class SeedRequest(Part):
    """What cloud-init is told; `password` is kept only as its hash."""

    hostname: Name | None = None
    user: Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")] | None = None
    ssh_keys: tuple[SshKey, ...] = ()
    password: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    user_data: Annotated[str, StringConstraints(max_length=262_144)] | None = None
    network: tuple[vm.StaticAddress, ...] = ()


class SmbiosRequest(Part):
    """An identity to keep, such as that of the physical machine whose work the VM takes over."""

    uuid: str | None = None
    manufacturer: Line | None = None
    product: Line | None = None
    version: Line | None = None
    serial: Line | None = None
    sku: Line | None = None
    family: Line | None = None
    oem_strings: tuple[Line, ...] = ()


class BoardRequest(Part):
    """What the board is fitted with; None: what the system of `os` drives, and what is usual without one."""

    secure_boot: bool | None = None
    tpm: boards.Tpm | None = None
    watchdog: boards.Watchdog | None = None
    disk_bus: vm.Bus | None = None
    nic_model: vm.NicModel | None = None
    scsi: boards.Scsi | None = None
    usb: boards.Usb | None = None
    video: boards.Video | None = None
    sound: boards.Sound | None = None
    pointer: boards.Pointer | None = None
    rtc: boards.Rtc | None = None
    hpet: bool | None = None
    hyperv: tuple[boards.Enlightenment, ...] | None = None
    added_memory: boards.AddedMemory | None = None
    limits: boards.Limits | None = None


class AutostartRequest(vm.Autostart):
    after: Annotated[tuple[Name, ...], Field(max_length=16)] = ()
    """VMs of its project, by name or uid, that run and answer before it starts by itself.

    Those that are to be off are not waited for."""


class VMCreate(Part):
    """A new VM. With `image` its first disk is made from it; without, it is blank for an installation from `cds`."""

    name: Name
    title: Line = ""
    notes: Annotated[str, StringConstraints(max_length=16_384)] = ""
    tags: Annotated[tuple[Tag, ...], Field(max_length=64)] = ()
    protected: bool = False
    image: Name | None = None
    template: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}(@\d{1,5})?$")] | None = None
    """A template that it is made from: `web` for its newest version, `web@2` for another."""
    full: bool = False
    """A full copy of the image in place of a link to it."""
    storage: Name = "local"
    cpus: vm.Cpus = vm.Cpus()
    memory: memories.SizeOrRange = memories.USUAL
    """A size; a range, when it is to follow what the guest needs (dynamic memory)."""
    disk: Size | device_requests.DiskRequest | None = None
    """The system disk, by its size or in full; None: of the image's own size, or 20G for a blank one."""
    disks: Annotated[tuple[device_requests.DiskRequest, ...], Field(max_length=31)] = ()
    """Further disks."""
    cds: Annotated[tuple[Name, ...], Field(max_length=6)] = ()
    floppies: Annotated[tuple[Name, ...], Field(max_length=2)] = ()
    """The images of floppy disks, each in a drive of its own."""
    ports: Annotated[tuple[boards.GuestPort, ...], Field(max_length=6)] = ()
    usb: Annotated[tuple[device_requests.UsbRequest, ...], Field(max_length=6)] = ()
    """USB devices of its host, which it gets whenever they are plugged in there."""
    nics: Annotated[tuple[device_requests.NicRequest, ...], Field(max_length=16)] = (device_requests.NicRequest(),)
    max_cpus: Annotated[int, Field(ge=1, le=255)] | None = None
    """How many vCPUs it can be given while it runs; None: four times those it starts with, as far as the host goes."""
    max_memory: Size | None = None
    """How much memory it can be given while it runs; None: four times what it starts with, from 1 GiB on."""
    os: boards.OsName | None = None
    """The operating system that it is to run, by osinfo-db's name: its hardware is chosen by what that drives."""
    machine: Literal["q35", "pc", "isapc"] | None = None
    firmware: vm.Firmware | None = None
    board: BoardRequest = BoardRequest()
    cpu_model: CpuModel | None = None
    """QEMU's name of one, `host` for the real CPU, or `baseline`; None: the system's, or `baseline`."""
    smbios: SmbiosRequest = SmbiosRequest()
    boot: tuple[vm.DeviceName, ...] = ()
    seed: SeedRequest | None = None
    restart: vm.Restart = vm.Restart()
    autostart: AutostartRequest = AutostartRequest()
    stop: vm.StopPolicy = vm.StopPolicy()
    snapshots: SnapshotSchedule | None = None
    share: shares.Share = shares.Share()
    placement: vm.Placement = vm.Placement()
    start: bool = False

    @model_validator(mode="after")
    def _one_origin(self) -> VMCreate:
        if self.image and isinstance(self.disk, device_requests.DiskRequest):
            if self.disk.volume:
                raise ValueError("the system disk comes from the image or is a volume that is there, not both")
            if self.disk.preallocated:
                raise ValueError("a disk that is made from an image is thin; preallocate a blank one")
        return self


class ReplicaRequest(Part):
    """Where a second copy of a VM's local disks is to be kept."""

    host: Name
    storage: Name | None = None
    """One of that host; None: the one that it has from its first start."""
    mode: Literal["continuous"] = "continuous"


class VMPatch(Part):
    """Changes of a VM (RFC 7396: what is left out stays)."""

    title: Line | None = None
    notes: Annotated[str, StringConstraints(max_length=16_384)] | None = None
    tags: Annotated[tuple[Tag, ...], Field(max_length=64)] | None = None
    protected: bool | None = None
    cpus: vm.Cpus | None = None
    memory: memories.SizeOrRange | None = None
    """A size ends dynamic memory; of a range what is left out stays."""
    max_cpus: Annotated[int, Field(ge=1, le=255)] | None = None
    max_memory: Size | None = None
    boot: vm.Boot | None = None
    board: BoardRequest | None = None
    cpu_model: CpuModel | None = None
    """QEMU's name of one, `host` for the real CPU, `baseline` for the best that all hosts of the kind run."""
    ports: Annotated[tuple[boards.GuestPort, ...], Field(max_length=6)] | None = None
    restart: vm.Restart | None = None
    autostart: AutostartRequest | None = None
    stop: vm.StopPolicy | None = None
    snapshots: SnapshotSchedule | Literal["off"] | None = None
    share: device_requests.SharePatch | None = None
    placement: vm.Placement | None = None
    replica: ReplicaRequest | Literal["none"] | None = None
    """`none`: no copy is kept any more."""
    drivers: Literal["virtio", "inbox", "virtio-when-driven"] | None = None
    """Have disks and NICs driven by virtio's drivers, or back by those that its system came with.

    `virtio-when-driven`: once its guest is seen to drive a virtio disk that it has.
    """


class Stop(Part):
    within: Annotated[float, Field(ge=1, le=86_400)] | None = None
    """Seconds; None: the VM's own stop policy."""
    kill: bool = False
    """Pull the plug at the bound."""


class Start(Part):
    boot: vm.DeviceName | None = None
    """Boot from this device, this once."""
    paused: bool = False
    anyway: bool = False
    """Also where it takes room that is kept for the VMs of hosts that may die (the cluster's `survive`)."""


class Rename(Part):
    name: Name


class Clone(Part):
    name: Name
    start: bool = False


class SnapshotCreate(Part):
    name: Name
    title: Line = ""
    notes: Annotated[str, StringConstraints(max_length=16_384)] = ""
    memory: bool = False
    """The memory of the running VM, too: going back goes on from that very moment."""


class Revert(Part):
    force: bool = False
    """Also while it runs or its memory is saved: that is thrown away."""
    start: bool = False
    """Start it afterwards; from its memory, where the snapshot has that."""


class MoveDisks(Part):
    storage: Name


class Migrate(Part):
    to: Name | None = None
    """The host that it goes to; None: the one that suits best."""
    bandwidth: Size | None = None
    """Bytes a second at most; None: as fast as the network takes it."""
    downtime: Annotated[float, Field(ge=0.01, le=60)] | None = None
    """Seconds that the guest may stand at the end; None: 0.3."""
    live: bool | None = None
    """Whether the guest runs while its memory is sent; None: not on an emulated CPU, which can miss a write."""


class Drain(Part):
    at_once: Annotated[int, Field(ge=1, le=16)] = 2
    """VMs that are on their way at a time."""


class SendKeys(Part):
    keys: Annotated[tuple[Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,20}$")], ...], Field(min_length=1)]
    """Pressed together, by QEMU's names: `ctrl`, `alt`, `delete`, `a`."""


class ImageAdd(Part):
    """A new image from one of three sources."""

    name: Name
    url: Annotated[str, StringConstraints(pattern=r"^https?://", max_length=4096)] | None = None
    path: AbsolutePath | None = None
    """A file of the host, taken only from the local command line."""
    upload: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{8,64}$")] | None = None
    file_name: Annotated[str, StringConstraints(max_length=255, pattern=r"^[^/\x00-\x1f]*$")] = ""
    format: Literal["raw", "qcow2", "vmdk", "vhd", "vhdx", "vdi", "iso"] | None = None
    sha256: Sha256 | None = None
    storage: Name = "local"

    @model_validator(mode="after")
    def _one_of(self) -> ImageAdd:
        if sum(source is not None for source in (self.url, self.path, self.upload)) != 1:
            raise ValueError("give one of url, path and upload")
        return self


class Rescue(Part):
    """What a stopped VM is rescued with, or the rescue's end."""

    image: Name | None = None
    """A CD that repairs systems; None: the image `rescue`."""
    end: bool = False


class ImageBuild(Part):
    what: Literal["tiny", "debian", "rescue"]
    name: Name
    release: Literal["bookworm", "trixie"] = "bookworm"
    storage: Name = "local"


class TemplateCreate(Part):
    """A new template, or a new version of one that is there, of a VM that is off or of a snapshot."""

    name: Name
    vm: Name
    snapshot: Name | None = None
    title: Line = ""
    notes: Annotated[str, StringConstraints(max_length=16_384)] = ""


class VolumeCreate(Part):
    name: Name
    size: Size
    storage: Name = "local"
    format: VolumeFormat = VolumeFormat.QCOW2
    preallocated: bool = False


class Grow(Part):
    size: Size


class StorageCreate(Part):
    name: Name
    kind: Literal["dir", "shared", "iscsi"] = "dir"
    """`shared`: a file system that all hosts have mounted at `path`, be it a cluster's own or NFS; `iscsi`: a LUN."""
    path: AbsolutePath | None = None
    """A directory; with `disks` where they are mounted, below the home when it is not given."""
    disks: Annotated[tuple[AbsolutePath, ...], Field(max_length=2)] = ()
    """An empty disk, or two that mirror each other, to make a file system on."""
    lun: LunRequest | None = None
    """Of kind `iscsi`: one that is empty, for the disks of many VMs."""
    reserve_percent: Annotated[int, Field(ge=0, le=90)] = 5
    overcommit: bool = False

    @model_validator(mode="after")
    def _somewhere(self) -> StorageCreate:
        if (self.lun is None) == (self.kind == "iscsi"):
            raise ValueError("a storage of kind 'iscsi' lies on a LUN ('lun'), and no other does")
        if self.kind == "iscsi":
            if self.path is not None or self.disks or self.overcommit or "reserve_percent" in self.model_fields_set:
                raise ValueError(
                    "a storage of kind 'iscsi' lies on a LUN alone, all of which is given away in whole disks"
                )
            return self
        if self.path is None and not self.disks:
            raise ValueError("a storage lies in a directory ('path') or on an empty disk ('disks')")
        if self.kind == "shared" and (self.disks or self.path is None):
            raise ValueError("a storage of kind 'shared' lies where it is mounted ('path'), and on no disk of a host")
        return self


class StorageRepair(Part):
    disk: AbsolutePath
    """An empty disk, or the one that was missing, for a mirror that lacks one."""


class Description(Part):
    """What people say of a resource (RFC 7396: what is left out stays)."""

    title: Line | None = None
    notes: Annotated[str, StringConstraints(max_length=16_384)] | None = None
    tags: Annotated[tuple[Tag, ...], Field(max_length=64)] | None = None


class HostPatch(Description):
    """Changes of a host (RFC 7396: what is left out stays)."""

    memory_for_vms: Size | Literal["usual"] | None = None
    merge_pages: bool | None = None
    memory_overcommit: Overcommit | None = None
    cpu_overcommit: Overcommit | None = None
    """Null: vCPUs are given as often as is wanted."""
    bmc: BmcRequest | None = None
    """Asked before it is kept, and refused when it is another host's. Null: it has none."""


class StoragePatch(Description):
    """Changes of a storage (RFC 7396: what is left out stays). Where it lies cannot be changed."""

    reserve_percent: Annotated[int, Field(ge=0, le=90)] | None = None
    overcommit: bool | None = None


class FirewallGroupPatch(Description):
    """Changes of a firewall group (RFC 7396: what is left out stays)."""

    rules: Annotated[tuple[FirewallRule, ...], Field(max_length=2000)] | None = None


class NetworkCreate(NetworkSpec):
    name: Name


class TokenCreate(Part):
    name: Name
    days: Annotated[int, Field(ge=1, le=3650)] | None = None


Networks = Annotated[dict[Name, Name], Field(max_length=64)]
"""For VMs that come in, by the network's name there: the network here that its NICs shall be on."""


class Adopt(Part):
    directories: tuple[AbsolutePath, ...] = ()
    storage: Name | None = None
    dead: str | None = None
    """The uid of the host whose directories these were, on the asker's word that it is dead."""
    new_identity: bool = False
    name: Name | None = None
    """Another name than it had; for a single directory."""
    networks: Networks = {}


class Document(Part):
    """A whole resource as people edit it: `vm edit`, `vm apply`."""

    api: Literal["bocage/1"] = "bocage/1"
    kind: Literal["VM"] = "VM"
    metadata: dict[str, Any]
    spec: dict[str, Any]
