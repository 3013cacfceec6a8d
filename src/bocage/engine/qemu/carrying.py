"""Carries the disks of a running machine to other files while the guest writes, and its logs after them.

QEMU mirrors each disk: what the guest writes is acknowledged when it is in both files. While the vCPUs stand all
disks go over; until they run again the old files and the new ones hold the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from bocage import errors
from bocage.engine import base, block
from bocage.engine.qemu import chain, descriptors, layering, link, qmp
from bocage.words import N_

FIRMWARE = "board.vars"  # the node of the firmware's variables
_LOOK = 0.1  # seconds between two looks at a job of whose end nothing was heard
_OVER_BOUND = 30.0  # seconds for the writes that are under way
_STAY_BOUND = 10.0  # seconds for those to the other files, whose storage may hang; others wait behind this
_JOB = "carry-"

Report = Callable[[int, int], None]


class Error(base.Error):
    """The disks of a running machine could not be carried over."""


class CarryFailed(Error, errors.Unavailable):
    type = "disk-not-carried"
    text = N_("{disk} could not be carried to the other storage: {reason}")
    hint = N_("the VM runs on where it was; look at the other storage, then try again")
    disk: str
    reason: str


class Halfway(Error, errors.Unavailable):
    """Some disks went over and others did not; its vCPUs must not run again."""

    type = "disks-halfway-carried"
    text = N_("{disk} did not go over to the other storage, after others had: {reason}")
    disk: str
    reason: str


class Carrying:
    """The mirrors of one machine."""

    def __init__(self, at: link.Link) -> None:
        self._at = at

    async def follow(
        self, mark: str, disks: Sequence[block.Carried], firmware: pathlib.Path | None, *, report: Report
    ) -> None:
        """Mirror until all new files hold what the old ones do; it goes on then. Raises CarryFailed."""
        await self.stay()
        behind, tops = mark[:4], await _tops(self._at)
        async with contextlib.AsyncExitStack() as undo:
            undo.push_async_callback(self._suppressed)
            wanted: list[tuple[str, str, str, str]] = []  # job, disk, its node, the other one
            for one in disks:
                other = await _open(self._at, one, behind)
                wanted.append((f"{_JOB}{one.disk.name}", one.disk.name, tops[one.disk.name], other))
            if firmware is not None:
                wanted.append(
                    (f"{_JOB}{FIRMWARE}", FIRMWARE, tops[FIRMWARE], await _open_flash(self._at, firmware, behind))
                )
            before = 0
            for job, disk, node, other in wanted:
                device = node if disk == FIRMWARE else await layering.root(self._at, disk)
                asked = {"job-id": job, "device": device, "target": other, "copy-mode": "write-blocking"}
                asked |= {"replaces": node} if device != node else {}  # what limits the disk stays over it
                # only what is the disk's own: what lies below it was copied
                asked["sync"] = "full" if disk == FIRMWARE else "top"
                ends = {"auto-finalize": False, "auto-dismiss": False, "on-target-error": "report"}
                await self._at.execute("blockdev-mirror", {**asked, **ends}, within=_OVER_BOUND)
                before += await _until_ready(self._at, job, disk, before, report)
            undo.pop_all()

    async def go_over(self, disks: Iterable[str]) -> None:
        """End all mirrors in the other files. Raises CarryFailed: all stay; and Halfway."""
        known = {f"{_JOB}{disk}": disk for disk in (*disks, FIRMWARE)}
        jobs = [job for job in await _jobs(self._at) if job["id"] in known]
        for job in jobs:
            if job["status"] != "ready":
                raise CarryFailed(disk=known[job["id"]], reason=str(job.get("error") or job["status"]))
        for job in jobs:
            await self._at.execute("job-complete", {"id": job["id"]})
        await _until(self._at, known, "pending", CarryFailed)
        for job in jobs:
            await self._at.execute("job-finalize", {"id": job["id"]}, within=_OVER_BOUND)
        await _until(self._at, known, "concluded", Halfway)
        for job in jobs:
            await self._at.execute("job-dismiss", {"id": job["id"]})

    async def gone_over(self, mark: str, disks: Iterable[str], *, firmware: bool) -> bool | None:
        tops, behind = await _tops(self._at), f"_{mark[:4]}"
        over = {tops[name].endswith(behind) for name in (*disks, *([FIRMWARE] if firmware else []))}
        return over.pop() if len(over) == 1 else None if over else False

    async def stay(self) -> None:
        """End what mirrors, and take away all nodes that no disk uses: of two chains of a disk the other one."""
        await layering.end_jobs(self._at, _JOB, within=_STAY_BOUND)
        told = await self._at.execute("query-blockstats")
        tops, used = await _tops_told(self._at, told), set(_nodes_told(told))
        there = await layering.names(self._at)
        flashes = sorted(one for one in there if one.startswith(FIRMWARE)) if FIRMWARE in tops else []
        spare = [node.name for disk in tops if disk != FIRMWARE for node in layering.among(there, disk)] + flashes
        for name in spare:
            if name not in used:
                with contextlib.suppress(qmp.CommandFailed):  # it is in use all the same
                    await self._at.execute("blockdev-del", {"node-name": name})
        if not used.issuperset(spare):
            there = await layering.names(self._at)
        # QEMU keeps a copy of each that it was given, also of a log's that is open
        await descriptors.take_back_others(self._at, lambda name: name in there)

    async def _suppressed(self) -> None:
        with contextlib.suppress(errors.Problem):
            await self.stay()


async def log_to(at: link.Link, tty: pathlib.Path, log: pathlib.Path) -> None:
    """Have the serial line go on in another log; what is typed and was not read yet stays."""
    async with contextlib.AsyncExitStack() as undo:
        opened = await descriptors.hand(at, log, os.O_WRONLY | os.O_APPEND, undo, of="tty")
        line = {"device": str(tty), "logfile": opened, "logappend": True}
        await at.execute("chardev-change", {"id": "tty", "backend": {"type": "pipe", "data": line}})
        undo.pop_all()


def append_rest(old: pathlib.Path, new: pathlib.Path) -> None:
    """Bring a copy of a log, which only grows, up to what it is a copy of."""
    with contextlib.suppress(FileNotFoundError), old.open("rb") as reading, new.open("ab") as writing:
        reading.seek(writing.tell())
        while piece := reading.read(1 << 20):
            writing.write(piece)


def has_open(pid: int, log: pathlib.Path) -> bool:
    """Whether a process has this very file open for writing; one that has ended has none."""
    wanted = log.stat()
    try:
        opened = list(pathlib.Path(f"/proc/{pid}/fd").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return False
    for entry in opened:
        with contextlib.suppress(OSError):
            found = entry.stat()
            if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
                return True
    return False


async def _open(at: link.Link, one: block.Carried, behind: str) -> str:
    """Open the other chain of a disk; its top node."""
    async with contextlib.AsyncExitStack() as undo:
        given = []
        for depth, file in enumerate(one.chain):
            flags = os.O_RDONLY if depth and not file.own else os.O_RDWR
            called = f"{chain.node_of(one.disk.name, file.path, depth)}_{behind}"
            given.append(await descriptors.hand(at, file.path, flags, undo, of=f"{called}.file"))
        added = chain.nodes(
            one.disk.name, one.chain, cache=one.disk.cache, discard=one.disk.discard, opened=given, moved=behind
        )
        for node in added:
            await at.execute("blockdev-add", node)
        undo.pop_all()
    return str(added[-1]["node-name"])


async def _open_flash(at: link.Link, path: pathlib.Path, behind: str) -> str:
    name = f"{FIRMWARE}_{behind}"
    async with contextlib.AsyncExitStack() as undo:
        given = await descriptors.hand(at, path, os.O_RDWR, undo, of=f"{name}.file")
        await at.execute("blockdev-add", {"driver": "file", "node-name": f"{name}.file", "filename": given})
        await at.execute("blockdev-add", {"driver": "raw", "node-name": name, "file": f"{name}.file"})
        undo.pop_all()
    return name


async def _tops(at: link.Link) -> dict[str, str]:
    """The node that is used of each device that has one, and of the firmware's variables."""
    return await _tops_told(at, await at.execute("query-blockstats"))


async def _tops_told(at: link.Link, told: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    found = {}
    for one in told:
        node, device = str(one.get("node-name", "")), str(one.get("qdev", ""))
        if node.startswith(FIRMWARE):
            found[FIRMWARE] = node
        elif node and (name := device.removeprefix("/machine/peripheral/").split("/")[0]):
            found[name] = layering.topmost(one, name) or await layering.top(at, name)
    return found


def _nodes_told(told: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """The nodes below all devices."""
    for one in told:
        yield str(one.get("node-name", ""))
        yield from _nodes_told([one[below] for below in ("parent", "backing") if below in one])


async def _jobs(at: link.Link) -> list[dict[str, Any]]:
    return [job for job in await at.execute("query-jobs") if str(job["id"]).startswith(_JOB)]


async def _until_ready(at: link.Link, job: str, disk: str, before: int, report: Report) -> int:
    """Wait until a disk's new file holds what the old one does; how much that was, in bytes."""
    async with layering.told_of(at, job, "ready", "aborting", "concluded") as told:
        while True:
            found = next((one for one in await _jobs(at) if one["id"] == job), None)
            if found is None or found["status"] in ("concluded", "aborting", "null"):
                raise CarryFailed(disk=disk, reason=str((found and found.get("error")) or "it was ended"))
            done, total = int(found.get("current-progress", 0)), int(found.get("total-progress", 0))
            report(before + done, before + max(total, done))
            if found["status"] == "ready":
                return done
            if told.done():  # the connection was another one then
                await asyncio.sleep(_LOOK)
            await asyncio.wait([told], timeout=_LOOK)


async def _until(at: link.Link, known: dict[str, str], status: str, failure: type[CarryFailed | Halfway]) -> None:
    deadline = time.monotonic() + _OVER_BOUND
    while jobs := [job for job in await _jobs(at) if job["id"] in known]:
        for job in jobs:
            if job.get("error"):
                raise failure(disk=known[job["id"]], reason=str(job["error"]))
        if all(job["status"] == status for job in jobs):
            return
        if time.monotonic() > deadline:
            late = next(job for job in jobs if job["status"] != status)
            raise failure(disk=known[late["id"]], reason=str(late["status"]))
        await asyncio.sleep(0.001)
