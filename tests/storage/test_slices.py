"""Slices of a LUN and the map of them, without a LUN."""

from __future__ import annotations

import pytest

from bocage.model.lun import LunPlace, Slice
from bocage.storage import slices

MIB = 1 << 20


def beginning(*maps: slices.Map) -> bytes:
    """The first 2 MiB of a LUN on which these were written one after the other."""
    content = bytearray(slices.FIRST)
    for one in maps:
        at = slices.turn(one.generation)
        content[at : at + slices.COPY] = slices.render(one)
    return bytes(content)


def generation(number: int) -> slices.Map:
    part = Slice(offset=slices.FIRST, size=number * MIB)
    return slices.Map("the-storage", number, {"a-volume": slices.Entry(part, "web1-disk0")})


def test_the_newest_whole_copy_holds_whatever_a_write_left_of_the_other() -> None:
    assert slices.newest(bytes(slices.FIRST)) is None
    assert slices.newest(beginning(generation(1))) == generation(1)
    both = beginning(generation(1), generation(2), generation(3))
    assert slices.newest(both) == generation(3)
    at = slices.turn(3)
    for torn in (both[: at + 40] + b"\xff" * 512 + both[at + 552 :], both[:at] + bytes(4096) + both[at + 4096 :]):
        assert slices.newest(torn) == generation(2)


def test_a_slice_is_given_once_and_a_gap_is_taken_again() -> None:
    lun = 64 * MIB
    taken: list[Slice] = []
    for size in (10 * MIB, 1, 20 * MIB + 512):
        taken.append(slices.place(taken, lun=lun, size=size))
    assert [(one.offset // MIB, one.size // MIB) for one in taken] == [(2, 10), (12, 1), (13, 21)]
    with pytest.raises(slices.Full) as full:
        slices.place(taken, lun=lun, size=31 * MIB)
    assert full.value.largest == 30 * MIB
    del taken[0]
    assert slices.place(taken, lun=lun, size=10 * MIB).offset == slices.FIRST
    assert slices.place(taken, lun=lun, size=11 * MIB).offset == 34 * MIB


def test_the_map_has_room_for_as_many_as_are_given() -> None:
    part = Slice(offset=(1 << 46) - MIB, size=1 << 46)
    many = {f"{number:036}": slices.Entry(part, "x" * 100) for number in range(slices.MOST)}
    whole = slices.Map("the-storage", 1, many)
    assert slices.newest(beginning(whole)) == whole


@pytest.mark.parametrize("portal", ["010.0.0.9:3260", "10.0.0.9:0", "10.0.0.9:70000", "10.0.0.300:3260", "[::g]:3260"])
def test_a_portal_is_an_address_and_a_port(portal: str) -> None:
    """What is taken here is what a host looks for among its sockets when a VM has ended."""
    with pytest.raises(ValueError, match="portal"):
        LunPlace(portal=portal, target="iqn.2026-01.com.example:array")
