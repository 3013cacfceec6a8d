"""Keeps the records of failovers, for people to read later: what was seen and done, each with its time.

The leader's work waits for none of it: what is noted is written beside it. A leader that comes after another goes on
with what that one has written.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
from collections.abc import Callable, Iterable

from bocage import errors, ledger, words
from bocage.cluster.mirror import Mirror
from bocage.cluster.places import Places
from bocage.cluster.ruler import Ruler
from bocage.model import base, ground, vm, work
from bocage.model.failover import Confirmed, Failover, FailoverSpec, FailoverStatus, Moved, State, Step, name_of
from bocage.planner import outages, proofs
from bocage.protocol import fencing, records
from bocage.store import contract, resources

log = logging.getLogger(__name__)

_KEPT = 200  # records of failovers
_STEPS = 200  # of one of them
_RUNS = (vm.Power.RUNNING, vm.Power.PAUSED)
_UP = (vm.State.RUNNING, vm.State.PAUSED)

Key = tuple[str, int]  # host, raised epoch


@dataclasses.dataclass(slots=True)
class Record:
    """One that is under way, as it is to be written."""

    spec: FailoverSpec
    status: FailoverStatus
    stored: Failover | None = None  # as it was written last
    problem: errors.Problem | None = None  # of its BMC, when it was last asked
    on: bool = False  # its BMC says that it is on, after the order
    readings: int = 0

    @property
    def changed(self) -> bool:
        return self.stored is None or self.stored.status != self.status


class Chronicle:
    """The records of failovers; a `ruler.Witness`."""

    def __init__(
        self,
        kept: resources.Resources,
        mirror: Mirror,
        places: Places,
        stays: Callable[[str], bool],
        *,
        now: Callable[[], datetime.datetime] = base.now,
    ) -> None:
        self._resources, self._mirror, self._places, self._stays, self._now = kept, mirror, places, stays, now
        self.records: dict[Key, Record] = {}
        self._begun: dict[Key, datetime.datetime] = {}  # since when hosts were silent whose epoch is being raised
        self._silent: dict[str, datetime.datetime] = {}
        self._events: list[work.Event] = []
        self._me = ""
        self._key = 0  # the revision of the leader's key

    # What the ruler tells

    def begins(self, host: str, transaction: records.Transaction) -> None:
        epoch = transaction.puts[records.epoch_of(host)]
        if isinstance(epoch, records.Epoch) and host in self._silent:
            self._begun[host, epoch.number] = self._silent[host]

    def did(
        self, host: str, number: int, act: fencing.Act, *, off: bool | None, problem: errors.Problem | None
    ) -> None:
        record = self.records.get((host, number))
        if record is None or record.status.proof is not None:
            return
        name = record.spec.host_name
        if problem is not None:
            if record.problem is None or words.say(record.problem) != words.say(problem):
                self._step(record, outages.BmcFailed(host=name, problem=base.Saying.of(problem).model_dump()))
            record.problem = problem
            return
        if act is fencing.Act.POWER_OFF:
            record.problem = None
            self._step(record, outages.PowerOrdered(host=name))
        elif act is fencing.Act.READ_POWER:
            record.problem = None
            if off:
                record.on, record.readings = False, record.readings + 1
                self._step(record, outages.PowerRead(host=name))
            elif not record.on:
                record.on = True
                self._step(record, outages.PowerStillOn(host=name))

    def looked(self, ruler: Ruler, seen: ledger.Seen, now: float) -> None:
        wall = self._now()
        known = records.hosts(seen.view)
        silent = {host: span for host in known if (span := ruler.silence.of(host, now)) > 0}
        self._silent = {host: wall - datetime.timedelta(seconds=span) for host, span in silent.items()}
        self._me, self._key = self.name_of(ruler.me), ruler.ruling.leading.revision
        if not ruler.leads:
            self.records.clear()
            self._begun.clear()
            self._events.clear()
            return
        for host, fence in ruler.ruling.fences.items():
            ended = (kept := self._stored(host, fence.number)) is not None and kept.status.state.ended
            if fence.raised and (host, fence.number) not in self.records and not ended:
                self._open(host, fence.number)
        for kept in self._mirror.every(Failover):
            key = (kept.spec.host, kept.spec.epoch)
            if not kept.status.state.ended and key not in self.records:
                self._resume(key, kept)
        for (host, number), record in self.records.items():
            held = ruler.ruling.fences.get(host)
            self._follow(record, held if held and held.number == number else None, seen.view, ruler)

    def person(self, host: str, number: int) -> str | None:
        confirmed = self._confirmed(host, number)
        if confirmed is None:
            return None
        record = self.records.get((host, number))
        if record is not None and not any(
            step.said.type == outages.PersonConfirmed.type for step in record.status.steps
        ):
            self._step(record, outages.PersonConfirmed(host=record.spec.host_name, by=confirmed.by))
        return confirmed.by

    def status_of(self, host: str, number: int) -> FailoverStatus:
        """As it is known now, also of one that has ended."""
        record, kept = self.records.get((host, number)), self._stored(host, number)
        return record.status if record else kept.status if kept else FailoverStatus()

    def lacking(self, fences: Iterable[fencing.Fencing]) -> list[tuple[str, Moved]]:
        """The VMs that should run and have no host that could do it, each with the one that had it."""
        told = {(record.spec.host, record.spec.epoch): record.status for record in self.records.values()}
        told |= {(fence.host, fence.number): self.status_of(fence.host, fence.number) for fence in fences}
        found = [(self.name_of(host), one) for (host, _), status in told.items() for one in status.vms]
        return [(name, one) for name, one in found if one.problem and one.runs and not one.to]

    def urgency(self, machine: str) -> tuple[int, str]:
        found = self._mirror.machine(machine)
        if found is None:
            return (10_001, "")
        return (found.spec.autostart.order if found.spec.power in _RUNS else 10_001, found.name)

    # What is kept of it

    def name_of(self, host: str) -> str:
        found = self._mirror.get(ground.Host, host)
        return found.name if found else host[:8]

    def _confirmed(self, host: str, number: int) -> Confirmed | None:
        kept = self._stored(host, number)
        return kept.spec.confirmed if kept else None

    def _stored(self, host: str, number: int) -> Failover | None:
        found = (one for one in self._mirror.every(Failover) if (one.spec.host, one.spec.epoch) == (host, number))
        return next(found, None)

    def _open(self, host: str, number: int) -> None:
        if (kept := self._stored(host, number)) is not None:
            self._resume((host, number), kept)
            return
        name, since = self.name_of(host), self._begun.pop((host, number), self._silent.get(host))
        record = Record(
            FailoverSpec(host=host, host_name=name, epoch=number), FailoverStatus(silent_since=since, leader=self._me)
        )
        self.records[host, number] = record
        self._step(record, outages.EpochRaised(host=name, leader=self._me), tell=base.Severity.WARNING)

    def _resume(self, key: Key, kept: Failover) -> None:
        record = self.records[key] = Record(kept.spec, kept.status, stored=kept)
        if kept.status.leader != self._me:
            record.status = record.status.model_copy(update={"leader": self._me})
            self._step(record, outages.LedBy(leader=self._me))

    def _follow(self, record: Record, fence: fencing.Fencing | None, view: records.View, ruler: Ruler) -> None:
        host, name = record.spec.host, record.spec.host_name
        epoch = view.get(records.Epoch, records.epoch_of(host))
        back = epoch is not None and epoch.lives and epoch.taken >= record.spec.epoch
        if fence is not None and fence.proof and record.status.proof is None:
            kind = fence.proof.name.lower()
            self._change(record, proof=kind, state=State.MOVING, waits=None)
            self._step(record, outages.PROVEN[kind](host=name), tell=base.Severity.WARNING)
        self._change(record, vms=tuple(self._machines(record, view, back=back)))
        vms = record.status.vms
        if back and not _has(record, outages.Returned, outages.ReturnedWithout):
            lost = sorted(one.vm.name for one in vms if one.to is not None and one.to.uid != host)
            said = outages.ReturnedWithout(host=name, vms=lost) if lost else outages.Returned(host=name)
            self._step(record, said, tell=base.Severity.INFO)
        if back and record.status.proof is None and not any(one.given for one in vms):
            self._change(record, state=State.RETURNED, waits=None, ended=self._now())
        elif record.status.state is State.MOVING and all(one.settled or self._stays(one.vm.uid) for one in vms):
            self._change(record, state=State.DONE, ended=self._now())
            self._step(record, outages.Ended(host=name), tell=base.Severity.INFO)
        elif record.status.state is State.PROVING and all(self._stays(one.vm.uid) for one in vms):
            self._change(record, state=State.DONE, waits=None, ended=self._now())
            self._step(record, outages.NothingToMove(host=name))
        elif record.status.state is State.PROVING:
            self._change(record, waits=base.Saying.of(self._waits(record, epoch, ruler)))

    def _waits(self, record: Record, epoch: records.Epoch | None, ruler: Ruler) -> words.Message:
        """What is missing for a proof."""
        host, name = record.spec.host, record.spec.host_name
        found = self._mirror.get(ground.Host, host)
        if found is not None and found.bmc_is_its_own:
            if record.problem is not None:
                return outages.WaitsForBmc(host=name, problem=base.Saying.of(record.problem).model_dump())
            return outages.AsksBmc(host=name)
        if epoch is not None and epoch.bounds.proves:
            return outages.WaitsForTime(host=name, left=epoch.bounds.guard + (epoch.bounds.watchdog or 0.0))
        return outages.WaitsForPerson(host=name)

    def _machines(self, record: Record, view: records.View, *, back: bool) -> Iterable[Moved]:
        """Its VMs: those that it owned when it fell silent, and what has become of each."""
        known = {one.vm.uid: one for one in record.status.vms}
        host, wall = record.spec.host, self._now()
        if record.status.proof is None:
            owned = (
                self._mirror.machine(key.removeprefix("owner/"))
                for key, entry in view.entries.items()
                if isinstance(entry.record, records.Owner) and entry.record.host == host
            )
            for one in filter(None, owned):
                known.setdefault(one.uid, self._first(one, record))
            return known.values()
        moved = []
        for uid, before in known.items():
            owner = view.get(records.Owner, records.owner_of(uid))
            machine = self._mirror.machine(uid)
            if owner is None or machine is None:
                continue  # it was deleted meanwhile
            changes: dict[str, object] = {"runs": machine.spec.power in _RUNS}
            if owner.host is not None and (owner.host != host or back):
                if before.to is None or before.to.uid != owner.host:
                    to = self._mirror.get(ground.Host, owner.host)
                    changes |= {"to": to.ref if to else None, "given": wall, "problem": None}
                    self._tell_given(record, before, to)
            elif owner.host is None and uid in self._places.nowhere:
                changes["problem"] = base.Saying.of(self._places.nowhere[uid])
            if before.started is None and before.to and self._is_up(machine, before.to.uid):
                changes["started"] = wall
            moved.append(before.model_copy(update=changes))
        return moved

    def _first(self, machine: vm.VM, record: Record) -> Moved:
        """One that its host had when it fell silent."""
        alone = base.Saying.of(proofs.Unreached(hosts=record.spec.host_name)) if self._stays(machine.uid) else None
        return Moved(vm=machine.ref, runs=machine.spec.power in _RUNS, problem=alone)

    def _is_up(self, machine: vm.VM, host: str) -> bool:
        """Whether its new host has said, since it has it, that it runs."""
        status = machine.status
        fresh = machine.metadata.status_revision > self._mirror.owned_since(machine)
        return status.host == host and status.state in _UP and fresh

    def _tell_given(self, record: Record, one: Moved, to: ground.Host | None) -> None:
        if to is not None:
            said = outages.Given(vm=one.vm.name, host=record.spec.host_name, to=to.name)
            self._events.append(work.event(said, subject=one.vm))

    def _step(self, record: Record, said: words.Message, *, tell: base.Severity | None = None) -> None:
        step = Step(time=self._now(), said=base.Saying.of(said))
        self._change(record, steps=(*record.status.steps, step)[-_STEPS:])
        if tell is not None:
            host = self._mirror.get(ground.Host, record.spec.host)
            self._events.append(work.event(said, severity=tell, subject=host.ref if host else None))

    @staticmethod
    def _change(record: Record, **changes: object) -> None:
        record.status = record.status.model_copy(update=changes)

    # Writing

    async def write(self) -> None:
        """Write what has changed, as long as this host leads. Raises what the store does."""
        for key, record in list(self.records.items()):
            if record.changed:
                await self._write(record)
            if record.status.state.ended and not record.changed:
                self.records.pop(key, None)
        events, self._events = self._events, []
        for event in events:
            await self._resources.create(event)

    async def _write(self, record: Record) -> None:
        status = record.status
        transaction = resources.Transaction(compare={ledger.ROOT + records.LEADER: self._key})
        if record.stored is None:
            about = base.Metadata(name=name_of(record.spec.host_name, record.spec.epoch), uid=base.timed_uid())
            written = Failover(metadata=about, spec=record.spec, status=status)
            transaction.create(written)
        else:
            written = record.stored.model_copy(update={"status": status})
            transaction.set_status(record.stored, status)
        try:
            revision = await self._resources.commit(transaction)
        except (contract.Mismatch, resources.NameTaken, resources.Changed, resources.Missing):
            record.stored = await self._find(record)  # who leads now, or another in between, has written it
            return
        changes = {"status_revision": revision}
        if record.stored is None:
            changes["revision"] = revision
            await self._forget()
        record.stored = resources.with_metadata(written, **changes)

    async def _find(self, record: Record) -> Failover | None:
        try:
            return await self._resources.find(Failover, None, name_of(record.spec.host_name, record.spec.epoch))
        except resources.Missing:
            return None

    async def _forget(self) -> None:
        """Only the newest stay."""
        ended = sorted((one for one in self._mirror.every(Failover) if one.status.state.ended), key=lambda one: one.uid)
        for old in ended[: max(len(ended) - _KEPT, 0)]:
            try:
                await self._resources.delete(old)
            except resources.Error:
                log.debug("%s was changed meanwhile", old.name)


def _has(record: Record, *steps: type[words.Message]) -> bool:
    return any(one.said.type == step.type for one in record.status.steps for step in steps)
