"""Looks from time to time which USB devices were plugged into the host or out of it, for the VMs that want them."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Awaitable, Callable

from bocage import errors
from bocage.engine import base as engine
from bocage.node import started
from bocage.node.life import plugging
from bocage.node.life.actor import Actor
from bocage.node.life.crew import Crew
from bocage.node.shop import Shop
from bocage.store import resources

log = logging.getLogger(__name__)

EVERY = 2.0  # seconds


class Rounds:
    """The rounds of one node. Without a VM that wants a device they cost next to nothing."""

    def __init__(self, shop: Shop, crew: Crew) -> None:
        self._shop, self._crew = shop, crew
        self._recalled = weakref.WeakSet[engine.Machine]()
        self._untidy = weakref.WeakSet[engine.Machine]()

    async def run(self) -> None:
        """Go round until cancelled."""
        while True:
            await self._each(self._recall)
            self._shop.preparation.usb.known = True
            await self._each(self._settle)
            await asyncio.sleep(EVERY)

    async def _each(self, what: Callable[[Actor, engine.Machine], Awaitable[None]]) -> None:
        async def one(actor: Actor, running: engine.Machine) -> None:
            try:
                await what(actor, running)
            except (errors.Problem, OSError) as error:
                if not isinstance(error, (resources.Missing, engine.NotRunning)):
                    log.warning("USB devices of VM %s: %s", actor.standing.uid, error)

        running = [(actor, actor.standing.machine) for actor in self._crew.running()]
        await asyncio.gather(*[one(actor, machine) for actor, machine in running if machine])

    async def _recall(self, actor: Actor, running: engine.Machine) -> None:
        """Learn once what a machine has, all before anybody is given anything; what is left over goes, too."""
        if running not in self._recalled:
            if await self._shop.preparation.usb.know(actor.standing.uid, running):
                self._untidy.add(running)
            self._recalled.add(running)

    async def _settle(self, actor: Actor, running: engine.Machine) -> None:
        if running.run is engine.Run.RUNNING and (await self._wanted(actor) or running in self._untidy):
            await plugging.settle(actor.standing, self._shop.preparation.usb, running)
            self._untidy.discard(running)

    async def _wanted(self, actor: Actor) -> bool:
        standing = actor.standing
        if standing.usb is None:
            built = await asyncio.to_thread(started.read, standing.ground.home.vm_runtime(standing.uid))
            standing.usb = (built.usb if built else ()) if standing.usb is None else standing.usb
        return bool(standing.usb)
