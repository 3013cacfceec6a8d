"""The world as a planner sees it, as one text that can be kept and replayed; and what a planner answers."""

from __future__ import annotations

import datetime
from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from bocage.model.base import Name, Part, Saying, Tag
from bocage.model.units import Size

Group = Annotated[str, StringConstraints(pattern=r"^[\w.:/=-]{1,127}$")]
"""Of another project than the default with that before it: `project/group`."""
Groups = Annotated[tuple[Group, ...], Field(max_length=16)]
Word = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x20\x7f]+$", max_length=255)]
Amount = Annotated[float, Field(ge=0, le=1e12)]

MOST_FOR_TWO = 100
"""Hosts among which two that die at once are looked at."""
MOST_PRIORITY = 10_000
USUAL_PRIORITY = 9_900
"""Of a VM whose order is the usual one."""
_MOST_IN_GROUP = 1000


class Load(Part):
    """What a VM does, by resource: any unit that is the same for all VMs."""

    cpu: Amount = 0.0
    memory: Amount = 0.0
    disk: Amount = 0.0
    net: Amount = 0.0


class PlanBoard(Part):
    """What a guest's board asks of a host; empty: nothing that not every host has."""

    machine: Word | Literal[""] = ""
    cpu_model: Word | Literal[""] = ""
    firmware: Word | Literal[""] = ""
    tpm: bool = False


class PlanHost(Part):
    """A host: what it has, what it reaches."""

    name: Name
    state: Literal["ready", "draining", "silent"] = "ready"
    """Only a ready one gets VMs; those of a draining one are to leave; a silent one is failover's."""
    memory: Size
    memory_own: Size = Size(0)
    """What of it VMs never get."""
    memory_overcommit: Annotated[float, Field(ge=0.1, le=100)] = 1.0
    cpus: Annotated[int, Field(ge=1, le=1 << 20)]
    cpus_own: Annotated[int, Field(ge=0, le=1 << 20)] = 0
    """What counts as given of them before any VM has some."""
    cpu_overcommit: Annotated[float, Field(ge=0.1, le=100)] | None = None
    disk: Size = Size(0)
    """Its local storage; 0: it is not watched."""
    disk_own: Size = Size(0)
    """What of it is not VMs'."""
    power: Annotated[float, Field(ge=0.001, le=1e6)] = 1.0
    """What its load is measured by: a host of 2 is as loaded by 4 as one of 1 by 2."""
    storages: tuple[Word, ...] = ()
    networks: tuple[Word, ...] = ()
    tags: tuple[Tag, ...] = ()
    machines: tuple[Word, ...] = ()
    """Machine types that its QEMU builds."""
    cpu_models: tuple[Word, ...] = ()
    """CPU models that run there whole."""
    cpu_kind: str = ""
    """Guests with the CPU model `host` move live among hosts of one kind only."""
    firmware: tuple[Word, ...] = ()
    tpm: bool = True


class PlanVM(Part):
    """A VM: what it asks for, and where it is."""

    name: Name
    project: Name = "default"
    running: bool = True
    """Whether it should run: one that should not takes no memory and no CPU."""
    memory: Size
    vcpus: Annotated[int, Field(ge=0, le=1 << 16)] = 1
    cpus_reserved: Annotated[float, Field(ge=0, le=1 << 16)] = 0.0
    disk: Size = Size(0)
    """What it takes of a host's local storage, and of its replica's host as much again."""
    load: Load = Load()
    host: Name | None = None
    replica: Name | None = None
    """The host with a copy of its local disks, on which it starts when its own has died."""
    replicated: bool = False
    """Whether it is to have a replica: who places it chooses both hosts."""
    storages: tuple[Word, ...] = ()
    networks: tuple[Word, ...] = ()
    host_tags: tuple[Tag, ...] = ()
    """Its host has all of these."""
    hardware: PlanBoard = PlanBoard()
    together: Groups = ()
    """VMs of one such group stand on one host."""
    apart: Groups = ()
    """VMs of one such group stand on different hosts."""
    priority: Annotated[int, Field(ge=0, le=MOST_PRIORITY)] = USUAL_PRIORITY
    """The higher, the later it is left out where there is not room for all after a host has died."""
    stays: bool = False
    """It is not moved: a device of its host, a migration that is under way."""

    @property
    def key(self) -> str:
        return self.name if self.project == "default" else f"{self.project}/{self.name}"


class Weights(Part):
    """What each part of the score counts: the lower the score, the better the balance."""

    memory: Amount = 1.0
    """Standard deviation of the hosts' shares of free memory."""
    disk: Amount = 1.0
    vcpus: Amount = 1.0
    """Of the vCPUs that are given for each CPU."""
    cpu_load: Amount = 1.0
    memory_load: Amount = 1.0
    disk_load: Amount = 1.0
    net_load: Amount = 1.0
    reserved: Amount = 1.0
    """Of the shares of memory that replicas are to start in."""
    reserved_sum: Amount = 0.25
    """Of each host's such share."""
    unready: Amount = 1.0
    """Of each VM that has its disks, or their replica, on a host where these would not all start."""
    misplaced: Amount = 16.0
    """Of each VM that stands where it must not."""


class World(Part):
    """Everything that a placement depends on, at one moment."""

    version: Literal[1] = 1
    taken: datetime.datetime | None = None
    survive: Annotated[int, Field(ge=0, le=2)] = 0
    """Hosts that may die at once, and every VM that can be started elsewhere has room there."""
    weights: Weights = Weights()
    hosts: Annotated[tuple[PlanHost, ...], Field(max_length=1000)] = ()
    vms: Annotated[tuple[PlanVM, ...], Field(max_length=100_000)] = ()

    @model_validator(mode="after")
    def _holds_together(self) -> World:
        if self.survive > 1 and len(self.hosts) > MOST_FOR_TWO:
            raise ValueError(f"survive: two hosts at once are looked at among {MOST_FOR_TWO} at most")
        hosts = {host.name for host in self.hosts}
        if len(hosts) != len(self.hosts):
            raise ValueError("hosts: two bear the same name")
        if len({vm.key for vm in self.vms}) != len(self.vms):
            raise ValueError("vms: two of a project bear the same name")
        for vm in self.vms:
            if not {vm.host, vm.replica} <= {None, *hosts}:
                raise ValueError(f"vms: {vm.key} is on a host that is not there")
            if vm.replica is not None and vm.replica == vm.host:
                raise ValueError(f"vms: {vm.key} has its replica beside itself")
        return self

    def document(self) -> dict[str, Any]:
        """The text that is kept: what is not as usual, and always the version."""
        return {"version": self.version, **self.model_dump(mode="json", exclude_defaults=True)}


def _bounded(world: World) -> World:
    counts = Counter(group for vm in world.vms for group in {*vm.apart, *vm.together})
    for group, count in counts.items():
        if count > _MOST_IN_GROUP:
            raise ValueError(f"vms: {count} are in the group {group}, and {_MOST_IN_GROUP} at most are looked at")
    return world


AskedWorld = Annotated[World, AfterValidator(_bounded)]
"""One that was made elsewhere: what it costs to look at it is bounded."""


class Verdict(Part):
    """One host, looked at for one VM."""

    host: str
    replica: str | None = None
    """The host for its replica, where it gets one with the VM."""
    reasons: tuple[Saying, ...] = ()
    """Why not; empty: it could be there."""
    score: float | None = None
    """The cluster's, were it there; the lower the better."""
    memory_left: int | None = None
    """Bytes, with it."""
    vcpus: int | None = None
    """That are given then."""


class Unsurvived(Part):
    """A VM that would not run again if hosts died."""

    vm: str
    hosts: tuple[str, ...]
    reason: Saying


class Placed(Part):
    """Where a VM is to be, and why there."""

    vm: str
    host: str | None
    """None: nowhere."""
    replica: str | None = None
    because: Saying
    verdicts: tuple[Verdict, ...]
    """Of every host: those that could have it first, the best before the others."""


class Move(Part):
    """One step of a plan; each is possible when those before it are done."""

    vm: str
    origin: str
    to: str
    replica_from: str | None = None
    replica_to: str | None = None
    score: float
    """The cluster's, after it."""
    because: Saying


class Stuck(Part):
    """A VM that stands where it must not, and what speaks against every other host."""

    vm: str
    host: str
    reasons: tuple[Saying, ...]
    """Why it must not be there."""
    verdicts: tuple[Verdict, ...]
    """Empty when the time was over before."""


class Standing(Part):
    """What VMs have of one host."""

    host: str
    vms: int
    memory: int
    """Bytes."""
    memory_room: int
    vcpus: int


class Rebalanced(Part):
    """A plan of moves, and what it gains."""

    before: float
    after: float
    moves: tuple[Move, ...]
    hosts_before: tuple[Standing, ...]
    hosts_after: tuple[Standing, ...]
    stuck: tuple[Stuck, ...] = ()
    """VMs that could not be helped."""
    unsurvived: tuple[Unsurvived, ...] = ()
    """Who would not run again, when the plan is carried out, if as many hosts died as are to be survived."""
    complete: bool = True
    """Whether nothing more gains enough; else a bound, on moves, effort or time, was met."""
