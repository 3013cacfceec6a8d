"""Who could not run again if hosts died now: asked from time to time, while room is to be kept for that."""

from __future__ import annotations

import asyncio
import logging
import time

from bocage.cluster.mirror import Mirror
from bocage.cluster.places import Places
from bocage.model import plan, policy
from bocage.planner import occupancy, patience, survival

log = logging.getLogger(__name__)

_THINKS = 30.0  # seconds, after which the last answer stands


class Foresight:
    """`look` from time to time on the host that leads; `unsurvived` is the last answer."""

    def __init__(self, mirror: Mirror, places: Places) -> None:
        self._mirror, self._places = mirror, places
        self._about: tuple[object, ...] = ()  # what the last answer was about
        self.unsurvived: tuple[plan.Unsurvived, ...] = ()

    async def look(self, fit: frozenset[str]) -> None:
        """Ask anew when anything has changed that it depends on; `fit` are the hosts that live, by uid."""
        set_ = policy.read(self._mirror.setting(policy.KEY)).among(len(fit))
        about = (self._mirror.changed, fit, set_)
        if about == self._about:
            return
        self._about, self.unsurvived = about, await self._asked(fit, set_) if set_ else ()

    async def _asked(self, fit: frozenset[str], survive: int) -> tuple[plan.Unsurvived, ...]:
        world = self._places.world(fit).model_copy(update={"survive": survive})
        end = time.monotonic() + _THINKS

        def prove() -> list[plan.Unsurvived]:
            check = patience.required(lambda: time.monotonic() > end)
            return survival.Survival(occupancy.Occupancy(world), check).unsurvived(lost=False)

        try:
            return tuple(await asyncio.to_thread(prove))
        except patience.TookTooLong as problem:
            log.warning("%s", problem)
            return self.unsurvived
