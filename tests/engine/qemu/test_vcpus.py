"""vCPUs go in the order that QEMU can take them; what it does then only a machine with KVM can show."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from bocage.engine.qemu import hotplug, qmp, vcpus


class Monitor:
    """A QEMU that lets go of each vCPU at once, but for those that its guest holds."""

    def __init__(self, count: int, held: str = "") -> None:
        self.present = [f"board.cpu{number}" for number in range(count)]
        self._held = held
        self._told: list[qmp.Event] = []

    async def execute(self, command: str, arguments: dict[str, Any] | None = None) -> list[str]:
        if command == "query-cpus-fast":
            return self.present.copy()
        assert command == "device_del"
        assert arguments
        name = arguments["id"]
        if name == self._held:
            self._told.append(qmp.Event("DEVICE_UNPLUG_GUEST_ERROR", {"device": name}, 0.0))
        else:
            self.present.remove(name)
            self._told.append(qmp.Event("DEVICE_DELETED", {"device": name}, 0.0))
        return []

    @contextlib.contextmanager
    def events(self, *names: str) -> Iterator[AsyncIterator[qmp.Event]]:
        async def told() -> AsyncIterator[qmp.Event]:
            while self._told:
                yield self._told.pop(0)

        yield told()


async def test_the_last_that_came_goes_first_and_what_is_gone_is_not_asked_for_again():
    monitor: Any = Monitor(4)
    await vcpus.unplug(monitor, 2)
    assert monitor.present == ["board.cpu0", "board.cpu1"]
    await vcpus.unplug(monitor, 2)
    await vcpus.unplug(monitor, 3)
    assert len(monitor.present) == 2


async def test_one_that_the_guest_keeps_is_told_and_those_below_it_stay():
    monitor: Any = Monitor(4, held="board.cpu2")
    with pytest.raises(hotplug.GuestHolds):
        await vcpus.unplug(monitor, 1)
    assert monitor.present == ["board.cpu0", "board.cpu1", "board.cpu2"]
