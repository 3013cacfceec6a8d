"""Values as people read them: sizes, times, sayings, states."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from bocage import words

NOTHING = "-"


def size(value: int | str | None) -> str:
    """A size of the API: a string with its unit as it is, a number of bytes as `512M`."""
    if value is None:
        return NOTHING
    return value if isinstance(value, str) else words.size(value)


def cores(value: float | None) -> str:
    """Cores in use: `1.25`."""
    return NOTHING if value is None else f"{value:.2f}"


def measure(metric: str, value: float | None) -> str:
    """A metric's value with its unit: bytes as `12M`, cores as `0.25`, times as `1.2ms`, all else as a number."""
    if value is None:
        return NOTHING
    if metric in ("cpu", "wait"):
        return cores(value)
    if metric.endswith("latency"):
        return f"{value:.1f}s" if value >= 1 else f"{value * 1e3:.1f}ms" if value >= 1e-3 else f"{value * 1e6:.0f}us"
    if "bytes" in metric or metric.startswith("memory"):
        return words.size(round(value))
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def memory(spec: Mapping[str, Any]) -> str:
    """What a VM has: `512M`, or with dynamic memory from how little to how much, `128M-1G`."""
    dynamic = spec.get("dynamic_memory")
    return f"{dynamic['minimum']}-{spec['memory']}" if dynamic else str(spec["memory"])


def pressure(told: Mapping[str, Any]) -> str:
    """PSI: for which share of the time something had to wait for each resource."""
    return ", ".join(f"{name} {one['some_10'] * 100:.1f} %" for name, one in told.items())


def span(seconds: int) -> str:
    """A length of time: `5 s`, `12 min`."""
    return words.seconds(seconds) if seconds >= 10 else f"{seconds} s"


def moment(text: str | None) -> datetime.datetime | None:
    """A time of the API, RFC 3339."""
    return datetime.datetime.fromisoformat(text) if text else None


def ago(text: str | None, *, now: datetime.datetime | None = None) -> str:
    """How long ago a time is: `12 s ago`, `3 min ago`, `in 2 h`; past a month its date."""
    then = moment(text)
    if then is None:
        return NOTHING
    span = ((now or datetime.datetime.now(datetime.UTC)) - then).total_seconds()
    if abs(span) < 2:
        return "now"
    if abs(span) > 60 * 86_400:
        return then.astimezone().strftime("%Y-%m-%d")
    said = words.seconds(round(abs(span)) if abs(span) >= 10 else abs(span))
    if abs(span) < 10:
        said = f"{abs(span):.0f} s"
    return f"{said} ago" if span > 0 else f"in {said}"


def clock(text: str | None) -> str:
    """A time of the API in the reader's own time zone, to the second."""
    then = moment(text)
    return then.astimezone().strftime("%Y-%m-%d %H:%M:%S") if then else NOTHING


def saying(said: Mapping[str, Any] | None) -> str:
    """The sentence of a saying: as the API made it, else from its type and parameters."""
    if not said:
        return ""
    if text := said.get("text"):
        return str(text)
    return words.say(words.revive(str(said.get("type")), dict(said.get("params") or {})))


def hint(said: Mapping[str, Any] | None) -> str:
    return str(said.get("hint") or "") if said else ""


def described(about: Mapping[str, Any]) -> list[tuple[str, object]]:
    """What people said of a resource, for the facts that `show` prints."""
    return [
        ("title", about.get("title")),
        ("notes", about.get("notes")),
        ("tags", " ".join(about.get("tags") or ())),
    ]


def is_open(alarm: Mapping[str, Any]) -> bool:
    """Whether nobody has acknowledged an alarm."""
    return not alarm["status"].get("acknowledged")


def first(values: Sequence[str]) -> str:
    """The first of several, and how many more there are: `10.80.1.5 +2`."""
    if not values:
        return NOTHING
    return f"{values[0]} +{len(values) - 1}" if len(values) > 1 else values[0]


def yes(value: object) -> str:
    return "yes" if value else "no"


def cpus(value: Mapping[str, int]) -> str:
    """`2`, or `4 (sockets=1, cores=2, threads=2)` where the shape is more than cores."""
    count = vcpus(value)
    sockets, cores, threads = (value.get(part, 1) for part in ("sockets", "cores", "threads"))
    if sockets == 1 and threads == 1:
        return str(count)
    return f"{count} (sockets={sockets}, cores={cores}, threads={threads})"


def vcpus(value: Mapping[str, int]) -> int:
    return value.get("sockets", 1) * value.get("cores", 1) * value.get("threads", 1)
