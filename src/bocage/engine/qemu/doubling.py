"""QEMU's quorum of a disk's chain and of a copy on another host, over NBD with TLS and a pre-shared key.

For disk `disk0`, `disk0.top` stands between the device and the chain, and stays. While both are written, it is over
`disk0.both`, the quorum of `disk0.here` (over the chain) and `disk0.copy`. A quorum lets nobody else write its
children, so it is made over `disk0.none`, and one `blockdev-reopen` changes both places: the guest never writes past
it. To leave it, `disk0.spare` takes the copy's place first, since a reopening flushes, which the copy cannot any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import shutil
import socket
import struct
from collections.abc import Mapping
from typing import Any

from bocage import errors
from bocage.engine import base
from bocage.engine.qemu import layering, link, paths, qmp
from bocage.words import N_

_OWN = ("both", "here", "none", "spare", "copy")  # in the order in which they can be taken away
_SECRETS = "copies"
_KEY_FILE = "keys.psk"  # QEMU knows this name alone
_USER = "qemu"  # the name that QEMU gives itself
_JOB, _BITMAP = "copy-", "copy-"
_SWITCH_BOUND = 30.0  # seconds: it waits for the writes that are under way
_BARRED_BOUND = 30.0
_UNACKNOWLEDGED = 4000  # milliseconds after which the kernel gives a connection up
_TIMES = struct.Struct("8x 9I 4I")  # of struct tcp_info: the last four are milliseconds since data and answers


class CopyFailed(base.Error, errors.Unavailable):
    """The guest writes where it did before."""

    type = "replica-not-copied"
    text = N_("the replica of {disk} could not be written: {reason}")
    disk: str
    reason: str


class Doubling:
    """The copies of one machine's disks; see engine.copies.Copies."""

    def __init__(self, at: link.Link, where: paths.Paths) -> None:
        self._at, self._where = at, where
        self._free = asyncio.Event()
        self._free.set()
        self._stood = False  # `pause` has stopped it
        self._sockets: dict[str, socket.socket] = {}  # by disk: the same connections as QEMU's
        self._bitmap = ""
        self.progress = (0, 0)

    # Who lets the vCPUs go on

    async def until_free(self) -> None:
        """Wait until nobody has barred it. Raises errors.TimedOut."""
        try:
            async with asyncio.timeout(_BARRED_BOUND):
                await self._free.wait()
        except TimeoutError as error:
            raise errors.TimedOut(what="the replica's record", bound=_BARRED_BOUND) from error

    def bar(self) -> None:
        self._free.clear()

    async def pause(self) -> None:
        self.bar()
        self._stood = await self._at.look() is base.Run.RUNNING or self._stood
        await self._at.execute("stop", within=_SWITCH_BOUND)

    async def release(self) -> None:
        self._free.set()
        stood, self._stood = self._stood, False
        if stood or await self._at.look() is base.Run.STORAGE_FAILED:
            await self._at.execute("cont")

    # The copies

    async def connect(self, of: str, connections: Mapping[str, int], key: str) -> bool:
        await self.let_go()
        await asyncio.to_thread(self._write_key, key)
        try:
            secret = {"qom-type": "tls-creds-psk", "id": _SECRETS, "endpoint": "client", "dir": str(self._secrets)}
            await self._at.execute("object-add", secret)
            for disk, descriptor in connections.items():
                await self._connect(disk, descriptor)
        except qmp.CommandFailed as error:
            raise CopyFailed(disk=", ".join(connections), reason=error.description) from error
        finally:
            await asyncio.to_thread(shutil.rmtree, self._secrets, ignore_errors=True)
        self._bitmap = f"{_BITMAP}{of[:8]}"
        return all([await self._has_bitmap(disk) for disk in connections])

    async def _connect(self, disk: str, descriptor: int) -> None:
        ours = socket.socket(fileno=os.dup(descriptor))
        self._sockets[disk] = ours
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED)
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in ((socket.TCP_KEEPIDLE, 2), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 3)):
            ours.setsockopt(socket.IPPROTO_TCP, option, value)
        name = f"copy-{disk}"
        await self._at.name_descriptor(descriptor, name)
        there: dict[str, Any] = {"driver": "nbd", "node-name": f"{disk}.copy", "export": disk, "tls-creds": _SECRETS}
        there |= {"server": {"type": "fd", "str": name}}
        await self._at.execute("blockdev-add", there, within=_SWITCH_BOUND)

    async def copy(self, rate: int) -> int:
        for disk in self._sockets:
            await self._pass(disk, rate)
        return sum([await self._left(disk) for disk in self._sockets])

    async def _pass(self, disk: str, rate: int) -> None:
        """Two bitmaps: of what the copy lacks, whatever becomes of this pass, and of what was written since it began.

        The first is only there once a pass of everything is durable in the copy, and shrinks only when the next one is.
        """
        chain, job = await layering.top(self._at, disk), f"{_JOB}{disk}"
        lacks, since = self._bitmap, f"{self._bitmap}-next"
        there = {str(one["name"]) for one in await self._bitmaps(disk)}
        if since in there:  # of a pass that nobody saw to its end
            await self._at.execute("block-dirty-bitmap-remove", {"node": chain, "name": since})
        known = lacks in there
        if not known:
            await self._forget_bitmaps(disk)
        await self._at.execute("block-dirty-bitmap-add", _bitmap(chain, since))
        asked: dict[str, Any] = {"job-id": job, "device": chain, "target": f"{disk}.copy", "auto-dismiss": False}
        asked |= {"speed": rate, "sync": "full"}
        if known:
            asked |= {"sync": "bitmap", "bitmap": lacks, "bitmap-mode": "never"}
        try:
            await self._at.execute("blockdev-backup", asked, within=_SWITCH_BOUND)
            reason = await self._seen_through(job)
            reason = reason or str(await self._hmp(f"qemu-io {disk}.copy flush")).strip()
        except qmp.CommandFailed as error:
            reason = error.description
        if reason:
            raise CopyFailed(disk=disk, reason=reason)
        one = {"node": chain, "name": lacks}
        renewed = _action("clear", one) if known else _action("add", _bitmap(chain, lacks))
        merged = _action("merge", {"node": chain, "target": lacks, "bitmaps": [since]})
        await self._at.execute("transaction", {"actions": [renewed, merged]}, within=_SWITCH_BOUND)
        await self._at.execute("block-dirty-bitmap-remove", {"node": chain, "name": since})

    async def _seen_through(self, job: str) -> str:
        """Wait for the end of a pass; the reason of one that failed."""
        async with layering.told_of(self._at, job, "concluded") as told:
            while True:
                jobs = [one for one in await self._at.execute("query-jobs") if one["id"] == job]
                if not jobs or jobs[0]["status"] == "concluded":
                    break
                self.progress = (int(jobs[0]["current-progress"]), int(jobs[0]["total-progress"]))
                await asyncio.wait([told], timeout=0.2)
                if told.done():
                    await asyncio.sleep(0.02)
        if not jobs:
            return "it was ended"
        await self._at.execute("job-dismiss", {"id": job})
        return str(jobs[0].get("error", ""))

    async def join(self) -> None:
        done = []
        try:
            for disk in self._sockets:
                done.append(disk)
                await self._join(disk)
        except qmp.CommandFailed as error:
            raise CopyFailed(disk=done[-1], reason=error.description) from error
        for disk in self._sockets:
            if await self._left(disk):
                raise CopyFailed(disk=disk, reason="the guest ran while it was to stand")

    async def _join(self, disk: str) -> None:
        chain = await layering.top(self._at, disk)
        there = await layering.names(self._at)
        if f"{disk}.top" not in there:
            await self._add(_raw(f"{disk}.top", chain))
        drive = {"path": f"/machine/peripheral/{disk}", "property": "drive"}
        if await self._at.execute("qom-get", drive) != f"{disk}.top":  # QEMU 7.2 aborts when it is told what is so
            await self._at.execute("qom-set", {**drive, "value": f"{disk}.top"})
        await self._add({"driver": "null-co", "node-name": f"{disk}.none", "size": await self._size(chain)})
        await self._add(_raw(f"{disk}.here", f"{disk}.none"))
        both = {"driver": "quorum", "node-name": f"{disk}.both", "children": [f"{disk}.here", f"{disk}.copy"]}
        await self._add(both | {"vote-threshold": 2, "read-pattern": "fifo"})
        await self._reopen(_raw(f"{disk}.here", chain), _raw(f"{disk}.top", f"{disk}.both"))

    def cut(self) -> None:
        for ours in self._sockets.values():
            with contextlib.suppress(OSError):  # it has ended already
                ours.shutdown(socket.SHUT_RDWR)

    async def let_go(self) -> None:
        self.cut()  # before anything is asked of QEMU, which may wait for the copy itself
        there = set(await layering.names(self._at))
        disks = [name.removesuffix(".copy") for name in there if name.endswith(".copy")]
        disks += [name.removesuffix(".none") for name in there if name.endswith(".none")]
        for disk in disks:
            if f"{disk}.copy" in there:
                one = {"type": "block-node", "node-name": f"{disk}.copy"}
                with contextlib.suppress(qmp.CommandFailed):  # it has none any more
                    await self._at.execute("yank", {"instances": [one]})
        await layering.end_jobs(self._at, _JOB)
        for disk in dict.fromkeys(disks):
            await self._leave(disk, there)
        for ours in self._sockets.values():
            ours.close()
        self._sockets.clear()
        with contextlib.suppress(qmp.CommandFailed):  # there is none
            await self._at.execute("object-del", {"id": _SECRETS})

    async def _leave(self, disk: str, there: set[str]) -> None:
        if f"{disk}.both" in there:
            chain = await layering.top(self._at, disk)
            spare, size = f"{disk}.spare", await self._size(chain)
            if spare not in there:
                await self._add({"driver": "null-co", "node-name": spare, "size": size})
            for change in ({"node": spare}, {"child": "children.1"}):
                with contextlib.suppress(qmp.CommandFailed):  # an earlier attempt has done so
                    await self._at.execute("x-blockdev-change", {"parent": f"{disk}.both", **change})
            await self._reopen(_raw(f"{disk}.here", f"{disk}.none"), _raw(f"{disk}.top", chain))
        left = set(await layering.names(self._at))
        for part in _OWN:
            if f"{disk}.{part}" in left:
                await self._at.execute("blockdev-del", {"node-name": f"{disk}.{part}"})

    async def hangs(self, patience: float) -> bool:
        for ours in self._sockets.values():
            told = ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TIMES.size)
            if len(told) < _TIMES.size:
                continue
            sent, _, heard, _ = _TIMES.unpack(told)[9:]
            if heard > sent + 100 and sent > patience * 1000:  # milliseconds since each
                return True
        return False

    # What QEMU is told

    async def _add(self, node: dict[str, Any]) -> None:
        await self._at.execute("blockdev-add", node)

    async def _reopen(self, *nodes: dict[str, Any]) -> None:
        await self._at.execute("blockdev-reopen", {"options": list(nodes)}, within=_SWITCH_BOUND)

    async def _hmp(self, line: str) -> Any:
        return await self._at.execute("human-monitor-command", {"command-line": line}, within=_SWITCH_BOUND)

    async def _node(self, name: str) -> Mapping[str, Any]:
        told = await self._at.execute("query-named-block-nodes", {"flat": True})
        return next((one for one in told if one["node-name"] == name), {})

    async def _size(self, chain: str) -> int:
        return int((await self._node(chain))["image"]["virtual-size"])

    async def _bitmaps(self, disk: str) -> list[Mapping[str, Any]]:
        told = (await self._node(await layering.top(self._at, disk))).get("dirty-bitmaps", ())
        return [one for one in told if str(one.get("name", "")).startswith(_BITMAP)]

    async def _has_bitmap(self, disk: str) -> bool:
        return any(one["name"] == self._bitmap for one in await self._bitmaps(disk))

    async def _left(self, disk: str) -> int:
        return sum(int(one["count"]) for one in await self._bitmaps(disk) if one["name"] == self._bitmap)

    async def _forget_bitmaps(self, disk: str) -> None:
        for one in await self._bitmaps(disk):
            named = {"node": await layering.top(self._at, disk), "name": one["name"]}
            await self._at.execute("block-dirty-bitmap-remove", named)

    @property
    def _secrets(self) -> pathlib.Path:
        return self._where.io / "copies"

    def _write_key(self, key: str) -> None:
        shutil.rmtree(self._secrets, ignore_errors=True)
        self._secrets.mkdir(mode=0o700)
        write_key(self._secrets, key, os.stat(self._where.io).st_uid)


def write_key(directory: pathlib.Path, key: str, owner: int) -> None:
    """Have a directory, which only we can write, hold a key as QEMU reads it; both are the owner's then.

    It may lie where QEMU's user writes, who could have put a link in its place meanwhile. Raises OSError.
    """
    there = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with open(os.open(_KEY_FILE, flags, 0o600, dir_fd=there), "w") as file:
            os.fchown(file.fileno(), owner, owner)
            file.write(f"{_USER}:{key}\n")
        os.fchown(there, owner, owner)
    finally:
        os.close(there)


def _bitmap(chain: str, name: str) -> dict[str, Any]:
    return {"node": chain, "name": name, "granularity": 1 << 16}


def _action(what: str, data: dict[str, Any]) -> dict[str, Any]:
    return {"type": f"block-dirty-bitmap-{what}", "data": data}


def _raw(name: str, over: str) -> dict[str, Any]:
    return {"driver": "raw", "node-name": name, "file": over}
