"""The record of one host's end, as the cluster saw it: what was decided, by which proof, and what became of its VMs."""

from __future__ import annotations

import datetime
import enum
from typing import ClassVar, Literal

from bocage.model.base import Name, Part, Ref, Resource, Saying, Uid


class Confirmed(Part):
    """A person's word that a host has no power."""

    by: str
    when: datetime.datetime


class FailoverSpec(Part):
    host: Uid
    host_name: Name
    epoch: int
    """That was raised: the life before it is the one that ended."""
    confirmed: Confirmed | None = None


class State(enum.StrEnum):
    PROVING = "proving"
    """It is not yet proven that nothing of the host writes any more; its VMs stay where they are."""
    MOVING = "moving"
    """It is proven; its VMs are given to others and started there."""
    DONE = "done"
    RETURNED = "returned"
    """The host came back, and had everything again, before anything had to be moved."""

    @property
    def ended(self) -> bool:
        return self in (State.DONE, State.RETURNED)


class Step(Part):
    time: datetime.datetime
    said: Saying


class Moved(Part):
    """One of its VMs."""

    vm: Ref
    runs: bool
    """Whether it should run; one that is off is moved, and not started."""
    to: Ref | None = None
    """The host that it was given to."""
    given: datetime.datetime | None = None
    started: datetime.datetime | None = None
    problem: Saying | None = None
    """Why no host has it."""

    @property
    def settled(self) -> bool:
        return self.to is not None and (self.started is not None or not self.runs)


class FailoverStatus(Part):
    state: State = State.PROVING
    silent_since: datetime.datetime | None = None
    leader: str = ""
    """The host that leads, or led when it ended."""
    proof: Literal["power", "storage", "time", "word", "person"] | None = None
    steps: tuple[Step, ...] = ()
    waits: Saying | None = None
    """What is missing."""
    vms: tuple[Moved, ...] = ()
    ended: datetime.datetime | None = None


class Failover(Resource[FailoverSpec, FailoverStatus]):
    """Its name is the host's with the number of the epoch: there is one for each life that was ended."""

    kind: ClassVar[str] = "failover"
    plural: ClassVar[str] = "failovers"
    in_project: ClassVar[bool] = False
    status: FailoverStatus = FailoverStatus()


def name_of(host: str, epoch: int) -> str:
    """What the failover of a host's life is called."""
    return f"{host[:50].rstrip('-')}-{epoch}"
