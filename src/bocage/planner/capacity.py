"""Whether what is asked for fits into a storage, thin disks and all."""

from __future__ import annotations

import dataclasses

from bocage import words
from bocage.model import ground
from bocage.words import N_


@dataclasses.dataclass(frozen=True, slots=True)
class Room:
    """A storage at one moment; all in bytes.

    `total` and `free` are what the file system says, `reserve` what must stay free.
    `promised` is what the thin disks of the VMs that may write now can still grow by.
    """

    total: int
    free: int
    promised: int
    reserve: int


@dataclasses.dataclass(frozen=True, slots=True)
class Growth:
    """What an action may write, in bytes: at once, and in the worst case while the guest runs."""

    now: int = 0
    later: int = 0


class NoRoom(words.Message):
    """What is written at once would break into the reserve."""

    type = "capacity-no-room"
    text = N_("storage {storage} has {free:size} free and keeps {reserve:size} of it; {needed:size} are needed")
    hint = N_("make room ('bocage volume list --storage {storage}'), or choose another storage")
    storage: str
    needed: int
    free: int
    reserve: int


class CouldFill(words.Message):
    """Disks that grow as their guests write could break into the reserve."""

    type = "capacity-could-fill"
    text = N_(
        "storage {storage} has {free:size} free and keeps {reserve:size} of it; "
        "the disks that may be written could grow by {could_grow:size}"
    )
    hint = N_("make room, stop a VM, choose another storage, or allow it: 'bocage storage set {storage} --overcommit'")
    storage: str
    could_grow: int
    free: int
    reserve: int


class MayNotStart(words.Message):
    """Said when a disk is made: what is refused is only the start."""

    type = "capacity-may-not-start"
    text = N_(
        "the disks on storage {storage} could grow to {provisioned:size} together, and it has room for {room:size}: "
        "a start may be refused"
    )
    hint = N_("make smaller disks, choose another storage, or allow it: 'bocage storage set {storage} --overcommit'")
    storage: str
    provisioned: int
    room: int


def forewarn(storage: ground.Storage, provisioned: int) -> MayNotStart | None:
    """A warning when all disks of a storage, of `provisioned` bytes together, are more than it could hold."""
    status = storage.status
    kept = status.total_bytes * storage.spec.reserve_percent // 100
    room = max(status.free_bytes + status.allocated_bytes - kept, 0)
    if storage.spec.overcommit or not status.total_bytes or provisioned <= room:
        return None
    return MayNotStart(storage=storage.name, provisioned=provisioned, room=room)


def fits(storage: str, room: Room, growth: Growth, *, overcommit: bool = False) -> NoRoom | CouldFill | None:
    """Why an action does not fit into a storage; None when it does.

    With `overcommit` only what is written at once counts; a VM that meets the end then pauses.
    """
    usable = room.free - room.reserve
    if growth.now > max(usable, 0):
        return NoRoom(storage=storage, needed=growth.now, free=room.free, reserve=room.reserve)
    could_grow = room.promised + growth.now + growth.later
    if not overcommit and growth.later > 0 and could_grow > usable:
        return CouldFill(storage=storage, could_grow=could_grow, free=room.free, reserve=room.reserve)
    return None
