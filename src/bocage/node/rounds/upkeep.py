"""What is done from time to time: measure, ask who still answers, raise alarms, forget what is old.

An idle host costs next to nothing: what lists the whole store is done only when something in it changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping

from bocage import errors
from bocage.engine import base as engine
from bocage.model import base, ground, vm, work
from bocage.node import clock
from bocage.node.carrying import burned
from bocage.node.jobs import storages
from bocage.node.life.actor import Actor
from bocage.node.life.crew import Crew
from bocage.node.rounds import alarming, forgetting, scheduling, switching
from bocage.node.shop import Shop
from bocage.planner import alarms
from bocage.store import resources

log = logging.getLogger(__name__)

EVERY = 15.0  # seconds between two rounds
_BEAT = 2  # rounds between two signs of life
_SELDOM = 40  # rounds: ten minutes
_EVENTS_AT_ONCE = 500  # new ones after which the oldest go at once
_LEASE_LOOK = 1.0  # seconds between two looks at the networks' leases
_WARM = 3600.0  # seconds that the daemon runs before the trash is emptied: time for a person to see a wrong clock


class Upkeep:
    """The rounds of one node."""

    def __init__(self, shop: Shop, crew: Crew) -> None:
        self._shop, self._crew = shop, crew
        self._began = clock.boottime()
        self._rounds = 0
        self._new_events = 0
        self._alarming = alarming.Alarming(shop, crew)
        self._measuring = storages.Measuring(shop, crew)
        self._switching = switching.Switching(shop, crew)
        self._scheduling = scheduling.Scheduling(shop, crew)

    def see(self, kind: str, part: str) -> None:
        """A part of a resource was written."""
        self._alarming.see(kind)
        self._measuring.see(kind, part)
        self._scheduling.see(kind, part)
        if kind == work.Event.kind and part == "spec":
            self._new_events += 1

    def see_storage(self, uid: str) -> None:
        """A host told of a storage."""
        self._measuring.see_storage(uid)

    async def run(self) -> None:
        """Go round until cancelled; one thing's failure keeps none of the others from being done."""
        while True:
            await self.go_round()
            await self._watch_leases()

    async def go_round(self) -> None:
        """All that is due."""
        due: list[Callable[[], Awaitable[object]]] = [
            self._measuring.look,
            self.look_after,
            self.find_addresses,
            self._alarming.look,
            self._scheduling.look,
            self._switching.look,
        ]
        if self._rounds % _BEAT == 0:
            due.append(self.beat)
        if self._rounds % _SELDOM == 0:
            due += [self.empty_trash, self.forget_tasks, self.forget_burned, self._shop.wires.sweep]
        if self._rounds % _SELDOM == 0 or self._new_events >= _EVENTS_AT_ONCE:
            due.append(self.forget_events)
        self._rounds += 1
        for duty in due:
            await _safely(duty)

    async def beat(self) -> None:
        """Write that this host is there."""
        await self._shop.ground.resources.change_status(
            ground.Host,
            None,
            self._shop.ground.uid,
            lambda present: present.status.model_copy(update={"seen": base.now()}),
        )

    async def look_after(self) -> None:
        """Ask each machine whether it still answers; one that hangs holds up none of the others."""
        await asyncio.gather(*[self._look_after(actor) for actor in self._crew.running()])

    async def _look_after(self, actor: Actor) -> None:
        machine = actor.standing.machine
        if machine is not None:
            before = machine.run
            with contextlib.suppress(errors.Problem):
                if await machine.look() is not before:
                    actor.wake()

    async def find_addresses(self) -> None:
        """Write the addresses that running guests are reached by."""
        running = self._crew.running()
        if running:
            seen = await self._shop.wires.addresses()
            await asyncio.gather(*[self._find_addresses(actor, seen) for actor in running])

    async def _find_addresses(self, actor: Actor, seen: Mapping[str, tuple[str, ...]]) -> None:
        with contextlib.suppress(resources.Missing, errors.TimedOut, engine.NotRunning):
            machine = await actor.standing.read()
            if actor.standing.machine is None:
                return
            told = await actor.standing.machine.guest_addresses()
            carried = await self._shop.wires.carriers(machine)
            await actor.standing.show_nics(
                lambda nic: {
                    "addresses": told.get(nic.mac) or seen.get(nic.mac, ()),
                    "backend": carried.get(nic.name, ""),
                }
            )

    async def _watch_leases(self) -> None:
        """Pass the time until the next round; an address that is given meanwhile is shown at once."""
        due = clock.boottime() + EVERY
        before = self._shop.wires.lease_times()
        while (left := due - clock.boottime()) > 0:
            await asyncio.sleep(min(left, _LEASE_LOOK))
            await _safely(self._measuring.look_for_new)
            if (now := self._shop.wires.lease_times()) != before:
                before = now
                await _safely(self.find_addresses)

    async def empty_trash(self) -> None:
        """Have what has lain in the trash for its time purged; not while the clock cannot be trusted."""
        young = clock.boottime() - self._began < _WARM
        if young or abs(self._alarming.clock_moved()) >= alarms.CLOCK_STEP:
            return
        now = base.now()
        for machine in (await self._shop.ground.resources.list(vm.VM, trash=True)).items:
            actor = self._crew.of(machine.uid)
            if actor and machine.metadata.goes and now > machine.metadata.goes:
                actor.expire()

    async def forget_events(self) -> None:
        """Forget the oldest events."""
        self._new_events = 0
        await forgetting.old_events(self._shop.ground.resources.store)

    async def forget_tasks(self) -> None:
        """Forget the oldest tasks that have ended."""
        await forgetting.old_tasks(self._shop.ground.resources.store)

    async def forget_burned(self) -> None:
        """Remove CDs that were burned for a VM that is gone."""
        await burned.forget(self._shop.ground)


async def _safely(duty: Callable[[], Awaitable[object]]) -> None:
    try:
        await duty()
    except (errors.Problem, OSError) as error:
        log.warning("%s: %s", getattr(duty, "__qualname__", duty), error)
    except Exception:  # the next round comes all the same
        log.exception("%s failed", getattr(duty, "__qualname__", duty))
