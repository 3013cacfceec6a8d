"""Measures what this host and its VMs use, every few seconds, and hands what is over to the history.

What costs microseconds (/proc) is read each time. What has to be asked of QEMU is asked of one VM after the other, so
many a second that all of it stays cheap however many VMs run; between two answers the last one's rates hold.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import os
import time
from collections.abc import Mapping

from bocage import errors
from bocage.engine import base as engine
from bocage.model import sample
from bocage.network import tap
from bocage.node import history
from bocage.node.life.actor import Actor
from bocage.node.life.crew import Crew
from bocage.node.rounds import meters
from bocage.node.rounds.balancing import Balancing
from bocage.node.shop import Shop
from bocage.planner import rollup

log = logging.getLogger(__name__)

STEP = rollup.SECONDS.step
_ASKED_EVERY = 5.0  # seconds between two questions to one QEMU, at least
_ASKED_A_SECOND = 1.0  # QEMUs, at most
_READ_A_SECOND = 20  # processes, at most
_FORGET_EVERY = 10  # minutes
_NOTHING: sample.Row = (None,) * len(sample.METRICS)


class Sampling:
    """The samples of one node."""

    def __init__(self, shop: Shop, crew: Crew, balancing: Balancing) -> None:
        self._shop, self._crew, self._balancing = shop, crew, balancing
        self._history = history.History(shop.ground.home.samples)
        self._meters: dict[str, meters.VMMeter] = {}
        self._host = meters.HostMeter()
        self._minute = 0  # that is open
        self._minutes = 0

    def changed(self, uid: str) -> None:
        """A VM's spec was written: it may have other NICs."""
        if meter := self._meters.get(uid):
            meter.taps = None

    def now(self) -> sample.Uses:
        """What was measured last. Raises OSError."""
        there = {actor.standing.uid: actor.standing.machine for actor in self._crew.running()}
        for uid, meter in self._meters.items():
            meter.dynamic = self._balancing.of(uid)
        vms = {uid: meter.use() for uid, meter in self._meters.items() if there.get(uid) is meter.machine}
        return sample.Uses(host=self._host.use(len(os.sched_getaffinity(0))), vms=vms)

    async def history(self, uid: str, *, span: float, most: int) -> sample.History:
        """The last `span` seconds of a VM, or of the host, in `most` steps at most. Raises OSError."""
        until = time.time()
        since = until - min(span, rollup.LONGEST)
        pieces = await self._history.read(uid, since=since)
        meter = self._host if uid == self._shop.ground.uid else self._meters.get(uid)
        fresh = dict(meter.points) if meter else {}
        return await asyncio.to_thread(_history, pieces, fresh, since, until, most)

    async def run(self) -> None:
        """Measure until cancelled; what was not kept by then is kept."""
        asking = asyncio.create_task(self._ask_in_turn())
        try:
            while True:
                await asyncio.sleep(self._pause())
                try:
                    await self.measure()
                except OSError as error:
                    log.warning("samples: %s", error)
                except Exception:  # the next one comes all the same
                    log.exception("measuring failed")
        finally:
            asking.cancel()
            await asyncio.wait([asking])
            await asyncio.shield(self._wind_down())

    async def measure(self) -> None:
        """Read what each process has used by now. Raises OSError."""
        step = int((time.time() - STEP / 2) // STEP) * STEP  # the one that ends about now
        if rollup.SECONDS.begins(step) != self._minute:
            await self._close_minute()
            self._minute = rollup.SECONDS.begins(step)
        self._meet()
        interfaces = _interfaces() if any(meter.taps for meter in self._meters.values()) else {}
        for uid, meter in self._meters.items():
            if not meter.ended:
                meter.dynamic = self._balancing.of(uid)
                try:
                    meter.read(step, interfaces)
                except engine.NotRunning:
                    meter.ended = True
        self._host.read(step, [meter for meter in self._meters.values() if not meter.ended])

    def _pause(self) -> float:
        """Seconds to the end of the present step, or with many VMs of one after it."""
        every = STEP * max(1, -(-len(self._meters) // (STEP * _READ_A_SECOND)))
        return every - time.time() % every

    def _meet(self) -> None:
        """Have a meter for each process that runs."""
        there = {actor.standing.uid: actor.standing.machine for actor in self._crew.running()}
        for uid, meter in self._meters.items():
            meter.ended = meter.ended or there.get(uid) is not meter.machine
        for uid, machine in there.items():
            before = self._meters.get(uid)
            if machine is not None and (before is None or before.machine is not machine):
                self._meters[uid] = meters.VMMeter(machine)
                self._meters[uid].points = before.points if before else {}

    async def _close_minute(self) -> None:
        """Hand over the points of the minute that is over. Raises OSError."""
        self._minutes += 1
        all_of: list[tuple[str, meters.Meter]] = [(self._shop.ground.uid, self._host), *self._meters.items()]
        over = [minute for uid, meter in all_of if (minute := meter.take(uid, self._minute))]
        self._meters = {uid: meter for uid, meter in self._meters.items() if not meter.ended}
        if over:
            await self._history.write(over)
        if self._minutes % _FORGET_EVERY == 0:
            await self._history.keep_only([self._shop.ground.uid, *(one.standing.uid for one in self._crew)])

    async def _wind_down(self) -> None:
        try:
            await self._close_minute()
        except OSError as error:
            log.warning("samples: %s", error)
        await self._history.close()

    async def _ask_in_turn(self) -> None:
        """Ask each QEMU for its disks and its guest's memory, one after the other, for ever."""
        while True:
            asked = list(self._meters)
            for uid in asked:
                if (meter := self._meters.get(uid)) and (actor := self._crew.of(uid)):
                    await self._ask(actor, meter)
                await asyncio.sleep(max(_ASKED_EVERY / len(asked), 1 / _ASKED_A_SECOND))
            if not asked:
                await asyncio.sleep(STEP)

    async def _ask(self, actor: Actor, meter: meters.VMMeter) -> None:
        try:
            if meter.taps is None:
                nics = (await actor.standing.read()).spec.nics
                meter.taps = {tap.name_for(actor.standing.uid, nic.name): nic.name for nic in nics}
                meter.macs = {nic.mac.lower(): nic.name for nic in nics}
            if not meter.ended and meter.machine.run is not engine.Run.UNKNOWN:
                await meter.ask()
        except (errors.Problem, OSError):
            return  # it has just ended, or does not answer: somebody else tells of that
        except Exception:  # the others are asked all the same
            log.exception("asking what %s uses failed", actor.standing.uid)


def _history(
    pieces: rollup.Pieces, fresh: Mapping[int, rollup.Point], since: float, until: float, most: int
) -> sample.History:
    course = rollup.course(pieces, fresh, since=since, until=until, most=most)
    averages = [point.average if point else _NOTHING for point in course.points]
    peaks = [point.peak if point else _NOTHING for point in course.points]
    courses = {
        name: sample.Course(average=average, peak=peak)
        for name, average, peak in zip(
            sample.METRICS, zip(*averages, strict=True), zip(*peaks, strict=True), strict=True
        )
    }
    start = datetime.datetime.fromtimestamp(course.start, datetime.UTC)
    return sample.History(start=start, step=course.step, courses=courses)


def _interfaces() -> Mapping[str, sample.NicUse]:
    """The counters of all taps, as the guests behind them see them (proc(5), net/dev)."""
    found = {}
    with open("/proc/thread-self/net/dev", encoding="ascii", errors="replace") as file:
        for line in file.readlines()[2:]:
            name, _, counters = line.strip().partition(":")
            if name.startswith(tap.PREFIX):
                fields = [int(field) for field in counters.split()]
                # what the host received there is what the guest has sent
                found[name] = sample.NicUse(
                    sent_bytes=fields[0],
                    sent_packets=fields[1],
                    received_bytes=fields[8],
                    received_packets=fields[9],
                )
    return found
