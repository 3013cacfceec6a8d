"""What one host's jobs and rounds work with. They are handed it, and so need to know nothing of who started them."""

from __future__ import annotations

import asyncio
import collections
import dataclasses

from bocage.node.ground import Ground
from bocage.node.place.preparation import Preparation
from bocage.node.wires.wiring import Wires


@dataclasses.dataclass(frozen=True, slots=True)
class Shop:
    """The ground, and the tools that stand on it, one of each."""

    ground: Ground
    wires: Wires
    preparation: Preparation
    storages: dict[str, asyncio.Lock] = dataclasses.field(default_factory=lambda: collections.defaultdict(asyncio.Lock))
    """By uid: who mounts one does not do so while another lets go of it."""

    @classmethod
    def on(cls, ground: Ground) -> Shop:
        """The shop of a host."""
        wires = Wires(ground)
        return cls(ground=ground, wires=wires, preparation=Preparation(ground, wires))
