"""Starts the VMs of a host after the host itself was started anew: in their order, each its delay after the last."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable

from bocage import errors
from bocage.model import ground, vm
from bocage.node.life.actor import Actor
from bocage.node.life.crew import Crew
from bocage.node.shop import Shop
from bocage.planner import autostart
from bocage.store import resources

log = logging.getLogger(__name__)

_LOOK = 0.1  # seconds
_LOOKS = 600  # that those of a lower order get before the next ones start all the same
_UNDECIDED = (vm.State.STOPPED, vm.State.STARTING)


class Boot:
    """One start of the host. It counts as dealt with when every VM's wish is written and each was looked at."""

    def __init__(self, shop: Shop, crew: Crew, machines: Iterable[vm.VM]) -> None:
        self._shop, self._crew = shop, crew
        self._turns = autostart.turns(machines)

    async def wish(self) -> None:
        """Write that those which start with the host should run."""
        for turn in self._turns:
            with contextlib.suppress(resources.Missing):
                await self._shop.ground.resources.change(
                    vm.VM,
                    turn.project,
                    turn.uid,
                    lambda present: (
                        resources.with_spec(present, power=vm.Power.RUNNING)
                        if present.spec.power is vm.Power.STOPPED and present.spec.autostart.enabled
                        else None
                    ),
                )

    def hold(self) -> None:
        """Let none of them start before its turn."""
        for turn in self._turns:
            if actor := self._crew.of(turn.uid):
                actor.turn.clear()

    async def run(self) -> None:
        """Let them start; a VM that does not come up holds up those after it for a bounded time."""
        try:
            before: list[Actor] = []
            for turn in self._turns:
                if turn.first_of_its_order:
                    await _until_up(before)
                    before = []
                await asyncio.sleep(turn.delay)
                if actor := self._crew.of(turn.uid):
                    actor.may_start()
                    before.append(actor)
        finally:
            for turn in self._turns:
                if actor := self._crew.of(turn.uid):
                    actor.may_start()

    async def settle(self) -> None:
        """Once every VM was looked at, the present boot is the known one: another daemon's start repeats nothing."""
        host = self._shop.ground
        await asyncio.gather(*[actor.looked.wait() for actor in self._crew])
        await host.resources.change_status(
            ground.Host,
            None,
            host.uid,
            lambda present: present.status.model_copy(update={"boot_id": host.boot_id}),
        )
        host.rebooted = False


async def _until_up(some: list[Actor]) -> None:
    """Wait until each of them runs or could not be started."""
    for _ in range(_LOOKS):
        some = [actor for actor in some if await _is_undecided(actor)]
        if not some:
            return
        await asyncio.sleep(_LOOK)


async def _is_undecided(actor: Actor) -> bool:
    try:
        machine = await actor.standing.read()
    except resources.Missing:
        return False
    except errors.Problem as problem:
        log.warning("%s", problem)
        return True
    return machine.status.state in _UNDECIDED and machine.spec.power is vm.Power.RUNNING
