"""A QEMU that has ended: how that was, and the end of what is left beside it. Its record is enough for both."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import shutil

from bocage.engine import base
from bocage.engine.qemu import carriers, cgroup, comports, ending, orderly, paths
from bocage.engine.qemu import record as records

_REMOVE_BOUND = 10.0  # seconds until its group is empty


async def how_ended(
    record: records.Record, runtime: pathlib.Path, group: cgroup.Directories | None, *, shutdown: str = ""
) -> base.Ended:
    """How a process that is gone has ended; `shutdown` is what QEMU said about it at the time, if anybody heard."""
    at = paths.Paths(record.directory, runtime)
    out_of_memory = await asyncio.to_thread(group.oom_kills) if group else 0
    how = await ending.ended_how(at.status, log=at.qemu_log, oom_kills=out_of_memory, memory_bound=record.memory_bound)
    return orderly.told(how, shutdown=shutdown)


async def clear(record: records.Record | None, at: paths.Paths, group: cgroup.Directories | None) -> None:
    """End what is left beside QEMU, and remove its group and sockets; the record stays, for whoever asks later."""
    if record:
        for helper in (*record.helpers.values(), *([record.tpm] if record.tpm else [])):
            carriers.end(helper)
        await comports.ended(record.ports.values())
    if group:
        await asyncio.to_thread(group.kill)
        with contextlib.suppress(cgroup.Busy):
            await group.remove(within=_REMOVE_BOUND)
    await asyncio.to_thread(shutil.rmtree, at.io, ignore_errors=True)
