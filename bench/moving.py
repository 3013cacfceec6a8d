"""A running VM's move to another storage, MiB of its disk a second; beside `qemu-img convert` of the same file.

Ours goes from the request until the task is done, the old files are gone and the new ones are synced; the guest runs
on. The disk has 1 GiB, half of it written. The pause is seen as for snapshots.
"""

from __future__ import annotations

import contextlib
import itertools
import pathlib
import subprocess
import time

from bench import bare, gaps, measure, ours, session

_WRITTEN = 512  # MiB
_OF_CONVERT = 0.8
_READY = b"tiny: ready"


def run(bench: session.Session) -> measure.Result:
    """The figure."""
    place = bench.place("moving-peer")
    with contextlib.ExitStack() as undo:
        home = undo.enter_context(ours.running(bench.place("moving"), bench.tiny))
        other = bench.place("moving-other") / "storage"
        home.done(home.api.storage.create({"name": "other", "path": str(other)}))
        machine = home.make("moved", nics=[], disks=[{"size": "1G"}])
        path = home.disk(machine).with_name("disk1.qcow2")
        line = ["qemu-io", "-f", "qcow2", "-c", f"write -P 11 0 {_WRITTEN}M", str(path)]
        subprocess.run(line, check=True, capture_output=True)
        source = place / "disk.qcow2"
        subprocess.run(["cp", "--sparse=always", str(path), str(source)], check=True)
        home.done(home.api.vms.start("moved"))
        bare.line_that_says(home.serial(machine), _READY)
        gaps.count_ours(home, "moved")
        to = itertools.cycle(["other", "local"])
        sides = {
            "ours": lambda: _ours(home, next(to)),
            "peer": lambda: {"peer": _convert(source, sync=False)},
            "synced": lambda: {"synced": _convert(source, sync=True)},
        }
        found = measure.alternate(bench.runs, sides)
    rows = []
    for side, words in (("peer", "qemu-img convert, which does not sync"), ("synced", "qemu-img convert and sync")):
        theirs = measure.median(found[side])
        must, limit = (f"≥ {_OF_CONVERT:g} {measure.TIMES}", _OF_CONVERT * theirs) if side == "peer" else ("", None)
        rows.append(
            measure.Row(
                figure="moving", what="move of a running VM to another storage", unit="MiB/s",
                ours=measure.median(found["ours"]), peer=theirs, peer_is=words, must=must, limit=limit, at_least=True,
                runs=found,
            )
        )  # fmt: skip
    pause = measure.Row(figure="moving", what="guest's pause for it", unit="ms", ours=measure.median(found["pause"]))
    return measure.Result([*rows, pause])


def _ours(home: ours.Ours, to: str) -> dict[str, float]:
    uid = home.vm("moved")["metadata"]["uid"]
    roots = [pathlib.Path(one["spec"]["path"]) for one in home.api.storage.list()["items"]]
    with gaps.watched(*(root / "vms" / uid / "serial.log" for root in roots)) as gap:
        begun = time.monotonic()
        home.done(home.api.vms.move("moved", storage=to))
        took = time.monotonic() - begun
    return {"ours": _WRITTEN / took, "pause": gap.longest}


def _convert(source: pathlib.Path, *, sync: bool) -> float:
    target = source.with_name("converted.qcow2")
    begun = time.monotonic()
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", str(source), str(target)], check=True)
    if sync:
        subprocess.run(["sync", str(target)], check=True)
    took = time.monotonic() - begun
    target.unlink()
    return _WRITTEN / took
