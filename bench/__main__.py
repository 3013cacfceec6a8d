"""`python -m bench`: runs the figures that are named, or all, and prints them as one table."""

from __future__ import annotations

import argparse
import json
import pathlib
import signal
import sys
import time
import traceback
from types import FrameType

from bench import (
    api,
    cloning,
    daemon_memory,
    failover,
    false_alarms,
    firewall,
    first_line,
    image_import,
    machine,
    many_vms,
    measure,
    memory_policy,
    migration,
    moving,
    placement,
    reattach,
    saving,
    session,
    snapshots,
    start,
    table,
    vm_memory,
    watching,
)
from bench import list as list_

FIGURES = {
    "start": start,
    "first-line": first_line,
    "daemon-memory": daemon_memory,
    "vm-memory": vm_memory,
    "list": list_,
    "api": api,
    "reattach": reattach,
    "image-import": image_import,
    "firewall": firewall,
    "memory-policy": memory_policy,
    "snapshots": snapshots,
    "saving": saving,
    "cloning": cloning,
    "moving": moving,
    "placement": placement,
    "failover": failover,
    "migration": migration,
    "many-vms": many_vms,
    "watching": watching,
    "false-alarms": false_alarms,
}


def main() -> int:
    """The exit code: 0 also when a figure falls short; 1 when one could not be made."""
    asked = _arguments()
    signal.signal(signal.SIGTERM, _end)
    facts = machine.facts()
    print(table.heading(facts), flush=True)
    results: dict[str, measure.Result] = {}
    failed = False
    how = {"traces": asked.traces, "clusters": asked.clusters, "vms": asked.vms, "minutes": asked.minutes}
    with session.opened(asked.runs, **how) as opened:
        for name in asked.figures or FIGURES:
            begun = time.monotonic()
            print(f"{name} …", file=sys.stderr, end=" ", flush=True)
            try:
                results[name] = FIGURES[name].run(opened)
            except Exception as error:  # the others are printed all the same
                failed = True
                traceback.print_exc()
                results[name] = measure.Result(notes=[f"could not be made: {type(error).__name__}: {error}"])
            print(f"{time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    print(table.text(results))
    if asked.json:
        asked.json.write_text(json.dumps(_document(facts, asked.runs, results), indent=1) + "\n")
    return int(failed)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="script/bench", description="Print the figures beside those of the peers.")
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=f"of: {', '.join(FIGURES)} (default: all)")
    parser.add_argument("--runs", type=int, default=10, metavar="N", help="of each side (default: 10)")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write all values there, too")
    parser.add_argument("--traces", type=pathlib.Path, metavar="FILE", help="of memory-policy: what machines used")
    parser.add_argument(
        "--clusters", type=pathlib.Path, metavar="DIR", help="of placement: clusters as htools(1) has them"
    )
    parser.add_argument("--vms", type=int, default=50, metavar="N", help="of many-vms (default: 50)")
    parser.add_argument("--minutes", type=float, default=2.0, metavar="N", help="of false-alarms (default: 2)")
    asked = parser.parse_args()
    if unknown := [name for name in asked.figures if name not in FIGURES]:
        parser.error(f"no figure {', '.join(unknown)}; there are {', '.join(FIGURES)}")
    if asked.runs < 1:
        parser.error("--runs: 1 or more")
    return asked


def _document(facts: machine.Facts, runs: int, results: dict[str, measure.Result]) -> dict[str, object]:
    return {
        "machine": facts.document(),
        "runs": runs,
        "rows": [row.document() for result in results.values() for row in result.rows],
        "notes": {name: result.notes for name, result in results.items() if result.notes},
    }


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
