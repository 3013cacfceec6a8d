"""Has the store say which of two hosts a VM is of: drives `protocol.moving.Source` until that is known."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TypeVar

from bocage import errors
from bocage.model import ground
from bocage.node import clustered, spoken
from bocage.protocol import moving, records

log = logging.getLogger(__name__)

_LOOKED_EVERY = 0.5
_SILENT = 10.0  # seconds without a beat after which a host is not waited for
R = TypeVar("R")

_ENDS = (moving.SourcePhase.STAYED, moving.SourcePhase.GONE)


async def settled(
    source: moving.Source, cluster: clustered.Cluster, *, view: records.View | None = None
) -> moving.SourcePhase:
    """Ask until what has completed STAYED or is GONE; `view` is the newest that is known.

    What was not answered is asked again by what the records say, however long that takes: until then nobody runs it.
    """
    driving = _Driving(source, cluster)
    try:
        if view is not None and (life := cluster.lives.life) is not None:
            driving.perform(source.completed(view, life, spoken.now()))
        while source.phase not in _ENDS:
            await driving.look()
    finally:
        driving.close()
    return source.phase


def life_of(view: records.View, host: str, ours: records.Life) -> records.Life | None:
    """The life that another host lives now, as the records say."""
    key = records.epoch_of(host)
    epoch = view.get(records.Epoch, key)
    if epoch is None or not epoch.lives:
        return None
    return records.Life(host, ours.incarnation, epoch.number, view.revision(key))


async def while_it_lives(host: ground.Host, cluster: clustered.Cluster, asking: asyncio.Future[R]) -> R:
    """What a host answers. Raises clustered.Silent once the records say that it was given up, or it beats no more."""
    newest, seen = None, spoken.now()
    try:
        while not (await asyncio.wait([asking], timeout=_LOOKED_EVERY))[0]:
            with contextlib.suppress(errors.Problem):
                view = (await cluster.book.read()).view
                epoch, beat = view.get(records.Epoch, records.epoch_of(host.uid)), records.beat_of(host.uid)
                if view.revision(beat) != newest:
                    newest, seen = view.revision(beat), spoken.now()
                if (epoch is not None and not epoch.lives) or spoken.now() > seen + _SILENT:
                    break
        else:
            return asking.result()
    finally:
        asking.cancel()
    raise clustered.Silent(host=host.name, reason="it does not beat any more")


class _Driving:
    def __init__(self, source: moving.Source, cluster: clustered.Cluster) -> None:
        self._source, self._cluster = source, cluster
        self._asked: set[asyncio.Task[None]] = set()
        self._answered = asyncio.Event()

    def perform(self, acts: list[records.Ask | moving.Act]) -> None:
        """What is to be continued or ended is known by the phase."""
        for act in acts:
            if isinstance(act, records.Ask):
                task = asyncio.create_task(self._ask(act))
                self._asked.add(task)
                task.add_done_callback(self._asked.discard)

    async def look(self) -> None:
        """Wait for an answer, or look at the records."""
        try:
            async with asyncio.timeout(self._cluster.profile.beat / 2):
                await self._answered.wait()
        except TimeoutError:
            await self._see()
        self._answered.clear()

    def close(self) -> None:
        for task in self._asked:
            task.cancel()

    async def _ask(self, ask: records.Ask) -> None:
        try:
            answer = await self._cluster.book.write(ask.transaction)
        except (errors.Problem, ValueError) as problem:
            log.info("the store has not answered: %s", problem)
            return
        self.perform(self._source.answered(ask.attempt, answer))
        self._answered.set()

    async def _see(self) -> None:
        life = self._cluster.lives.life
        if life is None:
            return
        try:
            async with asyncio.timeout(self._cluster.profile.silence):
                seen = await self._cluster.book.read()
        except (errors.Problem, TimeoutError) as problem:
            log.debug("the records: %s", problem)
            return
        self.perform(self._source.completed(seen.view, life, spoken.now()))
        self.perform(self._source.seen(seen.view, life, seen.sent, spoken.now()))
