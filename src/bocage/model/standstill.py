"""A cluster that was shut down on purpose: which VMs ran, in which order they start, how far that is."""

from __future__ import annotations

import datetime
from typing import Literal

from bocage.model import keys
from bocage.model.base import Part, Uid

KEY = keys.setting("standstill")
"""Where the store has it, as long as it is so."""


class Standstill(Part):
    """Written by whoever asks for it, carried on by the leader, obeyed by every host."""

    phase: Literal["stopping", "down", "starting"] = "stopping"
    asked_by: str
    since: datetime.datetime
    within: float | None = None
    """Seconds that each guest gets to switch off; None: as its stop policy says."""
    kill: bool = False
    """Whether the plug is pulled at that bound."""
    stages: tuple[tuple[Uid, ...], ...] = ()
    """The VMs that ran, or should have: those that start together, one stage after another."""
    up_to: int
    """Stages before this one may run; all other VMs of the cluster are off, or go off."""
    begun: datetime.datetime
    """When the present stage was."""
    stuck: tuple[Uid, ...] = ()
    """VMs that did not get there within their time."""
    boots: dict[Uid, str] = {}
    """The boot of each host when all VMs were off: when each has another one, all start by themselves."""

    def holds(self, vm: str) -> bool:
        """Whether a VM is to be off."""
        return not any(vm in stage for stage in self.stages[: self.up_to])


def read(value: bytes | None) -> Standstill | None:
    """As the store has it; None: the cluster works, or a later version has written what this one does not know."""
    try:
        return Standstill.model_validate_json(value) if value else None
    except ValueError:
        return None
