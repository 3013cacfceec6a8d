"""Sees to it that what carries the NICs of running VMs is there: each passt, the bridges, their servers and rules."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging

from bocage import errors, words
from bocage.engine import base as engine
from bocage.model import base
from bocage.node import clock, notes, tasks
from bocage.node.life.actor import Actor
from bocage.node.life.crew import Crew
from bocage.node.shop import Shop
from bocage.store import resources

log = logging.getLogger(__name__)

_EVERY = 15.0  # seconds
_FIRST = 2.0  # seconds until what happened while no daemon was there is looked for
_STEADY = 10.0  # seconds for which what was mended must have held to be mended at once again


class Mending:
    """The repairs of one node's wires."""

    def __init__(self, shop: Shop, crew: Crew) -> None:
        self._shop, self._crew = shop, crew
        self._cut: set[str] = set()  # VMs that told of a NIC
        self._woken = asyncio.Event()
        self._tried: dict[str, float] = collections.defaultdict(lambda: -_STEADY)  # boot clock, by VM
        self._told: set[tuple[str, str]] = set()  # NICs that could not be mended

    def heard(self, vm_uid: str, happened: engine.Happened) -> None:
        """A VM told something by itself."""
        if happened.what == "nic-cut":
            self._cut.add(vm_uid)
            self._woken.set()

    async def run(self) -> None:
        """Mend at once what is told, and from time to time what nobody tells; at last take down what nobody needs."""
        try:
            await self._go_round()
        finally:
            with contextlib.suppress(errors.Problem, OSError):
                await self._shop.wires.rest()

    async def _go_round(self) -> None:
        pause = min(_FIRST, _EVERY)
        while True:
            due = clock.boottime() + pause
            pause = _EVERY
            while (left := due - clock.boottime()) > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await self._woken.wait()
                self._woken.clear()
                cut, self._cut = self._cut, set()
                steady = [uid for uid in cut if clock.boottime() - self._tried[uid] >= _STEADY]
                await asyncio.gather(*[self._mend(one) for one in map(self._crew.of, steady) if one])
            await asyncio.gather(*[self._mend(one) for one in self._crew.running()])
            try:
                await self._shop.wires.look_after()
            except (errors.Problem, OSError) as error:
                log.warning("networks: %s", error)

    async def _mend(self, actor: Actor) -> None:
        running = actor.standing.machine
        cut = running.nics.cut() if running else ()
        if not running or not cut:
            return
        self._tried[actor.standing.uid] = clock.boottime()
        with contextlib.suppress(resources.Missing, engine.NotRunning):
            machine = await actor.standing.read()
            try:
                mended = await running.nics.mend(await self._shop.preparation.carriers(machine))
            except (errors.Problem, OSError) as error:
                problem = error if isinstance(error, errors.Problem) else tasks.from_os(error)
                for nic in cut:
                    if (machine.uid, nic) not in self._told and actor.standing.machine is running:
                        self._told.add((machine.uid, nic))
                        told = notes.NicCut(name=machine.name, nic=nic, reason=words.say(problem))
                        await actor.standing.tell(machine, told, base.Severity.ERROR)
                return
            for nic, ended in mended.items():
                self._told.discard((machine.uid, nic))
                told_of = notes.NicMended(name=machine.name, nic=nic, reason=words.say(ended))
                await actor.standing.tell(machine, told_of, base.Severity.WARNING)
