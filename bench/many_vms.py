"""A host with many small VMs dies: until the last one runs elsewhere, beside starting as many on hosts that idle."""

from __future__ import annotations

import threading
import time

from tests.ground import machine, reach

from bench import ground, measure, session
from bocage.client import rest

_MEMORY = "96M"
_OF_START = 2.0


def run(bench: session.Session) -> measure.Result:
    """The figure."""
    hosts, count = bench.hosts, bench.vms
    with hosts.first as asked:
        leader = hosts.here.machine(asked.failovers.standing()["leader"])
        victim = next(one for one in hosts.machines if one.name != leader.name)
        reach.have_etcd_led_by(hosts.here, leader)
        names = _made(hosts, asked, victim, count)
    hosts.well()
    with reach.api(leader) as asked:
        uids = [asked.vms.get(name)["metadata"]["uid"] for name in names]
        begun = time.monotonic()
        for name in names:
            asked.vms.start(name)
        started = _last(hosts, uids) - begun
        hosts.well()
        cutting = threading.Thread(target=victim.off)
        begun = time.monotonic()
        cutting.start()
        took = _last(hosts, uids, but=victim.name) - begun
        cutting.join()
        for name in names:
            asked.vms.act(name, "kill")
        hosts.heal(victim)
        for task in [asked.vms.remove(name, force=True, purge=True) for name in names]:
            hosts.done(asked, task)
    row = measure.Row(
        figure="many-vms", what=f"power cut of a host with {count} VMs → the last one runs elsewhere", unit="s",
        ours=took, peer=started, peer_is=f"ours: starting {count} on a host", must=f"≤ {_OF_START:g} {measure.TIMES}",
        limit=_OF_START * started,
    )  # fmt: skip
    return measure.Result([row])


def _made(hosts: ground.Hosts, asked: rest.Client, at: machine.Machine, count: int) -> list[str]:
    """VMs that are off, all on one host."""
    others = [one.name for one in hosts.machines if one.name != at.name]
    names = [f"many-{number}" for number in range(count)]
    for name in others:
        hosts.done(asked, asked.hosts.drain(name))
    wanted = {"image": "tiny", "memory": _MEMORY, "storage": "array", "nics": []}
    for task in [asked.vms.create({"name": name, **wanted}) for name in names]:
        hosts.done(asked, task)
    for name in others:
        asked.hosts.undrain(name)
    return names


def _last(hosts: ground.Hosts, uids: list[str], *, but: str = "") -> float:
    """The monotonic time at which the last one's vCPUs run, on another host than `but`."""
    return max(hosts.runs(uid, but=but) for uid in uids)
