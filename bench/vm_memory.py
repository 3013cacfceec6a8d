"""Memory of one VM: all processes of its control group, once its guest is up; beside bare QEMU, the same line.

PSS (proc(5)) counts pages that several processes share in parts, so that the sum over a group is right.
"""

from __future__ import annotations

import contextlib
import pathlib
import time

from bench import bare, measure, ours, session

_OF_BARE = 1.05
_REST = 3.0  # seconds after the guest's line
_READY = b"tiny: ready"


def run(bench: session.Session) -> measure.Result:
    """The figure."""
    with contextlib.ExitStack() as undo:
        home = undo.enter_context(ours.running(bench.place("vm-memory"), bench.tiny))
        machine = home.make("memory")
        alone = bare.Bare(home.command("memory"), bench.place("vm-memory-bare"))
        found = measure.alternate(bench.runs, {"ours": lambda: _ours(home, machine), "bare": lambda: _bare(alone)})
    median = {name: measure.median(values) for name, values in found.items()}
    helpers = sum(value for name, value in median.items() if name.startswith("helper "))
    limit = _OF_BARE * median["bare"] + helpers
    row = measure.Row(
        figure="vm-memory", what=f"memory of one VM of {ours.WANTED['memory']} (PSS)", unit="MiB", ours=median["all"],
        peer=median["bare"], peer_is="bare QEMU",
        must=f"≤ {_OF_BARE:g} {measure.TIMES} bare + helpers", limit=limit, runs=found,
    )  # fmt: skip
    told = [f"{name.removeprefix('helper ')} {value:.1f} MiB" for name, value in median.items() if "helper" in name]
    return measure.Result([row], [f"QEMU {median['qemu']:.1f} MiB; helpers: {', '.join(told) or 'none'}"])


def _ours(home: ours.Ours, machine: ours.Document) -> dict[str, float]:
    home.serial(machine).write_bytes(b"")
    home.done(home.api.vms.start("memory"))
    bare.line_that_says(home.serial(machine), _READY)
    time.sleep(_REST)
    main = home.vm("memory")["status"]["pid"]
    found = {"qemu": measure.pss([main])}
    for pid in home.members(machine):
        if pid != main:
            name = "helper " + pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
            found[name] = found.get(name, 0.0) + measure.pss([pid])
    home.kill_vm("memory")
    return {**found, "all": sum(found.values())}


def _bare(alone: bare.Bare) -> dict[str, float]:
    try:
        alone.ready()
        alone.start()
        bare.line_that_says(alone.serial, _READY)
        time.sleep(_REST)
        return {"bare": measure.pss([alone.pid])}
    finally:
        alone.end()
