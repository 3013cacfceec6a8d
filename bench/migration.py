"""A live migration: the guest's pause and the time in all, beside bare QEMU driven by a script.

The guest has 256 MiB, has filled half of them and goes on writing; its pause is seen on its serial line's log, the same
way on both sides. Both sides start the target's QEMU as part of it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping

from tests import built
from tests.ground import init

from bench import bare, gaps, ground, measure, pacemaker, session
from bocage.engine import passing

_MEMORY, _FILLED = "256M", 128  # MiB
_NAME = "goes"
_DIRTIES = "(while :; do head -c 4m /m/f >/m/d; done) & "
_ABOVE = 10.0  # ms beside a transaction of the store
_TOTAL = 1.5
_BOUND = 180.0
_TRANSACTIONS = """
import base64, httpx, json, ssl, statistics, sys, time
papers, address = sys.argv[1:]
trusted = ssl.create_default_context(cafile=f"{papers}/ca.crt")
trusted.load_cert_chain(f"{papers}/host.crt", f"{papers}/host.key")
key, took = base64.b64encode(b"/bench").decode(), []
with httpx.Client(verify=trusted, base_url=f"https://{address}:2379/v3/", timeout=30.0) as etcd:
    for number in range(50):
        put = {"request_put": {"key": key, "value": base64.b64encode(b"%d" % number).decode()}}
        begun = time.monotonic()
        etcd.post("kv/txn", json={"success": [put]}).raise_for_status()
        took.append((time.monotonic() - begun) * 1000)
    etcd.post("kv/deleterange", json={"key": key}).raise_for_status()
print(json.dumps(statistics.median(took)))
"""


def run(bench: session.Session) -> measure.Result:
    """The figure."""
    with contextlib.ExitStack() as undo:
        hosts = bench.hosts
        hosts.make(_NAME, memory=_MEMORY)
        with hosts.first as asked:
            uid = asked.vms.get(_NAME)["metadata"]["uid"]
            line = pacemaker.line_of(asked.vms.command(_NAME)["command"], uid)
            asked.vms.expect(_NAME, "^filled-1", send=gaps.FILL.format(mib=_FILLED), timeout=_BOUND)
            asked.vms.expect(_NAME, "^50$", send=_DIRTIES + gaps.COUNT, timeout=_BOUND)
        transaction = _transaction(hosts)
        place = bench.place("migration")
        shutil.copy(hosts.serial(uid).parent / "disks" / "disk0.qcow2", place / "disk.qcow2")
        shutil.copy(built.tiny_image(), place / "base.raw")
        peer = undo.enter_context(contextlib.closing(_Bare(line, place)))
        peer.begin()
        sides = {
            "ours": lambda: _ours(hosts, uid, live=True),
            "standing": lambda: {f"standing {name}": value for name, value in _ours(hosts, uid, live=False).items()},
            "bare": peer.migrate,
        }
        found = measure.alternate(bench.runs, sides)
        with hosts.first as asked:
            hosts.done(asked, asked.vms.remove(_NAME, force=True, purge=True))
    median = {name: measure.median(values) for name, values in found.items()}
    limit = median["bare pause"] + transaction + _ABOVE
    rows = [
        measure.Row(
            figure="migration", what="live migration (--live): the guest's pause", unit="ms", ours=median["pause"],
            peer=median["bare pause"], peer_is="bare QEMU by a script", must="≤ bare + a transaction + 10 ms",
            limit=limit, runs=found,
        ),
        measure.Row(
            figure="migration", what="live migration (--live): in all", unit="s", ours=median["total"],
            peer=median["bare total"], peer_is="bare QEMU by a script", must=f"≤ {_TOTAL:g} {measure.TIMES}",
            limit=_TOTAL * median["bare total"], runs=found,
        ),
        measure.Row(
            figure="migration", what="what runs without KVM (--no-live): the guest's pause", unit="ms",
            ours=median["standing pause"], peer=median["bare pause"], peer_is="bare QEMU by a script", runs=found,
        ),
        measure.Row(
            figure="migration", what="the same: in all", unit="s", ours=median["standing total"],
            peer=median["bare total"], peer_is="bare QEMU by a script", runs=found,
        ),
    ]  # fmt: skip
    return measure.Result(rows, [f"a transaction of the store, in the same minutes: {transaction:.1f} ms"])


def _transaction(hosts: ground.Hosts) -> float:
    """Milliseconds that one takes, asked on a host of its own member."""
    one = hosts.machines[0]
    done = one.run(sys.executable, "-c", _TRANSACTIONS, str(init.HOME / "cluster"), one.address, within=_BOUND)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return float(json.loads(done.stdout))


def _ours(hosts: ground.Hosts, uid: str, *, live: bool) -> Mapping[str, float]:
    with hosts.first as asked:
        owner = hosts.owner(asked, _NAME)
        to = next(one.name for one in hosts.machines if one.name != owner.name)
        with gaps.watched(hosts.serial(uid)) as gap:
            begun = time.monotonic()
            hosts.done(asked, asked.vms.migrate(_NAME, to=to, live=live))
            took = time.monotonic() - begun
    return {"total": took, "pause": gap.longest}


class _Bare:
    """The same machine by hand: one QEMU after the other, each with its own sockets."""

    def __init__(self, line: list[str], at: pathlib.Path) -> None:
        self._at = at
        self._line = [part.replace("/srv/array/", f"{at}/") for part in line]
        self._log = at / "serial.log"
        self._turn = 0
        self._all: list[subprocess.Popen[bytes]] = []

    def begin(self) -> None:
        """Have its guest write to its memory, and count."""
        self._start()
        io = self._io()
        self._log.touch()
        measure.until(functools.partial(self._said, b"tiny: ready"), what="bare guest", within=_BOUND, every=0.1)
        for words, said in ((gaps.FILL.format(mib=_FILLED), b"\nfilled-1"), (_DIRTIES + gaps.COUNT, b"\n50\r")):
            with open(io / "tty.in", "wb", buffering=0) as typed:
                typed.write(words.encode() + b"\r")
            measure.until(functools.partial(self._said, said), what="bare guest", within=_BOUND, every=0.1)

    def _said(self, words: bytes) -> bool:
        return words in self._log.read_bytes()

    def migrate(self) -> Mapping[str, float]:
        """To a second QEMU, which stays."""
        source, (before,) = self._io(), self._all
        with gaps.watched(self._log) as gap:
            begun = time.monotonic()
            self._turn += 1
            self._start("-incoming", f"unix:{self._io()}/stream")
            measure.until((self._io() / "stream").is_socket, what="the target", within=_BOUND)
            with bare.asking(source / "hmp") as ask:
                ask(f"migrate_set_parameter downtime-limit {int(passing.DOWNTIME * 1000)}")
                ask("migrate_set_parameter max-bandwidth 0")
                ask(f"migrate -d unix:{self._io()}/stream")
                measure.until(
                    lambda: re.search("Migration status: (completed|failed)", ask("info migrate")) is not None,
                    what="the migration", within=_BOUND, every=0.005,
                )  # fmt: skip
            bare.running(self._io() / "hmp")
            took = time.monotonic() - begun
        self._end(before)
        return {"bare total": took, "bare pause": gap.longest}

    def close(self) -> None:
        """End what runs."""
        for one in list(self._all):
            self._end(one)

    def _end(self, one: subprocess.Popen[bytes]) -> None:
        one.kill()
        one.wait()
        self._all.remove(one)

    def _io(self) -> pathlib.Path:
        return self._at / str(self._turn)

    def _start(self, *more: str) -> None:
        io = self._io()
        io.mkdir()
        os.mkfifo(io / "tty.in")
        (io / "tty.out").symlink_to(os.devnull)
        line = [part.replace(f"{pacemaker.BOX}/", f"{io}/") for part in self._line]
        with (self._at / "qemu.log").open("ab") as log:
            self._all.append(subprocess.Popen([*line, *more], stdin=subprocess.DEVNULL, stdout=log, stderr=log))
