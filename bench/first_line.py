"""Create from image → the guest's first line on its serial line; beside bare QEMU on a disk that is ready."""

from __future__ import annotations

import contextlib
import itertools
import time

from bench import bare, measure, ours, session

_OF_BARE = 1.2


def run(bench: session.Session) -> measure.Result:
    """The figure."""
    with contextlib.ExitStack() as undo:
        home = undo.enter_context(ours.running(bench.place("first-line"), bench.tiny))
        home.make("model")
        place = bench.place("first-line-bare")
        alone = bare.Bare(home.command("model"), place).uses(bare.overlay(bench.tiny, place))
        names = (f"fresh-{number}" for number in itertools.count())
        found = measure.alternate(bench.runs, {"ours": lambda: _ours(home, next(names)), "bare": lambda: _bare(alone)})
    mine, peer = measure.median(found["ours"]), measure.median(found["bare"])
    row = measure.Row(
        figure="first-line", what="create from image → guest's first line", unit="ms", ours=mine, peer=peer,
        peer_is="bare QEMU, ready disk", must=f"≤ {_OF_BARE:g} {measure.TIMES}", limit=_OF_BARE * peer, runs=found,
    )  # fmt: skip
    created = measure.median(found["created"])
    return measure.Result([row], [f"of ours, request sent → process there: {created:.0f} ms"])


def _ours(home: ours.Ours, name: str) -> dict[str, float]:
    sent = time.monotonic()
    task = home.api.vms.create({"name": name, **ours.WANTED, "start": True})
    machine = home.vm(name)
    process = measure.until((home.runtime(machine) / "process.json").exists, what="the process", within=60)
    said = bare.line_that_says(home.serial(machine))
    home.done(task)
    home.done(home.api.vms.remove(name, force=True, purge=True))
    return {"created": (process - sent) * 1000, "ours": (said - sent) * 1000}


def _bare(alone: bare.Bare) -> dict[str, float]:
    try:
        alone.ready()
        begun = alone.start()
        return {"bare": (bare.line_that_says(alone.serial) - begun) * 1000}
    finally:
        alone.end()
