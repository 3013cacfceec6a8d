"""What is measured of a VM and of its host: the use of the moment, and its history."""

from __future__ import annotations

import datetime

from bocage.model.base import Part, Saying

METRICS = (
    "cpu",
    "wait",
    "memory_guest",
    "memory",
    "disk_read_bytes",
    "disk_written_bytes",
    "disk_reads",
    "disk_writes",
    "disk_read_latency",
    "disk_write_latency",
    "net_received_bytes",
    "net_sent_bytes",
    "net_received_packets",
    "net_sent_packets",
    "memory_has",
)
"""What there is a history of. `cpu` and `wait` count cores (1.0: one of them all the time), memory bytes, latencies
seconds an operation, all else is by the second. `wait` is for how long vCPUs were ready and the host had no CPU for
them: what the guest calls steal. `memory_guest` is what the guest itself uses of its memory, `memory` what the process
has in the host's, `memory_has` what the guest has been given where its memory is dynamic. A host's own: its CPUs and
its memory in use; the rest are the sums of its VMs. New ones come at the end: older samples lack them."""

WEIGHED_BY = {"disk_read_latency": "disk_reads", "disk_write_latency": "disk_writes"}
"""What an average over time of a latency is weighed by."""

Row = tuple[float | None, ...]
"""One value for each of METRICS; None where nobody counts."""


class DiskUse(Part):
    """One disk's counters since the process was started."""

    reads: int = 0
    writes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    read_seconds: float = 0.0
    """All reads' times in sum."""
    write_seconds: float = 0.0


class NicUse(Part):
    """One NIC's counters, as the guest sees them: received is what came to it."""

    received_bytes: int = 0
    sent_bytes: int = 0
    received_packets: int = 0
    sent_packets: int = 0


class GuestMemory(Part):
    """What the guest's balloon driver tells of its memory, in bytes."""

    total: int
    available: int
    """What new programs could have without swapping."""
    swapped_in: int | None = None
    swapped_out: int | None = None
    faults: int | None = None
    """Pages that it had to read from a disk to go on, so far."""

    @property
    def used(self) -> int:
        return max(self.total - self.available, 0)


class Dynamic(Part):
    """A running VM's dynamic memory, in bytes."""

    has: int
    asked: int
    """What its guest was asked to have; it may still give way."""
    needs: int | None
    """What its guest could not give; None when it tells nothing."""
    wants: int | None
    """What it would have if the host had no end."""
    minimum: int
    maximum: int
    why: Saying


class Use(Part):
    """What a running VM uses: counters since its process was started, and the rates of the moment."""

    cpu_seconds: float = 0.0
    wait_seconds: float | None = None
    memory: int = 0
    """Bytes of the host's memory that the process has."""
    guest_memory: GuestMemory | None = None
    """None when the guest's driver does not tell."""
    dynamic: Dynamic | None = None
    """None where its memory is not dynamic."""
    disks: dict[str, DiskUse] = {}
    nics: dict[str, NicUse] = {}
    """Those on bridges, as their taps count; else as the guest agent tells. Others are counted by nobody."""
    now: dict[str, float | None] = {}
    """By metric."""


class Pressure(Part):
    """For which share of the last 10 and 60 seconds something had to wait (PSI); `full`: everything had to."""

    some_10: float
    some_60: float
    full_10: float
    full_60: float


class Ksm(Part):
    """The kernel's merging of equal pages. `saved`: bytes that need not be there twice."""

    on: bool
    saved: int


class Given(Part):
    """What the VMs of a host that run were given of it, and how much they may have together."""

    memory: int = 0
    """Bytes."""
    memory_room: int = 0
    vcpus: int = 0
    vcpus_room: int | None = None
    """None: as many as are wanted."""
    cpus_reserved: float = 0.0


class HostUse(Part):
    """What a host itself does; where the kernel does not tell, None."""

    cpus: int = 0
    memory_total: int = 0
    memory_used: int = 0
    """Total less what new programs could have without swapping."""
    pressure: dict[str, Pressure] = {}
    """By `cpu`, `memory` and `io`; empty without PSI."""
    ksm: Ksm | None = None
    given: Given = Given()
    now: dict[str, float | None] = {}
    """By metric: CPU and memory are the host's own, the rest are the sums of its VMs."""


class Uses(Part):
    """One moment of a host and of the VMs that run on it, by their uid."""

    host: HostUse = HostUse()
    vms: dict[str, Use] = {}


class Course(Part):
    """One metric's course: averages and peaks of steps of equal length; None where nothing was measured."""

    average: tuple[float | None, ...]
    peak: tuple[float | None, ...]


class History(Part):
    """The courses of all metrics, from `start` on in steps of `step` seconds."""

    start: datetime.datetime
    step: int
    courses: dict[str, Course]
