"""`vm start` accepted → vCPU running; beside bare QEMU with the same arguments, and `virsh start` of an equal VM.

QEMU's monitor for people is asked every half millisecond whether the vCPUs run, the same way on both
sides; ours counts from the API's 202. What carries the NIC (passt, or a tap on the network's bridge) is
made by us within that time and stands ready beforehand for bare QEMU; libvirt's VM has QEMU's own
user-mode network.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import pathlib
import time
from collections.abc import Callable, Mapping

from bench import bare, libvirt, measure, ours, session

_ABOVE_BARE = 60.0  # ms
_OF_VIRSH = 0.5
Sides = dict[str, Callable[[], Mapping[str, float]]]


def run(bench: session.Session) -> measure.Result:
    """The figure."""
    result = measure.Result()
    with contextlib.ExitStack() as undo:
        home = undo.enter_context(ours.running(bench.place("start"), bench.tiny))
        watching = undo.enter_context(concurrent.futures.ThreadPoolExecutor(1))
        machine = home.make("on-passt")
        sides: Sides = {
            **_both(bench, home, "on-passt", watching),
            "command": lambda: _command(home, "on-passt"),
        }
        peer = bench.libvirt_or_reason(home)
        if isinstance(peer, libvirt.Libvirt):
            peer.define("start", machine=machine, disk=bare.overlay(bench.tiny, bench.place("start-virsh")))
            undo.callback(peer.forget_all)
            sides["virsh"] = lambda: _virsh(peer, "start")
        else:
            result.notes.append(f"virsh start: not measured: {peer}")
        found = measure.alternate(bench.runs, sides)
        home.done(home.api.networks.create({"name": "nat", "kind": "nat"}))
        home.make("on-nat", nics=[{"network": "nat"}])
        found |= measure.alternate(bench.runs, _both(bench, home, "on-nat", watching))
    _rows(result, found)
    return result


def _both(bench: session.Session, home: ours.Ours, name: str, watching: concurrent.futures.ThreadPoolExecutor) -> Sides:
    """A VM of ours and the same line by hand; values are named `NAME running` and so on."""
    home.done(home.api.vms.start(name))  # its network stands from then on
    home.kill_vm(name)
    bridge = "" if name == "on-passt" else home.api.networks.get("nat")["status"]["bridge"]
    alone = bare.Bare(home.command(name), bench.place(f"{name}-bare"), bridge=bridge)
    monitor = home.monitor(home.vm(name))
    return {
        "ours": lambda: {f"{name} {key}": took for key, took in _ours(home, name, monitor, watching).items()},
        "bare": lambda: {f"{name} bare": _bare(alone)},
    }


def _rows(result: measure.Result, found: Mapping[str, list[float]]) -> None:
    median = {name: measure.median(values) for name, values in found.items()}

    def row(what: str, name: str, peer: str, peer_is: str, must: str = "", limit: float | None = None) -> None:
        one = measure.Row(
            figure="start", what=what, unit="ms", ours=median[name], peer=median[peer], peer_is=peer_is,
            must=must, limit=limit, runs=found,
        )  # fmt: skip
        result.rows.append(one)

    for where, words in (("on-passt", "NIC by passt"), ("on-nat", "NIC on a NAT bridge")):
        peer, limit = f"{where} bare", median[f"{where} bare"] + _ABOVE_BARE
        what = f"vm start accepted → vCPU running, {words}"
        row(what, f"{where} running", peer, "bare QEMU", f"≤ bare + {_ABOVE_BARE:g} ms", limit)
    if "virsh" in median:
        limit = median["virsh"] * _OF_VIRSH
        what, must = "vm start accepted → vCPU running, NIC by passt", f"≤ {_OF_VIRSH:g} {measure.TIMES} virsh"
        row(what, "on-passt running", "virsh", "virsh start", must, limit)
        row("bocage vm start, the whole command", "command", "virsh", "virsh start")
    row("vm start accepted → its task is done, at the client", "on-passt client", "on-passt bare", "bare QEMU")
    wrote = median["on-passt accepted"]
    result.notes.append(f"request sent → accepted (two resources written in one durable transaction): {wrote:.1f} ms")


def _ours(
    home: ours.Ours, name: str, monitor: pathlib.Path, watching: concurrent.futures.ThreadPoolExecutor
) -> dict[str, float]:
    seen = watching.submit(bare.running, monitor)
    sent = time.monotonic()
    task = home.api.vms.start(name)
    accepted = time.monotonic()
    home.done(task)
    client = time.monotonic()
    running = seen.result()
    home.kill_vm(name)
    return {
        "accepted": (accepted - sent) * 1000,
        "running": (running - accepted) * 1000,
        "client": (client - accepted) * 1000,
    }


def _command(home: ours.Ours, name: str) -> dict[str, float]:
    took = ours.cli(home, "vm", "start", name)
    home.kill_vm(name)
    return {"command": took}


def _bare(alone: bare.Bare) -> float:
    try:
        alone.ready()
        begun = alone.start()
        return (bare.running(alone.io / "hmp") - begun) * 1000
    finally:
        alone.end()


def _virsh(peer: libvirt.Libvirt, name: str) -> dict[str, float]:
    took = ours.timed(peer.virsh_command("start", name))
    peer.virsh("destroy", name)
    return {"virsh": took}
