"""Carries on what `cluster shutdown` and `cluster start` have begun, on the host that leads."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Mapping

from bocage.cluster.mirror import Mirror
from bocage.model import base, ground, standstill, vm
from bocage.planner import standstill as planner
from bocage.store import contract


class Halting:
    """`look` from time to time while this host leads. As long as `stands`, nobody is fenced and nothing is placed."""

    def __init__(
        self, store: contract.Store, mirror: Mirror, *, now: Callable[[], datetime.datetime] = base.now
    ) -> None:
        self._store, self._mirror, self._now = store, mirror, now

    @property
    def stands(self) -> bool:
        """Whether the cluster was shut down on purpose, and has not wholly started again."""
        return self._mirror.setting(standstill.KEY) is not None

    async def look(self, compare: Mapping[str, int], silent: frozenset[str]) -> None:
        """Write the next step; `compare` shows that this host leads. Raises what the store does."""
        before = standstill.read(self._mirror.setting(standstill.KEY))
        if before is None:
            return
        machines = {one.uid: one for one in self._mirror.every(vm.VM)}
        boots = {one.uid: one.status.boot_id for one in self._mirror.every(ground.Host)}
        after = planner.step(before, machines, boots, silent=silent, now=self._now())
        if after == before:
            return
        held = await self._store.get(standstill.KEY)
        if held is None or standstill.read(held.value) != before:
            return  # somebody has asked for something else meanwhile
        puts = {} if after is None else {standstill.KEY: after.model_dump_json().encode()}
        deletes = [standstill.KEY] if after is None else []
        with contextlib.suppress(contract.Mismatch):
            await self._store.apply(compare={**compare, standstill.KEY: held.revision}, puts=puts, deletes=deletes)
