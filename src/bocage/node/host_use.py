"""What this machine itself does: its CPUs, its memory, what has to wait (PSI), what merging equal pages gains (KSM)."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import re

from bocage.model import sample

_PROC = pathlib.Path("/proc")
_KSM = pathlib.Path("/sys/kernel/mm/ksm")
_TICK = 1 / os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PRESSURE = re.compile(r"^(some|full) avg10=([\d.]+) avg60=([\d.]+)", re.MULTILINE)
_MEMORY = re.compile(r"^(MemTotal|MemAvailable): +(\d+) kB", re.MULTILINE)


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """The machine's counters."""

    busy: float  # seconds that its CPUs have worked
    stolen: float  # seconds that they would have, and that the machine below gave to others
    memory_total: int  # bytes
    memory_used: int


def read() -> Reading:
    """Read what is cheap to read (proc(5), stat and meminfo). Raises OSError."""
    with open(_PROC / "stat", encoding="ascii") as file:
        user, nice, system, _idle, _waiting, irq, soft, stolen = map(int, file.readline().split()[1:9])
    memory = {name: int(value) << 10 for name, value in _MEMORY.findall((_PROC / "meminfo").read_text())}
    total = memory.get("MemTotal", 0)
    busy = user + nice + system + irq + soft
    return Reading(busy * _TICK, stolen * _TICK, total, total - memory.get("MemAvailable", total))


def pressure() -> dict[str, sample.Pressure]:
    """Pressure stall information by resource; empty where the kernel has none."""
    found = {}
    for name in ("cpu", "memory", "io"):
        with contextlib.suppress(OSError):
            told = {kind: (float(ten) / 100, float(sixty) / 100) for kind, ten, sixty in _lines(name)}
            (some_10, some_60), (full_10, full_60) = (told.get(kind, (0.0, 0.0)) for kind in ("some", "full"))
            found[name] = sample.Pressure(some_10=some_10, some_60=some_60, full_10=full_10, full_60=full_60)
    return found


def ksm() -> sample.Ksm | None:
    """Whether equal pages are merged, and what that gains; None where the kernel cannot."""
    try:
        on = (_KSM / "run").read_text().strip() == "1"
        return sample.Ksm(on=on, saved=max(_gain(), 0))
    except (OSError, ValueError):
        return None


def _gain() -> int:
    with contextlib.suppress(FileNotFoundError):
        return int((_KSM / "general_profit").read_text())  # less what the merging itself takes; Linux 6.1 and newer
    return int((_KSM / "pages_sharing").read_text()) * _PAGE


def _lines(name: str) -> list[tuple[str, str, str]]:
    return _PRESSURE.findall((_PROC / "pressure" / name).read_text())
