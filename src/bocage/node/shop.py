"""What one host's jobs and rounds work with. They are handed it, and so need to know nothing of who started them."""

from __future__ import annotations

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

    @classmethod
    def on(cls, ground: Ground) -> Shop:
        """The shop of a host."""
        wires = Wires(ground)
        return cls(ground=ground, wires=wires, preparation=Preparation(ground, wires))
