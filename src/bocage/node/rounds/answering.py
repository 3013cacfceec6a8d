"""Notes when the guests of VMs answer that others wait for: by their agent, or at a TCP port."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress

from bocage import errors
from bocage.engine import base as engine
from bocage.model import vm
from bocage.node.life.actor import Actor
from bocage.node.life.crew import Crew

_EVERY = 2.0  # seconds
_CONNECTED = 1.0  # seconds that a connection may take
_BETWEEN = ("passt", "slirp")


class Rounds:
    """The rounds of one node; each VM is asked until it has answered once."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew

    async def run(self) -> None:
        """Go round until cancelled."""
        while True:
            await asyncio.gather(*map(self._look, self._crew.running()))
            await asyncio.sleep(_EVERY)

    async def _look(self, actor: Actor) -> None:
        standing, running = actor.standing, actor.standing.machine
        if standing.unanswered is None or running is None or running.run is not engine.Run.RUNNING:
            return
        with contextlib.suppress(errors.Problem, OSError):
            machine = await standing.read()
            if await _answers(machine, running):
                await standing.show(answers=True)
                standing.unanswered = None


async def _answers(machine: vm.VM, running: engine.Machine) -> bool:
    wanted = machine.spec.autostart.answers
    if wanted == "agent":
        return bool(await running.guest_addresses())
    return wanted == "runs" or any([await _takes_connections(one, wanted) for one in _reached(machine)])


def _reached(machine: vm.VM) -> list[str]:
    """Its guest's addresses on bridges. What stands before a guest without one takes connections before it does."""
    bridged = (nic for nic in machine.status.nics if nic.backend not in ("", *_BETWEEN))
    return [one for nic in bridged for one in nic.addresses if not ipaddress.ip_address(one).is_link_local]


async def _takes_connections(address: str, port: int) -> bool:
    try:
        async with asyncio.timeout(_CONNECTED):
            _, writer = await asyncio.open_connection(address, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True
