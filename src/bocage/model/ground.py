"""What VMs stand on: hosts, storage, volumes, images, networks."""

from __future__ import annotations

import datetime
import enum
import ipaddress
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from bocage.model import power
from bocage.model.base import Part, Ref, Resource, Saying, Uid
from bocage.model.lun import Lun, Slice
from bocage.model.units import Size

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
AbsolutePath = Annotated[str, StringConstraints(pattern=r"^/[^\x00-\x1f]*$", max_length=1024)]
LayerName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,62}\.(qcow2|raw)$")]


Overcommit = Annotated[float, Field(ge=0.1, le=100)]


class HostSpec(Part):
    memory_for_vms: Size | Literal["usual"] = "usual"
    """What its running VMs may have together, as far as they have dynamic memory; `usual`: all but a tenth of it."""
    merge_pages: bool = False
    """Whether its VMs, from their next start on, take part in the kernel's merging of equal pages (KSM)."""
    memory_overcommit: Overcommit = 1.0
    """How many times over its memory is given to VMs that run together: a start beyond that is refused."""
    cpu_overcommit: Overcommit | None = None
    """The same of its CPUs, as vCPUs; None: as often as is wanted. Reservations are never given twice."""
    drained: bool = False
    """Whether its VMs are to be elsewhere: it gets none."""
    bmc: power.Bmc | None = None
    """What switches it off and on from outside."""


class Leaving(Part):
    """VMs go off before their host does, those first that start last; that they should run stays wanted."""

    boot_id: str
    """Of the run of the machine that this is about."""
    order: int
    """VMs whose autostart order is this or above are to be off."""


class HostStatus(Part):
    version: str = ""
    """Bocage's own."""
    home: str = ""
    address: str = ""
    """At which the other hosts of its cluster reach it; empty for a host by itself."""
    kernel: str = ""
    cpus: int = 0
    memory_bytes: int = 0
    accelerator: str = ""
    accelerator_reason: Saying | None = None
    qemu: str = ""
    """The installed QEMU's version; empty when there is none."""
    machines: dict[str, str] = {}
    """The newest versioned machine type by its alias: `q35` → `pc-q35-7.2`."""
    types: tuple[str, ...] = ()
    """Every machine type of a PC that its QEMU builds."""
    ending: tuple[str, ...] = ()
    """Those of them that QEMU itself calls deprecated."""
    cpu_model: str = ""
    """The newest named model that runs here whole; a new VM gets it where no other host of the kind lacks it."""
    cpu_models: tuple[str, ...] = ()
    """Every named, versioned model that runs here whole."""
    cpu_maker: str = ""
    """Of its real CPU: `intel`, `amd`, or empty for another."""
    firmware: tuple[str, ...] = ()
    """bios, uefi, secure-boot."""
    tpm: bool = False
    """Whether VMs can have a TPM: swtpm is installed."""
    privileged: bool = False
    time_zone: str = "UTC"
    """IANA's name of the zone that the host is set to."""
    boot_id: str = ""
    smbios_uuid: str = ""
    """The machine's own, by which its BMC is known to be its; of one that has none, its machine-id."""
    bmc: power.BmcSeen | None = None
    leaving: Leaving | None = None
    problem: Saying | None = None
    seen: datetime.datetime | None = None


class Host(Resource[HostSpec, HostStatus]):
    kind: ClassVar[str] = "host"
    plural: ClassVar[str] = "hosts"
    in_project: ClassVar[bool] = False
    status: HostStatus = HostStatus()

    @property
    def bmc_is_its_own(self) -> bool:
        """Whether the BMC that is set was seen to be this machine's, by both their UUIDs."""
        set_, seen = self.spec.bmc, self.status.bmc
        if set_ is None or seen is None or (seen.address, seen.system) != (set_.address, set_.system):
            return False
        return seen.own


class HostUsb(Part):
    """A USB device of a host, as it is when it is asked for."""

    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{4}:[0-9a-f]{4}$")]
    """Vendor and product: `0529:0001`."""
    serial: str = ""
    port: str
    """Where it is plugged in: bus, then port by port, `1-2.3`."""
    maker: str = ""
    model: str = ""
    node: str = ""
    """The file by which it is opened, another each time it is plugged in: `/dev/bus/usb/001/004`."""
    in_use: bool = False
    """The host itself has a file system of it mounted, swaps to it, or builds on it: no VM gets it."""
    vm: Ref | None = None
    """The VM that has it."""


class HostDisk(Part):
    """A disk of a host, as it is when it is asked for."""

    path: str
    size_bytes: int
    model: str = ""
    serial: str = ""
    wwn: str = ""
    transport: str = ""
    """Such as `sata`, `sas`, `nvme`; empty where nobody says."""
    rotational: bool = False
    read_only: bool = False
    content: tuple[str, ...] = ()
    """What lies on it and who uses it: `gpt`, `xfs`, `/srv`, `sda1`. Empty: it may become a storage."""
    health: Literal["good", "failing", "unknown"] = "unknown"
    """What the disk says of itself."""
    temperature: int | None = None
    """Degrees Celsius."""
    hours: int | None = None
    """That it has run."""
    worn_percent: int | None = None
    """Of the writes that a flash disk is made for."""


class StorageSpec(Part):
    kind: Literal["dir", "shared", "iscsi"] = "dir"
    """`shared`: a file system that several hosts have mounted at the same path; `iscsi`: slices of one LUN."""
    host: Uid | None = None
    """The one host that reaches it (`dir`); None: whoever has it mounted (`shared`), or reaches the LUN (`iscsi`)."""
    path: AbsolutePath
    """Of kind `iscsi` what each host keeps by itself beside the disks lies there: logs, definitions, seeds."""
    lun: Lun | None = None
    disks: Annotated[tuple[AbsolutePath, ...], Field(max_length=2)] = ()
    """Those that its file system was made on, which is mounted at the path; none for a directory of another one."""
    reserve_percent: Annotated[int, Field(ge=0, le=90)] = 5
    """No VM is started or grown that could fill it past this."""
    overcommit: bool = False
    """Let thin disks promise more than there is; a VM that meets the end pauses and goes on when there is room."""

    @model_validator(mode="after")
    def _of_its_kind(self) -> StorageSpec:
        if (self.host is None) == (self.kind == "dir"):
            raise ValueError(f"host: a storage of kind 'dir' has one, and no other, as '{self.kind}', has")
        if self.kind != "dir" and self.disks:
            raise ValueError(f"disks: a storage of kind '{self.kind}' lies on no disk of a host")
        if (self.lun is None) == (self.kind == "iscsi"):
            raise ValueError("lun: a storage of kind 'iscsi' has one, and no other has")
        return self


class Reach(Part):
    """How one host finds a storage that several reach."""

    state: Literal["ready", "unavailable"]
    reason: Saying | None = None


class Mirror(Part):
    """Disks that hold the same, as they are by now."""

    disks: int
    """That it is made of."""
    working: int
    """Of them, that hold all of it."""
    members: tuple[str, ...] = ()
    """Those that are in it, also one that is still being filled."""
    rebuilt_percent: int | None = None
    """Of a disk that was put in anew and is being filled."""


class StorageStatus(Part):
    state: Literal["pending", "ready", "unavailable"] = "pending"
    reason: Saying | None = None
    total_bytes: int = 0
    free_bytes: int = 0
    allocated_bytes: int = 0
    """What its volumes and images really take."""
    provisioned_bytes: int = 0
    """What its volumes may grow to."""
    mirror: Mirror | None = None
    hosts: dict[Uid, Reach] = {}
    """Of one that several reach: how each of them finds it, by the host's uid."""
    slices: dict[Uid, Slice] = {}
    """Of a LUN: who has which part of it, by the volume's uid."""
    map_generation: int = 0
    """Raised with each change of `slices`; the map on the LUN says of which one it tells."""


class Storage(Resource[StorageSpec, StorageStatus]):
    kind: ClassVar[str] = "storage"
    plural: ClassVar[str] = "storage"
    in_project: ClassVar[bool] = False
    status: StorageStatus = StorageStatus()

    @property
    def shared(self) -> bool:
        """Whether several hosts reach it."""
        return self.spec.host is None

    def concerns(self, host: str) -> bool:
        """Whether a host is to look whether it reaches it."""
        return self.spec.host in (None, host)

    def reached_by(self, host: str) -> bool:
        """Whether a host can have VMs on it: the one that it belongs to, or one that has found it mounted."""
        if self.spec.host is not None:
            return self.spec.host == host
        found = self.status.hosts.get(host)
        return found is not None and found.state == "ready"

    def reason_on(self, host: str) -> Saying | None:
        """Why a host does not find it."""
        found = self.status.hosts.get(host)
        return found.reason if found else self.status.reason


class VolumeFormat(enum.StrEnum):
    QCOW2 = "qcow2"
    RAW = "raw"


class VolumeSpec(Part):
    storage: Uid
    size: Size
    format: VolumeFormat = VolumeFormat.QCOW2
    preallocated: bool = False
    image: Sha256 | None = None
    """The image that its first content comes from."""
    source: Uid | None = None
    """The volume that its first content is copied from."""
    source_file: LayerName | None = None
    """The file of that volume, when it is not the one that its guest writes to: that of a snapshot."""
    linked: bool = False
    """Whether it keeps that image as its backing file, or has a full copy."""
    vm: Uid | None = None
    """The VM whose directory it lies in; None when it lies by itself."""
    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,62}$")] = "disk0"
    """The file's name without its ending."""
    layers: dict[LayerName, LayerName] = {}
    """Which of its files rests on which, all in one directory; the guest writes to `name`. Empty without snapshots."""
    flattening: bool = False
    """Its image is being copied into the file that is linked to it: whose header may name it or nothing."""
    merging: LayerName | None = None
    """The layer that is being merged into the one below it: headers may name either."""

    @property
    def file_name(self) -> str:
        """The file that the guest writes to."""
        return f"{self.name}.{self.format}"

    @model_validator(mode="after")
    def _rests_on_something(self) -> VolumeSpec:
        right: set[str] = set()
        for first in self.layers:
            seen, file = {first}, first
            while file not in right and (below := self.layers.get(file)) is not None:
                if below in seen or file.endswith(".raw"):
                    raise ValueError(f"layers: {file} cannot rest on {below}")
                seen.add(below)
                file = below
            right |= seen
        return self

    @field_validator("size")
    @classmethod
    def _sane(cls, value: Size) -> Size:
        if not 512 <= value <= 1 << 46 or value % 512:
            raise ValueError("a volume has whole sectors of 512 bytes and 64T at most")
        return value


class VolumeStatus(Part):
    state: Literal["pending", "ready", "failed"] = "pending"
    path: str | None = None
    allocated_bytes: int = 0
    problem: Saying | None = None


class Volume(Resource[VolumeSpec, VolumeStatus]):
    kind: ClassVar[str] = "volume"
    plural: ClassVar[str] = "volumes"
    status: VolumeStatus = VolumeStatus()


class ImageSpec(Part):
    sha256: Sha256
    """Of the source file as it came: what a publisher prints beside it."""
    format: Literal["qcow2", "raw", "iso"]
    """As it is stored."""
    virtual_size: Size
    storage: Uid
    origin: str = ""
    temporary: bool = False
    """Burned for a drive; it goes when no VM has it in one any more."""


class ImageStatus(Part):
    state: Literal["ready", "missing"] = "ready"
    size_bytes: int = 0


class Image(Resource[ImageSpec, ImageStatus]):
    kind: ClassVar[str] = "image"
    plural: ClassVar[str] = "images"
    status: ImageStatus = ImageStatus()


class NetworkSpec(Part):
    kind: Literal["user", "nat", "isolated", "bridge"] = "user"
    subnet: str | None = None
    """IPv4, such as `10.80.1.0/24`; chosen free of the host's routes when it is not given (`nat`, `isolated`)."""
    dhcp: bool = True
    """Whether it gives addresses (`nat`, `isolated`)."""
    ipv6: bool = False
    """Whether it advertises an IPv6 prefix of its own (`nat`, `isolated`)."""
    nic: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:@-]{1,32}(,[A-Za-z0-9_.:@-]{1,32}){0,7}$")] | None = (
        None
    )
    """For `bridge`: the host's NIC that becomes its port, by name or by MAC; several, with commas, become a bond."""
    bond_mode: Literal["active-backup", "balance-xor", "802.3ad"] | None = None
    """How several NICs are one; None: `active-backup`, which asks nothing of the switch."""
    vlans: bool = False
    """Whether its NICs can be on VLANs of it (`vlan`, `trunk`)."""
    mtu: Annotated[int, Field(ge=1280, le=9216)] | None = None
    """None: 1500, or for `bridge` what its NIC has."""

    @model_validator(mode="after")
    def _of_its_kind(self) -> NetworkSpec:
        if (self.nic is None) == (self.kind == "bridge"):
            raise ValueError("nic: a network of kind 'bridge' needs one, and no other kind has one")
        if self.bond_mode and "," not in (self.nic or ""):
            raise ValueError("bond_mode: that takes several NICs, with commas between")
        if self.ipv6 and self.kind not in ("nat", "isolated"):
            raise ValueError(f"ipv6: a network of kind '{self.kind}' has what is behind it")
        if self.kind == "user" and self.vlans:
            raise ValueError("vlans: a network of kind 'user' has none")
        if self.kind == "bridge" and self.subnet:
            raise ValueError("subnet: a network of kind 'bridge' has that of the network behind its NIC")
        return self

    @field_validator("subnet")
    @classmethod
    def _subnet(cls, value: str | None) -> str | None:
        if value is None:
            return None
        net = ipaddress.ip_network(value)
        if net.version != 4 or not 8 <= net.prefixlen <= 29 or not net.is_private:
            raise ValueError("a private IPv4 network of /8 to /29 is needed, such as 10.80.1.0/24")
        return str(net)


class NetworkStatus(Part):
    state: Literal["pending", "unconfirmed", "ready", "failed"] = "pending"
    """`unconfirmed`: its NIC goes back to what it was unless somebody confirms it until `confirm_by`."""
    reason: Saying | None = None
    subnet: str | None = None
    bridge: str | None = None
    nic: str | None = None
    """The MAC of the host's NIC that is its port."""
    confirm_by: datetime.datetime | None = None
    backend: str = ""
    """What carries its NICs: passt, slirp or bridge."""


class Network(Resource[NetworkSpec, NetworkStatus]):
    kind: ClassVar[str] = "network"
    plural: ClassVar[str] = "networks"
    status: NetworkStatus = NetworkStatus()
