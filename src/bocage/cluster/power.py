"""The power of hosts, through their BMCs, each held ready once it was asked."""

from __future__ import annotations

from collections.abc import Callable

from bocage.cluster.mirror import Mirror
from bocage.model import ground
from bocage.physical import base


class Bmcs:
    """A `ruler.Power`. Only a BMC that was seen to be that very host's is told anything."""

    def __init__(self, mirror: Mirror, bmc_of: Callable[[ground.Host], base.Bmc]) -> None:
        self._mirror, self._bmc_of = mirror, bmc_of
        self._held: dict[str, tuple[object, base.Bmc]] = {}

    async def off(self, host: str, still: Callable[[], bool]) -> None:
        await self._bmc(host).off(still)

    async def is_off(self, host: str) -> bool:
        return await self._bmc(host).power() is base.Power.OFF

    def _bmc(self, uid: str) -> base.Bmc:
        host = self._mirror.get(ground.Host, uid)
        if host is None or not host.bmc_is_its_own:
            raise base.NoBmc(name=host.name if host else uid[:8])
        place = (host.spec.bmc, host.status.smbios_uuid)
        known = self._held.get(uid)
        if known is None or known[0] != place:
            known = self._held[uid] = (place, self._bmc_of(host))
        return known[1]
