"""What carries a VM's NICs beside QEMU: a passt for each, in the VM's group and as its uid.

QEMU listens, and each passt is handed a connection to it: so one that died is started anew while the VM runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pathlib
import signal
import socket
from collections.abc import Awaitable, Callable

from bocage import errors
from bocage.engine import base
from bocage.engine.qemu import boundedlog, cgroup, ending, isolation, launch, paths, processes

PROGRAMS = ("passt", "passt.avx2")
LOWEST = 10  # the shells between us and the program use the descriptors below
_BOUND = 20.0  # seconds until QEMU listens
_READY_BOUND = 5.0
_PAUSE = 0.002


async def start(
    name: str,
    backend: base.Passt,
    at: paths.Paths,
    *,
    group: cgroup.Group | None,
    before: Callable[[processes.Identity], Awaitable[None]],
) -> None:
    """Start what carries the NIC `name`, as soon as QEMU listens for it; `before` is awaited when it has its pid.

    Raises launch.Failed with its own words, errors.TimedOut and OSError; then none is left.
    """
    ready = at.nic_ready(name)
    async with contextlib.AsyncExitStack() as always, contextlib.AsyncExitStack() as undo:
        descriptor = await _connected(at.nic(name))
        always.callback(os.close, descriptor)
        ready.unlink(missing_ok=True)
        order = launch.Order(
            argv=[*backend.command, "--fd", str(descriptor), "--pid", os.fspath(ready)],
            log=at.nic_log(name),
            status=at.nic_status(name),
            cwd=at.directory,
            owner=None if backend.as_root else owner_of(at),
            group=group,
            descriptors=(descriptor,),
        )
        helper = await launch.start(order, before=lambda process: before(process.identity))
        always.callback(os.close, helper.pidfd)
        undo.callback(end, helper.identity)
        await _is_ready(helper.identity, ready, at.nic_log(name))
        undo.pop_all()


async def how_ended(name: str, at: paths.Paths) -> ending.Ended:
    """How the last one that carried the NIC ended; to be asked when it has."""
    return await ending.ended_how(at.nic_status(name), program=PROGRAMS[0])


def end(identity: processes.Identity) -> None:
    """Kill it, if it is still there."""
    with contextlib.suppress(processes.Gone):
        processes.send(identity, signal.SIGKILL)


async def ended(identity: processes.Identity) -> None:
    """Kill it, and wait until what it had is free."""
    with contextlib.suppress(processes.Gone):
        pidfd = processes.open_pidfd(identity)
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            await processes.wait_exit(pidfd, within=_READY_BOUND)
        finally:
            os.close(pidfd)


def listening(path: pathlib.Path, owner: isolation.Owner | None) -> int:
    """A socket of the VM's own that listens, as a descriptor for the program that is to answer there.

    The directory it lies in is the VM's: what has a name there may be another thing a moment later.
    """
    beside = path.parent.with_name(f"{path.name}.part")  # where nobody but we can make anything
    beside.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
        made.bind(os.fspath(beside))
        beside.chmod(0o600)
        if owner:
            os.chown(beside, owner.uid, owner.gid)
        made.listen(1)
        beside.rename(path)
        return fcntl.fcntl(made, fcntl.F_DUPFD_CLOEXEC, LOWEST)


def owner_of(at: paths.Paths) -> isolation.Owner | None:
    """Whom the VM's process runs as: who owns the directory of its sockets."""
    found = at.io.stat()
    return None if found.st_uid == os.geteuid() else isolation.Owner(found.st_uid, found.st_gid)


async def _connected(listening: pathlib.Path) -> int:
    """A connection to the socket on which QEMU waits, as soon as it is there. Raises errors.TimedOut."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_BOUND):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.setblocking(False)
                while True:
                    try:
                        await loop.sock_connect(connection, os.fspath(listening))
                        break
                    except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
                        await asyncio.sleep(_PAUSE)
                connection.setblocking(True)
                return fcntl.fcntl(connection, fcntl.F_DUPFD_CLOEXEC, LOWEST)
    except TimeoutError as error:
        raise errors.TimedOut(what=os.fspath(listening), bound=_BOUND) from error


async def _is_ready(identity: processes.Identity, ready: pathlib.Path, log: pathlib.Path) -> None:
    """Wait until it has its ports: then it writes its pid."""
    try:
        async with asyncio.timeout(_READY_BOUND):
            while not _written(ready):
                if not processes.alive(identity):
                    raise launch.Failed(program=PROGRAMS[0], said=_last_words(log))
                await asyncio.sleep(_PAUSE)
    except TimeoutError as error:
        raise errors.TimedOut(what=PROGRAMS[0], bound=_READY_BOUND) from error


def _written(path: pathlib.Path) -> bool:
    try:
        return path.stat(follow_symlinks=False).st_size > 0
    except FileNotFoundError:
        return False


def _last_words(log: pathlib.Path) -> str:
    lines = boundedlog.tail_lines(log, 6)
    return " / ".join([line for line in lines if "to syslog" not in line][-3:])  # where there is no syslog
