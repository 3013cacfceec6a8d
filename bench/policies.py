"""Ways to share a host's memory among guests with balloons: ours, and one target for the whole host. Sizes are MiB."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from bench import loads
from bocage.planner import memory

_MIB = 1 << 20
_KEPT = 0.1  # of the host that ours keeps for itself, as it does when nobody says otherwise


@dataclasses.dataclass(slots=True)
class Running:
    """A guest of the simulation."""

    of: loads.Guest
    has: float
    asked: float
    needs: float = 0.0  # at this moment; what it has not, it lacks
    used: float = 0.0  # as it was told at the last round
    peak: float = 0.0

    def give(self) -> None:
        """Do what was asked: take at once, give what is free."""
        self.has = max(self.asked, min(self.has, self.needs))


class Ours:
    """`planner/memory.py`, a round a second; where nothing has happened for a while rounds are left out."""

    rounds = (1,) * 5

    def __init__(self, host: int) -> None:
        self._within = int(host * (1 - _KEPT))

    def divide(self, guests: Sequence[Running], span: float) -> None:
        known = {str(index): self._guest(guest) for index, guest in enumerate(guests)}
        for index, one in memory.divide(known, self._within * _MIB, span).items():
            guest = guests[int(index)]
            guest.asked, guest.peak = one.target / _MIB, one.peak

    def fits(self, guests: Sequence[Running]) -> bool:
        return sum(guest.has for guest in guests) <= self._within + 1

    @staticmethod
    def _guest(guest: Running) -> memory.Guest:
        used = min(guest.needs, guest.has)
        rise, guest.used = max(0.0, used - guest.used) if guest.used else 0.0, used
        return memory.Guest(
            minimum=guest.of.minimum * _MIB,
            maximum=guest.of.maximum * _MIB,
            buffer=20,
            weight=100,
            has=int(guest.has * _MIB),
            asked=int(guest.asked * _MIB),
            needs=int(used * _MIB),
            may_need=int(used * _MIB),
            rise=int(rise * _MIB),
            peak=guest.peak,
            pressed=guest.needs > guest.has + 1,
        )


class OneTarget:
    """The rule of Proxmox VE: every ten seconds the whole host is brought nearer to 80 % in use.

    What is missing to that is given to the guests that are short first, what is beyond is taken from those that are
    not, by shares above their minimum, 100 MiB a guest and round at most.
    """

    rounds = (10,)
    _TARGET, _STEP, _WORTH = 0.8, 100.0, 10.0

    def __init__(self, host: int) -> None:
        self._host = host

    def divide(self, guests: Sequence[Running], span: float) -> None:
        goal = self._host * self._TARGET - sum(guest.has for guest in guests)
        if abs(goal) <= self._WORTH:
            return
        relaxed = [one for one in guests if one.has - one.needs > one.of.minimum / 4 and one.has >= one.of.minimum]
        chosen = relaxed if goal < 0 else [one for one in guests if one not in relaxed]
        if abs(self._share(chosen, goal)) < 1:
            self._share(guests, goal)

    def fits(self, guests: Sequence[Running]) -> bool:
        return sum(guest.has for guest in guests) <= self._host

    def _share(self, guests: Sequence[Running], goal: float) -> float:
        """Bring each nearer to an equal share of what these have above their minimum; by how much in all."""
        steps: dict[int, float] = {}
        while open_ := [index for index in range(len(guests)) if index not in steps]:
            above = sum(guests[index].has - guests[index].of.minimum for index in open_)
            each = (above + goal - sum(steps.values())) / len(open_)
            wanted = {index: guests[index].of.minimum + each - guests[index].has for index in open_}
            allowed = {index: self._allowed(guests[index], step, goal) for index, step in wanted.items()}
            bounded = [index for index in open_ if allowed[index] != wanted[index]]
            steps |= {index: allowed[index] for index in bounded or open_}
        for index, step in steps.items():
            guests[index].asked = guests[index].has + step
        return sum(steps.values())

    def _allowed(self, guest: Running, step: float, goal: float) -> float:
        least, most = (-self._STEP, 0.0) if goal < 0 else (0.0, self._STEP)
        least, most = max(least, guest.of.minimum - guest.has), min(most, guest.of.maximum - guest.has)
        return min(max(step, min(least, most)), most)
