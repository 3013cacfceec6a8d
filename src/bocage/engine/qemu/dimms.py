"""Memory that comes while the guest runs as modules (ACPI memory hotplug), where it drives no virtio-mem. None goes."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from bocage.engine.qemu import hotplug, link
from bocage.planner.adaptation import First

RAM = "pc.ram"
"""The name that QEMU gives the memory that a machine starts with by itself: a saved machine fits either way."""
_TAKEN_BOUND = 5.0  # seconds in which a guest says that it took one (ACPI _OST)
_NAME = "board.dimm{}"
_AS_THE_FIRST = ("merge", "policy", "host-nodes")  # as what it started with is held


def command(first: First, how: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What backs the DIMMs that a machine has, and the DIMMs: as they were plugged."""
    backs = [_back(number, size, how) for number, size in enumerate(first.dimms)]
    return backs, [_device(number) for number in range(len(first.dimms))]


async def present(at: link.Link) -> tuple[int, ...]:
    """Bytes of each that is there, by its slot."""
    known = await at.execute("query-memory-devices")
    found = [one["data"] for one in known if one["type"] == "dimm"]
    return tuple(int(one["size"]) for one in sorted(found, key=lambda one: int(one["slot"])))


async def plug(at: link.Link, number: int, size: int) -> bool:
    """Have one more, in the slot of this number; whether the guest said that it took it. Raises qmp.CommandFailed."""
    name = _NAME.format(number)
    if await hotplug.has_device(at, name):
        return True
    objects = {entry["name"] for entry in await at.execute("qom-list", {"path": "/objects"})}
    if _back_of(number) in objects:  # somebody was cut off here
        await at.execute("object-del", {"id": _back_of(number)})
    of = f"/objects/{RAM}"
    how = {held: await at.execute("qom-get", {"path": of, "property": held}) for held in _AS_THE_FIRST}
    if how["policy"] == "default":  # then it has no nodes
        del how["policy"], how["host-nodes"]
    await at.execute("object-add", _back(number, size, how))
    with at.events("ACPI_DEVICE_OST") as told:
        try:
            await at.execute("device_add", _device(number))
        except BaseException:
            with contextlib.suppress(Exception):
                await asyncio.shield(at.execute("object-del", {"id": _back_of(number)}))
            raise
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_TAKEN_BOUND):
                async for event in told:
                    info = event.data.get("info", {})
                    if info.get("device") == name:
                        return bool(info.get("status") == 0)
    return False


def _back_of(number: int) -> str:
    return f"{_NAME.format(number)}.ram"


def _back(number: int, size: int, how: dict[str, Any]) -> dict[str, Any]:
    return {"qom-type": "memory-backend-ram", "id": _back_of(number), "size": size, **how}


def _device(number: int) -> dict[str, Any]:
    return {"driver": "pc-dimm", "id": _NAME.format(number), "memdev": _back_of(number), "slot": number}
