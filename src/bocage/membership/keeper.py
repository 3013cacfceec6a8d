"""Keeps this host's place among etcd's members: its process runs, and it takes part where it is of use.

An odd number of members votes, five at most: with two, the loss of either would stop all. One more may follow without
a vote; it gets that when another host comes, or takes the place of one that goes. Every host looks by itself; etcd has
one member without a vote at a time, so two that do the same do not get in each other's way.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import math
from collections.abc import Callable, Sequence

from bocage import errors
from bocage.home import Home
from bocage.membership import council, member, papers, place
from bocage.store.etcd import gateway

log = logging.getLogger(__name__)

MOST = 5  # members that vote
_SOON, _ROUND = 0.5, 5.0  # seconds between two looks while something is to be done, and else
_CHECK = 3600.0  # seconds between two looks at the certificate
_LONGEST_WAIT = 30.0  # before one that ends again and again is started again


class Keeper:
    """One host's; `tell` is told etcd's members whenever they are others.

    `anew` is called when the host has another certificate, with which the daemon is to start anew.
    """

    def __init__(
        self,
        home: Home,
        at: place.Place,
        own: member.Member,
        tell: Callable[[Sequence[str]], None],
        anew: Callable[[], None],
    ) -> None:
        self.at = at
        self._home, self._own, self._tell, self._anew = home, own, tell, anew
        self._checked = -math.inf  # when the certificate was looked at last
        self.members = gateway.Gateway(at.access(home))

    async def close(self) -> None:
        await self.members.close()

    def opened(self, incarnation: str) -> None:
        """Note which store it is, as it was found. Raises OSError."""
        if incarnation != self.at.incarnation:
            log.warning("the store is another than before: %s, not %s", incarnation, self.at.incarnation)
            self.at = dataclasses.replace(self.at, incarnation=incarnation)
            self.at.write(self._home)

    async def run(self) -> None:
        """Work until cancelled."""
        wait = _SOON
        while True:
            begun = asyncio.get_running_loop().time()
            try:
                done = await self.look()
            except (errors.Problem, OSError) as problem:
                log.warning("etcd on this host: %s", problem)
                done = False
            runs = self._own.runs
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ROUND if done else _SOON):
                    await (self._own.ended() if runs else asyncio.Event().wait())
                log.warning("this host's etcd has ended; its words are in %s", self._home.cluster / "etcd.log")
                if asyncio.get_running_loop().time() - begun < _ROUND:
                    await asyncio.sleep(wait)
                    wait = min(wait * 2, _LONGEST_WAIT)
                else:
                    wait = _SOON

    async def look(self) -> bool:
        """One look, and the next step; whether nothing is left to be done. Raises errors.Problem and OSError."""
        if asyncio.get_running_loop().time() - self._checked > _CHECK:
            if await asyncio.to_thread(papers.renew, self._home, self._own.name, self.at.address):
                log.info("this host has a new certificate")
                self._anew()
            self._checked = asyncio.get_running_loop().time()
        if self._own.has_data:
            await self._own.start({})
        seats = await council.seats(self.members)
        await self._learn(seats)
        mine = next((one for one in seats if one.peer == self._own.peer or one.name == self._own.name), None)
        voting = [one for one in seats if one.votes]
        if mine is None:
            return await self._take_part(seats, voting)
        if mine.name and not self._own.has_data:  # its data were lost
            await council.remove(self.members, mine)
            return False
        if not self._own.runs:
            peers = {one.name or one.id: one.peer for one in seats if one is not mine}
            await self._own.start(peers)
            return False
        if not mine.votes and len(voting) % 2 == 0:
            await council.promote(self.members, mine)
            return False
        return bool(mine.name)

    async def _take_part(self, seats: Sequence[council.Seat], voting: Sequence[council.Seat]) -> bool:
        waiting = next((one for one in seats if not one.votes), None)
        if len(voting) >= MOST or (waiting and len(voting) + 2 > MOST):
            if self._own.has_data:
                await self._own.forget()
            return True
        if waiting:
            await council.promote(self.members, waiting)
        else:
            await self._own.forget()
            await council.add(self.members, self._own.peer)
        return False

    async def _learn(self, seats: Sequence[council.Seat]) -> None:
        """Ask those who vote from now on, our own first; also after the next start."""
        voting = [one for one in seats if one.votes and one.client]
        clients = tuple(one.client for one in sorted(voting, key=lambda one: (one.name != self._own.name, one.client)))
        if clients and clients != self.at.clients:
            self.at = dataclasses.replace(self.at, clients=clients)
            await asyncio.to_thread(self.at.write, self._home)
            self.members.learn(clients)
            self._tell(clients)
