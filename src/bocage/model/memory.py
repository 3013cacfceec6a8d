"""Dynamic memory: what a VM starts with, how little and how much it can have, and what counts between VMs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, model_validator

from bocage.model.base import Part
from bocage.model.units import MiB, Size

USUAL = Size(512 * MiB)
"""What a VM starts with when nobody says."""

Percent = Annotated[int, Field(ge=0, le=2000)]
Weight = Annotated[int, Field(ge=1, le=10_000)]


class DynamicMemory(Part):
    """How a VM's memory follows what its guest needs; the most that it can have is `memory`."""

    startup: Size
    """What it has until its guest tells what it needs."""
    minimum: Size
    buffer: Percent = 20
    """What it has beyond what the guest needs, in percent of that: room for a peak, and for what is read from disks."""
    weight: Weight = 100
    """How much counts what it would have, beside other VMs, when the host is short of memory."""

    @model_validator(mode="after")
    def _whole(self) -> DynamicMemory:
        if self.minimum % MiB or self.startup % MiB:
            raise ValueError("a whole number of MiB is needed")
        if not 16 * MiB <= self.minimum <= self.startup:
            raise ValueError(f"minimum: {self.minimum} is not within 16M and the {self.startup} that it starts with")
        return self


class MemoryRange(Part):
    """Dynamic memory as people write it. What is left out stays; in a new VM one size stands for another."""

    startup: Size | None = None
    minimum: Size | None = None
    maximum: Size | None = None
    buffer: Percent | None = None
    weight: Weight | None = None

    def over(self, memory: Size, dynamic: DynamicMemory | None) -> dict[str, Any]:
        """The fields of a spec that has so much memory now, to be validated with it."""
        present = dynamic or DynamicMemory.model_construct(startup=memory, minimum=memory)
        maximum = self.maximum or memory
        startup = self.startup or Size(min(present.startup, maximum))
        wanted = dict(present) | self.model_dump(include={"buffer", "weight"}, exclude_none=True)
        wanted |= {"startup": startup, "minimum": self.minimum or Size(min(present.minimum, startup))}
        return {"memory": maximum, "dynamic_memory": wanted}

    def whole(self) -> dict[str, Any]:
        """The fields of a new VM's spec, to be validated with it."""
        startup = self.startup or self.minimum or self.maximum or USUAL
        filled = self.model_copy(update={"startup": startup, "maximum": self.maximum or startup})
        return filled.over(startup, None)


def _kind(value: Any) -> str:
    return "union-range" if isinstance(value, (Mapping, MemoryRange)) else "union-size"


SizeOrRange = Annotated[
    Annotated[Size, Tag("union-size")] | Annotated[MemoryRange, Tag("union-range")], Discriminator(_kind)
]
"""As people write it; a fault is told of the one that they meant."""


def fields(given: Size | MemoryRange) -> dict[str, Any]:
    """The fields of a new VM's spec, to be validated with it."""
    return given.whole() if isinstance(given, MemoryRange) else {"memory": given, "dynamic_memory": None}


def split(value: Any) -> Any:
    """A spec whose `memory` was written as a range, with the two fields that it stands for. Raises ValueError."""
    if not isinstance(value, Mapping) or not isinstance(value.get("memory"), Mapping):
        return value
    if value.get("dynamic_memory") is not None:
        raise ValueError("memory: give it as a range, or give dynamic_memory beside it")
    return {**value, **MemoryRange.model_validate(value["memory"]).whole()}


def within(dynamic: DynamicMemory | None, memory: Size) -> DynamicMemory | None:
    """As far as it fits a machine that can have so much."""
    if dynamic is None:
        return None
    startup = Size(min(dynamic.startup, memory))
    return dynamic.model_copy(update={"startup": startup, "minimum": Size(min(dynamic.minimum, startup))})


def check(memory: Size, dynamic: DynamicMemory | None) -> None:
    """Raise ValueError when they do not go together."""
    if dynamic and dynamic.startup > memory:
        raise ValueError(f"dynamic_memory: {dynamic.startup} at the start is more than the {memory} at most")
