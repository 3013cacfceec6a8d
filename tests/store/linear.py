"""Whether what many saw of one register, each for itself, can have happened in one order (linearizability).

The search of Wing and Gong (1993) with Lowe's memory of the configurations that were seen: an operation can be next
when none of the others had ended before it began. One whose end nobody knows may be next at any later time, or never.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Literal

NEVER = math.inf
Value = str | None  # None: the key is absent


@dataclasses.dataclass(frozen=True, slots=True)
class Operation:
    """One operation of one client, from when it was asked for to when it was answered.

    A read has seen `value`. A write has written `value` (None: deleted it). An exchange wrote `value` if it found
    `expected`; `done` says whether it did, and is None when nobody knows: its end is then NEVER.
    """

    kind: Literal["read", "write", "exchange"]
    begin: float
    end: float
    value: Value
    expected: Value = None
    done: bool | None = True
    client: str = ""

    def after(self, found: Value) -> tuple[Value] | None:
        """What the register holds after it when it held `found`; None when it cannot have happened then."""
        if self.kind == "read":
            return (found,) if found == self.value else None
        if self.kind == "write":
            return (self.value,)
        holds = found == self.expected
        if self.done is not None and holds != self.done:
            return None
        return (self.value,) if holds else (found,)


class Undecided(Exception):
    """The search went beyond its bound."""


def explain(operations: Sequence[Operation], *, start: Value = None, bound: int = 1_000_000) -> list[Operation] | None:
    """An order in which they can have happened, None when there is none. Raises Undecided after `bound` steps."""
    inorder = sorted(operations, key=lambda one: one.begin)
    must = sum(1 << place for place, one in enumerate(inorder) if one.end != NEVER)
    seen: set[tuple[int, Value]] = set()
    path: list[Operation] = []
    trail = [(0, _next(inorder, 0, start))]  # what was done, and what can be next
    while trail:
        done, choices = trail[-1]
        if done & must == must:
            return path
        for place, value in choices:
            configuration = (done | 1 << place, value)
            if configuration not in seen:
                break
        else:
            trail.pop()
            path = path[:-1]
            continue
        if len(seen) >= bound:
            raise Undecided
        seen.add(configuration)
        path.append(inorder[place])
        trail.append((configuration[0], _next(inorder, *configuration)))
    return None


def _next(inorder: Sequence[Operation], done: int, held: Value) -> Iterator[tuple[int, Value]]:
    """What can be next, and what the register holds then."""
    earliest = NEVER
    open_: list[int] = []
    for place, one in enumerate(inorder):
        if one.begin > earliest:
            break
        if not done >> place & 1:
            open_.append(place)
            earliest = min(earliest, one.end)
    for place in open_:
        if inorder[place].begin <= earliest and (after := inorder[place].after(held)):
            yield place, after[0]
