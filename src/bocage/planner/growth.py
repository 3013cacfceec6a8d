"""How far a VM can grow while it runs: laid out with its board."""

from __future__ import annotations

from bocage.model import board as boards
from bocage.model import vm as model
from bocage.model.units import GiB, Size
from bocage.planner import hardware

_LEAST_WITH_ROOM = 1 * GiB


def with_room(
    spec: model.VMSpec, board: model.Hardware, *, max_cpus: int | None, max_memory: Size | None
) -> model.Hardware:
    """The board with other limits than it has; None leaves one as it is. Raises hardware.Occupied and NoBus."""
    changed: dict[str, object] = {}
    if max_cpus is not None:
        changed["max_cpus"] = max_cpus
    if max_memory is not None:
        changed["max_memory"] = max_memory
        place = hardware.memory_place(board)
        if "memory" not in board.devices and board.added_memory is boards.AddedMemory.VIRTIO_MEM:
            if place in hardware.used_addresses(spec):
                raise hardware.Occupied(device="memory", place=place)
            changed["devices"] = {**board.devices, "memory": place}
    return board.model_copy(update=changed)


def room_for(cpus: model.Cpus, memory: Size, *, host_cpus: int, host_memory: int) -> tuple[int, Size | None]:
    """How far a new VM can grow while it runs, when nobody says: four times, as far as the host goes.

    A small one gets no room for memory: where some can come beyond 4 GiB, Linux sets bounce buffers
    aside (32 MiB in a guest of 128M).
    """
    most = max(cpus.count, min(4 * cpus.count, host_cpus))
    if memory < _LEAST_WITH_ROOM:
        return most, None
    return most, Size(max(int(memory), min(4 * int(memory), host_memory // GiB * GiB)))
