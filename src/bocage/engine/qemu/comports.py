"""Ports of the guest that lead to TCP: a `comport` beside QEMU for each, in the VM's group and as its uid.

It is handed the socket that listens for QEMU and, where the port listens, the one for clients: then it has no network
beside them. QEMU has none in any case. It tries again until it is answered: so one that died is started anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import os
import pathlib
import socket
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping

from bocage import errors, words
from bocage.engine import base
from bocage.engine.qemu import carriers, cgroup, comport, ending, isolation, launch, paths, processes, speech
from bocage.model import board as boards
from bocage.words import N_

_FILES = [pathlib.Path(part).resolve() for part in (comport.__file__, speech.__file__)]
_RUN = "import sys; sys.path.append({!r}); from bocage.engine.qemu import comport; comport.main(*sys.argv[1:])"
_PYTHON = [] if sys.base_prefix.startswith("/usr/") or sys.base_prefix == "/usr" else [pathlib.Path(sys.base_prefix)]
"""What of Python lies elsewhere than programs do."""
_FOLLOWS = 1.0  # seconds within which QEMU's end explains that of what serves its port
_PAUSES = (0.1, 1.0, 5.0, 30.0)  # seconds before it is started anew; the last again and again
_LAST = 2.0  # seconds
_STEADY = 60.0  # seconds after which an end counts as the first


class Error(errors.Problem):
    """A port cannot be served."""


class NotThere(Error, errors.Unavailable):
    """Something else listens there, or the machine has no such address."""

    type = "serial-port-address-refused"
    text = N_("the port {port} cannot listen on {address}: {reason}")
    hint = N_("'ss -ltnp' shows who listens where; another address: 'bocage vm set NAME --serial …'")
    port: str
    address: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Served:
    """What serves a port."""

    port: boards.GuestPort
    process: processes.Identity


def command(port: boards.GuestPort, guest: str, peers: str) -> list[str]:
    """The line that starts it; `guest` and `peers` are as `comport` takes them."""
    spoken = "rfc2217" if port.rfc2217 else "telnet" if port.telnet else "raw"
    run = _RUN.format(os.fspath(_FILES[0].parents[3]))
    return [os.path.realpath(sys.executable), "-I", "-S", "-B", "-c", run, guest, peers, spoken]


def peers(port: boards.GuestPort) -> str:
    """The other side of a port, as one finds it who was handed nothing."""
    return f"to={port.address}" if port.to == "connect" else str(port.address)


async def start(
    port: boards.GuestPort,
    at: paths.Paths,
    *,
    mounts: bool,
    group: cgroup.Group | None,
    before: Callable[[Served], Awaitable[None]] | None = None,
) -> Served:
    """Start what serves a port; `before` is awaited when it has its pid.

    Raises NotThere, launch.Failed, errors.TimedOut and OSError; then none is left.
    """
    owner, calls = carriers.owner_of(at), port.to == "connect"
    with contextlib.ExitStack() as handed:
        clients = [] if calls else [await _made(port)]
        for descriptor in clients:
            handed.callback(os.close, descriptor)
        guest = carriers.listening(at.port_socket(port.name), owner)
        handed.callback(os.close, guest)
        order = launch.Order(
            argv=command(port, f"fd={guest}", peers(port) if calls else f"fd={clients[0]}"),
            log=at.nic_log(port.name),
            status=at.nic_status(port.name),
            cwd=_FILES[0].parent,
            view=isolation.View(read_only=[*_PYTHON, *_FILES]),
            owner=owner,
            mounts=mounts,
            network=calls or not mounts or await isolation.network_refused() is not None,
            group=group,
            descriptors=(guest, *clients),
        )

        async def known(process: launch.Process) -> None:
            if before:
                await before(Served(port, process.identity))

        started = await launch.start(order, before=known)
        handed.callback(os.close, started.pidfd)
        return Served(port, started.identity)


class Keeping:
    """Keeps the ports of one machine served. `served` gives, and `note` keeps, what serves which of them."""

    def __init__(
        self,
        at: paths.Paths,
        group: cgroup.Group | None,
        *,
        mounts: bool,
        served: Callable[[], Mapping[str, Served]],
        note: Callable[[Mapping[str, Served]], Awaitable[None]],
        gone: asyncio.Future[None],
        tell: base.Listener,
    ) -> None:
        self._at, self._group, self._mounts = at, group, mounts
        self._served, self._note, self._gone, self._tell = served, note, gone, tell
        self._noting = asyncio.Lock()

    async def keep(self, name: str) -> None:
        """Start anew what serves a port whenever it ends before its QEMU, and tell of it."""
        loop, ends = asyncio.get_running_loop(), 0
        while True:
            since = loop.time()
            await _until_ended(self._served()[name].process)
            await asyncio.wait([self._gone], timeout=_FOLLOWS)
            if self._gone.done():
                return
            ends = 0 if loop.time() - since > _STEADY else ends
            await asyncio.sleep(_PAUSES[min(ends, len(_PAUSES) - 1)])
            ends += 1
            how = await ending.ended_how(self._at.nic_status(name), program=_FILES[0].stem)
            try:
                await self._start(name)
            except (errors.Problem, OSError) as error:
                if ends == 1:
                    reason = words.say(error) if isinstance(error, errors.Problem) else str(error)
                    self._tell(base.Happened("port-lost", {"port": name, "reason": reason}))
            else:
                self._tell(base.Happened("port-mended", {"port": name, "reason": words.say(how.reason)}))

    async def _start(self, name: str) -> None:
        async def note(served: Served) -> None:
            async with self._noting:
                await self._note({**self._served(), name: served})

        await start(self._served()[name].port, self._at, mounts=self._mounts, group=self._group, before=note)


async def _until_ended(process: processes.Identity, *, within: float | None = None) -> None:
    with contextlib.suppress(processes.Gone, errors.TimedOut):
        pidfd = processes.open_pidfd(process)
        try:
            await processes.wait_exit(pidfd, within=within)
        finally:
            os.close(pidfd)


async def ended(served: Iterable[Served]) -> None:
    """Wait for their end after QEMU's: they pass on what the guest said last. Those that do not end are killed."""
    served = list(served)
    await asyncio.gather(*(_until_ended(one.process, within=_LAST) for one in served))
    for one in served:
        carriers.end(one.process)


async def _made(port: boards.GuestPort) -> int:
    """The socket for clients. Who does not wait for it any more leaves none: a thread cannot be cancelled."""
    making = asyncio.ensure_future(asyncio.to_thread(_listening, port))
    try:
        return await asyncio.shield(making)
    except asyncio.CancelledError:
        making.add_done_callback(_unmade)
        raise


def _unmade(making: asyncio.Future[int]) -> None:
    if not making.cancelled() and not making.exception():
        os.close(making.result())


def _listening(port: boards.GuestPort) -> int:
    address = str(port.address)
    host, _, number = address.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(number), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, *_, where = found[0]
        with socket.create_server(where[:2], family=family, backlog=1) as made:
            return fcntl.fcntl(made, fcntl.F_DUPFD_CLOEXEC, carriers.LOWEST)
    except (OSError, UnicodeError) as error:  # the latter for what can be no host's name
        reason = getattr(error, "strerror", None) or str(error)
        raise NotThere(port=port.name, address=address, reason=reason) from error
