"""Has the memory of the VMs that have dynamic memory follow what their guests need, every second.

`planner/memory.py` decides; this looks at guests and host, asks guests, and keeps what was seen. Nothing of it has to
outlive the daemon: what a guest has is read again from its process.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
from collections.abc import Mapping

from bocage import errors, words
from bocage.engine import base as engine
from bocage.engine import uses
from bocage.model import base, ground, keys, sample, vm
from bocage.node import clock, host_use, started
from bocage.node.life.actor import Actor
from bocage.node.life.crew import Crew
from bocage.node.shop import Shop
from bocage.planner import memory

log = logging.getLogger(__name__)

_EVERY = 1.0  # seconds between two looks, longer where so many are to be looked at:
_A_SECOND = 40
_CALM_AFTER = 20.0  # seconds in which a guest needed the same and was asked for nothing: from then on
_CALM_EVERY = 3  # looks one is enough
_TELLS_EVERY = 1  # seconds between two answers of a guest
_SILENT = 15.0  # seconds without one after which nothing is known of it
_KEEPS = 15.0  # seconds in which a guest gave nothing of what it owes
_STARTS = 120.0  # seconds until a guest has told something, or it is said that it has not
_PRESSED_PAGES = 200  # that it had to read again, by the second
_STEP = 1 << 20  # bytes: less is no movement


@dataclasses.dataclass(slots=True)
class _Seen:
    """One running VM, between two looks."""

    machine: engine.Machine
    adapted: int | None  # the generation that its settings were read of
    spec: vm.VMSpec  # what the machine is made of by now
    most: int  # bytes that the machine can have
    since: float  # of the boot clock, as all times here
    has: int = 0
    asked: int | None = None  # None: nothing is known of it yet
    told: sample.GuestMemory | None = None
    told_at: int = 0
    heard: float = 0.0  # when it told last
    stirred: float = 0.0  # when its need changed, or it was asked for something, last
    moved: float = 0.0  # when what it has changed, or it was asked for something, last
    needs: int | None = None
    may_need: int = 0
    rise: int = 0
    peak: float = 0.0
    pressed: bool = False
    reachable: bool = True
    balloon: bool = True
    wants: int | None = None
    why: words.Message | None = None
    resizes: bool = False  # its memory is being changed
    shown: str = ""  # the type of what its status says


class Balancing:
    """The dynamic memory of one node."""

    def __init__(self, shop: Shop, crew: Crew) -> None:
        self._shop, self._crew = shop, crew
        self._seen: dict[str, _Seen] = {}
        self._changed: set[str] = set()  # VMs whose spec was written
        self._host: ground.Host | None = None
        self._looked: float | None = None
        self._looks = 0

    def see(self, key: str, part: str) -> None:
        """A part of a resource was written."""
        if part == "spec":
            self._changed.add(keys.uid_of(key))
            if keys.kind_of(key) == ground.Host.kind:
                self._host = None

    def of(self, uid: str) -> sample.Dynamic | None:
        """What is known of a VM's dynamic memory; None when it has none, or does not run."""
        seen = self._seen.get(uid)
        if seen is None or seen.spec.dynamic_memory is None or seen.why is None or not seen.has:
            return None
        return sample.Dynamic(
            has=seen.has,
            asked=seen.asked if seen.asked is not None else seen.has,
            needs=seen.needs,
            wants=seen.wants,
            minimum=seen.spec.dynamic_memory.minimum,
            maximum=min(seen.spec.memory, seen.most),
            why=base.Saying.of(seen.why),
        )

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            count = sum(1 for seen in self._seen.values() if seen.spec.dynamic_memory)
            await asyncio.sleep(max(_EVERY, count / _A_SECOND))
            try:
                await self.look()
            except (errors.Problem, OSError) as error:
                log.warning("dynamic memory: %s", error)
            except Exception:  # the next look comes all the same
                log.exception("dividing memory failed")

    async def look(self) -> None:
        """See what each guest has and needs, and ask for what it is to have."""
        await self._meet()
        dynamic = {uid: seen for uid, seen in self._seen.items() if seen.spec.dynamic_memory and not seen.resizes}
        now, before = clock.boottime(), self._looked
        self._looked = now
        if not dynamic:
            return
        self._looks += 1
        due = [one for one in dynamic.values() if now - one.stirred < _CALM_AFTER or self._looks % _CALM_EVERY == 0]
        await asyncio.gather(*[self._look_at(seen) for seen in due])
        guests = {uid: _guest(seen, seen.spec.dynamic_memory) for uid, seen in dynamic.items()}
        within = await self._budget(guests)
        decided = memory.divide(guests, within, min(now - before, 60.0) if before is not None else 0.0)
        short = memory.is_short([one.wants for one in decided.values()], within)
        await asyncio.gather(*[self._ask(dynamic[uid], guests[uid], one) for uid, one in decided.items()])
        for uid, seen in dynamic.items():
            if seen.told is not None:
                self._shop.preparation.admission.keep(uid, functools.partial(memory.kept, guests[uid]))
            seen.why = _alone(seen, clock.boottime()) or memory.why(guests[uid], decided[uid], short=short)
            await self._show(uid, seen)

    async def _meet(self) -> None:
        """Know each process that runs, and how it is set."""
        running = {actor.standing.uid: actor for actor in self._crew.running()}
        for uid in self._seen.keys() - running.keys():
            del self._seen[uid]
        for uid, actor in running.items():
            seen, machine = self._seen.get(uid), actor.standing.machine
            same = seen is not None and seen.machine is machine
            if seen is not None:
                seen.resizes = actor.standing.resizes
            if same and seen and seen.adapted == actor.standing.adapted and uid not in self._changed:
                continue
            self._changed.discard(uid)
            try:
                if machine is not None:
                    await self._read(actor, machine, seen if same else None)
            except (errors.Problem, OSError) as error:
                log.debug("dynamic memory of %s: %s", uid, error)  # it is just going
        self._changed &= running.keys()

    async def _read(self, actor: Actor, machine: engine.Machine, seen: _Seen | None) -> None:
        uid, adapted = actor.standing.uid, actor.standing.adapted
        present = await actor.standing.read()
        built = started.read_whole(self._shop.ground.home.vm_runtime(uid))
        spec = built.spec if built else present.spec
        most = max(spec.memory, built.first.whole) if built else spec.memory
        was_dynamic = seen is None or seen.spec.dynamic_memory is not None
        if seen is None:
            now = clock.boottime()
            seen = _Seen(machine, adapted, spec, most, now, stirred=now)
            seen.shown = present.status.memory_note.type if present.status.memory_note else ""
            self._seen[uid] = seen
        seen.adapted, seen.spec, seen.most = adapted, spec, most
        if spec.dynamic_memory is None and was_dynamic:
            # Its memory was dynamic, perhaps: from now on it has all of it.
            seen.asked = seen.why = None
            await self._show(uid, seen)
            if "balloon" in spec.hardware.devices and await machine.balloon.size() != spec.memory:
                await machine.balloon.ask(spec.memory)

    async def _look_at(self, seen: _Seen) -> None:
        now = clock.boottime()
        if seen.machine.run is not engine.Run.RUNNING:  # a guest that is paused tells nothing, and it is nobody's fault
            seen.needs, seen.heard = None, now
            return
        try:
            found = await seen.machine.balloon.look(every=_TELLS_EVERY)
        except (errors.Problem, OSError):
            seen.reachable, seen.needs = False, None  # it ends, or hangs: what it had, it has
            return
        seen.reachable = True
        if found is None:
            seen.balloon, seen.has, seen.asked, seen.needs = False, seen.most, seen.most, None
            return
        if abs(found.has - seen.has) >= _STEP:
            seen.moved = seen.stirred = now
        new = found.told_at != seen.told_at or found.told != seen.told
        had, seen.has = seen.has or seen.most, found.has
        if seen.asked is None:
            await self._take_over(seen, found)
        if found.told is None:
            seen.needs = None
            return
        if new:
            if seen.told is not None:
                seen.pressed = _pressed(seen.told, found.told, now - seen.heard)
            # It told between the last look and this one, and has had anything between what was seen then and now.
            needs, may_need = (max(some(had, found.has) - found.told.available, 0) for some in (min, max))
            seen.rise = max(needs - seen.may_need, 0) if seen.needs is not None else 0
            if seen.needs is None or abs(needs - seen.needs) >= max(memory.GRAIN, needs // 64):
                seen.stirred = now
            seen.needs, seen.may_need = needs, may_need
            seen.told, seen.told_at, seen.heard = found.told, found.told_at, now
        elif now - seen.heard > _SILENT:
            seen.needs, seen.rise = None, 0

    async def _take_over(self, seen: _Seen, found: uses.Ballooned) -> None:
        """What an earlier daemon asked for is not known: what it has by now is taken for it."""
        assert seen.spec.dynamic_memory
        if found.told_at or found.has < seen.most:
            seen.asked = found.has
            await seen.machine.balloon.ask(found.has)
        else:  # it was asked for this when it was started, and has no driver yet
            seen.asked = seen.spec.dynamic_memory.startup
        seen.peak = seen.has - found.told.available if found.told else 0

    async def _budget(self, guests: Mapping[str, memory.Guest]) -> int:
        if self._host is None:
            self._host = await self._shop.ground.resources.get(ground.Host, None, self._shop.ground.uid)
        aside = self._host.spec.memory_for_vms
        use, pressure = host_use.read(), host_use.pressure().get("memory")
        host = memory.Host(
            total=use.memory_total,
            available=use.memory_total - use.memory_used,
            budget=None if aside == "usual" else int(aside),
            fixed=sum(seen.most for uid, seen in self._seen.items() if uid not in guests),
            pressure=pressure.some_10 if pressure else 0.0,
        )
        return memory.budget(host, sum(max(guest.has, guest.asked) for guest in guests.values()))

    async def _ask(self, seen: _Seen, guest: memory.Guest, decision: memory.Decision) -> None:
        seen.peak, seen.wants = decision.peak, decision.wants
        if decision.target == guest.asked or seen.needs is None:
            return
        try:
            await seen.machine.balloon.ask(decision.target)
        except (errors.Problem, OSError):
            return  # at the next look
        seen.asked, seen.moved, seen.stirred = decision.target, clock.boottime(), clock.boottime()

    async def _show(self, uid: str, seen: _Seen) -> None:
        """Have the status say why a VM's memory does not follow its guest; None where it does."""
        said = seen.why if isinstance(seen.why, memory.ALONE) else None
        young = clock.boottime() - seen.since < _STARTS
        if isinstance(said, memory.Starts) and young:
            said = None
        kind = said.type if said else ""
        if seen.machine.run is not engine.Run.RUNNING and kind:
            return
        if kind == seen.shown or (actor := self._crew.of(uid)) is None:
            return
        await actor.standing.show(memory_note=base.Saying.of(said) if said else None)
        seen.shown = kind


def _guest(seen: _Seen, dynamic: vm.DynamicMemory | None) -> memory.Guest:
    assert dynamic
    maximum = min(seen.spec.memory, seen.most)
    return memory.Guest(
        minimum=min(dynamic.minimum, maximum),
        maximum=maximum,
        buffer=dynamic.buffer,
        weight=dynamic.weight,
        has=seen.has or seen.most,
        asked=seen.asked if seen.asked is not None else seen.most,
        needs=seen.needs,
        may_need=seen.may_need,
        rise=seen.rise,
        peak=seen.peak,
        pressed=seen.pressed,
    )


def _alone(seen: _Seen, now: float) -> words.Message | None:
    """Why a guest is left alone, or does not do what it is asked."""
    if not seen.balloon:
        return memory.NoDevice()
    if seen.told is None and seen.reachable:
        return memory.Starts()
    if seen.needs is None:
        return memory.Silent()
    if seen.asked is not None and seen.has > seen.asked + memory.GRAIN and now - seen.moved > _KEEPS:
        return memory.KeepsIt(asked=seen.asked)
    return None


def _pressed(before: sample.GuestMemory, now: sample.GuestMemory, span: float) -> bool:
    """Whether it swaps, or reads again what it had in memory."""
    swapped = [(before.swapped_in, now.swapped_in), (before.swapped_out, now.swapped_out)]
    if any((after or 0) > (was or 0) for was, after in swapped):
        return True
    return (now.faults or 0) - (before.faults or 0) > _PRESSED_PAGES * max(span, 1.0)
