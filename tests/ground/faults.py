"""What can befall a ground, each really caused, for as long as the `with` lasts; hosts that it killed stay as they are.

What is done to the network is done at the switch, so that no host sees a rule of it.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
from collections.abc import Iterator

from tests.ground import building, ground, init, kernel, machine

_TABLE = "troubles"
_BOUND = 120.0  # seconds
ETCD, DAEMON, BEAT, GUARD = ("etcd",), ("daemon", "run"), ("bocage.node.beat",), ("bocage.node.guard",)
"""The processes of a host, by words of their command lines."""


@contextlib.contextmanager
def _rules(here: ground.Ground, *rules: str) -> Iterator[None]:
    """Frames that the switch does not pass on."""
    _nft(
        here,
        f"add table bridge {_TABLE}",
        f"add chain bridge {_TABLE} every {{ type filter hook forward priority 0; }}",
    )
    _nft(here, *(f"add rule bridge {_TABLE} every {rule}" for rule in rules))
    try:
        yield
    finally:
        _nft(here, f"delete table bridge {_TABLE}")


def _nft(here: ground.Ground, *lines: str) -> None:
    line = ["ip", "netns", "exec", here.switch, "nft", "-f", "-"]
    subprocess.run(line, input="\n".join(lines) + "\n", text=True, capture_output=True, check=True)


def parted(here: ground.Ground, one: machine.Machine, *, ways: str = "both") -> contextlib.AbstractContextManager[None]:
    """No host hears this one (`out`), it hears none (`in`), or neither (`both`). Its BMC is reached all the same."""
    rules = {"out": f"iifname {one.name} drop", "in": f"oifname {one.name} drop"}
    return _rules(here, *(rule for way, rule in rules.items() if ways in (way, "both")))


def parted_pair(
    here: ground.Ground, one: machine.Machine, other: machine.Machine
) -> contextlib.AbstractContextManager[None]:
    """Two hosts do not hear each other; the others hear both."""
    pairs = ((one, other), (other, one))
    return _rules(here, *(f"iifname {a.name} oifname {b.name} drop" for a, b in pairs))


def lossy(here: ground.Ground, percent: int) -> contextlib.AbstractContextManager[None]:
    """So many of a hundred frames between hosts are lost."""
    return _rules(here, f"numgen random mod 100 < {percent} drop")


@contextlib.contextmanager
def switch_off(here: ground.Ground) -> Iterator[None]:
    """The switch that all hosts share, and their BMCs, has no power."""
    kernel.ip(f"link set {machine.BRIDGE} down", within=here.switch)
    try:
        yield
    finally:
        kernel.ip(f"link set {machine.BRIDGE} up", within=here.switch)


@contextlib.contextmanager
def frozen(one: machine.Machine) -> Iterator[None]:
    """It hangs, and goes on where it stood, if nobody killed it meanwhile."""
    one.groups.freeze()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            one.groups.thaw()


@contextlib.contextmanager
def bmc_dead(one: machine.Machine) -> Iterator[None]:
    one.silence_bmc()
    try:
        yield
    finally:
        one.wake_bmc()


@contextlib.contextmanager
def bmcs_swapped(one: machine.Machine, other: machine.Machine) -> Iterator[None]:
    """Each BMC answers at the other's address, and takes the password that was meant for it."""
    one.wire_bmc(other)
    other.wire_bmc(one)
    try:
        yield
    finally:
        one.wire_bmc(one)
        other.wire_bmc(other)


def kill(one: machine.Machine, what: tuple[str, ...]) -> int:
    """`kill -9` of some of its processes; how many there were."""
    found = one.pids(*what)
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(found)


@contextlib.contextmanager
def slow_fsync(here: ground.Ground, seconds: float) -> Iterator[None]:
    """Whatever etcd's members have the disk write down takes so much longer."""
    tracing = [
        subprocess.Popen(
            ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync,fsync", "-e",
             f"inject=fdatasync,fsync:delay_enter={round(seconds * 1e6)}", "-p", str(pid)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for one in here.machines()
        for pid in one.pids(*ETCD)
    ]  # fmt: skip
    try:
        building.until("etcd is traced", lambda: all(_traced(here)))
        yield
    finally:
        for one in tracing:
            one.terminate()
            one.wait()


def _traced(here: ground.Ground) -> Iterator[bool]:
    for one in here.machines():
        for pid in one.pids(*ETCD):
            yield "TracerPid:\t0\n" not in pathlib.Path(f"/proc/{pid}/status").read_text()


@contextlib.contextmanager
def full_disk(one: machine.Machine) -> Iterator[None]:
    """The file system that its etcd writes to is full: a small one, which it is moved to and from."""
    at, small = str(init.HOME / "cluster" / "etcd"), one.path / "small.img"
    with _without_etcd(one):
        used = sum(path.stat().st_blocks * 512 for path in (one.home / "cluster" / "etcd").rglob("*"))
        with small.open("wb") as file:
            file.truncate(used + (24 << 20))
        subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-O", "^has_journal", str(small)], check=True)
        mounted = f"mkdir -p /run/small; mount -o loop {init.HOME}/small.img /run/small"
        os.rename(small, one.home / "small.img")
        _sh(one, f"{mounted}; cp -a {at}/. /run/small/; mount --bind /run/small {at}")
    try:
        _sh(one, "dd if=/dev/zero of=/run/small/filled bs=64k 2>/dev/null || true")
        yield
    finally:
        if one.power() == "On":
            _sh(one, "rm -f /run/small/filled")
            with _without_etcd(one):
                _sh(one, f"umount {at}; cp -a /run/small/. {at}/; sync; umount /run/small; rm -rf {at}/lost+found")
        (one.home / "small.img").unlink()


@contextlib.contextmanager
def _without_etcd(one: machine.Machine) -> Iterator[None]:
    """Its etcd is down meanwhile, and the daemon that would start it stands still."""
    (daemon,) = one.pids(*DAEMON)
    os.kill(daemon, signal.SIGSTOP)
    try:
        kill(one, ETCD)
        building.until("etcd has ended", lambda: not one.pids(*ETCD))
        yield
    finally:
        os.kill(daemon, signal.SIGCONT)


def _sh(one: machine.Machine, line: str) -> None:
    done = one.run("sh", "-ec", line, within=_BOUND)
    assert done.returncode == 0, (line, done.stderr)
