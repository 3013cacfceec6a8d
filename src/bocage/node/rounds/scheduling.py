"""Takes the snapshots that schedules want, and lets the old ones go, by the planner's decision: as tasks like any."""

from __future__ import annotations

import datetime
import zoneinfo

from bocage.model import base, snapshot, vm, work
from bocage.node import zone
from bocage.node.life.actor import Actor
from bocage.node.life.crew import Crew
from bocage.node.shop import Shop
from bocage.planner import retention

_SOON = datetime.timedelta(seconds=30)  # until the next look when something is under way
_ASKER = "schedule"


class Scheduling:
    """The schedules of one node's VMs. A host without any costs a look at nothing."""

    def __init__(self, shop: Shop, crew: Crew) -> None:
        self._shop, self._crew = shop, crew
        self._changed = True
        self._scheduled: set[str] = set()
        self._due: dict[str, datetime.datetime] = {}  # by VM; none: look now
        self._tried: dict[str, datetime.datetime] = {}  # by VM, of which period one was asked for last
        self._looked = base.now()

    def see(self, kind: str, part: str) -> None:
        """A part of a resource was written."""
        self._changed = self._changed or (kind == vm.VM.kind and part == "spec")

    async def look(self) -> None:
        """Ask for what is due."""
        now = base.now()
        if self._changed:
            self._changed = False
            listing = await self._shop.ground.resources.list(vm.VM)
            self._scheduled = {one.uid for one in listing.items if one.spec.snapshots is not None}
            self._due.clear()
        if now < self._looked:  # the clock was put back
            self._due.clear()
        self._looked = now
        for uid in sorted(self._scheduled):
            due, actor = self._due.get(uid), self._crew.of(uid)
            if actor is not None and (due is None or now >= due):
                self._due[uid] = await self._look_at(actor, now)

    async def _look_at(self, actor: Actor, now: datetime.datetime) -> datetime.datetime:
        """Ask for what one VM's schedule wants; when to look again."""
        machine = await actor.standing.read()
        wanted = machine.spec.snapshots
        if wanted is None or not machine.status.ready or machine.metadata.deleted:
            return now + _SOON
        known = [one for one in await self._shop.preparation.snapshots(machine) if one.spec.scheduled]
        place = zoneinfo.ZoneInfo(wanted.zone) if wanted.zone else zone.of_host()
        decision = retention.decide(wanted, [taken(one) for one in known], now=now, zone=place)
        ready = {one.uid for one in known if one.status.state == "ready"}
        for old in decision.drop:
            if old.uid in ready:
                await self._ask(machine, "vm.snapshot-delete", snapshot=old.uid, name=old.name)
        if decision.take and self._tried.get(machine.uid) != decision.due and not _unchanged(actor, machine, known):
            self._tried[machine.uid] = decision.due
            await self._take(machine, now, memory=wanted.memory and actor.standing.machine is not None)
            return now + _SOON
        return decision.next if len(ready) == len(known) else now + _SOON

    async def _take(self, machine: vm.VM, now: datetime.datetime, *, memory: bool) -> None:
        made = snapshot.Snapshot(
            metadata=base.Metadata(name=f"auto-{now:%Y%m%dt%H%M%Sz}", project=machine.metadata.project),
            spec=snapshot.SnapshotSpec(vm=machine.uid, memory=memory, machine=machine.spec, scheduled=True),
        )
        await self._ask(machine, "vm.snapshot-create", made, snapshot=made.uid, name=made.name)

    async def _ask(self, machine: vm.VM, action: str, *made: snapshot.Snapshot, snapshot: str, name: str) -> None:
        host = self._shop.ground.uid
        task = work.task(action, subject=machine.ref, host=host, asked_by=_ASKER, snapshot=snapshot, name=name)
        await self._shop.ground.resources.create(*made, task)


def taken(one: snapshot.Snapshot) -> retention.Taken:
    """A snapshot as the planner knows it."""
    return retention.Taken(uid=one.uid, name=one.name, when=one.status.taken or one.metadata.created)


def _unchanged(actor: Actor, machine: vm.VM, known: list[snapshot.Snapshot]) -> bool:
    """Whether the VM has been off since the last one: another would hold the same."""
    since = machine.status.since
    last = max((one.status.taken for one in known if one.status.taken), default=None)
    return actor.standing.machine is None and since is not None and last is not None and last >= since
