"""This host's etcd: a process that outlives the daemon, found again by where its data lie."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import pathlib
import select
import shutil
import signal
from collections.abc import Mapping

from bocage import errors, files
from bocage.home import Home
from bocage.membership import place
from bocage.store.etcd import access
from bocage.words import N_

log = logging.getLogger(__name__)

PROGRAM = "etcd"
KEPT_REVISIONS = 10_000  # as SQLite's engine keeps
_TIMING = ("--heartbeat-interval", "50", "--election-timeout", "500")
_SAYS = ("--logger", "zap", "--log-level", "error")  # its warnings have a line for each request to its gateway
_LONGEST_LOG = 4 << 20  # bytes
_END = 10.0  # seconds for an orderly end


class Error(errors.Problem):
    """Anything that goes wrong with this host's etcd."""


class NoEtcd(Error, errors.Unavailable):
    type = "etcd-missing"
    text = N_("etcd is not installed: it is where the hosts of a cluster keep what they know")
    hint = N_("'systemctl mask etcd; apt install etcd-server': a service of its own is not needed, the daemon runs it")


class Stuck(Error, errors.Unavailable):
    type = "etcd-does-not-end"
    text = N_("this host's etcd (process {pid}) does not end")
    pid: int


class Member:
    """This host's member: at most one process, whoever started it."""

    def __init__(self, home: Home, name: str, address: str) -> None:
        self.name = name  # the host's uid
        self.client = place.url(address, place.CLIENT_PORT)
        self.peer = place.url(address, place.PEER_PORT)
        self._home = home
        self._pidfd: int | None = None
        self._pid = 0

    @property
    def has_data(self) -> bool:
        """Whether it has been a member, and can go on as that one."""
        return (self._home.etcd / "member").is_dir()

    @property
    def runs(self) -> bool:
        if self._pidfd is None:
            return False
        if not select.select([self._pidfd], [], [], 0)[0]:
            return True
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        self._let_go()
        return False

    async def start(self, peers: Mapping[str, str], *, new: bool = False) -> None:
        """Have it run: found again, else started. `peers` are all members' peer addresses by name, for its first start.

        Raises NoEtcd and OSError.
        """
        if self.runs or await asyncio.to_thread(self._find):
            return
        program = installed()
        await asyncio.to_thread(self._spawn, program, self._options(peers, new=new))
        log.info("etcd runs (process %d)", self._pid)

    async def ended(self) -> None:
        """Wait until its process has ended; at once when there is none."""
        while self.runs:
            loop, over = asyncio.get_running_loop(), asyncio.Event()
            assert self._pidfd is not None
            watched = os.dup(self._pidfd)
            loop.add_reader(watched, over.set)
            try:
                await over.wait()
            finally:
                loop.remove_reader(watched)
                os.close(watched)

    async def stop(self) -> None:
        """End it. Raises Stuck."""
        if not (self.runs or await asyncio.to_thread(self._find)):
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            assert self._pidfd is not None
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_END):
                    await self.ended()
                return
        raise Stuck(pid=self._pid)

    async def forget(self) -> None:
        """End it and remove what it has. Raises Stuck and OSError."""
        await self.stop()
        await asyncio.to_thread(files.remove_tree, self._home.etcd)

    def _options(self, peers: Mapping[str, str], *, new: bool) -> list[str]:
        papers = place.certificates(self._home)
        members = {**peers, self.name: self.peer}
        options = ["--name", self.name, "--data-dir", str(self._home.etcd)]
        options += ["--listen-client-urls", self.client, "--advertise-client-urls", self.client]
        options += ["--listen-peer-urls", self.peer, "--initial-advertise-peer-urls", self.peer]
        options += ["--initial-cluster", ",".join(f"{name}={peer}" for name, peer in members.items())]
        options += ["--initial-cluster-state", "new" if new else "existing"]
        for side in ("", "peer-"):
            options += [f"--{side}cert-file", str(papers.certificate), f"--{side}key-file", str(papers.key)]
            options += [f"--{side}client-cert-auth", f"--{side}trusted-ca-file", str(papers.authority)]
        options += ["--experimental-peer-skip-client-san-verification"]  # a host may come from another of its addresses
        options += ["--auto-compaction-mode", "revision", "--auto-compaction-retention", str(KEPT_REVISIONS)]
        return [*options, *access.SERVER_OPTIONS, *_TIMING, "--pre-vote", *_SAYS]

    def _spawn(self, program: str, options: list[str]) -> None:
        said = self._home.cluster / "etcd.log"
        with contextlib.suppress(FileNotFoundError):
            if said.stat().st_size > _LONGEST_LOG:
                os.replace(said, said.with_suffix(".log.1"))
        writing = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        spawn = functools.partial(
            os.posix_spawn,
            program,
            [PROGRAM, *options],
            {name: value for name, value in os.environ.items() if not name.startswith("ETCD_")},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.fspath(said), writing, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigdef=[signal.SIGINT, signal.SIGTERM],
        )
        try:  # a host's beats are confirmed by it: it goes before all that waits for a CPU, where that is allowed
            pid = spawn(scheduler=(os.SCHED_RR, os.sched_param(os.sched_get_priority_min(os.SCHED_RR))))
        except PermissionError:
            pid = spawn()
        self._hold(pid)

    def _find(self) -> bool:
        """Take over one that an earlier daemon has started."""
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit() and self._is_ours(entry):
                with contextlib.suppress(OSError):
                    self._hold(int(entry.name))
                    if self._is_ours(entry) and self.runs:
                        return True
        return False

    def _is_ours(self, entry: pathlib.Path) -> bool:
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return arguments[0] == PROGRAM.encode() and os.fsencode(self._home.etcd) in arguments

    def _hold(self, pid: int) -> None:
        self._let_go()
        self._pidfd, self._pid = os.pidfd_open(pid), pid

    def _let_go(self) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


def installed() -> str:
    """Where etcd is. Raises NoEtcd."""
    if (program := shutil.which(PROGRAM)) is None:
        raise NoEtcd
    return program


async def sweep(home: Home) -> None:
    """Remove what an attempt to become part of a cluster has left, its etcd included. Raises Stuck and OSError."""
    if home.cluster.exists() and not home.cluster_document.exists():
        await Member(home, "", "127.0.0.1").stop()
        await asyncio.to_thread(files.remove_tree, home.cluster)
