"""The rounds of a site in full count: each deed in turn, a fresh ground now and then. What was played is passed by."""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import pathlib
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

from tests.ground import building, ground, rounds
from tests.ground.site import Site

_PER_GROUND = 20  # rounds
_DEEDS = (*rounds.SHORT, *rounds.LONG)

Line = dict[str, Any]


def play(seed: str, journal: pathlib.Path, known: Sequence[Line], wanted: int) -> list[Line]:
    """Play what is left of `wanted` rounds; all that were ever played. Raises what a round raised."""
    played = [line for line in known if "site_round" in line]
    print(f"{len(played)} of {wanted} rounds on grounds of three hosts are done", flush=True)
    while len(played) < wanted:
        with _standing() as site:
            for number in range(len(played), min(len(played) + _PER_GROUND, wanted)):
                line = _round(site, seed, number)
                played.append(line)
                with journal.open("a") as file:
                    file.write(json.dumps(line) + "\n")
    return played


def _round(site: Site, seed: str, number: int) -> Line:
    deed = _DEEDS[number % len(_DEEDS)]
    begin = time.monotonic()
    try:
        phases = rounds.play(site, deed, random.Random(f"{seed}/site/{number}"))
    except BaseException:
        kept = pathlib.Path(tempfile.mkdtemp(prefix="bocage-soak-failed-", dir="/var/tmp"))
        site.here.keep_logs(kept)
        print(f"round {number} ({deed.__name__}) of seed {seed} failed; the hosts' logs are in {kept}", flush=True)
        raise
    seconds = round(time.monotonic() - begin, 1)
    print(f"  {number + 1:4} {deed.__name__:32} {seconds:6.1f} s", flush=True)
    return {"site_round": number, "deed": deed.__name__, "seconds": seconds, "phases": phases}


@contextlib.contextmanager
def _standing() -> Iterator[Site]:
    here = ground.Ground(pathlib.Path(tempfile.mkdtemp(prefix="bocage-ground-", dir="/var/tmp")))
    try:
        building.up(here, argparse.Namespace(hosts=3, storage="central"))
        yield Site(here)
    finally:
        here.down()


def summary(played: Sequence[Line]) -> str:
    """What was played, as a table."""
    often = collections.Counter(str(line["deed"]) for line in played)
    started: dict[str, list[float]] = collections.defaultdict(list)
    for line in played:
        for one in line["phases"]:
            started[line["deed"]] += [value for name, value in one.items() if name.endswith(" started")]
    rows = "\n".join(
        f"| {deed.replace('_', ' ')} | {count} | {_spread(started[deed])} |" for deed, count in sorted(often.items())
    )
    return (
        "Rounds on grounds of three hosts, whose guests write records: afterwards each VM ran, once, on the host that "
        "the store names, its log had no gap, no double, and all that was acknowledged. Seconds go from the silence "
        "of a host to the start of what it ran.\n\n"
        f"| what befell it | rounds | started after (median, worst) |\n|---|---|---|\n{rows}\n"
    )


def _spread(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.1f} s, {max(seconds):.1f} s" if seconds else "-"
