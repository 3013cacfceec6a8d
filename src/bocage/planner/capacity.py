"""Whether what is asked for fits into a storage, thin disks and all."""

from __future__ import annotations

import dataclasses

from bocage import words
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
    hint = N_("make room, stop a VM, choose another storage, or allow it with 'overcommit'")
    storage: str
    could_grow: int
    free: int
    reserve: int


def reserve(total: int, *, fraction: float = 0.05, least: int = 1 << 30, most: int = 64 << 30) -> int:
    """The bytes of a storage of `total` bytes that stay free unless somebody chose otherwise.

    Never more than a tenth of it, so that small storages can be used at all.
    """
    return min(max(int(total * fraction), least), most, total // 10)


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
