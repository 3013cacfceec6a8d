"""How long a failover would take: by bounds that hold, and by what was seen in those before."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Literal

from bocage.model import base, standing
from bocage.model.failover import Failover

_NEWEST = 10  # failovers that are looked at


class Forecast(base.Part):
    """Seconds from the host's last beat on."""

    proof: Literal["power", "time"] | None
    """What would prove its death by itself; None: a person is waited for."""
    given: float | None = None
    """Until its VMs are given to others; None: nobody can say."""
    started: float | None = None
    """Until one that waits for no other runs there."""
    seen: int = 0
    """Failovers that this was learnt from; 0: it is what bounds say, or nothing."""


def forecast(
    host: str, proofs: Iterable[standing.Proof], failovers: Sequence[Failover], *, silence: float, bound: float | None
) -> Forecast:
    """For a host, by uid: its own failovers count before those of others.

    `silence` is after how many seconds it is fenced, `bound` within how many more time proves its death, if it does.
    """
    there = {one.kind for one in proofs if one.there}
    proof: Literal["power", "time"] | None = "power" if "power" in there else "time" if "time" in there else None
    if proof is None:
        return Forecast(proof=None)
    like = [one for one in failovers if one.status.proof == proof and _given(one)]
    newest = sorted([one for one in like if one.spec.host == host] or like, key=lambda one: one.uid)[-_NEWEST:]
    starts = [span for one in newest for span in _starts(one)]
    start = statistics.median(starts) if starts else None
    given = statistics.median(span for one in newest for span in _given(one)) if newest else None
    if proof == "time" and bound is not None:
        given = max(given or 0.0, silence + bound)
    started = given + start if given is not None and start is not None else None
    return Forecast(proof=proof, given=_rounded(given), started=_rounded(started), seen=len(newest))


def _given(failover: Failover) -> list[float]:
    """After how many seconds each of its VMs was given away."""
    since = failover.status.silent_since
    if since is None:
        return []
    return [(one.given - since).total_seconds() for one in failover.status.vms if one.given is not None]


def _starts(failover: Failover) -> list[float]:
    """How many seconds each took from then until it ran."""
    return [(one.started - one.given).total_seconds() for one in failover.status.vms if one.started and one.given]


def _rounded(span: float | None) -> float | None:
    return None if span is None else round(span, 1)
