"""Sees whether the BMC that is set for this host is its own: at the start, when it is set, and from time to time."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from bocage import errors
from bocage.model import base, ground, keys, power
from bocage.node import power as powers
from bocage.node.ground import Ground
from bocage.physical import base as physical
from bocage.physical import bmcs

log = logging.getLogger(__name__)

EVERY = 600.0  # seconds
AGAIN = 30.0  # seconds, when it could not be asked


class Rounds:
    """Of one host. Without a BMC they cost nothing."""

    def __init__(self, here: Ground) -> None:
        self._ground = here
        self._changed = asyncio.Event()

    def see(self, key: str, part: str) -> None:
        """A part of a resource was written."""
        if part == "spec" and keys.kind_of(key) == ground.Host.kind and keys.uid_of(key) == self._ground.uid:
            self._changed.set()

    async def run(self) -> None:
        """Go round until cancelled."""
        while True:
            self._changed.clear()
            patience = EVERY
            try:
                if not await self.look():
                    patience = AGAIN
            except (errors.Problem, OSError) as problem:
                log.warning("the BMC of this host: %s", problem)
                patience = AGAIN
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), patience)

    async def look(self) -> bool:
        """Ask it who it is, and write that down. Says whether all is known that can be."""
        kept = self._ground.resources
        host = await kept.get(ground.Host, None, self._ground.uid)
        seen = await self._ask(host) if host.spec.bmc else None
        if seen or host.status.bmc:
            await kept.change_status(
                ground.Host, None, host.uid, lambda present: present.status.model_copy(update={"bmc": seen})
            )
        return seen is None or seen.problem is None

    async def _ask(self, host: ground.Host) -> power.BmcSeen:
        assert host.spec.bmc
        at = {"address": host.spec.bmc.address, "system": host.spec.bmc.system, "seen": base.now()}
        try:
            uuid = await bmcs.of(host, await powers.box(self._ground)).identity()
        except (physical.Unreachable, errors.TimedOut) as problem:
            known = host.status.bmc  # that it is busy just now makes it no other one's; every order looks again
            same = known and (known.address, known.system) == (at["address"], at["system"])
            uuid, own = (known.uuid, known.own) if known and same else ("", False)
            return power.BmcSeen(**at, uuid=uuid, own=own, problem=base.Saying.of(problem))
        except errors.Problem as problem:
            return power.BmcSeen(**at, problem=base.Saying.of(problem))
        return power.BmcSeen(**at, uuid=uuid, own=power.same_system(uuid, host.status.smbios_uuid))
