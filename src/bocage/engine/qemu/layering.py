"""The chain of a running disk, made longer by a snapshot and shorter by a merge, while the guest writes.

Each function looks at what is there first, so that it can be cut off anywhere and called again.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import os
import pathlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from bocage import errors, files
from bocage.engine import base
from bocage.engine.qemu import chain, descriptors, link, qmp
from bocage.model import vm as model
from bocage.words import N_

_LOOK = 0.05  # seconds between two looks at a job, doubled each time
_LONGEST_LOOK = 0.2
_MERGING = ("merge-", "flatten-")  # what our jobs are called
_SWITCH_BOUND = 30.0  # seconds: it waits for the writes that are under way

_NO_SPACE = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))

Report = Callable[[int, int], None]


class Error(base.Error):
    """The chain of a running disk could not be changed."""


class MergeFailed(Error, errors.Unavailable):
    """All is as it was; what was written so far is written again at the next try."""

    type = "layer-merge-failed"
    text = N_("the layers of {disk} could not be merged: {reason}")
    hint = N_("make room on the storage, or look at it; then delete the snapshot again")
    disk: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """A block node of one disk or CD."""

    name: str
    called: str  # the same, whichever storage its file was carried to since: see chain.nodes
    file: bool  # the file itself, not the format over it
    plain: bool  # named by where it stood when the chain was opened


async def nodes(at: link.Link, disk: str) -> list[Node]:
    """The nodes of a disk or a CD, in an order in which they can be taken away."""
    return among(await names(at), disk)


def among(there: Sequence[str], disk: str) -> list[Node]:
    """Those of all nodes, the newest first, that are a disk's or a CD's."""
    own = re.compile(rf"{re.escape(disk)}\.(\d{{1,4}}|[0-9a-f]{{8}})(_[0-9a-f]{{4}})?(\.file)?")
    found = [
        Node(
            name=name,
            called=f"{disk}.{match[1]}",
            file=match[3] is not None,
            plain=len(match[1]) < 8,
        )
        for name in there
        if (match := own.fullmatch(name))
    ]
    return sorted(found, key=lambda node: node.file)


async def names(at: link.Link) -> list[str]:
    """The names of all block nodes, the newest first: what rests on another comes before it.

    Not `query-named-block-nodes`: that spells out the files of each chain, which stops the guest for seconds when
    there are a hundred.
    """
    found = await at.execute("query-blockstats", {"query-nodes": True})
    return [str(one["node-name"]) for one in reversed(found) if "node-name" in one]


async def remove(at: link.Link, node: Node) -> None:
    """Take a node away, and the descriptor under it. Raises qmp.CommandFailed while something rests on it."""
    await at.execute("blockdev-del", {"node-name": node.name})
    if node.file:
        await descriptors.take_back_of(at, node.name)


async def top(at: link.Link, disk: str) -> str:
    """The node that a running disk is written to, below any filter that stands between the device and its chain."""
    if found := topmost(await _device(at, disk), disk):
        return found
    return next(node.name for node in await nodes(at, disk) if not node.file)  # its device is gone


def topmost(told: Mapping[str, Any] | None, disk: str) -> str | None:
    """The same, of what QEMU tells of the disk's device and the nodes below it."""
    own = re.compile(rf"{re.escape(disk)}\.(\d{{1,4}}|[0-9a-f]{{8}})(_[0-9a-f]{{4}})?")
    while told is not None:
        if own.fullmatch(name := str(told.get("node-name", ""))):
            return name
        told = told.get("parent")
    return None


async def root(at: link.Link, disk: str) -> str:
    """The node that the device itself rests on: a filter, or else what is written to."""
    found = await _device(at, disk)
    return str(found["node-name"]) if found and "node-name" in found else await top(at, disk)


async def _device(at: link.Link, disk: str) -> dict[str, Any] | None:
    """What QEMU tells of a disk's device and the nodes below it; None when it is gone."""
    for one in await at.execute("query-blockstats"):
        if str(one.get("qdev", "")).removeprefix("/machine/peripheral/").split("/")[0] == disk:
            return dict(one)
    return None


class Layers:
    """The chains of one machine's disks."""

    def __init__(self, at: link.Link) -> None:
        self._at = at

    async def goes_on_in(self, overlays: Mapping[str, pathlib.Path]) -> tuple[str, ...]:
        called = {disk: await _called(self._at, disk, await top(self._at, disk)) for disk in overlays}
        return tuple([disk for disk, path in overlays.items() if called[disk] == chain.node_of(disk, path)])

    async def go_on_in(self, disks: Sequence[model.Disk], overlays: Mapping[str, pathlib.Path]) -> None:
        """One transaction of QEMU's."""
        done = await self.goes_on_in(overlays)
        left = [disk for disk in disks if disk.name in overlays and disk.name not in done]
        if not left:
            return
        async with contextlib.AsyncExitStack() as undo:
            actions: list[dict[str, Any]] = []
            for disk in left:
                path, before = overlays[disk.name], await top(self._at, disk.name)
                node = chain.node_of(disk.name, path)
                await _remove_named(self._at, disk.name, node)
                opened = await descriptors.hand(self._at, path, os.O_RDWR, undo, of=f"{node}.file")
                undo.push_async_callback(_forget, self._at, disk.name, node)
                for one in chain.overlay(disk.name, path, opened, cache=disk.cache, discard=disk.discard):
                    await self._at.execute("blockdev-add", one)
                actions.append({"type": "blockdev-snapshot", "data": {"node": before, "overlay": node}})
            await self._at.execute("transaction", {"actions": actions}, within=_SWITCH_BOUND)
            undo.pop_all()

    async def merge(self, disk: str, file: pathlib.Path, into: pathlib.Path, *, report: Report) -> None:
        """The job goes on when nobody waits for it any more. Raises MergeFailed."""
        at, name, node = self._at, f"merge-{disk}", chain.node_of(disk, file)

        async def begin() -> None:
            merged = next(one.name for one in await nodes(at, disk) if one.called == node and not one.file)
            places = {"device": await root(at, disk), "top-node": merged, "base-node": await _below(at, disk, into)}
            asked = {**places, "job-id": name, "backing-file": into.name, "auto-dismiss": False}
            await at.execute("block-commit", asked, within=_SWITCH_BOUND)

        if await _goes_on(at, disk, name) or await _is_needed(at, disk, node):
            async with files.synced_meanwhile(lambda: asyncio.to_thread(files.sync_file, into)):
                await _see_through(at, disk, name, begin, report)
        await flush(at, await _below(at, disk, into))  # also what a job wrote that ended while nobody looked
        await _remove_named(at, disk, node)

    async def stand_alone(self, disk: str, *, report: Report) -> None:
        """The job goes on when nobody waits for it any more; without an image it is no error. Raises MergeFailed."""
        name = f"flatten-{disk}"
        plain = [one for one in await nodes(self._at, disk) if one.plain and not one.file]
        own, *below = [one.name for one in sorted(plain, key=_place)]

        async def begin() -> None:
            asked = {"job-id": name, "device": own, "auto-dismiss": False}
            await self._at.execute("block-stream", asked, within=_SWITCH_BOUND)

        for image in below:
            if await _goes_on(self._at, disk, name) or await _is_needed(self._at, disk, image):
                await _see_through(self._at, disk, name, begin, report)
            await _remove_named(self._at, disk, image)
        await flush(self._at, own)  # also what a job wrote that ended while nobody looked

    async def cease(self) -> None:
        """End the jobs that merge chains. Raises errors.TimedOut."""
        await end_jobs(self._at, *_MERGING)


async def end_jobs(at: link.Link, *beginnings: str, within: float = _SWITCH_BOUND) -> None:
    """End the jobs whose names begin so, and wait until they are gone. Raises errors.TimedOut."""
    deadline = time.monotonic() + within
    asked: set[str] = set()
    while jobs := [one for one in await at.execute("query-jobs") if str(one["id"]).startswith(beginnings)]:
        for job in jobs:
            name = str(job["id"])
            with contextlib.suppress(qmp.CommandFailed):  # it has just ended by itself
                if job["status"] == "concluded":
                    await at.execute("job-dismiss", {"id": name})
                elif name not in asked:
                    asked.add(name)
                    await at.execute("job-cancel", {"id": name})
        if time.monotonic() > deadline:
            raise errors.TimedOut(what="QEMU", bound=within)
        await asyncio.sleep(_LOOK)


async def flush(at: link.Link, node: str) -> None:
    """Have what a job wrote to a node be durable: QEMU ends its jobs without that. Raises MergeFailed."""
    asked = {"command-line": f"qemu-io {node} flush"}
    if said := str(await at.execute("human-monitor-command", asked, within=_SWITCH_BOUND)).strip():
        raise MergeFailed(disk=node.partition(".")[0], reason=said)


async def _goes_on(at: link.Link, disk: str, name: str) -> bool:
    """Whether a job that an earlier attempt began is still at it. What ended meanwhile is settled."""
    job = await _job(at, name)
    if job is not None and job["status"] == "concluded":
        await _settle(at, disk, name)
        return False
    return job is not None


async def _see_through(
    at: link.Link, disk: str, name: str, begin: Callable[[], Awaitable[None]], report: Report
) -> None:
    pause = _LOOK
    async with told_of(at, name, "concluded") as told:
        if await _job(at, name) is None:
            await begin()
        while (job := await _job(at, name)) is not None and job["status"] != "concluded":
            report(int(job.get("current-progress", 0)), int(job.get("total-progress", 0)))
            if told.done():  # the connection was another one then
                await asyncio.sleep(pause)
            await asyncio.wait([told], timeout=pause)
            pause = min(pause * 2, _LONGEST_LOOK)
    await _settle(at, disk, name)


@contextlib.asynccontextmanager
async def told_of(at: link.Link, name: str, *statuses: str) -> AsyncIterator[asyncio.Task[None]]:
    """Done when QEMU says that a job has come to one of these, or can say nothing any more."""

    async def heard(events: AsyncIterator[qmp.Event]) -> None:
        with contextlib.suppress(qmp.Disconnected):
            async for event in events:
                if event.data.get("id") == name and event.data.get("status") in statuses:
                    return

    with at.events("JOB_STATUS_CHANGE") as events:
        told = asyncio.create_task(heard(events))
        try:
            yield told
        finally:
            told.cancel()
            await asyncio.wait([told])


async def _settle(at: link.Link, disk: str, name: str) -> None:
    """Read how a job ended, and have QEMU forget it. Raises MergeFailed."""
    if (job := await _job(at, name)) is None:
        return
    await at.execute("job-dismiss", {"id": name})
    if job.get("error") in _NO_SPACE:
        raise base.NoSpace(disk=disk)
    if reason := job.get("error"):
        raise MergeFailed(disk=disk, reason=str(reason))


async def _job(at: link.Link, name: str) -> dict[str, Any] | None:
    return next((one for one in await at.execute("query-jobs") if one["id"] == name), None)


async def _is_needed(at: link.Link, disk: str, node: str) -> bool:
    """Whether a node is still in the chain: one that is not can be taken away."""
    try:
        await _remove_named(at, disk, node)
    except qmp.CommandFailed:
        return True
    return False


async def _below(at: link.Link, disk: str, into: pathlib.Path) -> str:
    """The node of a file that others are merged into: by its mark, else it is the VM's first file, above its image."""
    node = chain.node_of(disk, into)
    present = [one for one in await nodes(at, disk) if not one.file]
    marked = next((one.name for one in present if one.called == node), None)
    return marked or min((one for one in present if one.plain), key=_place).name


def _place(node: Node) -> int:
    return int(node.called.rpartition(".")[2])


async def _called(at: link.Link, disk: str, name: str) -> str:
    return next((one.called for one in await nodes(at, disk) if one.name == name), name)


async def _remove_named(at: link.Link, disk: str, name: str) -> None:
    for node in await nodes(at, disk):
        if node.called == name or node.name in (name, f"{name}.file"):
            await remove(at, node)


async def _forget(at: link.Link, disk: str, name: str) -> None:
    with contextlib.suppress(errors.Problem):
        await _remove_named(at, disk, name)
