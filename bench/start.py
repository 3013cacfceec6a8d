"""`vm start` accepted → vCPU running; beside bare QEMU with the same arguments, and `virsh start` of an equal VM.

QEMU's monitor for people is asked every half millisecond whether the vCPUs run, the same way on both
sides; ours counts from the API's 202. What carries the NIC (passt) is started by us within that time
and stands ready beforehand for bare QEMU; libvirt's VM has QEMU's own user-mode network.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import time
from collections.abc import Callable, Mapping

from bench import bare, libvirt, measure, ours, session

_ABOVE_BARE = 60.0  # ms
_OF_VIRSH = 0.5


def run(bench: session.Session) -> measure.Result:
    """The figure."""
    result = measure.Result()
    with contextlib.ExitStack() as undo:
        home = undo.enter_context(ours.running(bench.place("start"), bench.tiny))
        machine = home.make("start")
        alone = bare.Bare(home.command("start"), bench.place("start-bare"))
        watching = undo.enter_context(concurrent.futures.ThreadPoolExecutor(1))
        sides: dict[str, Callable[[], Mapping[str, float]]] = {
            "ours": lambda: _ours(home, machine, watching),
            "command": lambda: _command(home, machine),
            "bare": lambda: _bare(alone),
        }
        peer = bench.libvirt_or_reason(home)
        if isinstance(peer, libvirt.Libvirt):
            peer.define("start", machine=machine, disk=bare.overlay(bench.tiny, bench.place("start-virsh")))
            undo.callback(peer.forget_all)
            sides["virsh"] = lambda: _virsh(peer, "start")
        else:
            result.notes.append(f"virsh start: not measured: {peer}")
        found = measure.alternate(bench.runs, sides)
    _rows(result, found)
    return result


def _rows(result: measure.Result, found: Mapping[str, list[float]]) -> None:
    median = {name: measure.median(values) for name, values in found.items()}

    def row(what: str, name: str, peer: str, peer_is: str, must: str = "", limit: float | None = None) -> None:
        one = measure.Row(
            figure="start", what=what, unit="ms", ours=median[name], peer=median[peer], peer_is=peer_is,
            must=must, limit=limit, runs=found,
        )  # fmt: skip
        result.rows.append(one)

    what = "vm start accepted → vCPU running"
    row(what, "running", "bare", "bare QEMU", f"≤ bare + {_ABOVE_BARE:g} ms", median["bare"] + _ABOVE_BARE)
    if "virsh" in median:
        limit = median["virsh"] * _OF_VIRSH
        row(what, "running", "virsh", "virsh start", f"≤ {_OF_VIRSH:g} {measure.TIMES} virsh", limit)
        row("bocage vm start, the whole command", "command", "virsh", "virsh start")
    row("vm start accepted → its task is done, at the client", "client", "bare", "bare QEMU")
    wrote = median["accepted"]
    result.notes.append(f"request sent → accepted (two resources written in one durable transaction): {wrote:.1f} ms")


def _ours(home: ours.Ours, machine: ours.Document, watching: concurrent.futures.ThreadPoolExecutor) -> dict[str, float]:
    seen = watching.submit(bare.running, home.monitor(machine))
    sent = time.monotonic()
    task = home.api.vms.start("start")
    accepted = time.monotonic()
    home.done(task)
    client = time.monotonic()
    running = seen.result()
    home.kill_vm("start")
    return {
        "accepted": (accepted - sent) * 1000,
        "running": (running - accepted) * 1000,
        "client": (client - accepted) * 1000,
    }


def _command(home: ours.Ours, machine: ours.Document) -> dict[str, float]:
    took = ours.cli(home, "vm", "start", "start")
    home.kill_vm("start")
    return {"command": took}


def _bare(alone: bare.Bare) -> dict[str, float]:
    try:
        alone.ready()
        begun = alone.start()
        return {"bare": (bare.running(alone.io / "hmp") - begun) * 1000}
    finally:
        alone.end()


def _virsh(peer: libvirt.Libvirt, name: str) -> dict[str, float]:
    took = ours.timed(peer.virsh_command("start", name))
    peer.virsh("destroy", name)
    return {"virsh": took}
