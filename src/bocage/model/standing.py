"""How the hosts of a cluster stand, as the one that leads sees them."""

from __future__ import annotations

import datetime
from typing import Literal

from bocage.model import keys
from bocage.model.base import Name, Part, Saying, Uid

KEY = keys.setting("standing")
"""Where the store has it."""

Beats = Literal["beats", "silent", "fenced", "proven-dead", "never"]


class HostStanding(Part):
    """One host."""

    host: Uid
    name: Name
    state: Beats
    """`fenced`: its life was ended; `proven-dead`: and nothing of it runs; `never`: it has not been heard of yet."""
    since: datetime.datetime | None = None
    """When it was last heard, of one that does not beat."""


class Standing(Part):
    """Written by the leader when it changes."""

    leader: Name
    term: int
    since: datetime.datetime
    """When it began to lead."""
    hosts: tuple[HostStanding, ...] = ()


class Proof(Part):
    """One way in which a host's death can be shown."""

    kind: Literal["power", "storage", "time", "word", "person"]
    there: bool
    said: Saying
    """Why it is there, or why not."""
