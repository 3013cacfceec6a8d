"""Raises the alarms that `planner.alarms` finds to hold, brings them up to date, and clears those that no longer do."""

from __future__ import annotations

import contextlib
import pathlib
import time
from collections.abc import Collection
from typing import Any

from bocage import reach, words
from bocage.model import base, ground, keys, snapshot, vm, work
from bocage.node import clock
from bocage.node.life.crew import Crew
from bocage.node.place import directory
from bocage.node.shop import Shop
from bocage.planner import alarms
from bocage.store import resources
from bocage.words import N_

_KINDS = frozenset(
    {vm.VM.kind, ground.Storage.kind, ground.Host.kind, work.Task.kind, work.Alarm.kind, snapshot.Snapshot.kind}
)
_AT_LEAST_EVERY = 300.0  # seconds: some conditions end by time alone
_RECENT = 3600.0  # seconds for which a step of the clock is told


class Cleared(words.Message):
    """What a person was told of is over."""

    type = "alarm-cleared"
    text = N_("no longer so: {condition:saying}")
    condition: dict[str, Any]  # the alarm's type and params
    name: str


class Alarming:
    """The alarms of one node. Looks at the store only when something in it changed."""

    def __init__(self, shop: Shop, crew: Crew) -> None:
        self._shop, self._crew = shop, crew
        self._wall = _wall()
        self._moved_at: float | None = None  # boot clock
        self._changed = True
        self._looked = 0.0
        self._unknown: dict[str, int] = {}
        self._elsewhere: set[str] | None = None  # VMs of any host; None: not read since one was written

    def see(self, kind: str) -> None:
        """Something of a kind was written."""
        if kind == vm.VM.kind:
            self._elsewhere = None
        self._changed = self._changed or kind in _KINDS

    def clock_moved(self) -> float:
        """Seconds that the wall clock was set by within the last hour."""
        moved = _wall() - self._wall
        now = clock.boottime()
        if abs(moved) < alarms.CLOCK_STEP:
            self._moved_at = None
        elif self._moved_at is None:
            self._moved_at = now
        elif now - self._moved_at > _RECENT:
            self._wall, self._moved_at = _wall(), None
            return 0.0
        return moved

    async def look(self) -> None:
        """Raise what holds and is not raised, clear what is raised and no longer holds."""
        moved, unknown = self.clock_moved(), await self._unknown_directories()
        stale = clock.boottime() - self._looked > _AT_LEAST_EVERY
        if not (self._changed or stale or unknown != self._unknown or abs(moved) >= alarms.CLOCK_STEP):
            return
        self._changed, self._looked, self._unknown = False, clock.boottime(), unknown
        kept, me = self._shop.ground.resources, self._shop.ground.uid
        alone = len((await kept.list(ground.Host)).items) == 1
        world = alarms.World(
            now=base.now(),
            host=await kept.get(ground.Host, None, me),
            storages=tuple(one for one in (await kept.list(ground.Storage)).items if one.concerns(me)),
            vms=tuple(one for one in (await kept.list(vm.VM)).items if one.status.host == me or alone),
            tasks=await self._tasks(),
            snapshots=tuple((await kept.list(snapshot.Snapshot)).items),
            clock_moved=moved,
            unknown=unknown,
        )
        holding = {raised.uid: raised for raised in alarms.conditions(world)}
        present = {alarm.uid: alarm for alarm in (await kept.list(work.Alarm)).items}
        own = {one.uid for one in world.vms} | {one.uid for one in world.storages}
        for uid in present.keys() - holding.keys():
            if self._is_ours(present[uid], own):
                await self._clear(present[uid])
        for uid, raised in holding.items():
            # What several hosts reach is told by each; who comes second finds it raised, or cleared.
            with contextlib.suppress(resources.Changed, resources.Missing):
                await (self._update(present[uid], raised) if uid in present else self._raise(raised))

    def _is_ours(self, alarm: work.Alarm, own: Collection[str]) -> bool:
        """Whether it is for this host to clear: one that it raised, or of a VM that it has by now."""
        by, subject = alarm.spec.raised_by, alarm.spec.subject
        about_ours = subject is not None and subject.uid in own
        return by in ("", self._shop.ground.uid) or (by != work.BY_LEADER and about_ours)

    async def _tasks(self) -> tuple[work.Task, ...]:
        """This host's tasks, if any of all failed or waits for room."""
        page = await self._shop.ground.resources.store.list(keys.prefix(work.Task.kind))
        telling = (b'"failed"', alarms.FLATTEN_WAITS.encode())
        status = [entry.value for entry in page.entries if entry.key.endswith("/status")]
        if not any(word in value for value in status for word in telling):
            return ()
        tasks = (await self._shop.ground.resources.list(work.Task)).items
        return tuple(one for one in tasks if one.spec.host in (None, self._shop.ground.uid))

    async def _unknown_directories(self) -> dict[str, int]:
        """By storage: how many VM directories it has that no VM of the store has."""
        known, kept = {actor.standing.uid for actor in self._crew}, self._shop.ground.resources
        listing = await kept.list(ground.Storage)
        here = [one for one in listing.items if one.reached_by(self._shop.ground.uid)]
        roots = {one.uid: pathlib.Path(one.spec.path) for one in here}
        # VMs of other hosts lie on what is shared, and replicas of them on any
        if self._shop.ground.cluster or any(one.shared for one in here):
            if self._elsewhere is None:
                page = await kept.store.list(keys.prefix(vm.VM.kind))
                self._elsewhere = {keys.uid_of(entry.key) for entry in page.entries}
            known |= self._elsewhere
        found = {}
        for uid, root in roots.items():
            with contextlib.suppress(reach.Hangs, OSError):
                if unknown := await reach.Way(root).call(directory.unknown, root, known):
                    found[uid] = len(unknown)
        return found

    async def _raise(self, raised: alarms.Raised) -> None:
        project = raised.subject.project if raised.subject and raised.subject.project else "default"
        said = base.Saying.of(raised.condition)
        alarm = work.Alarm(
            metadata=base.Metadata(uid=raised.uid, name=raised.condition.type, project=project),
            spec=work.AlarmSpec(
                said=said,
                severity=raised.severity,
                subject=raised.subject,
                raised=base.now(),
                raised_by=self._shop.ground.uid,
            ),
        )
        await self._shop.ground.resources.create(alarm)
        await self._shop.ground.events.record(raised.condition, severity=raised.severity, subject=raised.subject)

    async def _update(self, alarm: work.Alarm, raised: alarms.Raised) -> None:
        """Say how it stands now. One that became worse is told anew, to those too who have seen it."""
        said = base.Saying.of(raised.condition)
        worse = _GRAVITY.index(raised.severity) > _GRAVITY.index(alarm.spec.severity)
        if raised.severity is alarm.spec.severity and raised.condition.same(alarm.spec.said.params):
            return
        kept, place = self._shop.ground.resources, (work.Alarm, alarm.metadata.project, alarm.uid)
        await kept.change(*place, lambda now: resources.with_spec(now, said=said, severity=raised.severity))
        if worse:
            await kept.change_status(*place, lambda _: work.AlarmStatus())
            await self._shop.ground.events.record(raised.condition, severity=raised.severity, subject=raised.subject)

    async def _clear(self, alarm: work.Alarm) -> None:
        with contextlib.suppress(resources.Changed, resources.Missing):
            await self._shop.ground.resources.delete(alarm)
        name = alarm.spec.subject.name if alarm.spec.subject else ""
        over = Cleared(condition=alarm.spec.said.model_dump(), name=name)
        await self._shop.ground.events.record(over, subject=alarm.spec.subject)


_GRAVITY = (base.Severity.INFO, base.Severity.WARNING, base.Severity.ERROR)


def _wall() -> float:
    """What tells a step of the wall clock: how far it is from the one that nobody can set."""
    return time.time() - clock.boottime()
