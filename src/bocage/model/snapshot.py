"""A snapshot: one moment of a VM to which it can go back."""

from __future__ import annotations

import datetime
import enum
from typing import ClassVar, Literal

from bocage.model.base import Part, Resource, Saying, Uid
from bocage.model.ground import LayerName
from bocage.model.units import Size
from bocage.model.vm import DeviceName, VMSpec


class Consistency(enum.StrEnum):
    """What its disks are worth to the guest that finds them."""

    STOPPED = "stopped"
    """The VM was off: nothing was under way."""
    MEMORY = "memory"
    """Its memory lies beside them: the guest goes on and notices nothing."""
    FILESYSTEM = "filesystem"
    """The guest's agent had written everything out and held its file systems."""
    CRASH = "crash"
    """As after a power cut; `reason` says why not better."""


class SnapshotSpec(Part):
    vm: Uid
    memory: bool = False
    """Whether the memory is wanted, too."""
    machine: VMSpec
    """The VM as it was then."""
    scheduled: bool = False
    """The schedule made it, and lets it go again."""


class SnapshotDisk(Part):
    """What one disk held: a file that nobody writes any more, with what it rests on."""

    disk: DeviceName
    volume: Uid
    file: LayerName
    size: Size


class SnapshotStatus(Part):
    state: Literal["pending", "ready", "deleting"] = "pending"
    taken: datetime.datetime | None = None
    disks: tuple[SnapshotDisk, ...] = ()
    consistency: Consistency | None = None
    reason: Saying | None = None
    parent: Uid | None = None
    """The snapshot that the VM had gone on from; None: from none."""
    size_bytes: int = 0
    """What its own files took when it was made."""


class Snapshot(Resource[SnapshotSpec, SnapshotStatus]):
    """Its name is unique among those of its VM."""

    kind: ClassVar[str] = "snapshot"
    plural: ClassVar[str] = "snapshots"
    named: ClassVar[bool] = False
    kept_decoded: ClassVar[bool] = True
    status: SnapshotStatus = SnapshotStatus()
