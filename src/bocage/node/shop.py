"""What one host's jobs and rounds work with. They are handed it, and so need to know nothing of who started them."""

from __future__ import annotations

import dataclasses
import pathlib

from bocage.model import ground as ground_model
from bocage.node.ground import Ground
from bocage.node.preparation import Preparation
from bocage.node.wiring import Wires
from bocage.storage import images


@dataclasses.dataclass(frozen=True, slots=True)
class Shop:
    """The ground, and the tools that stand on it, one of each."""

    ground: Ground
    wires: Wires
    preparation: Preparation
    libraries: dict[str, images.Library] = dataclasses.field(default_factory=dict)  # by storage

    @classmethod
    def on(cls, ground: Ground) -> Shop:
        """The shop of a host."""
        wires = Wires(ground)
        return cls(ground=ground, wires=wires, preparation=Preparation(ground, wires))

    def library(self, storage: ground_model.Storage) -> images.Library:
        """The images of a storage: one library each, since it knows what is coming in just now."""
        if storage.uid not in self.libraries:
            self.libraries[storage.uid] = images.Library(pathlib.Path(storage.spec.path))
        return self.libraries[storage.uid]
