"""Starting a process that outlives us, held at a gate until its pid is known to whoever must know it.

Three programs stand in a row, and none of them stays longer than needed: the keeper (a shell that
waits until it was put into its group, or goes there by itself, and then becomes bubblewrap, or stays where
there is none) writes how it ended to the status file even after our death; the gate (a shell inside the
confinement) tells its pid and waits for a word of ours; on that word it becomes the program itself. If we
die before, it ends without having run anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import pathlib
import signal
import socket
import stat
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bocage import errors, sockets
from bocage.engine.qemu import cgroup, isolation, processes
from bocage.words import N_

_KEEPER = """
printf '{"keeper-pid": %d, "log-offset": %d}\\n' $$ "$1"
read -r within || exit 124
stay=$2; shift 2
while [ "$1" != -- ]; do echo 0 >"$1" || exit 124; shift; done
shift
[ "$stay" = stay ] || exec "$@"
exec 3<&0
"$@" <&3 3<&- & exec 3<&- </dev/null
wait $!; printf '{"exit-code": %d}\\n' $?
"""
_GATE = 'echo $$ >&0; read -r go && exec "$@" </dev/null >&2; exit 125'
_SAID = 4000  # bytes of the log that a failed start carries
_END_BOUND = 2.0  # seconds


class Error(errors.Problem):
    """A process could not be started."""


class Failed(Error):
    """What confines it gave up before the program itself ran."""

    type = "launch-failed"
    text = N_("'{program}' could not be started: {said}")
    program: str
    said: str


@dataclass(frozen=True, slots=True)
class Order:
    """What to start, and how.

    Standard output and error are appended to `log`, standard input is /dev/null. `status` must lie
    where the process cannot write. It lives in `group`. Without `mounts` the `view` is not enforced, and the
    network is the machine's. `descriptors`, from 10 up, are the process's own under the same numbers.
    """

    argv: Sequence[str]
    log: pathlib.Path
    status: pathlib.Path
    cwd: pathlib.Path
    view: isolation.View = field(default_factory=isolation.View)
    owner: isolation.Owner | None = None
    mounts: bool = False
    network: bool = True  # the machine's
    group: cgroup.Group | None = None
    descriptors: Sequence[int] = ()
    environment: Mapping[str, str] = field(
        default_factory=lambda: {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"} | sockets.INITIATOR
    )


@dataclass(frozen=True, slots=True)
class Process:
    """A started process: the program itself, not what keeps it. The holder closes `pidfd`."""

    identity: processes.Identity
    pidfd: int


async def start(
    order: Order, *, before: Callable[[Process], Awaitable[None]] | None = None, within: float = 10.0
) -> Process:
    """Start a process in a session of its own; `before` is awaited when it has its pid and has not run yet.

    If `before` fails, or we end before it is done, the program never runs.

    Raises Failed, OSError for the log, the status file and the group, errors.TimedOut, and what `before` raises.
    """
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as always, contextlib.AsyncExitStack() as undo:
        log = _open(order.log, os.O_APPEND)
        always.callback(os.close, log)
        beginning = os.fstat(log).st_size
        doors = order.group.doors() if order.group else ()
        keeper, gate = _spawn(order, log, beginning, doors)
        undo.push_async_callback(_reaped, keeper)
        always.callback(gate.close)
        undo.callback(gate.close)  # which lets the gate end, so that the keeper does
        try:
            async with asyncio.timeout(within):
                if order.group and not doors:
                    await order.group.enter(keeper.pid)
                await loop.sock_sendall(gate, b"within\n")
                pid = int(await loop.sock_recv(gate, 32))
                identity = processes.identify(pid)
                started = Process(identity, processes.open_pidfd(identity))
                undo.callback(os.close, started.pidfd)
                undo.callback(_kill, started.pidfd)
                if before:
                    await before(started)
                await loop.sock_sendall(gate, b"go\n")
        except TimeoutError as error:
            raise errors.TimedOut(what=order.argv[0], bound=within) from error
        except (ConnectionError, processes.Gone, ValueError) as error:
            await _ended(keeper)
            raise Failed(program=order.argv[0], said=_said(order.log, beginning)) from error
        undo.pop_all()
        _reap_when_done(keeper)
    return started


def _spawn(
    order: Order, log: int, beginning: int, doors: Sequence[pathlib.Path]
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """The keeper, and our end of the socket to the gate."""
    confined = isolation.enclosed(
        ["sh", "-c", _GATE, "gate", *order.argv],
        view=order.view,
        cwd=order.cwd,
        owner=order.owner,
        mounts=order.mounts,
        network=order.network,
    )
    stay = "become" if order.mounts else "stay"
    keeper = ["sh", "-c", _KEEPER, "keeper", str(beginning), stay, *map(str, doors), "--", *confined]
    with contextlib.ExitStack() as always, contextlib.ExitStack() as undo:
        status = _open(order.status, os.O_TRUNC)
        always.callback(os.close, status)
        ours, theirs = socket.socketpair()
        always.enter_context(theirs)
        undo.enter_context(ours)
        ours.setblocking(False)
        child = subprocess.Popen(
            keeper,
            stdin=theirs.fileno(),
            stdout=status,
            stderr=log,
            cwd=order.cwd,
            env=dict(order.environment),
            start_new_session=True,
            pass_fds=order.descriptors,
            umask=0o077,
        )
        undo.pop_all()
    return child, ours


def _open(path: pathlib.Path, flags: int) -> int:
    # The directory may be the process's own: neither a link nor a pipe that it left there is opened.
    always = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, always | flags, 0o640)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "not a regular file", str(path))


def _kill(pidfd: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


async def _ended(child: subprocess.Popen[bytes]) -> None:
    """Wait for the keeper's end, and send SIGKILL at the bound; a frozen one dies when it is thawed."""
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(child.pid)
        try:
            await processes.wait_exit(pidfd, within=_END_BOUND)
        except errors.TimedOut:
            _kill(pidfd)
        finally:
            os.close(pidfd)


async def _reaped(child: subprocess.Popen[bytes]) -> None:
    await _ended(child)
    if child.poll() is None:
        _reap_when_done(child)


def _reap_when_done(child: subprocess.Popen[bytes]) -> None:
    """Take the keeper's status when it ends, so that no zombie stays; if we end first, init does."""
    loop = asyncio.get_running_loop()
    pidfd = os.pidfd_open(child.pid)

    def done() -> None:
        loop.remove_reader(pidfd)
        os.close(pidfd)
        child.wait()

    loop.add_reader(pidfd, done)


def _said(log: pathlib.Path, beginning: int) -> str:
    with open(log, "rb") as file:
        file.seek(beginning)
        return file.read(_SAID).decode(errors="replace").strip()
