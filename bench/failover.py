"""A host's power is cut: seconds until what it ran runs on another, and until that guest's kernel speaks.

Beside Pacemaker on Corosync, on hosts and BMCs of the same kind, in the same run. Its resource is the same machine, and
its fence agent the shortest that there can be: an order to the BMC, and a look whether the host is off.
"""

from __future__ import annotations

import contextlib
import pathlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping

from tests import built
from tests.ground import machine, reach

from bench import ground, measure, pacemaker, session

_BOUND = 180.0  # seconds
_AIM = 0.6
_LEADING = 1.5
_SLOW = 3.0
_DELAYS = (1.0, 11.0)  # seconds, as the emulator's own driver has it
_TOKENS = ("default", "1 s")
_BOX = "box"

Round = Mapping[str, float]


def run(bench: session.Session) -> measure.Result:
    """The figure."""
    found: dict[str, list[float]] = {}
    with contextlib.ExitStack() as undo:
        hosts = undo.enter_context(ground.up(bench.place("failover")))
        hosts.make(_BOX)
        with hosts.first as asked:
            uid = asked.vms.get(_BOX)["metadata"]["uid"]
            line = pacemaker.line_of(asked.vms.command(_BOX)["command"], uid)
        for _ in range(bench.runs):
            for kind in ("apart", "leads", "slow"):
                _note(found, kind, _ours(hosts, uid, kind))
        disk = bench.place("failover-disk") / "disk.qcow2"
        disk.write_bytes((hosts.serial(uid).parent / "disks" / "disk0.qcow2").read_bytes())
    with pacemaker.hosts(bench.place("failover-peer"), line, disk, built.tiny_image()) as peer:
        for token in _TOKENS:
            peer.start(token)
            for _ in range(bench.runs):
                for kind in ("apart", "leads"):
                    _note(found, f"{kind} {token}", _theirs(peer, token, kind))
    return _result(found)


def _note(found: dict[str, list[float]], kind: str, taken: Round) -> None:
    for name, value in taken.items():
        found.setdefault(f"{kind} {name}", []).append(value)


def _ours(hosts: ground.Hosts, uid: str, kind: str) -> Round:
    """One round; in the end all is as before it."""
    hosts.well()
    victim = _placed(hosts, kind)
    delay = random.uniform(*_DELAYS) if kind == "slow" else 0.0
    victim.slow_bmc(delay)
    with _meanwhile(victim.groups.freeze if delay else victim.off) as begun:  # off already, no BMC has to do anything
        ran, spoke = _seen(lambda: hosts.runs(uid, but=victim.name), hosts.serial(uid), begun)
    if delay:
        time.sleep(delay)  # a second order would hit the host's next life
        victim.slow_bmc(0.0)
    hosts.heal(victim)
    return {"runs": ran, "speaks": spoke} | ({"beyond": ran - delay} if delay else {})


def _placed(hosts: ground.Hosts, kind: str) -> machine.Machine:
    """Have the VM on the host that leads, and etcd's leader there too; or both on another."""
    with hosts.first as asked:
        leader = hosts.here.machine(asked.failovers.standing()["leader"])
        reach.have_etcd_led_by(hosts.here, leader)
        owner = hosts.owner(asked, _BOX)
        if (owner.name == leader.name) != (kind == "leads"):
            others = [one.name for one in hosts.machines if one.name != leader.name]
            to = leader.name if kind == "leads" else random.choice(others)
            hosts.done(asked, asked.vms.migrate(_BOX, to=to))
        hosts.well()
        return hosts.owner(asked, _BOX)


def _theirs(peer: pacemaker.Pacemaker, token: str, kind: str) -> Round:
    owner, leader = peer.owner(), peer.leader()
    if (owner == leader) != (kind == "leads"):
        others = [one.name for one in peer.here.machines() if one.name != leader]
        owner = leader if kind == "leads" else random.choice(others)
        peer.move(owner)
        measure.until(lambda: peer.serial.exists() and _quiet(peer.serial), what="a guest", within=_BOUND, every=0.1)
    victim = peer.here.machine(owner)
    with _meanwhile(victim.off) as begun:
        ran, spoke = _seen(lambda: peer.runs(but=owner), peer.serial, begun)
    peer.heal(victim, token)
    return {"runs": ran, "speaks": spoke}


@contextlib.contextmanager
def _meanwhile(fault: Callable[[], None]) -> Iterator[float]:
    """It is caused meanwhile; the monotonic time just before."""
    causing = threading.Thread(target=fault)
    begun = time.monotonic()
    causing.start()
    try:
        yield begun
    finally:
        causing.join()


def _seen(runs: Callable[[], float], serial: pathlib.Path, begun: float) -> tuple[float, float]:
    """Seconds until it runs, and until its serial line says something: it was at rest before."""
    said = serial.stat().st_size
    ran = runs()
    spoke = measure.until(lambda: serial.stat().st_size > said, what="the guest's first word", within=_BOUND)
    measure.until(lambda: b"tiny: ready" in _since(serial, said), what="the guest", within=_BOUND, every=0.1)
    return ran - begun, spoke - begun


def _since(log: pathlib.Path, size: int) -> bytes:
    with log.open("rb") as file:
        file.seek(size)
        return file.read()


def _quiet(log: pathlib.Path) -> bool:
    """Whether a guest has come up and says nothing more."""
    size = log.stat().st_size
    time.sleep(1.0)
    return b"tiny: ready" in log.read_bytes()[-400:] and log.stat().st_size == size


def _result(found: Mapping[str, list[float]]) -> measure.Result:
    result = measure.Result()

    def row(what: str, name: str, peer: str, of: Callable[[list[float]], float], times: float | None = None) -> None:
        theirs = of(found[peer])
        one = measure.Row(
            figure="failover", what=what, unit="s", ours=of(found[name]), peer=theirs,
            peer_is=f"Pacemaker, token {peer.removeprefix('apart ').removeprefix('leads ').rpartition(' ')[0]}",
            must=f"≤ {times:g} {measure.TIMES}" if times else "", limit=times and times * theirs, runs=found,
        )  # fmt: skip
        result.rows.append(one)

    for kind, words, times in (
        ("apart", "a host without leaders", 1.0),
        ("leads", "the host with both leaders", _LEADING),
    ):
        what = f"power cut → QEMU runs on another host, {words}"
        row(what, f"{kind} runs", f"{kind} 1 s runs", measure.median, times)
        row(what, f"{kind} runs", f"{kind} default runs", measure.median)
        row(f"{what}: worst", f"{kind} runs", f"{kind} 1 s runs", max)
        row(f"power cut → the guest's first word, {words}", f"{kind} speaks", f"{kind} 1 s speaks", measure.median)
    for what, of in (("", measure.median), (": worst", max)):
        result.rows.append(
            measure.Row(
                figure="failover",
                what=f"a host hangs, its BMC takes 1 to 11 s: beyond that{what}",
                unit="s",
                ours=of(found["slow beyond"]),
                must=f"≤ {_SLOW:g} s",
                limit=_SLOW,
                runs=found,
            )
        )
    result.notes.append(f"aim for a host without leaders: {_AIM:g} {measure.TIMES} Pacemaker with a token of 1 s")
    return result
