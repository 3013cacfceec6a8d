"""Which of a host's USB devices a VM gets: pure, so that every coming and going can be replayed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from bocage.model import board, ground


def choose(
    wanted: Sequence[board.UsbDevice],
    present: Sequence[ground.HostUsb],
    has: Mapping[str, str],
    taken: Collection[str],
) -> dict[str, str]:
    """By name, the node of the device that each is to have; who is left out waits.

    `has` is what it has now, also by name and node, and stays as long as it fits; `taken` are nodes that others have.
    Nobody gets what the host itself uses. Who says more of what it wants chooses first.
    """
    nodes = {
        one.node: one
        for one in present
        if one.node and one.node not in taken and (not one.in_use or one.node in has.values())
    }
    chosen: dict[str, str] = {}
    for one in sorted(wanted, key=_words, reverse=True):
        free = [node for node in nodes if node not in chosen.values() and _fits(one, nodes[node])]
        if has.get(one.name, "") in free:
            chosen[one.name] = has[one.name]
            continue
        kept = {has[other.name] for other in wanted if other.name in has and _words(other) >= _words(one)}
        if free := [node for node in free if node not in kept]:
            chosen[one.name] = free[0]
    return chosen


def _words(one: board.UsbDevice) -> int:
    return sum(part is not None for part in (one.id, one.serial, one.port))


def _fits(wanted: board.UsbDevice, present: ground.HostUsb) -> bool:
    return (
        wanted.id in (None, present.id)
        and wanted.serial in (None, present.serial)
        and wanted.port in (None, present.port)
    )
