"""Whether a host has room for one VM more: its memory and CPUs, given so many times over, and what is reserved."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

from bocage import words
from bocage.model import ground, sample
from bocage.model import vm as model
from bocage.words import N_

_LEAST = 1e-9  # what fractions of CPUs may be amiss by, added up


@dataclasses.dataclass(frozen=True, slots=True)
class Demand:
    """What VMs ask of a host while they run."""

    memory: int = 0  # bytes
    vcpus: int = 0
    reserved: float = 0.0  # CPUs of the host

    @classmethod
    def of(cls, spec: model.VMSpec) -> Demand:
        """That of one VM: with dynamic memory what it never has less than."""
        memory = spec.dynamic_memory.minimum if spec.dynamic_memory else spec.memory
        return cls(memory, spec.cpus.count, spec.share.cpu.reserve)

    def over(self, other: Demand) -> Demand:
        """The larger of each."""
        return Demand(max(self.memory, other.memory), max(self.vcpus, other.vcpus), max(self.reserved, other.reserved))

    def __add__(self, other: Demand) -> Demand:
        return Demand(self.memory + other.memory, self.vcpus + other.vcpus, self.reserved + other.reserved)


@dataclasses.dataclass(frozen=True, slots=True)
class Capacity:
    """What a host has, and how many times over it may be given; `cpu_overcommit` None: as often as is wanted."""

    memory: int  # bytes
    cpus: int
    memory_overcommit: float = 1.0
    cpu_overcommit: float | None = None

    @classmethod
    def of(cls, host: ground.Host) -> Capacity:
        """That of a host."""
        spec, status = host.spec, host.status
        memory = status.memory_bytes if spec.memory_for_vms == "usual" else int(spec.memory_for_vms)
        return cls(memory, status.cpus, spec.memory_overcommit, spec.cpu_overcommit)

    @property
    def memory_room(self) -> int:
        """Bytes of memory that VMs may have together."""
        return math.floor(self.memory * self.memory_overcommit)

    @property
    def vcpus_room(self) -> int | None:
        """vCPUs that VMs may have together."""
        return None if self.cpu_overcommit is None else math.floor(self.cpus * self.cpu_overcommit + _LEAST)


class NoMemory(words.Message):
    type = "admission-no-memory"
    text = N_(
        "{needed:size} of memory are asked for and {left:size} are left on {host}: "
        "its VMs may have {room:size} together, and {given:size} of it are given"
    )
    hint = N_("stop a VM, give it less, or let the host give more: 'bocage host set {host} --memory-overcommit N'")
    host: str
    needed: int
    left: int
    room: int
    given: int


class NoVcpus(words.Message):
    type = "admission-no-vcpus"
    text = N_(
        "{needed} vCPUs are asked for and {left} are left on {host}: "
        "its VMs may have {room} together, and {given} of them are given"
    )
    hint = N_("stop a VM, give it fewer, or let the host give more: 'bocage host set {host} --cpu-overcommit N'")
    host: str
    needed: int
    left: int
    room: int
    given: int


class NoReserve(words.Message):
    type = "admission-no-reserve"
    text = N_("{needed} CPUs are to be reserved and {left} are left on {host}: of its {room}, {given} are reserved")
    hint = N_("stop a VM that has a reservation, or reserve less: 'bocage vm set NAME --cpu-reserve N'")
    host: str
    needed: str
    left: str
    room: int
    given: str


Refusal = NoMemory | NoVcpus | NoReserve


def admit(
    host: str, capacity: Capacity, given: Demand, asked: Demand, *, present: Demand | None = None
) -> Refusal | None:
    """Why a host takes no VM more, which asks for `asked` where the others have `given`; None when it takes it.

    A VM that runs and has `present` is only refused what it asks for beyond that.
    """
    had = present or Demand()
    memory_left = max(capacity.memory_room - given.memory, 0)
    if asked.memory > max(memory_left, had.memory):
        return NoMemory(host=host, needed=asked.memory, left=memory_left, room=capacity.memory_room, given=given.memory)
    room = capacity.vcpus_room
    if room is not None and asked.vcpus > max(room - given.vcpus, had.vcpus):
        return NoVcpus(host=host, needed=asked.vcpus, left=max(room - given.vcpus, 0), room=room, given=given.vcpus)
    reserve_left = max(capacity.cpus - given.reserved, 0.0)
    if asked.reserved > max(reserve_left, had.reserved) + _LEAST:
        return NoReserve(
            host=host,
            needed=f"{asked.reserved:g}",
            left=f"{reserve_left:g}",
            room=capacity.cpus,
            given=f"{given.reserved:g}",
        )
    return None


def total(demands: Iterable[Demand]) -> Demand:
    """What they ask for together."""
    found = Demand()
    for one in demands:
        found += one
    return found


def shown(capacity: Capacity, given: Demand) -> sample.Given:
    """What is given and what is left, for people."""
    return sample.Given(
        memory=given.memory,
        memory_room=capacity.memory_room,
        vcpus=given.vcpus,
        vcpus_room=capacity.vcpus_room,
        cpus_reserved=given.reserved,
    )
