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


LAN = Timing(beat=0.1, answer=0.5, silence=0.8, outage=0.5, guard=4.0, drain=1.0)
"""One site: at 20 ms and 1 % loss nobody is silent by mistake."""

WIDE = Timing(beat=0.5, answer=2.0, silence=6.0, outage=3.0, guard=15.0, drain=2.0)
"""Several sites: 300 ms and 5 % loss."""
