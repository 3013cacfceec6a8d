"""All of the leader's work on one host of a cluster, put together."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterable, Mapping

from bocage import errors, ledger
from bocage.cluster import leader
from bocage.cluster.chronicle import Chronicle
from bocage.cluster.foresight import Foresight
from bocage.cluster.halting import Halting
from bocage.cluster.means import Means
from bocage.cluster.mirror import Mirror
from bocage.cluster.places import Places
from bocage.cluster.power import Bmcs
from bocage.cluster.probing import Probing
from bocage.cluster.ruler import Living, Ruler
from bocage.cluster.telling import Telling
from bocage.model import ground
from bocage.physical import base as physical
from bocage.protocol import records, timing
from bocage.store import contract, resources

log = logging.getLogger(__name__)

_TOLD_EVERY = 0.25  # seconds
_FORESEEN_EVERY = 5.0  # seconds
_LOOKED_EVERY = 0.1  # seconds
_AGAIN = 1.0  # seconds before a store that failed is asked again


class Leadership:
    """Leads when it is this host's turn: places new VMs, fences silent hosts, gives what they had to others."""

    def __init__(
        self,
        me: str,
        kept: resources.Resources,
        book: ledger.Ledger,
        living: Living,
        *,
        profile: timing.Timing,
        bmc_of: Callable[[ground.Host], physical.Bmc],
        trust: ssl.SSLContext,
        port: int,
    ) -> None:
        self._book = book
        self._mirror = Mirror(kept.store)
        places, means = Places(self._mirror), Means(self._mirror, self._newest)
        self._halting = Halting(kept.store, self._mirror)
        self._chronicle = Chronicle(kept, self._mirror, places, means.stays)
        self._foresight = Foresight(self._mirror, places)
        self._telling = Telling(kept, self._mirror, self._chronicle, unsurvived=lambda: self._foresight.unsurvived)
        self.ruler = Ruler(
            me,
            book=book,
            living=living,
            means=means,
            place=places.place,
            power=Bmcs(self._mirror, bmc_of),
            witness=self._chronicle,
            ends_writes=means.ends_writes,
            profile=profile,
            stays=means.stays,
            stands=lambda: self._halting.stands,
            probe=Probing(self._mirror, trust, port).answers,
        )
        self._turn = _Turn(self.ruler)
        self._placing = leader.Leader(kept, self._turn)

    def _newest(self) -> records.View | None:
        seen = self.ruler.newest
        return seen[0].view if seen else None

    async def run(self) -> None:
        """Work until cancelled, by turns with the other hosts. `book` is followed elsewhere.

        Raises contract.Closed and contract.Replaced.
        """
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow())
                await self._mirror.whole.wait()
                group.create_task(self.ruler.run())
                group.create_task(self._tell())
                group.create_task(self._foresee())
                group.create_task(self._placing.run())
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from several

    async def _follow(self) -> None:
        while True:
            try:
                await self._mirror.run()
            except (contract.Closed, contract.Replaced):
                raise
            except contract.Error as problem:
                log.warning("the store: %s", problem)
                await asyncio.sleep(_AGAIN)

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(_TOLD_EVERY)
            seen = self.ruler.newest
            if seen is None or not self.ruler.leads:
                continue
            try:
                await self._chronicle.write()
                await self._telling.write(self.ruler, *seen)
                silent = self.ruler.silence.silent(seen[1])
                await self._halting.look(self._turn.compare, frozenset(silent))
            except (contract.Closed, contract.Replaced):
                raise
            except errors.Problem as problem:
                log.warning("what the leader has to say could not be written: %s", problem)

    async def _foresee(self) -> None:
        while True:
            await asyncio.sleep(_FORESEEN_EVERY)
            if self.ruler.leads:
                hosts = (host.uid for host in self._mirror.every(ground.Host))
                await self._foresight.look(frozenset(filter(self.ruler.fit, hosts)))


class _Turn:
    """A `leader.Leads`: this host leads by turns."""

    def __init__(self, ruler: Ruler) -> None:
        self._ruler = ruler

    @property
    def compare(self) -> Mapping[str, int]:
        return {ledger.ROOT + records.LEADER: self._ruler.ruling.leading.revision}

    async def begun(self) -> None:
        await self._until(leads=True)

    async def over(self) -> None:
        await self._until(leads=False)

    async def _until(self, *, leads: bool) -> None:
        while self._ruler.leads is not leads:  # noqa: ASYNC110 - it ends by time, too
            await asyncio.sleep(_LOOKED_EVERY)

    def fit(self, hosts: Iterable[str]) -> set[str]:
        return {host for host in hosts if self._ruler.fit(host)}
