"""Every CPU is busy on all hosts, and now and then a packet is lost: how often a host was taken for dead."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator

from tests.ground import faults, reach

from bench import ground, measure, session

_LOSS = 1  # percent of all packets between hosts
_BURNERS = 2  # processes on each host that never rest
_LOOK = 1.0
_BURN = "while True: pass"


def run(bench: session.Session) -> measure.Result:
    """The figure."""
    hosts = bench.hosts
    hosts.well()
    before = _failovers(hosts)
    silent = 0
    with _busy(hosts), faults.lossy(hosts.here, _LOSS):
        over = time.monotonic() + bench.minutes * 60
        while time.monotonic() < over:
            time.sleep(_LOOK)
            silent += _silent(hosts)
    hosts.well()
    row = measure.Row(
        figure="false-alarms", what=f"hosts taken for dead in {bench.minutes:g} min, all CPUs busy, {_LOSS} % loss",
        unit="", ours=float(_failovers(hosts) - before), must="none", limit=0.0,
    )  # fmt: skip
    return measure.Result([row], [f"looks at which a host was not heard: {silent} of {bench.minutes * 60 / _LOOK:.0f}"])


@contextlib.contextmanager
def _busy(hosts: ground.Hosts) -> Iterator[None]:
    burning = [
        subprocess.Popen(one.command(sys.executable, "-c", _BURN), preexec_fn=one.groups.enter)
        for one in hosts.machines
        for _ in range(_BURNERS)
    ]
    try:
        yield
    finally:
        for one in burning:
            one.kill()
            one.wait()


def _failovers(hosts: ground.Hosts) -> int:
    with hosts.first as asked:
        return len(asked.failovers.list()["items"])


def _silent(hosts: ground.Hosts) -> int:
    """1 when one of them is not heard now, or nobody says so."""
    try:
        with reach.api(hosts.machines[0]) as asked:
            return int(any(one["state"] != "beats" for one in asked.failovers.standing()["hosts"]))
    except reach.Unreachable:
        return 1
