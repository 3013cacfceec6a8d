"""What people have set for all hosts together."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from bocage.model import keys, plan
from bocage.model.base import Part

KEY = keys.setting("policy")
"""Where the store has it."""


class Policy(Part):
    survive: Annotated[int, Field(ge=0, le=2)] = 0
    """Hosts that may die at once: room for all VMs of theirs that others can have is kept free on those."""

    def among(self, hosts: int) -> int:
        """What of `survive` is looked at with so many hosts."""
        return self.survive if hosts <= plan.MOST_FOR_TWO else min(self.survive, 1)


def read(value: bytes | None) -> Policy:
    """As the store has it; as it is without one where a later version has written what this one does not know."""
    try:
        return Policy.model_validate_json(value) if value else Policy()
    except ValueError:
        return Policy()
