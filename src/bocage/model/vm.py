"""A virtual machine: what was asked for, what it is made of, what it does now."""

from __future__ import annotations

import datetime
import enum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, GetJsonSchemaHandler, StringConstraints, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from bocage.model import board, wishes
from bocage.model import memory as memories
from bocage.model import share as shares
from bocage.model.base import Name, Part, Resource, Saying, Uid
from bocage.model.firewall import IPv4, Peer
from bocage.model.schedule import SnapshotSchedule
from bocage.model.units import MiB, Size

Mac = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$"),
    Field(description="A unicast MAC address, lower case.", examples=["52:54:00:12:34:56"]),
]
Address = board.Address
DeviceName = board.DeviceName
Bus = board.Bus
NicModel = board.NicModel
Firmware = board.Firmware
Smbios = board.Smbios
Hardware = board.Hardware
DynamicMemory = memories.DynamicMemory
Placement = wishes.Placement
Serial = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,20}$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Vlan = Annotated[int, Field(ge=1, le=4094)]


class Power(enum.StrEnum):
    """What the VM should be doing."""

    RUNNING = "running"
    STOPPED = "stopped"
    PAUSED = "paused"
    SAVED = "saved"


class State(enum.StrEnum):
    """What the VM does."""

    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    SAVED = "saved"
    STOPPING = "stopping"
    CRASHED = "crashed"
    UNKNOWN = "unknown"


class Cache(enum.StrEnum):
    """How writes go through the host. All but `unsafe` keep what the guest was told is durable."""

    NONE = "none"
    WRITEBACK = "writeback"
    WRITETHROUGH = "writethrough"
    DIRECTSYNC = "directsync"
    UNSAFE = "unsafe"


_MOST_CPUS = 255
TRASH_KEPT = datetime.timedelta(days=7)
"""How long a deleted VM can be brought back."""


class Cpus(Part):
    """vCPUs and their shape. A plain number is taken for that many cores of one socket."""

    sockets: Annotated[int, Field(ge=1, le=64)] = 1
    cores: Annotated[int, Field(ge=1, le=255)] = 1
    threads: Annotated[int, Field(ge=1, le=8)] = 1

    @property
    def count(self) -> int:
        return self.sockets * self.cores * self.threads

    @model_validator(mode="before")
    @classmethod
    def _cores(cls, value: Any) -> Any:
        return {"cores": value} if isinstance(value, int) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _not_too_many(self) -> Cpus:
        if self.count > _MOST_CPUS:
            raise ValueError(f"{self.count} vCPUs are more than the {_MOST_CPUS} of one machine")
        if self.last_apic_id >= _MOST_CPUS:
            raise ValueError(
                f"their numbers would go up to {self.last_apic_id}, and a machine has them up to {_MOST_CPUS - 1}: "
                "cores and threads that are powers of two leave none out"
            )
        return self

    def board(self, most: int | None) -> Cpus:
        """The shape of a board that takes about `most`: more cores in one socket, or more sockets of the same kind."""
        cores, sockets = self.cores, self.sockets
        if most and sockets == 1:
            cores = max(cores, most // self.threads)
        elif most:
            sockets = max(sockets, most // (cores * self.threads))
        whole = Cpus.model_construct(sockets=sockets, cores=cores, threads=self.threads)
        return whole if whole.last_apic_id < _MOST_CPUS and whole.count <= _MOST_CPUS else self

    @property
    def last_apic_id(self) -> int:
        """The number of the last vCPU: threads and cores take whole bits in it (Intel SDM 3A, 8.9.1)."""
        thread_bits, core_bits = (self.threads - 1).bit_length(), (self.cores - 1).bit_length()
        socket = (self.sockets - 1) << (core_bits + thread_bits)
        return socket | (self.cores - 1) << thread_bits | (self.threads - 1)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        shape = handler.resolve_ref_schema(handler(schema))
        if handler.mode == "serialization":
            return shape
        number = {"type": "integer", "minimum": 1, "maximum": _MOST_CPUS, "description": "Cores of one socket."}
        return {"anyOf": [shape, number], "examples": [2, {"cores": 2, "threads": 2}]}


class Disk(Part):
    name: DeviceName
    volume: Uid
    bus: Bus = Bus.VIRTIO
    cache: Cache = Cache.WRITEBACK
    discard: bool = True
    serial: Serial
    address: Address | None = None
    """None for a bus whose place is its unit number (SCSI, SATA, IDE)."""
    unit: Annotated[int, Field(ge=0, le=255)] | None = None
    limits: shares.Io = shares.Io()
    """Its own, beside those of all disks together (`share.disks`)."""


class Cd(Part):
    """A drive whose medium can be changed: for CDs, or on the bus `floppy` for floppy disks."""

    name: DeviceName
    image: Uid | None = None
    """None: the tray is empty."""
    bus: Bus = Bus.SATA
    unit: Annotated[int, Field(ge=0, le=255)]


class Publish(Part):
    """A port of the host that leads to one of the guest."""

    host_address: Annotated[str, StringConstraints(pattern=r"^[0-9a-f.:]{2,45}$")] = "127.0.0.1"
    host_port: Port
    guest_port: Port
    protocol: Literal["tcp", "udp"] = "tcp"


class Nic(Part):
    name: DeviceName
    network: Uid
    model: NicModel = NicModel.VIRTIO
    mac: Mac
    address: Address
    publish: tuple[Publish, ...] = ()
    connected: bool = True
    """Whether its cable is in."""
    rate: shares.NetRate | None = None
    """None: that of every NIC (`share.nics`)."""
    ip: IPv4 | None = None
    """The address that its network's DHCP keeps for it; None: one is chosen."""
    allowed: Annotated[tuple[Peer, ...], Field(max_length=64)] = ()
    """Further addresses and subnets that it may use as its own."""
    spoofing: Literal["deny", "allow"] = "deny"
    """Whether it may pass for anybody: for a router, a DHCP server."""
    vlan: Vlan | None = None
    """The VLAN that its untagged packets are on; None: the network's own."""
    trunk: Annotated[tuple[Vlan, ...], Field(max_length=256)] = ()
    """Further VLANs, whose packets it sends and gets tagged."""
    firewall: Annotated[tuple[Name, ...], Field(max_length=16)] = ()
    """The groups whose rules say what comes in; with none everything does."""


class StaticAddress(Part):
    """One NIC's address in the seed; without it the NIC asks by DHCP."""

    nic: DeviceName
    address: Annotated[str, StringConstraints(pattern=r"^[0-9a-f.:]+/\d{1,3}$"), Field(examples=["10.0.0.5/24"])]
    gateway: str | None = None
    dns: tuple[str, ...] = ()


class Seed(Part):
    """What cloud-init is told at the first boot (NoCloud)."""

    hostname: Name
    user: Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")] | None = None
    ssh_keys: tuple[Annotated[str, StringConstraints(max_length=16_384)], ...] = ()
    password_hash: str | None = None
    user_data: Annotated[str, StringConstraints(max_length=262_144)] | None = None
    network: tuple[StaticAddress, ...] = ()


class Restart(Part):
    """What happens when the VM ends without being told to."""

    policy: Literal["never", "on-crash", "always"] = "on-crash"
    limit: Annotated[int, Field(ge=1, le=1000)] = 5
    """Tries in a row before it is left down; a run of ten minutes starts the count anew."""
    delay: Annotated[float, Field(ge=0, le=3600)] = 1.0
    """Seconds before the first try; doubled each time, up to five minutes."""


class Autostart(Part):
    """Whether and when the VM starts with its host."""

    enabled: bool = False
    order: Annotated[int, Field(ge=0, le=10_000)] = 100
    delay: Annotated[float, Field(ge=0, le=3600)] = 0.0
    """Seconds to wait after the one before it."""
    after: Annotated[tuple[Uid, ...], Field(max_length=16)] = ()
    """VMs of its project that run and answer before it starts by itself.

    Those that are to be off are not waited for."""
    within: Annotated[float, Field(ge=0, le=86_400)] = 120.0
    """Seconds that they are waited for; then it starts all the same, and says so."""
    answers: Literal["runs", "agent"] | Port = "runs"
    """When those after it may start: once it runs, once its guest agent answers, or once this TCP port of it does."""


class Boot(Part):
    order: tuple[DeviceName, ...] = ()
    once: DeviceName | None = None
    """The next start only; taken away once it was used."""

    def without(self, name: str) -> Boot:
        """The same order when a device has gone."""
        return Boot(
            order=tuple(one for one in self.order if one != name), once=None if self.once == name else self.once
        )


class StopPolicy(Part):
    """How an orderly stop is bounded."""

    within: Annotated[float, Field(ge=1, le=86_400)] = 180.0
    """Seconds that the guest gets."""
    then: Literal["leave", "kill"] = "leave"
    """At the bound: leave it running and say so, or pull the plug."""


class Replica(Part):
    """A second copy of a VM's local disks, on another host: every write is in both before the guest hears of it."""

    host: Uid
    storage: Uid
    """A storage of that host."""
    mode: Literal["continuous"] = "continuous"


class VMSpec(Part):
    storage: Uid
    """Where its directory lies."""
    power: Power = Power.STOPPED
    cpus: Cpus = Cpus()
    memory: Size = memories.USUAL
    """All that its guest has, or with dynamic memory the most."""
    dynamic_memory: memories.DynamicMemory | None = None
    """None: it has its memory, neither less nor more."""
    disks: Annotated[tuple[Disk, ...], Field(max_length=32)] = ()
    cds: Annotated[tuple[Cd, ...], Field(max_length=6)] = ()
    nics: Annotated[tuple[Nic, ...], Field(max_length=16)] = ()
    ports: Annotated[tuple[board.GuestPort, ...], Field(max_length=6)] = ()
    usb: Annotated[tuple[board.UsbDevice, ...], Field(max_length=15)] = ()
    """USB devices of the host that it has while they are plugged in."""
    boot: Boot = Boot()
    seed: Seed | None = None
    restart: Restart = Restart()
    autostart: Autostart = Autostart()
    stop: StopPolicy = StopPolicy()
    snapshots: SnapshotSchedule | None = None
    """When snapshots are taken by themselves; None: never."""
    share: shares.Share = shares.Share()
    """What it may use of its host."""
    placement: Placement = Placement()
    replica: Replica | None = None
    """Which hosts it may be on, and with whom."""
    virtio_when_driven: bool = False
    """Its disks and NICs go over to virtio once its guest is seen to drive a virtio disk."""
    rescue: Uid | None = None
    """The CD that it is rescued with: while there is one, its disks are with that and not with its own system."""
    hardware: Hardware

    @property
    def devices(self) -> tuple[Disk | Cd | Nic, ...]:
        """All that has a name of its own, in the order of creation."""
        return (*self.disks, *self.cds, *self.nics)

    @model_validator(mode="before")
    @classmethod
    def _range(cls, value: Any) -> Any:
        return memories.split(value)

    @model_validator(mode="after")
    def _holds_together(self) -> VMSpec:
        if not 16 * MiB <= self.memory <= 1 << 44:
            raise ValueError(f"memory: {self.memory} is not within 16M and 16T")
        if self.memory % MiB:
            raise ValueError("memory: a whole number of MiB is needed")
        memories.check(self.memory, self.dynamic_memory)
        names = [device.name for device in self.devices]
        ports = [port.name for port in self.ports]
        every = [*names, *ports, *(one.name for one in self.usb)]
        if twice := {name for name in every if every.count(name) > 1}:
            raise ValueError(f"two devices bear the name {min(twice)}")
        for what, values in (
            ("the MAC address", [nic.mac for nic in self.nics]),
            ("the volume", [disk.volume for disk in self.disks]),
            ("the port", [f"{port.kind} {port.number}" for port in self.ports]),
            ("the disk serial", [disk.serial for disk in self.disks]),
        ):
            if repeated := {value for value in values if values.count(value) > 1}:
                raise ValueError(f"{what} {min(repeated)} is used twice")
        for name in (*self.boot.order, *([self.boot.once] if self.boot.once else [])):
            if name not in names:
                raise ValueError(f"boot: there is no device {name}; there are {', '.join(names) or 'none'}")
        return self


class Qemu(Part):
    """Which QEMU runs the VM, and which is installed: they differ after an upgrade until the next cold start."""

    running: str | None = None
    installed: str | None = None


class Isolation(Part):
    """What keeps this VM's process apart, and why a part is missing."""

    parts: tuple[
        Literal["sandbox", "own-uid", "mount-namespace", "network-namespace", "cgroup", "no-new-privileges"], ...
    ] = ()
    uid: int | None = None
    missing: tuple[Saying, ...] = ()


class NicStatus(Part):
    name: DeviceName
    mac: str
    addresses: tuple[str, ...] = ()
    reserved: str | None = None
    """The address that its network's DHCP keeps for it."""
    backend: str = ""
    """What carries it: passt, slirp, or the bridge's name."""


class UsbStatus(Part):
    name: DeviceName
    node: str = ""
    """The host's device that the guest has; empty: it waits for one."""
    reason: Saying | None = None
    """Why it waits."""


class Outcome(Part):
    """What became of one change while the VM ran."""

    path: str
    """Of the spec: `cpus`, `memory`, `nics[nic1]`."""
    how: Literal["done", "partly", "pending", "impossible"]
    """`partly`: the guest gave way in part; `pending`: it waits for a cold start; `impossible`: not on this host."""
    saying: Saying


class End(Part):
    """An end that nobody asked for."""

    when: datetime.datetime
    reason: Saying


class ReplicaStatus(Part):
    """How the copy stands, as the VM's host last saw it."""

    state: Literal["in-sync", "copying", "stale"] = "stale"
    since: datetime.datetime | None = None
    reason: Saying | None = None
    """Why it is stale."""
    percent: Annotated[int, Field(ge=0, le=100)] | None = None
    """Of the present pass, while it is copied."""


class VMStatus(Part):
    state: State = State.STOPPED
    since: datetime.datetime | None = None
    reason: Saying | None = None
    """Why it is in this state, when that was not simply asked for."""
    host: Uid | None = None
    """The host whose it is: the owner record."""
    owner_generation: int = 0
    ready: bool = False
    """Its directory and its disks are made."""
    pid: int | None = None
    accelerator: str | None = None
    qemu: Qemu = Qemu()
    isolation: Isolation = Isolation()
    nics: tuple[NicStatus, ...] = ()
    usb: tuple[UsbStatus, ...] = ()
    directory: str | None = None
    observed_generation: int = 0
    applied_generation: int = 0
    """The generation that the running process was started with."""
    outcomes: tuple[Outcome, ...] = ()
    """What became of the changes while it ran, of the last generation that was carried out so."""
    last_end: End | None = None
    """How it last ended by itself, also when it was started again since; None after an orderly stop."""
    restarts: int = 0
    next_try: datetime.datetime | None = None
    memory_note: Saying | None = None
    """Why its dynamic memory does not follow what its guest needs; None when it does, and without one."""
    answers: bool = False
    """Whether its guest has answered since it was started, where others wait for that (`autostart.answers`)."""
    tpm_lost: bool = False
    """Whether its TPM died while it runs: it has none until it is started again."""
    snapshot: Uid | None = None
    """The snapshot that its disks have gone on from."""
    problem: Saying | None = None
    """What keeps it from being what it should be."""
    replica: ReplicaStatus | None = None


class Owner(Part):
    """The owner record: the host that may open the VM's disks, and the generation of that right."""

    host: Uid | None
    """None: it was taken from a host that is proven dead, and is not yet given to another."""
    generation: int
    anew: bool = False
    """What runs of it on that host may be older than its disks: it is ended, and started from them."""


class VM(Resource[VMSpec, VMStatus]):
    kind: ClassVar[str] = "vm"
    plural: ClassVar[str] = "vms"
    status: VMStatus = VMStatus()
