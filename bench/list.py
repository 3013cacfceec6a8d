"""`bocage vm list` with 200 VMs, the whole command; beside `virsh list --all` with as many domains."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

from bench import bare, libvirt, measure, ours, session

VMS = 200
_BOUND = 250.0  # ms


def run(bench: session.Session) -> measure.Result:
    """The figure."""
    result = measure.Result()
    with contextlib.ExitStack() as undo:
        home = undo.enter_context(ours.running(bench.place("list"), bench.tiny))
        home.make_many(VMS)
        ours.settled(home)
        sides: dict[str, Callable[[], Mapping[str, float]]] = {"ours": lambda: {"ours": ours.cli(home, "vm", "list")}}
        peer = bench.libvirt_or_reason(home)
        if isinstance(peer, libvirt.Libvirt):
            disk = bare.overlay(bench.tiny, bench.place("list-virsh"))
            undo.callback(peer.forget_all)
            peer.define(*(f"vm-{number}" for number in range(VMS)), machine=home.vm("vm-0"), disk=disk)
            command = peer.virsh_command("list", "--all")
            sides["virsh"] = lambda: {"virsh": ours.timed(command)}
        else:
            result.notes.append(f"virsh list: not measured: {peer}")
        found = measure.alternate(bench.runs, sides)
    result.rows.append(
        measure.Row(
            figure="list", what=f"bocage vm list with {VMS} VMs", unit="ms", ours=measure.median(found["ours"]),
            peer=measure.median(found["virsh"]) if "virsh" in found else None, peer_is="virsh list --all",
            must=f"≤ {_BOUND:g} ms", limit=_BOUND, runs=found,
        )
    )  # fmt: skip
    return result
