"""How long things may take in the simulation: coarse, so that a world has few steps. Seconds."""

from __future__ import annotations

from bocage.protocol import timing

PROFILE = timing.Timing(beat=0.25, answer=0.6, silence=1.5, outage=1.0, guard=3.0, drain=2.5)
WATCHDOG = 3.0
