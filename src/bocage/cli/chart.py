"""A course of values as one line of text."""

from __future__ import annotations

from collections.abc import Sequence

_BARS = "▁▂▃▄▅▆▇█"


def line(values: Sequence[float | None]) -> str:
    """One character a value, from nothing to the largest; blank where nothing is known."""
    largest = max((value for value in values if value is not None), default=0.0)
    return "".join(" " if value is None else _BARS[_height(value, largest)] for value in values)


def _height(value: float, largest: float) -> int:
    return min(int(value / largest * len(_BARS)), len(_BARS) - 1) if largest > 0 else 0
