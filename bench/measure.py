"""What all figures share: runs that alternate between the sides, what came of them, and looks at processes."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

MIB = 1 << 20
TIMES = "×"  # noqa: RUF001 - as people write it
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: medians of both sides, and what was asked for.

    `holds` is None where nothing was asked for. `limit` is what `ours` may reach, in the same unit.
    """

    figure: str
    what: str
    unit: str
    ours: float
    peer: float | None = None
    peer_is: str = ""
    must: str = ""
    limit: float | None = None
    at_least: bool = False  # more is better
    runs: Mapping[str, list[float]] = dataclasses.field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        return self.ours / self.peer if self.peer else None

    @property
    def holds(self) -> bool | None:
        if self.limit is None:
            return None
        return self.ours >= self.limit if self.at_least else self.ours <= self.limit

    def document(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {**dataclasses.asdict(self), "ratio": self.ratio, "holds": self.holds}


@dataclasses.dataclass(slots=True)
class Result:
    """What one figure gave: lines of the table, and words below it."""

    rows: list[Row] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)


class Late(Exception):
    """What was waited for did not come."""


def alternate(runs: int, sides: Mapping[str, Callable[[], Mapping[str, float]]]) -> dict[str, list[float]]:
    """Run all sides in turn, `runs` times: A B A B. Each gives named values; all values by name."""
    found: dict[str, list[float]] = {}
    for _ in range(runs):
        for side in sides.values():
            for name, value in side().items():
                found.setdefault(name, []).append(value)
    return found


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that `share` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * round(share * 1000) // 1000) - 1)]


def until(holds: Callable[[], bool], *, what: str, within: float, every: float = 0.001) -> float:
    """The monotonic time at which it first held. Raises Late."""
    deadline = time.monotonic() + within
    while not holds():
        if time.monotonic() > deadline:
            raise Late(f"{what}: not within {within:g} s")
        time.sleep(every)
    return time.monotonic()


def pss(pids: Iterable[int]) -> float:
    """MiB that belong to these processes; what n processes share counts one n-th to each (proc(5), smaps_rollup)."""
    return sum(_field(pid, "Pss:") for pid in pids) / 1024


def rss(pids: Iterable[int]) -> float:
    """MiB that these processes have in memory, shared or not."""
    return sum(int(_read(pid, "statm").split()[1]) for pid in pids) * _PAGE / MIB


def cpu(pids: Iterable[int]) -> float:
    """Seconds of CPU that these processes have used."""
    total = 0
    for pid in pids:
        fields = _read(pid, "stat").rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS


def _field(pid: int, name: str) -> int:
    for line in _read(pid, "smaps_rollup").splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    return 0


def _read(pid: int, name: str) -> str:
    return pathlib.Path(f"/proc/{pid}/{name}").read_text()
