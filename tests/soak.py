"""The soak: rounds of `tests.daemon.kill`, all of `tests.faults`, rounds on sites; it can be interrupted and resumed.

Each round is made of the seed and its number alone, so any one of them can be played again.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import datetime
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import bocage
from bocage.guest import tiny
from tests import faults
from tests.daemon import host as hosts
from tests.daemon import kill
from tests.ground import soak as sites

TOP = pathlib.Path(__file__).parent.parent
STATE = pathlib.Path(tempfile.gettempdir()) / "bocage-soak"
PER_HOST = 25  # rounds after which everything is built anew


def main() -> int:
    """Play the rounds that are left; exit status 1 at the first that fails."""
    parser = argparse.ArgumentParser(prog="script/soak")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--site-rounds", type=int, default=200, metavar="N")
    parser.add_argument("--faults", choices=("all", "none", "list"), default="all")
    parser.add_argument("--seed", default=str(random.SystemRandom().randrange(1 << 32)))
    asked = parser.parse_args()
    if asked.faults == "list":
        print("\n".join(f"{one.times:4} times: {one.name}" for one in faults.FAULTS))
        return 0
    STATE.mkdir(exist_ok=True)
    journal = STATE / f"{asked.seed}.jsonl"
    known = hosts.lines(journal.read_text()) if journal.exists() else []
    played = [line for line in known if "round" in line]
    print(f"seed {asked.seed}: {len(played)} of {asked.rounds} rounds are done", flush=True)
    while len(played) < asked.rounds:
        with hosts.host() as host:
            host.start()
            host.add_tiny(_image())
            kill.prepare(host)
            for number in range(len(played), min(len(played) + PER_HOST, asked.rounds)):
                begin = time.monotonic()
                try:
                    deed = kill.play(host, random.Random(f"{asked.seed}/{number}"), number)
                except BaseException:
                    print(
                        f"round {number} of seed {asked.seed} failed; the daemon's log ends:\n{host.log()}", flush=True
                    )
                    raise
                line = {"round": number, "deed": deed, "seconds": round(time.monotonic() - begin, 1)}
                played.append(line)
                with journal.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                print(f"  {number + 1:4} {deed:8} {line['seconds']:6.1f} s", flush=True)
    caused = [line for line in known if "fault" in line]
    failed = _cause(asked.seed, journal, caused) if asked.faults == "all" else 0
    on_sites = sites.play(asked.seed, journal, known, asked.site_rounds) if os.geteuid() == 0 else []
    print(f"summary: {_summarise(asked.seed, played, caused, on_sites)}")
    return 1 if failed else 0


def _cause(seed: str, journal: pathlib.Path, caused: list[dict[str, object]]) -> int:
    """Play each fault as often as it is not played yet; how many of these failed."""
    failed = 0
    for fault in faults.FAULTS:
        done = sum(line["fault"] == fault.name for line in caused)
        for time_ in range(done, fault.times):
            begin = time.monotonic()
            print(f"  {fault.name}, {time_ + 1} of {fault.times}", flush=True)
            passed = faults.play(fault, f"{seed}-{time_}")
            line: dict[str, object] = {"fault": fault.name, "seconds": round(time.monotonic() - begin, 1)}
            if not passed:  # it is played again when the soak is resumed
                print(f"failed: {fault.name} with BOCAGE_TEST_SEED={seed}-{time_}", flush=True)
                failed += 1
                continue
            caused.append(line)
            with journal.open("a") as file:
                file.write(json.dumps(line) + "\n")
    return failed


def _image() -> pathlib.Path:
    image = STATE / f"tiny-{bocage.__version__}.raw"
    if not image.exists():
        part = image.with_suffix(".part")
        part.unlink(missing_ok=True)
        asyncio.run(tiny.build(part, cache=STATE / "packages", report=lambda step, fraction: None))
        part.rename(image)
    return image


def _summarise(
    seed: str, played: list[dict[str, object]], caused: list[dict[str, object]], on_sites: list[dict[str, object]]
) -> pathlib.Path:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=TOP, capture_output=True, text=True, check=False
    ).stdout.strip()
    deeds = collections.Counter(str(line["deed"]) for line in played)
    today = datetime.datetime.now(datetime.UTC).date()
    path = TOP / "docs" / "soak" / f"{today}-{seed}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = "\n".join(f"| {deed} | {count} |" for deed, count in sorted(deeds.items()))
    often = collections.Counter(str(line["fault"]) for line in caused)
    faults_ = "\n".join(f"| {one.name} | {often[one.name]} of {one.times} |" for one in faults.FAULTS)
    path.write_text(
        f"# Soak of {today}\n\nSeed {seed}, commit {commit}, {len(played)} rounds, none failed.\n\n"
        "In each round the daemon was killed (SIGKILL) at a random moment while it did this, started again, and then: "
        "the witness's counter had not stopped, its process was the same, every QEMU belonged to a running VM, no file "
        f"was half made, and the wanted state was reached.\n\n| deed | rounds |\n|---|---|\n{rows}\n\n"
        "And each fault of `tests/faults.py`, at every point or again and again; those that passed:\n\n"
        f"| fault | times |\n|---|---|\n{faults_}\n\n{sites.summary(on_sites)}"
    )
    return path.relative_to(TOP)


if __name__ == "__main__":
    sys.exit(main())
