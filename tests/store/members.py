"""Real etcd members on loopback, each a process that can be killed, frozen and started again."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import httpx

from bocage.store.etcd import access, engine, founding, gateway

BOUND = 60.0  # seconds until members agree
QUICK = ("--unsafe-no-fsync", "--heartbeat-interval", "50", "--election-timeout", "500")


@dataclasses.dataclass(frozen=True, slots=True)
class Seat:
    """Where a member is: its address, what a command is preceded by to be run there, the port of a bridge it is on."""

    address: str = "127.0.0.1"
    entry: Sequence[str] = ()
    port: str = ""


class Member:
    """One member: its addresses and its process."""

    def __init__(
        self, name: str, home: pathlib.Path, seat: Seat, options: Sequence[str], papers: access.Certificates | None
    ) -> None:
        self.name = name
        self.home = home
        self.seat = seat
        self.options = [*access.SERVER_OPTIONS, "--pre-vote", "--logger", "zap", "--log-level", "warn", *options]
        scheme = "https" if papers else "http"
        self.client, self.peer = (f"{scheme}://{seat.address}:{port}" for port in _free_ports(2))
        for side in ("", "peer-") if papers else ():
            assert papers
            self.options += [f"--{side}cert-file", str(papers.certificate), f"--{side}key-file", str(papers.key)]
            self.options += [f"--{side}client-cert-auth", f"--{side}trusted-ca-file", str(papers.authority)]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, cluster: str) -> None:
        """Start it in the cluster NAME=PEER,…; it dies with us."""
        line = [*self.seat.entry, "setpriv", "--pdeathsig", "KILL", "etcd"]
        line += ["--name", self.name, "--data-dir", str(self.home / self.name)]
        line += ["--listen-client-urls", self.client, "--advertise-client-urls", self.client]
        line += ["--listen-peer-urls", self.peer, "--initial-advertise-peer-urls", self.peer]
        line += ["--initial-cluster", cluster, *self.options]
        with (self.home / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def signal(self, number: signal.Signals) -> None:
        assert self.process
        self.process.send_signal(number)

    def kill(self) -> None:
        """As a power cut does, but for what it has written."""
        if self.process:
            self.process.kill()
            self.process.wait()


class Cluster:
    """Members that know each other."""

    def __init__(
        self, home: pathlib.Path, seats: Sequence[Seat], options: Sequence[str], papers: access.Certificates | None
    ) -> None:
        self.papers = papers
        self.members = [Member(f"m{n}", home, seat, options, papers) for n, seat in enumerate(seats)]
        self.names = ",".join(f"{member.name}={member.peer}" for member in self.members)

    def start(self, member: Member) -> None:
        member.start(self.names)

    def access(self, first: int = 0, **how: Any) -> access.Access:
        """How to reach all, the one at place `first` before the others."""
        return access.Access(tuple(member.client for member in self.members[first:] + self.members[:first]), **how)

    def wait(self) -> None:
        """Until each member answers with all that was written; its log when it does not."""
        deadline = time.monotonic() + BOUND
        trusted = self.papers.context() if self.papers else False
        for member in self.members:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    said = httpx.post(
                        f"{member.client}/v3/kv/range", json={"key": "YQ=="}, timeout=5, trust_env=False, verify=trusted
                    )
                    if said.status_code == httpx.codes.OK or "user name is empty" in said.text:
                        break
                if time.monotonic() > deadline:
                    raise AssertionError((member.home / f"{member.name}.log").read_text()[-4000:])
                time.sleep(0.02)


@contextlib.contextmanager
def cluster(
    at: int | Sequence[Seat], options: Sequence[str] = (), *, papers: access.Certificates | None = None
) -> Iterator[Cluster]:
    """A new cluster of so many members on loopback, or of one in each seat; gone at the end.

    It lies in memory: no disk's time for what is no fault of a disk.
    """
    memory = "/dev/shm" if pathlib.Path("/dev/shm").is_dir() else None
    home = pathlib.Path(tempfile.mkdtemp(prefix="bocage-test-etcd-", dir=memory))
    made = Cluster(home, [Seat()] * at if isinstance(at, int) else at, options, papers)
    try:
        for member in made.members:
            made.start(member)
        made.wait()
        yield made
    finally:
        for member in made.members:
            member.kill()
        shutil.rmtree(home)


def new_root() -> str:
    """A part of etcd that no other test has."""
    return f"/bocage-test/{uuid.uuid4()}/"


async def found(how: access.Access, root: str) -> None:
    """Make an empty store there."""
    by = gateway.Gateway(how)
    try:
        await founding.found(by, uuid.uuid4().hex, root=root)
    finally:
        await by.close()


async def opened(how: access.Access, root: str, client: str = "test") -> engine.EtcdStore:
    """The store there, opened."""
    async with asyncio.timeout(BOUND):
        return await engine.open(how, client=client, root=root)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
