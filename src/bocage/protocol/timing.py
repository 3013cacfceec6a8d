"""How long things may take: one profile for the whole cluster, kept in the store."""

from __future__ import annotations

import dataclasses

RATE = 1.01
"""Two hosts' clocks may differ in rate by one percent: who waits for another host's bound waits so much longer."""


@dataclasses.dataclass(frozen=True, slots=True)
class Timing:
    """Seconds."""

    beat: float  # from one beat to the next
    answer: float  # how long an answer of the store is waited for before it is settled anew
    silence: float  # after which a host is fenced, and a leader succeeded
    outage: float  # after which a host without confirmation of its own does not trust what it has not heard
    guard: float  # T_guard: what a host may run on after the last confirmed beat was sent
    drain: float  # T_drain: how long what was sent to an array may still lie there


LAN = Timing(beat=0.2, answer=0.5, silence=1.5, outage=1.0, guard=4.0, drain=2.0)
"""For hosts in one building."""
