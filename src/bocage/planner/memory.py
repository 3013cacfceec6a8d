"""Dynamic memory: how much each guest of one host should have now. Pure; the node measures and asks.

Each guest would have what it needs and its buffer. While all of that fits into the host's budget, each gets it: more at
once, less only when its peak is some time ago, and in one step never more than half of what it has free. When it does
not fit, needs come before buffers, what there is for either is divided by weight, and what a guest needs now is never
taken.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping

from bocage import words
from bocage.model.units import GiB, MiB
from bocage.words import N_

GRAIN = 2 * MiB
"""Differences that are not worth a word to the guest."""
_PEAK_LASTS = 20.0  # seconds after which a need that is over counts for a third
_BAND = 1 / 16  # of what it has: less than so much is not asked back while there is no want
_MARGIN = 1 / 16  # of its need that a guest has beyond it, buffer or not; while the host is short
_BARE_MARGIN = 1 / 64  # of it are kept for it; and always at least
_LEAST_MARGIN = 12 * MiB
_RESERVE = 1 / 10  # of the host's memory that is not for VMs when nobody says, and at least:
_LEAST_RESERVE = GiB // 2
_PRESSED = 0.10  # of the time that something waits for memory on the host (PSI, 10 s): then it is short
_FINE = MiB  # what one guest may get too little by, where all of it is divided
_BACK = 1 / 32  # of what the VMs have that a host under pressure takes back at a time


@dataclasses.dataclass(frozen=True, slots=True)
class Guest:
    """One running VM with dynamic memory, as it was seen last. Sizes are bytes."""

    minimum: int
    maximum: int
    buffer: int  # percent of what it needs
    weight: int
    has: int
    asked: int  # what it was asked to have last
    needs: int | None  # what is in use, all that it could not give; None: nobody knows
    may_need: int = 0  # what that may be at most: while its balloon moves, nobody knows exactly
    rise: int = 0  # by which that grew since the last look
    peak: float = 0.0  # the need that counts, as the last decision left it
    pressed: bool = False  # it swaps, or reads from the disk what it had in memory


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """What one guest is to have."""

    target: int
    wants: int  # what it would have if the host had no end
    peak: float


@dataclasses.dataclass(frozen=True, slots=True)
class Host:
    """What a host has for VMs. Sizes are bytes."""

    total: int
    available: int  # that new programs could have without swapping
    budget: int | None = None  # what a person set aside for VMs
    fixed: int = 0  # what its running VMs without dynamic memory have
    pressure: float = 0.0  # share of the last 10 s in which something waited for memory (PSI, some)


class AsNeeded(words.Message):
    type = "memory-as-needed"
    text = N_("it has what its guest needs, and its buffer")


class AtMinimum(words.Message):
    type = "memory-at-minimum"
    text = N_("it has its minimum: its guest needs less")


class AtMaximum(words.Message):
    type = "memory-at-maximum"
    text = N_("it has its maximum: its guest would take {wants:size}")
    wants: int


class HostShort(words.Message):
    type = "memory-host-short"
    text = N_("the host is short of memory: it would have {wants:size}")
    hint = N_("'bocage vm top --sort memory' shows who has it; 'bocage vm set NAME --memory weight=…' what counts")
    wants: int


class Starts(words.Message):
    type = "memory-starts"
    text = N_("its guest has told nothing of its memory since it was started")
    hint = N_("a guest without a driver for virtio's balloon keeps all of its maximum")


class Silent(words.Message):
    type = "memory-guest-silent"
    text = N_("its guest tells nothing of its memory: it is left alone")


class NoDevice(words.Message):
    type = "memory-no-balloon"
    text = N_("it has no balloon: its memory stays as it is")
    hint = N_("a system that drives no virtio devices cannot give memory back")


class KeepsIt(words.Message):
    """A guest that does not give what it was asked for, though it says that it does not need it."""

    type = "memory-guest-keeps-it"
    text = N_("its guest was asked to go back to {asked:size} and does not")
    hint = N_("look for a balloon driver that is stopped, or for pages that it has locked")
    asked: int


ALONE = (Starts, Silent, NoDevice, KeepsIt)
"""Why a VM's memory does not follow what its guest needs."""


def budget(host: Host, given: int) -> int:
    """What VMs with dynamic memory, which have `given` now, may have together."""
    reserve = max(int(host.total * _RESERVE), _LEAST_RESERVE)
    whole = host.budget if host.budget is not None else max(host.total - reserve, 0)
    left = max(whole - host.fixed, 0)
    if host.pressure >= _PRESSED:
        left = min(left, int(given * (1 - _BACK)))
    if host.budget is None and host.available < reserve:
        left = min(left, given - (reserve - host.available))
    return max(left, 0)


def divide(guests: Mapping[str, Guest], within: int, span: float) -> dict[str, Decision]:
    """What each guest is to have, when the last decision is `span` seconds old.

    The sum stays `within`, or where it is beyond already never grows.
    """
    wishes = {uid: _wish(guest, span) for uid, guest in guests.items()}
    short = is_short([wish.wants for wish in wishes.values()], within)
    ideal = {uid: wish.wants for uid, wish in wishes.items()}
    if short:
        ideal = {uid: max(min(wish.bare, guests[uid].asked), guests[uid].minimum) for uid, wish in wishes.items()}
        for upto in (lambda uid: wishes[uid].floor, lambda uid: wishes[uid].wants):
            _pour(ideal, upto, guests, within - sum(ideal.values()))
    targets = {uid: _less(guest, ideal[uid], short=short) for uid, guest in guests.items()}
    growing = {
        uid: max(targets[uid], ideal[uid]) if _lacks(guest, ideal[uid]) else targets[uid]
        for uid, guest in guests.items()
    }
    # What is given back counts as free when the guest has given it; until then it can have it back.
    grown = {uid: _at_hand(guest, targets[uid], growing[uid]) for uid, guest in guests.items()}
    room = within - sum(max(grown[uid], guest.has) for uid, guest in guests.items())
    for upto in (lambda uid: min(growing[uid], wishes[uid].floor), lambda uid: growing[uid]):
        room -= _pour(grown, upto, guests, room)
    return {uid: Decision(grown[uid], wish.wants, wish.peak) for uid, wish in wishes.items()}


def kept(guest: Guest, before: int) -> int:
    """Bytes that nobody else can be promised: what a guest needs, or has not given yet of what was kept `before`."""
    if guest.needs is None:
        return guest.has
    needs = min(guest.needs, guest.has)
    return max(needs, min(before, guest.has)) if guest.has > guest.asked + GRAIN else needs


def is_short(wants: Iterable[int], within: int) -> bool:
    """Whether not everyone can have what they would."""
    return sum(wants) > within


def why(guest: Guest, decision: Decision, *, short: bool) -> words.Message:
    """Why a guest that is not left alone has what it has."""
    if decision.target < decision.wants - GRAIN and short:
        return HostShort(wants=decision.wants)
    if guest.needs is not None and guest.needs * (100 + guest.buffer) // 100 > guest.maximum:
        return AtMaximum(wants=guest.needs * (100 + guest.buffer) // 100)
    if decision.target <= guest.minimum:
        return AtMinimum()
    return AsNeeded()


@dataclasses.dataclass(frozen=True, slots=True)
class _Wish:
    bare: int  # what it needs now
    floor: int  # and what it needs to go on
    wants: int
    peak: float


def _wish(guest: Guest, span: float) -> _Wish:
    if guest.needs is None:  # left alone
        size = max(guest.has, guest.asked)
        return _Wish(size, size, size, guest.peak)
    need = max(guest.needs, guest.has) if guest.pressed else guest.needs
    peak = need + max(guest.peak - need, 0.0) * math.exp(-span / _PEAK_LASTS)
    margin = max(int(need * _MARGIN), _LEAST_MARGIN, guest.rise)
    bare = need + max(int(need * _BARE_MARGIN), _LEAST_MARGIN)
    floor = min(max(need + margin, guest.minimum), guest.maximum)
    wants = int(peak) + max(int(peak) * guest.buffer // 100, margin)
    return _Wish(min(bare, floor), floor, min(max(wants, floor), guest.maximum), peak)


def _less(guest: Guest, ideal: int, *, short: bool) -> int:
    """What it is asked to have when it has too much."""
    if guest.needs is None or ideal >= guest.asked:
        return guest.asked
    if guest.has > guest.asked + GRAIN:  # it has not given yet what it was asked for
        return guest.asked
    if not short and guest.asked - ideal < max(int(guest.asked * _BAND), GRAIN) and guest.asked <= guest.maximum:
        return guest.asked
    return min(max(ideal, _least(guest), guest.minimum), guest.asked)


def _at_hand(guest: Guest, target: int, growing: int) -> int:
    """What it gets of what it wants more without anybody else giving it: what it has still, or took by itself."""
    near = min(growing, guest.has)
    if near <= target:
        return target
    return min(max(near, _least(guest)), guest.has, max(guest.maximum, growing))


def _least(guest: Guest) -> int:
    """The least that it can be asked to have now: half of what it has free is left to it."""
    return guest.has - max(guest.has - max(guest.needs or 0, guest.may_need), 0) // 2


def _lacks(guest: Guest, ideal: int) -> bool:
    """Whether it has so much too little that it is worth a word."""
    missing = ideal - guest.asked
    return guest.needs is not None and (missing >= GRAIN or (missing > 0 and ideal == guest.maximum))


def _pour(sizes: dict[str, int], upto: Callable[[str], int], guests: Mapping[str, Guest], room: int) -> int:
    """Raise sizes up to a bound each while there is room; how much was given.

    Where there is not enough, what each has above its minimum comes nearer to its weight, and none gets less.
    """
    before = dict(sizes)
    bounds = {uid: max(upto(uid), size) for uid, size in sizes.items()}
    if sum(bounds.values()) - sum(before.values()) <= room:
        sizes |= bounds
    elif room > 0:
        low, high = 0.0, max((bounds[uid] - guest.minimum) / guest.weight for uid, guest in guests.items())
        heaviest = max(guest.weight for guest in guests.values())
        while (high - low) * heaviest > _FINE:
            level = (low + high) / 2
            filled = {
                uid: min(max(int(guest.minimum + level * guest.weight), before[uid]), bounds[uid])
                for uid, guest in guests.items()
            }
            if sum(filled.values()) - sum(before.values()) <= room:
                low = level
                sizes |= filled
            else:
                high = level
    return sum(sizes.values()) - sum(before.values())
