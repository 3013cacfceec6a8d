"""What is done from time to time: measure, trim logs, raise and clear alarms, forget what is old."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from bocage import errors
from bocage.engine import base as engine
from bocage.engine.qemu import boundedlog
from bocage.model import base, ground, keys, vm, work
from bocage.node import adoption, clock, tasks, trash
from bocage.node.jobs import storages
from bocage.planner import alarms
from bocage.store import resources

if TYPE_CHECKING:
    from bocage.node import actor as actors
    from bocage.node.agent import Node

log = logging.getLogger(__name__)

EVERY = 15.0  # seconds between two rounds
LOG_KEPT = 4 << 20  # bytes of each log
_SELDOM = 40  # rounds: ten minutes
_LEASE_LOOK = 1.0  # seconds between two looks at the networks' leases


class Upkeep:
    """The rounds of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._wall = time.time() - clock.boottime()

    async def run(self) -> None:
        """Go round until cancelled; one thing's failure keeps none of the others from being done."""
        rounds = 0
        while True:
            for duty in (self.measure, self.look_after, self.trim_logs, self.find_addresses, self.look_for_alarms):
                await _safely(duty)
            if rounds % _SELDOM == 0:
                for duty in (
                    self.empty_trash,
                    self.forget_tasks,
                    self._node.ground.events.prune,
                    self._node.wires.sweep,
                ):
                    await _safely(duty)
            rounds += 1
            await self._watch_leases()

    async def measure(self) -> None:
        """Write how full the storages are."""
        listing = await self._node.ground.resources.list(ground.Storage)
        for storage in listing.items:
            if storage.spec.host == self._node.ground.uid and storage.status.state != "pending":
                await storages.measure(self._node, storage)

    async def look_after(self) -> None:
        """Ask each machine whether it still answers; one that hangs holds up none of the others."""
        await asyncio.gather(*[self._look_after(actor) for actor in self._node.running()])

    async def _look_after(self, actor: actors.Actor) -> None:
        machine = actor.standing.machine
        if machine is not None:
            before = machine.run
            with contextlib.suppress(errors.Problem):
                if await machine.look() is not before:
                    actor.wake()

    async def trim_logs(self) -> None:
        """Keep the end of each running VM's logs."""
        for actor in self._node.running():
            with contextlib.suppress(resources.Missing, FileNotFoundError):
                place = await self._node.preparation.place(await actor.standing.read())
                for path in (place.serial_log, place.qemu_log):
                    await asyncio.to_thread(boundedlog.trim, path, LOG_KEPT)

    async def find_addresses(self) -> None:
        """Write the addresses that running guests are reached by."""
        seen = await self._node.wires.addresses()
        await asyncio.gather(*[self._find_addresses(actor, seen) for actor in self._node.running()])

    async def _find_addresses(self, actor: actors.Actor, seen: Mapping[str, tuple[str, ...]]) -> None:
        with contextlib.suppress(resources.Missing, errors.TimedOut, engine.NotRunning):
            machine = await actor.standing.read()
            if actor.standing.machine is None:
                return
            told = await actor.standing.machine.guest_addresses()
            carried = await self._node.wires.carriers(machine)
            await actor.standing.show_nics(
                lambda nic: {
                    "addresses": told.get(nic.mac) or seen.get(nic.mac, ()),
                    "backend": carried.get(nic.name, ""),
                }
            )

    async def _watch_leases(self) -> None:
        """Pass the time until the next round; an address that is given meanwhile is shown at once."""
        due = clock.boottime() + EVERY
        before = self._node.wires.lease_times()
        while (left := due - clock.boottime()) > 0:
            await asyncio.sleep(min(left, _LEASE_LOOK))
            if (now := self._node.wires.lease_times()) != before:
                before = now
                await _safely(self.find_addresses)

    async def look_for_alarms(self) -> None:
        """Raise what holds and is not raised, clear what is raised and no longer holds."""
        kept = self._node.ground.resources
        world = alarms.World(
            now=base.now(),
            host=await kept.get(ground.Host, None, self._node.ground.uid),
            storages=tuple((await kept.list(ground.Storage)).items),
            vms=tuple((await kept.list(vm.VM)).items),
            tasks=tuple((await kept.list(work.Task)).items),
            clock_moved=time.time() - clock.boottime() - self._wall,
            unknown=await self._unknown(),
        )
        holding = {raised.uid: raised for raised in alarms.conditions(world)}
        present = {alarm.uid: alarm for alarm in (await kept.list(work.Alarm)).items}
        for uid in present.keys() - holding.keys():
            transaction = resources.Transaction()
            transaction.delete(present[uid])
            await kept.commit(transaction)
        for uid in holding.keys() - present.keys():
            await self._raise(holding[uid])

    async def _unknown(self) -> dict[str, int]:
        storages_here = (await self._node.ground.resources.list(ground.Storage)).items
        return {one.uid: len(await adoption.unknown_directories(self._node, one)) for one in storages_here}

    async def _raise(self, raised: alarms.Raised) -> None:
        project = raised.subject.project if raised.subject and raised.subject.project else "default"
        alarm = work.Alarm(
            metadata=base.Metadata(uid=raised.uid, name=raised.condition.type, project=project),
            spec=work.AlarmSpec(
                said=base.Saying.of(raised.condition),
                severity=raised.severity,
                subject=raised.subject,
                raised=base.now(),
            ),
        )
        await self._node.ground.resources.create(alarm)
        await self._node.ground.events.record(raised.condition, severity=raised.severity, subject=raised.subject)

    async def empty_trash(self) -> None:
        """Purge what has lain in the trash for its time."""
        kept = self._node.ground.resources
        for machine in (await kept.list(vm.VM, trash=True)).items:
            deleted = machine.metadata.deleted
            if not deleted or machine.status.host != self._node.ground.uid:
                continue
            if base.now() - deleted > datetime.timedelta(seconds=trash.KEPT):
                await trash.purge(kept, machine, await self._node.preparation.trash(machine))

    async def forget_tasks(self) -> None:
        """Forget ended tasks beyond the newest that are kept."""
        kept = self._node.ground.resources
        ended = [task for task in (await kept.list(work.Task)).items if task.status.state.ended]
        for task in ended[: max(len(ended) - tasks.KEPT, 0)]:
            place = (task.kind, task.metadata.project, task.uid)
            await kept.store.apply(deletes=[keys.spec(*place), keys.status(*place)])


async def _safely(duty: Callable[[], Awaitable[None]]) -> None:
    try:
        await duty()
    except (errors.Problem, OSError) as error:
        log.warning("%s: %s", getattr(duty, "__name__", duty), error)
    except Exception:  # the next round comes all the same
        log.exception("%s failed", getattr(duty, "__name__", duty))
