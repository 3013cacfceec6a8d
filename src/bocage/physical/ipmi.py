"""BMCs by IPMI 2.0 over LAN, through `ipmitool`."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable

from bocage import errors, process
from bocage.model import power
from bocage.physical import base

_BOUND = 8.0  # seconds for one run
_WAIT, _TRIES = "1", "2"  # seconds for each answer, and how often it is asked for
_GUID = re.compile(r"System GUID\s*:\s*([0-9a-fA-F-]{32,36})")


class Ipmi(base.Bmc):
    """A machine with IPMI. `expected` is its System UUID, where it is known."""

    def __init__(self, place: power.Bmc, password: str, expected: str = "") -> None:
        self._place, self._password, self._expected = place, password, expected

    async def power(self) -> base.Power:
        said = await self._run("chassis", "power", "status")
        if said.endswith("is on"):
            return base.Power.ON
        return base.Power.OFF if said.endswith("is off") else base.Power.CHANGING

    async def identity(self) -> str:
        found = _GUID.search(await self._run("mc", "guid"))
        return str(uuid.UUID(found[1])) if found else ""

    async def off(self, still: Callable[[], bool] = lambda: True) -> None:
        await self._order("off", base.Power.OFF, still)

    async def on(self) -> None:
        await self._order("on", base.Power.ON)

    async def _order(self, what: str, wanted: base.Power, still: Callable[[], bool] = lambda: True) -> None:
        if self._expected and not power.same_system(found := await self.identity(), self._expected):
            raise base.OtherSystem(address=self._place.address, found=found or "not told", expected=self._expected)
        if not still():
            raise base.Unwanted
        try:
            await self._run("chassis", "power", what)
        except base.Strange:  # some call an order that changes nothing an error
            if await self.power() is not wanted:
                raise

    async def _run(self, *command: str) -> str:
        line = ("-I", "lanplus", "-H", self._place.host, "-p", str(self._place.port), "-U", self._place.user)
        try:
            said = await process.run(
                "ipmitool",
                *line,
                *("-E", "-v", "-N", _WAIT, "-R", _TRIES),  # only with -v it says why there is no session
                *command,
                within=_BOUND,
                environment={"PATH": os.environ.get("PATH", os.defpath), "IPMI_PASSWORD": self._password},
            )
        except errors.TimedOut as error:
            raise base.Unreachable(address=self._place.address, reason=str(error)) from error
        except process.Failed as error:
            raise self._told(error) from error
        return said.decode(errors="replace").strip()

    def _told(self, error: process.Failed) -> base.Error:
        address, said = self._place.address, error.output
        if "Unable to establish" not in said:
            return base.Strange(address=address, reason=said[:300])
        if "RAKP" in said:  # IPMI 2.0, 13.20: who both sides are
            return base.WrongPassword(address=address, user=self._place.user)
        return base.Unreachable(address=address, reason="no session could be opened")
