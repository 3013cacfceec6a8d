"""What guests need over time, for the memory policies: three shapes, and what real machines were seen to use.

A load is a list of guests; a guest's need is given at instants a fixed span apart, in MiB, and goes straight between.
"""

from __future__ import annotations

import array
import dataclasses
import math
import pathlib
import random
import zipfile
from collections.abc import Sequence

_MINUTE = 60
_SHAPE = 1200  # seconds of a shape
_GRAIN = 5
_DAYS = 1  # of a trace that are replayed
_QUARTER = 3  # samples: what was touched within a quarter of an hour counts as needed
_FLOOR = 8  # a guest never needs less than this part of its memory: caches and idle heaps are not in a trace
_LARGEST = 16 << 10  # MiB of a VM


@dataclasses.dataclass(frozen=True, slots=True)
class Guest:
    minimum: int  # MiB, as the following
    maximum: int
    needs: Sequence[float]


@dataclasses.dataclass(frozen=True, slots=True)
class Load:
    name: str
    host: int  # MiB of the host
    step: int  # seconds between two needs
    guests: Sequence[Guest]  # in the order in which they come to the host


def shapes(count: int, seed: int) -> list[Load]:
    """Guests that swing, guests of which now and then one has a peak, guests that have it all at once."""
    dice = random.Random(seed)
    times = range(0, _SHAPE + 1, _GRAIN)
    swing, peaks, together = [], [], []
    for _ in range(count):
        phase = dice.uniform(0, math.tau)
        swing.append([700 + 450 * math.sin(math.tau * at / 900 + phase) for at in times])
        begins = dice.uniform(0, _SHAPE - 2 * _MINUTE)
        peaks.append([300 + 1500 * _hill(at - begins, 10, _MINUTE) for at in times])
        begins = 300 + dice.uniform(0, 20)
        together.append([300 + 800 * _hill(at - begins, 30, 2 * _MINUTE) for at in times])
    named = {"slow swing": swing, "a peak here and there": peaks, "a peak of all at once": together}
    return [Load(name, 16 << 10, _GRAIN, [Guest(256, 2048, needs) for needs in some]) for name, some in named.items()]


def _hill(since: float, rise: float, lasts: float) -> float:
    return max(0.0, min(1.0, since / rise, (lasts + 2 * rise - since) / rise))


class Traces:
    """Memory use of virtual machines: an npz file with `mem_active_mib` (VMs x samples of five minutes),
    `mem_provisioned_mib` and `missing`, as of GWA-T-12."""

    def __init__(self, path: pathlib.Path) -> None:
        with zipfile.ZipFile(path) as held:
            size, self._active = _numbers(held.read("mem_active_mib.npy"))
            _, provisioned = _numbers(held.read("mem_provisioned_mib.npy"))
        self._samples = size[1]
        self._usable = [
            (row, memory)
            for row, memory in enumerate(provisioned)
            if 256 <= memory <= _LARGEST and max(self._row(row)) <= memory
        ]

    def load(self, seed: int) -> Load:
        """Some days of all of them, in an order that the seed decides."""
        dice = random.Random(seed)
        length = _DAYS * 24 * 12
        begins = dice.randrange(self._samples - length)
        order = dice.sample(self._usable, len(self._usable))
        guests = []
        for row, memory in order:
            active = self._row(row)[max(0, begins - _QUARTER) : begins + length]
            floor = max(64, memory // _FLOOR)
            needs = [float(max(floor, *active[max(0, at - _QUARTER + 1) : at + 1], 0)) for at in range(len(active))]
            guests.append(Guest(floor, int(memory), needs))
        return Load("traces of business VMs", 64 << 10, 300, guests)

    def _row(self, row: int) -> Sequence[int]:
        return self._active[row * self._samples : (row + 1) * self._samples]


def _numbers(content: bytes) -> tuple[tuple[int, ...], Sequence[int]]:
    """Shape and numbers of an array of unsigned integers (numpy's npy format, version 1)."""
    begins = 10 + int.from_bytes(content[8:10], "little")
    header = content[10:begins].decode("latin1")
    kind = {"<u1": "B", "|u1": "B", "<u2": "H", "<u4": "I"}[header.split("'descr': '")[1].split("'")[0]]
    if "'fortran_order': False" not in header:
        raise ValueError("an array in column order")
    shape = header.split("'shape': (")[1].split(")")[0]
    numbers = array.array(kind)
    numbers.frombytes(content[begins:])
    return tuple(int(one) for one in shape.split(",") if one.strip()), numbers
