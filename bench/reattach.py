"""Daemon restart with 20 running VMs → all re-attached; beside `libvirtd` with as many domains. And the daemon's CPU.

Counted from the start of the new process. Ours has its VMs again at the time that the event `vms-found` tells
(QMP of each is connected and has been asked); libvirtd when it passes a question on to the VM's monitor.
The CPU is that of a minute in which nobody asks for anything: what measuring the VMs and looking after them takes.
"""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Callable, Mapping

from bench import bare, libvirt, measure, ours, session

VMS = 20
_BOUND = 120.0
_WINDOW = 60.0  # seconds
_READY = b"tiny: ready"


def run(bench: session.Session) -> measure.Result:
    """The figure."""
    result = measure.Result()
    names = [f"vm-{number}" for number in range(VMS)]
    with contextlib.ExitStack() as undo:
        home = undo.enter_context(ours.running(bench.place("reattach"), bench.tiny))
        home.make_many(VMS)
        for name in names:  # one after another: so many guests that boot at once would be slow beyond all bounds
            home.done(home.api.vms.start(name))
            bare.line_that_says(home.serial(home.vm(name)), _READY)
        sides: dict[str, Callable[[], Mapping[str, float]]] = {"ours": lambda: _ours(home)}
        peer = bench.libvirt_or_reason(home)
        if isinstance(peer, libvirt.Libvirt):
            undo.callback(peer.forget_all)
            for name in names:
                disk = bare.overlay(bench.tiny, bench.place(f"reattach-{name}"))
                peer.define(name, machine=home.vm(name), disk=disk)
                peer.virsh("start", name)
                bare.line_that_says(peer.serial(name), _READY)
            sides["peer"] = lambda: _peer(peer, names)
        else:
            result.notes.append(f"libvirtd: not measured: {peer}")
        found = measure.alternate(bench.runs, sides)
        before = measure.cpu([home.pid])
        time.sleep(_WINDOW)
        busy = (measure.cpu([home.pid]) - before) / _WINDOW * 100
    theirs = measure.median(found["peer"]) if "peer" in found else None
    result.rows.append(
        measure.Row(
            figure="reattach", what=f"daemon restart → {VMS} running VMs re-attached", unit="ms",
            ours=measure.median(found["ours"]), peer=theirs, peer_is="libvirtd",
            must=f"≤ 1 {measure.TIMES}", limit=theirs, runs=found,
        )
    )  # fmt: skip
    what = f"CPU of the daemon that measures {VMS} running VMs"
    result.rows.append(measure.Row(figure="reattach", what=what, unit="% of a core", ours=busy))
    result.notes.append(f"ours, start → the API answers: {measure.median(found['answers']):.0f} ms")
    return result


def _ours(home: ours.Ours) -> dict[str, float]:
    last = home.api.events.list()["revision"]
    home.stop()
    home.api.connection.close()
    clock = time.time() - time.monotonic()
    begun = home.spawn()
    answered = measure.until(home.answers, what="the daemon", within=_BOUND)
    found: list[float] = []

    def all_found() -> bool:
        for event in home.api.events.list(limit=100)["items"]:
            said = event["spec"]["said"]
            if event["metadata"]["revision"] > last and said["type"] == "vms-found" and said["params"]["count"] == VMS:
                found.append(datetime.datetime.fromisoformat(event["spec"]["time"]).timestamp() - clock)
        return bool(found)

    measure.until(all_found, what="all VMs", within=_BOUND, every=0.005)
    ours.settled(home)
    return {"answers": (answered - begun) * 1000, "ours": (found[0] - begun) * 1000}


def _peer(peer: libvirt.Libvirt, names: list[str]) -> dict[str, float]:
    peer.stop_daemon()
    begun = peer.start_daemon()
    asked = [f"qemu-monitor-command {name} query-status" for name in names]

    def answered() -> bool:
        try:
            return peer.virsh(script=asked).count('"status":"running"') == VMS
        except libvirt.Failed:
            return False

    return {"peer": (measure.until(answered, what="all domains", within=_BOUND) - begun) * 1000}
