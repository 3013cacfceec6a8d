"""Slices of one large LUN, a volume each, and the map of them that lies at its beginning, twice.

The store decides who has what. What lies on the LUN is told from there: it says whose LUN this is, and finds the
volumes again for who has nothing else. Each of its two copies has 1 MiB: a line with form, version and the storage's
uid, the SHA-256 of the rest, the rest as JSON, zeros. They are written in turn, so that one is always whole; the higher
generation holds. The first line never changes: whose the LUN is can be read whatever a write has left behind it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping

from bocage import errors, storage
from bocage.model.lun import Slice
from bocage.words import N_

COPY = 1 << 20  # bytes of one copy of the map
FIRST = 2 * COPY  # where slices begin
SECTOR = 4096
MOST = 4000
_ALIGNMENT = 1 << 20
_FORM = b"bocage slices 1 "


class Full(storage.Error, errors.Unavailable):
    """No gap is large enough. Sizes are bytes."""

    type = "lun-full"
    status = 507
    text = N_("no {needed:size} are free in one piece on the LUN: the largest gap has {largest:size}")
    hint = N_("a slice has its whole size from the start: delete VMs, or have the array's administrator grow the LUN")
    needed: int
    largest: int


class TooMany(storage.Error, errors.Unavailable):
    type = "lun-map-full"
    status = 507
    text = N_("the map of the LUN has room for {most} slices, and all of them are taken")
    most: int


class NotEmpty(storage.Error, errors.Conflict):
    type = "lun-not-empty"
    text = N_("LUN {lun} of {target} is not empty, and bears no map of ours")
    hint = N_("take another one; or have its first 2 MiB zeroed, when nothing on it is needed any more")
    lun: int
    target: str


class Newer(storage.Error, errors.Conflict):
    """The store is an older one than that which gave the newest slices."""

    type = "lun-map-newer"
    text = N_("the map on the LUN of {storage} is newer ({lun}) than what this cluster knows of it ({store})")
    hint = N_("the store was put back to an earlier day: nothing new is put there, lest it lie on what was forgotten")
    storage: str
    lun: int
    store: int


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One slice, and what is in it, for people."""

    slice: Slice
    name: str  # of the volume


@dataclasses.dataclass(frozen=True, slots=True)
class Map:
    storage: str  # uid
    generation: int
    entries: Mapping[str, Entry]  # by the volume's uid


def place(taken: Iterable[Slice], *, lun: int, size: int) -> Slice:
    """The first gap that has `size` bytes, on a LUN of `lun` bytes. Raises Full."""
    needed = -(-size // _ALIGNMENT) * _ALIGNMENT
    at, largest = FIRST, 0
    for one in [*sorted(taken, key=lambda one: one.offset), Slice(offset=lun // _ALIGNMENT * _ALIGNMENT, size=0)]:
        if one.offset - at >= needed:
            return Slice(offset=at, size=needed)
        largest = max(largest, one.offset - at)
        at = max(at, one.end)
    raise Full(needed=needed, largest=largest)


def render(known: Map) -> bytes:
    """One copy of a map, of MOST entries at most."""
    slices = {uid: [one.slice.offset, one.slice.size, one.name] for uid, one in known.entries.items()}
    body = json.dumps({"generation": known.generation, "slices": slices}).encode()
    digest = hashlib.sha256(body).hexdigest()
    content = _FORM + f"{known.storage}\n{digest}\n".encode() + body
    assert len(content) <= COPY
    return content.ljust(COPY, b"\0")


def turn(generation: int) -> int:
    """Where the copy of a generation lies on the LUN, in bytes."""
    return generation % 2 * COPY


def storage_of(beginning: bytes) -> str | None:
    """The uid of the storage that a LUN is, by its first sector; None where it bears none."""
    if not beginning.startswith(_FORM):
        return None
    return beginning[len(_FORM) :].partition(b"\n")[0].decode(errors="replace")


def newest(beginning: bytes) -> Map | None:
    """The map in the first 2 MiB of a LUN; None where neither copy is whole."""
    found = [one for one in (_parse(beginning[:COPY]), _parse(beginning[COPY:FIRST])) if one]
    return max(found, key=lambda one: one.generation, default=None)


def _parse(copy: bytes) -> Map | None:
    if not copy.startswith(_FORM) or copy.count(b"\n") < 2:
        return None
    uid, digest, body = copy[len(_FORM) :].rstrip(b"\0").split(b"\n", 2)
    if hashlib.sha256(body).hexdigest().encode() != digest:
        return None
    told = json.loads(body)
    entries = {uid: Entry(Slice(offset=at, size=size), name) for uid, (at, size, name) in told["slices"].items()}
    return Map(uid.decode(), told["generation"], entries)
