"""Serves the files of a replica over NBD: a qemu-storage-daemon that may see nothing but these, and outlives us.

It has no network of its own: it takes connections on the socket that it is handed, with TLS and a pre-shared key.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import shutil
import signal
import socket
from collections.abc import Mapping

from bocage import files, threads
from bocage.engine import block
from bocage.engine.qemu import carriers, doubling, isolation, launch, processes

PROGRAM = "qemu-storage-daemon"
_READY_BOUND = 30.0  # seconds
_LOOK = 0.02
_END_BOUND = 20.0  # seconds for what was sent to its files


@dataclasses.dataclass(frozen=True, slots=True)
class Export:
    """What is served: files by disk. `runtime` is this export's own directory; None: files are the daemon's own."""

    runtime: pathlib.Path
    files: Mapping[str, block.File]
    key: str
    owner: int | None


async def start(of: Export, listener: socket.socket) -> None:
    """Begin to serve, in place of what did so before. Raises launch.Failed, errors.TimedOut and OSError."""
    await end(of.runtime)
    await threads.run(_prepare, of)
    owner = isolation.Owner(of.owner, of.owner) if of.owner is not None else None
    with contextlib.ExitStack() as handed:
        listening = fcntl.fcntl(listener.fileno(), fcntl.F_DUPFD_CLOEXEC, carriers.LOWEST)
        handed.callback(os.close, listening)
        order = launch.Order(
            argv=_command(of, listening),
            log=of.runtime / "log",
            status=of.runtime / "status",
            cwd=of.runtime,
            view=isolation.View(read_write=[_io(of.runtime), *(file.path for file in of.files.values())]),
            owner=owner,
            mounts=await isolation.mounts_refused() is None,
            network=await isolation.network_refused() is not None,
            descriptors=(listening,),
        )

        async def note(process: launch.Process) -> None:
            await threads.run(files.write_durably, _record(of.runtime), str(process.identity))

        started = await launch.start(order, before=note, within=_READY_BOUND)
        os.close(started.pidfd)
    async with asyncio.timeout(_READY_BOUND):
        while not (_io(of.runtime) / "pid").exists() and serves(of.runtime):  # noqa: ASYNC110 - it tells nobody else
            await asyncio.sleep(_LOOK)


async def end(runtime: pathlib.Path) -> None:
    """End what serves there, if anything does: when this returns, nothing of it can be written any more.

    Raises errors.TimedOut for a process that will not die.
    """
    try:
        identity = processes.Identity.parse((await threads.run(_record(runtime).read_text)).strip())
        pidfd = processes.open_pidfd(identity)
    except (FileNotFoundError, ValueError, processes.Gone):
        pidfd = -1
    if pidfd >= 0:
        try:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            await processes.wait_exit(pidfd, within=_END_BOUND)
        finally:
            os.close(pidfd)
    await threads.run(shutil.rmtree, runtime, True)


def serves(runtime: pathlib.Path) -> bool:
    """Whether a process serves there."""
    try:
        return processes.alive(processes.Identity.parse(_record(runtime).read_text().strip()))
    except (FileNotFoundError, ValueError):
        return False


def _command(of: Export, listening: int) -> list[str]:
    arguments = [PROGRAM]
    for disk, file in of.files.items():
        nodes = [
            {"driver": "file", "node-name": f"{disk}.file", "filename": str(file.path), "discard": "unmap"},
            {"driver": file.format, "node-name": disk, "file": f"{disk}.file", "discard": "unmap"},
        ]
        for node in nodes:
            arguments += ["--blockdev", json.dumps(node, separators=(",", ":"))]
    arguments += ["--object", f"tls-creds-psk,id=tls,endpoint=server,dir={_io(of.runtime)}"]
    arguments += ["--nbd-server", f"addr.type=fd,addr.str={listening},tls-creds=tls"]
    arguments += ["--pidfile", str(_io(of.runtime) / "pid")]
    for disk in of.files:
        arguments += ["--export", f"type=nbd,id=export-{disk},node-name={disk},name={disk},writable=on"]
    return arguments


def _prepare(of: Export) -> None:
    of.runtime.mkdir(mode=0o711, parents=True, exist_ok=True)
    _io(of.runtime).mkdir(mode=0o700)
    doubling.write_key(_io(of.runtime), of.key, os.geteuid() if of.owner is None else of.owner)


def _io(runtime: pathlib.Path) -> pathlib.Path:
    return runtime / "io"


def _record(runtime: pathlib.Path) -> pathlib.Path:
    return runtime / "process"
