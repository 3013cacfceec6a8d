"""The history of use, as round-robin databases keep it: seconds for an hour, minutes for a day, hours for a year.

What is kept is pieces of fixed length in rings of fixed length, so that its size is bounded whatever the clock does. A
piece is written once, when its time is over; what has no piece of a coarse level yet is folded from the finer one.

In a piece each value takes two bytes, its logarithm: 1e-9 to 1e16 to within 0.05 %.
"""

from __future__ import annotations

import array
import dataclasses
import math
import sys
from collections.abc import Iterable, Mapping, Sequence

from bocage.model import sample

_WIDTH = len(sample.METRICS)
_FIRST_WIDTH = 14  # metrics that there were at first: older pieces have fewer
_UNKNOWN = 0xFFFF
_LEAST, _MOST = 1e-9, 1e16
_STEPS = _UNKNOWN - 2
_EACH = math.log(_MOST / _LEAST) / _STEPS
_WEIGHTS = tuple(
    sample.METRICS.index(weight) if (weight := sample.WEIGHED_BY.get(name)) else None for name in sample.METRICS
)


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    """What was used during one step: the averages, and the largest values of finer steps."""

    average: sample.Row
    peak: sample.Row


@dataclasses.dataclass(frozen=True, slots=True)
class Level:
    """One fineness: how long a step is and how long a piece, both in seconds, and how many pieces are kept."""

    step: int
    piece: int
    kept: int
    first: int  # where its ring begins among the places of one series
    peaks: bool

    @property
    def steps(self) -> int:
        """In a piece."""
        return self.piece // self.step

    def begins(self, at: float) -> int:
        """Where the piece begins that a time lies in."""
        return int(at // self.piece) * self.piece

    def place(self, start: int) -> int:
        """Where a piece that begins then is kept: over the one that is a ring's length older."""
        return self.first + start // self.piece % self.kept


SECONDS = Level(step=5, piece=60, kept=120, first=0, peaks=False)
MINUTES = Level(step=60, piece=3600, kept=48, first=120, peaks=True)
HOURS = Level(step=3600, piece=86_400, kept=367, first=168, peaks=True)
LEVELS = (SECONDS, MINUTES, HOURS)
PLACES = 535
"""Of one series, all levels together."""
LONGEST = 366 * 86_400
"""Seconds of history."""
_SHOWN = ((SECONDS, 3600), (MINUTES, 86_400), (HOURS, LONGEST))  # the longest span that a level shows

Pieces = Mapping[Level, Mapping[int, bytes]]
"""By level and by when they begin."""


def fold(points: Iterable[Point | None]) -> Point | None:
    """Several steps as one. What was not measured does not count; a latency counts by its operations."""
    known = [point for point in points if point is not None]
    if not known:
        return None
    averages = tuple(_average(known, index, weight) for index, weight in enumerate(_WEIGHTS))
    peaks = tuple(_largest(point.peak[index] for point in known) for index in range(_WIDTH))
    return Point(averages, peaks)


def piece(level: Level, points: Sequence[Point | None]) -> bytes:
    """The bytes of a piece, from as many points as it has steps."""
    rows = [point.average if point else None for point in points]
    if level.peaks:
        rows += [point.peak if point else None for point in points]
    codes = array.array("H")
    for row in rows:
        codes.extend(map(_code, row) if row else [_UNKNOWN] * _WIDTH)
    if sys.byteorder == "big":
        codes.byteswap()
    return codes.tobytes()


def points(level: Level, start: int, content: bytes) -> dict[int, Point]:
    """What a piece holds, by the beginning of each step; of a damaged one nothing."""
    codes = array.array("H")
    width, rest = divmod(len(content), level.steps * 2 * (2 if level.peaks else 1))
    if rest or not _FIRST_WIDTH <= width <= _WIDTH:
        return {}
    codes.frombytes(content)
    later = (None,) * (_WIDTH - width)
    if sys.byteorder == "big":
        codes.byteswap()
    found: dict[int, Point] = {}
    for step in range(level.steps):
        own = codes[step * width : (step + 1) * width]
        if all(code == _UNKNOWN for code in own):
            continue
        average = (*map(_value, own), *later)
        beyond = (level.steps + step) * width
        peak = (*map(_value, codes[beyond : beyond + width]), *later) if level.peaks else average
        found[start + step * level.step] = Point(average, peak)
    return found


def raised(level: Level, start: int, finer: Mapping[int, bytes]) -> bytes | None:
    """The piece of a coarse level that begins at `start`, from the finer level's; None when there are none of them."""
    below = LEVELS[LEVELS.index(level) - 1]
    folded = _folded(level, _within(below, finer, start, start + level.piece))
    if not folded:
        return None
    return piece(level, [folded.get(start + step * level.step) for step in range(level.steps)])


def merged(level: Level, start: int, old: bytes, new: bytes) -> bytes:
    """Two pieces of the same time as one; the new one's points count where both have some."""
    both = {**points(level, start, old), **points(level, start, new)}
    return piece(level, [both.get(start + step * level.step) for step in range(level.steps)])


def course(pieces: Pieces, open_seconds: Mapping[int, Point], *, since: float, until: float, most: int) -> Course:
    """What is known of a span, at the finest level that reaches so far back, in `most` steps at most."""
    level = next((level for level, longest in _SHOWN if until - since <= longest + 1), HOURS)
    known: dict[int, Point] = {}
    for one in LEVELS[: LEVELS.index(level) + 1]:
        folded = _folded(one, known) if known else {}
        known = {**folded, **_within(one, pieces.get(one, {}), since - one.piece, until)}
        if one is SECONDS:
            known |= open_seconds
    step = level.step * max(1, math.ceil((until - since) / level.step / most))
    start = math.floor(since / step) * step
    groups: dict[int, list[Point]] = {}
    for at, point in known.items():
        groups.setdefault((at - start) // step, []).append(point)
    count = max(1, math.ceil((until - start) / step))
    return Course(start, step, [fold(groups.get(index, ())) for index in range(count)])


@dataclasses.dataclass(frozen=True, slots=True)
class Course:
    """Points in steps of equal length; None where nothing was measured."""

    start: int
    step: int
    points: list[Point | None]


def _within(level: Level, pieces: Mapping[int, bytes], since: float, until: float) -> dict[int, Point]:
    found: dict[int, Point] = {}
    for start, content in pieces.items():
        if since <= start < until:
            found |= points(level, start, content)
    return found


def _folded(level: Level, finer: Mapping[int, Point]) -> dict[int, Point]:
    """Finer points in the steps of a level."""
    groups: dict[int, list[Point]] = {}
    for at, point in finer.items():
        groups.setdefault(at // level.step * level.step, []).append(point)
    return {at: folded for at, group in groups.items() if (folded := fold(group))}


def _average(known: Sequence[Point], index: int, weight: int | None) -> float | None:
    if weight is None:
        values = [value for point in known if (value := point.average[index]) is not None]
        return sum(values) / len(values) if values else None
    pairs = [(value, point.average[weight] or 0.0) for point in known if (value := point.average[index]) is not None]
    whole = sum(of for _, of in pairs)
    return sum(value * of for value, of in pairs) / whole if whole else None


def _largest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _code(value: float | None) -> int:
    if value is None or value != value:
        return _UNKNOWN
    if value < _LEAST:
        return 0
    return 1 + min(round(math.log(value / _LEAST) / _EACH), _STEPS)


def _value(code: int) -> float | None:
    if code == _UNKNOWN:
        return None
    return _LEAST * math.exp((code - 1) * _EACH) if code else 0.0
