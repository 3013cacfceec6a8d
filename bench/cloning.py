"""A linked clone of an image of 10 GiB until it runs; beside `qemu-img create -b` and bare QEMU."""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
import shutil
import subprocess
import time

from bench import bare, measure, ours, session

_SIZE = 10 << 30  # bytes
_OF_BARE = 1.3


def run(bench: session.Session) -> measure.Result:
    """The figure."""
    place = bench.place("cloning-bare")
    large = place / "base.raw"
    shutil.copy(bench.tiny, large)
    os.truncate(large, _SIZE)
    with contextlib.ExitStack() as undo:
        home = undo.enter_context(ours.running(bench.place("cloning")))
        home.done(home.api.images.create({"name": "large", "path": str(large), "file_name": "large.raw"}))
        home.make("model", image="large", nics=[])
        alone = bare.Bare(home.command("model"), place).uses(place / "disk.qcow2")
        names = (f"clone-{number}" for number in itertools.count())
        sides = {"ours": lambda: _ours(home, next(names)), "bare": lambda: _bare(alone, place)}
        found = measure.alternate(bench.runs, sides)
    mine, peer = measure.median(found["ours"]), measure.median(found["bare"])
    row = measure.Row(
        figure="cloning", what="linked clone of an image of 10 GiB → running", unit="ms", ours=mine, peer=peer,
        peer_is="qemu-img create -b, bare QEMU", must=f"≤ {_OF_BARE:g} {measure.TIMES}", limit=_OF_BARE * peer,
        runs=found,
    )  # fmt: skip
    return measure.Result([row], [f"until the task is done, at the client: {measure.median(found['client']):.0f} ms"])


def _ours(home: ours.Ours, name: str) -> dict[str, float]:
    sent = time.monotonic()
    task = home.api.vms.create({"name": name, **ours.WANTED, "image": "large", "nics": [], "start": True})
    machine = home.vm(name)
    running = bare.running(home.monitor(machine))
    home.done(task)
    client = time.monotonic()
    home.done(home.api.vms.remove(name, force=True, purge=True))
    return {"ours": (running - sent) * 1000, "client": (client - sent) * 1000}


def _bare(alone: bare.Bare, place: pathlib.Path) -> dict[str, float]:
    disk = place / "disk.qcow2"
    try:
        alone.ready()
        begun = time.monotonic()
        line = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", str(disk)]
        subprocess.run(line, check=True)
        alone.start()
        return {"bare": (bare.running(alone.io / "hmp") - begun) * 1000}
    finally:
        alone.end()
        disk.unlink(missing_ok=True)
