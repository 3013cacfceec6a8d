"""A VM's share of its host: what it may use of CPUs, memory, disks and networks, and what is kept for it."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from bocage.model.base import Part
from bocage.model.units import MiB, Size

_HIGHEST_CPU = 8191
_SMALLEST_OVERHEAD = 64 * MiB
WEIGHT = 100
"""What a VM has that was given no other."""


def cpu_set(text: str) -> frozenset[int]:
    """The CPUs that a list names: `0-1,4` (cpuset(7), list format). Raises ValueError."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        low, high = int(first), int(last or first)
        if not low <= high <= _HIGHEST_CPU:
            raise ValueError(f"{part} is no range of CPUs")
        found.update(range(low, high + 1))
    return frozenset(found)


def _is_cpu_set(text: str) -> str:
    cpu_set(text)
    return text


CpuSet = Annotated[
    str,
    StringConstraints(pattern=r"^\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*$", max_length=1000),
    AfterValidator(_is_cpu_set),
    Field(description="CPUs of the host.", examples=["0-1", "0,2,4"]),
]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]


class Cpu(Part):
    weight: Annotated[int, Field(ge=1, le=10_000)] = WEIGHT
    """Among the VMs that want a CPU at the same time, each gets of it in proportion to its weight."""
    cap: Annotated[float, Field(ge=0.05, le=255)] | None = None
    """vCPUs' worth of time that it never has more of, QEMU's own work included; None: no bound."""
    pin: CpuSet | None = None
    """The only CPUs of the host that it runs on; None: any."""
    node: Annotated[int, Field(ge=0, le=1023)] | None = None
    """The NUMA node of the host on whose CPUs it runs, and that its memory is taken from."""
    reserve: Annotated[float, Field(ge=0, le=255)] = 0.0
    """CPUs of the host that are set aside for it: no further VM starts that would need them."""


class Io(Part):
    """Limits of reading and writing, both together; None: no limit."""

    iops: Count | None = None
    """Operations a second."""
    rate: Size | None = None
    """Bytes a second."""
    burst_iops: Count | None = None
    """Operations a second that it may have for a while, when it had fewer before."""
    burst_rate: Size | None = None
    burst_seconds: Annotated[int, Field(ge=1, le=3600)] = 1
    """For how long."""

    @model_validator(mode="after")
    def _bursts_are_above(self) -> Io:
        for name, limit, burst in (("iops", self.iops, self.burst_iops), ("rate", self.rate, self.burst_rate)):
            if burst is not None and (limit is None or burst < limit):
                raise ValueError(f"burst_{name} goes beyond {name}, which is {limit or 'not given'}")
        if self.rate is not None and self.rate < 1:
            raise ValueError("rate: at least a byte a second")
        return self

    @property
    def none(self) -> bool:
        """Whether nothing is limited."""
        return self.iops is None and self.rate is None


class NetRate(Part):
    """Bytes a second through a NIC; None: no limit."""

    inward: Size | None = None
    """To the guest."""
    outward: Size | None = None
    """From the guest."""

    @model_validator(mode="after")
    def _some(self) -> NetRate:
        if any(rate is not None and rate < 1024 for rate in (self.inward, self.outward)):
            raise ValueError("a NIC's rate is 1K (a second) or more")
        return self

    @property
    def none(self) -> bool:
        """Whether nothing is limited."""
        return self.inward is None and self.outward is None


class Share(Part):
    cpu: Cpu = Cpu()
    memory_overhead: Size | None = None
    """What QEMU may have beside the guest's memory before the kernel ends it; None: no bound."""
    disks: Io = Io()
    """Limits of all its disks together; a disk may have its own beside."""
    nics: NetRate = NetRate()
    """The rate of each NIC that has none of its own."""

    @model_validator(mode="after")
    def _enough(self) -> Share:
        if self.memory_overhead is not None and self.memory_overhead < _SMALLEST_OVERHEAD:
            raise ValueError(f"memory_overhead: QEMU itself needs {_SMALLEST_OVERHEAD} or more")
        return self
