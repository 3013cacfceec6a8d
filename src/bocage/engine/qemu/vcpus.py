"""vCPUs that come and go while the VM runs. They go under KVM alone: under TCG QEMU may crash at that."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from bocage.engine.qemu import hotplug, link
from bocage.model import vm as model

_TAKEN_BOUND = 5.0  # seconds in which a guest says that it took one (ACPI _OST)
_NAME = "board.cpu{}"


def devices(spec: model.VMSpec, first: int) -> list[dict[str, Any]]:
    """The vCPUs beyond the `first` ones that a machine began with, as they were plugged."""
    board = spec.cpus.board(spec.hardware.max_cpus)
    driver = f"{spec.hardware.cpu_model.split(',')[0]}-x86_64-cpu"
    found: list[dict[str, Any]] = []
    for number in range(first, spec.cpus.count):
        core, thread = divmod(number, board.threads)
        socket, core = divmod(core, board.cores)
        at = {"socket-id": socket, "core-id": core, "thread-id": thread}
        found.append({"driver": driver, "id": _NAME.format(number), **at})
    return found


async def present(at: link.Link) -> int:
    """How many there are, those that it began with included."""
    return len(await at.execute("query-cpus-fast"))


async def plug(at: link.Link, count: int) -> int:
    """Have so many in all; how many the guest has taken, those that it began with included.

    Where there are no free sockets, or the guest says nothing, that is fewer. Raises qmp.CommandFailed.
    """
    there = await present(at)
    if there >= count:
        return there
    free: list[dict[str, Any]] = [one for one in await at.execute("query-hotpluggable-cpus") if "qom-path" not in one]
    free.sort(key=lambda one: [one["props"].get(key, 0) for key in ("socket-id", "die-id", "core-id", "thread-id")])
    taken = there
    for one in free[: count - there]:
        name = _NAME.format(there)
        there += 1
        with at.events("ACPI_DEVICE_OST") as told:
            await at.execute("device_add", {"driver": one["type"], "id": name, **one["props"]})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TAKEN_BOUND):
                    async for event in told:
                        info = event.data.get("info", {})
                        if info.get("device") == name:
                            taken += int(info.get("status") == 0)
                            break
    return taken


async def unplug(at: link.Link, count: int) -> None:
    """Have no more than so many, the last that came going first. Raises hotplug.GuestHolds, qmp.CommandFailed."""
    for number in reversed(range(count, await present(at))):
        await hotplug.unplug(at, _NAME.format(number))
