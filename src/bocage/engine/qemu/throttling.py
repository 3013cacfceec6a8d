"""Limits of a running disk: filter nodes between the device and its chain, there only as long as there is a limit.

For disk `disk0` its own limit is the node `disk0.limit` with the group object `limit-disk0`; that of all disks
together is the node `disk0.shared`, below it, with the one object `limit-all`. Each function looks at what is there
first, so that it can be cut off anywhere and called again.
"""

from __future__ import annotations

import contextlib
from typing import Any

from bocage.engine.qemu import layering, link, qmp
from bocage.model import share

_OBJECTS = "/objects"
_ALL = "limit-all"
_OWN, _SHARED = "limit", "shared"


async def limit(at: link.Link, disk: str, own: share.Io, together: share.Io) -> None:
    """Have the filters of a disk be these, and set their limits. Raises qmp.CommandFailed."""
    wanted = [
        (f"{disk}.{_SHARED}", _ALL, together),
        (f"{disk}.{_OWN}", _group(disk), own),
    ]
    present = await filters(at, disk)
    for _, group, limits in wanted:
        if not limits.none:
            await _set(at, group, limits)
    names = [name for name, _, limits in wanted if not limits.none]
    if present != names:
        below = await layering.top(at, disk)
        await _insert(at, disk, below)
        await _remove(at, disk)
        for name, group, limits in wanted:
            if not limits.none:
                await at.execute(
                    "blockdev-add", {"driver": "throttle", "node-name": name, "throttle-group": group, "file": below}
                )
                below = name
        if names:
            await _insert(at, disk, below)
    for _, group, limits in wanted:
        if limits.none:
            await _forget(at, group)


async def remove(at: link.Link, disk: str) -> None:
    """Take away the filters of a disk whose device is gone."""
    await _remove(at, disk)
    await _forget(at, _group(disk))
    await _forget(at, _ALL)


async def filters(at: link.Link, disk: str) -> list[str]:
    """The filter nodes of a disk, the lowest first."""
    there = set(await layering.names(at))
    return [name for name in (f"{disk}.{_SHARED}", f"{disk}.{_OWN}") if name in there]


def _group(disk: str) -> str:
    return f"limit-{disk}"


async def _insert(at: link.Link, disk: str, node: str) -> None:
    """Have the device rest on a node; what the guest does meanwhile waits."""
    drive = {"path": f"/machine/peripheral/{disk}", "property": "drive"}
    if await at.execute("qom-get", drive) != node:  # QEMU 7.2 aborts when it is told what is so already
        await at.execute("qom-set", {**drive, "value": node})


async def _set(at: link.Link, group: str, limits: share.Io) -> None:
    """Have the group with these limits (QEMU's ThrottleLimits; a bucket's burst is its `max`)."""
    value: dict[str, Any] = {}
    for name, average, most in (
        ("iops-total", limits.iops, limits.burst_iops),
        ("bps-total", limits.rate, limits.burst_rate),
    ):
        value |= {name: int(average or 0), f"{name}-max": int(most or 0)}
        value[f"{name}-max-length"] = limits.burst_seconds if most else 1
    if any(one["name"] == group for one in await at.execute("qom-list", {"path": _OBJECTS})):
        await at.execute("qom-set", {"path": f"{_OBJECTS}/{group}", "property": "limits", "value": value})
    else:
        await at.execute("object-add", {"qom-type": "throttle-group", "id": group, "limits": value})


async def _remove(at: link.Link, disk: str) -> None:
    for name in reversed(await filters(at, disk)):
        await at.execute("blockdev-del", {"node-name": name})


async def _forget(at: link.Link, group: str) -> None:
    with contextlib.suppress(qmp.CommandFailed):  # there is none, or another disk is in it
        await at.execute("object-del", {"id": group})
