"""Save and resume of a guest of 512 MiB: time and bytes; beside `virsh managedsave` and `virsh start`.

Half of the memory is in use. Resumed is when QEMU's monitor says that the vCPUs run. Ours syncs what it saved.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import pathlib
import time

from bench import bare, gaps, libvirt, measure, ours, session
from bocage import files

_MEMORY = "512M"
_FILL = 256  # MiB
_READY = b"tiny: ready"


def run(bench: session.Session) -> measure.Result:
    """The figure."""
    result = measure.Result()
    with contextlib.ExitStack() as undo:
        home = undo.enter_context(ours.running(bench.place("saving"), bench.tiny))
        watching = undo.enter_context(concurrent.futures.ThreadPoolExecutor(1))
        machine = home.make("saved", nics=[], memory=_MEMORY)
        home.done(home.api.vms.start("saved"))
        bare.line_that_says(home.serial(machine), _READY)
        gaps.count_ours(home, "saved", fill=_FILL)
        sides = {"ours": lambda: _ours(home, machine, watching)}
        peer = bench.libvirt_or_reason(home)
        if isinstance(peer, libvirt.Libvirt):
            peer.define("saved", machine=machine, disk=bare.overlay(bench.tiny, bench.place("saving-virsh")))
            undo.callback(peer.forget_all)
            peer.virsh("start", "saved")
            bare.line_that_says(peer.serial("saved"), _READY)
            gaps.count_theirs(peer, "saved", fill=_FILL)
            sides["peer"] = lambda: _theirs(peer, "saved")
        else:
            result.notes.append(f"virsh: not measured: {peer}")
        found = measure.alternate(bench.runs, sides)
    for what, unit, peer_is in (
        ("save", "ms", "virsh managedsave"),
        ("resume", "ms", "virsh start"),
        ("bytes", "MiB", "virsh managedsave"),
    ):
        theirs = measure.median(found[f"peer {what}"]) if f"peer {what}" in found else None
        words = {"save": "save", "resume": "resume", "bytes": "bytes written by a save"}[what]
        result.rows.append(
            measure.Row(
                figure="saving", what=f"{words}, guest of {_MEMORY}, {_FILL} MiB in use", unit=unit,
                ours=measure.median(found[what]), peer=theirs, peer_is=peer_is, must=f"≤ 1 {measure.TIMES}",
                limit=theirs, runs=found,
            )
        )  # fmt: skip
    return result


def _ours(home: ours.Ours, machine: ours.Document, watching: concurrent.futures.ThreadPoolExecutor) -> dict[str, float]:
    begun = time.monotonic()
    home.done(home.api.vms.act("saved", "save"))
    saved = time.monotonic()
    size = files.allocated(home.serial(machine).with_name("saved.state"))
    seen = watching.submit(bare.running, home.monitor(machine))
    started = time.monotonic()
    home.done(home.api.vms.start("saved"))
    resumed = seen.result()
    return {"save": (saved - begun) * 1000, "resume": (resumed - started) * 1000, "bytes": size / measure.MIB}


def _theirs(peer: libvirt.Libvirt, name: str) -> dict[str, float]:
    save = ours.timed(peer.virsh_command("managedsave", name))
    size = files.allocated(_file(peer.at, name))
    resume = ours.timed(peer.virsh_command("start", name))
    return {"peer save": save, "peer resume": resume, "peer bytes": size / measure.MIB}


def _file(at: pathlib.Path, name: str) -> pathlib.Path:
    return at / "lib" / "qemu" / "save" / f"{name}.save"
