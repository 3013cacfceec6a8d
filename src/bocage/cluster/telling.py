"""Raises and clears the leader's alarms, and keeps on record how the hosts stand."""

from __future__ import annotations

import contextlib
import datetime
import uuid
from collections.abc import Callable, Iterator, Sequence

from bocage import ledger
from bocage.cluster.chronicle import Chronicle
from bocage.cluster.mirror import Mirror
from bocage.cluster.ruler import Ruler
from bocage.model import base, ground, plan, standing, standstill, work
from bocage.planner import alarms, outages
from bocage.protocol import records
from bocage.store import contract, resources

_SPACE = uuid.UUID("5b1ccf55-7f0c-4c35-9d5e-0a4a5f6c1f4d")

_Raised = tuple[alarms.Condition, base.Ref | None, str]


class Telling:
    """What the leader has to say beside the records of failovers."""

    def __init__(
        self,
        kept: resources.Resources,
        mirror: Mirror,
        chronicle: Chronicle,
        *,
        unsurvived: Callable[[], Sequence[plan.Unsurvived]] = tuple,
        now: Callable[[], datetime.datetime] = base.now,
    ) -> None:
        self._resources, self._mirror, self._chronicle, self._now = kept, mirror, chronicle, now
        self._unsurvived = unsurvived
        self._told: standing.Standing | None = None

    async def write(self, ruler: Ruler, seen: ledger.Seen, now: float) -> None:
        """Write what has changed since. Raises what the store does."""
        compare = {ledger.ROOT + records.LEADER: ruler.ruling.leading.revision}
        if self._told is None:
            self._told = await self._written()
        with contextlib.suppress(contract.Mismatch):  # another leads
            await self._write_standing(self._standing(ruler, seen.view, now), compare)
        holding = self._conditions(ruler, now)
        with contextlib.suppress(contract.Mismatch, resources.Changed, resources.Missing):  # or: seen
            await self._write_alarms(holding, compare)

    async def _written(self) -> standing.Standing | None:
        entry = await self._resources.store.get(standing.KEY)
        try:
            return standing.Standing.model_validate_json(entry.value) if entry else None
        except ValueError:
            return None  # of another version

    def _standing(self, ruler: Ruler, view: records.View, now: float) -> standing.Standing:
        leader = view.get(records.Leader, records.LEADER)
        assert leader is not None
        name = self._chronicle.name_of(leader.host)
        same = self._told is not None and (self._told.leader, self._told.term) == (name, leader.term)
        before = {one.host: one for one in self._told.hosts} if self._told else {}
        hosts = tuple(self._host(one, ruler, view, now, before) for one in records.hosts(view))
        since = self._told.since if same and self._told else self._now()
        return standing.Standing(leader=name, term=leader.term, since=since, hosts=hosts)

    def _host(
        self, host: str, ruler: Ruler, view: records.View, now: float, before: dict[str, standing.HostStanding]
    ) -> standing.HostStanding:
        fence, quiet = ruler.ruling.fences.get(host), ruler.silence.of(host, now)
        state: standing.Beats = "beats"
        if fence is not None:
            proof = self._chronicle.status_of(host, fence.number).proof
            state = "proven-dead" if fence.proven or proof else "fenced"
        elif view.get(records.Beat, records.beat_of(host)) is None:
            state = "never"
        elif host in ruler.silence.silent(now):
            state = "silent"
        since = None
        if state != "beats":
            known = before.get(host)
            since = known.since if known and known.since else self._now() - datetime.timedelta(seconds=quiet)
        return standing.HostStanding(host=host, name=self._chronicle.name_of(host), state=state, since=since)

    async def _write_standing(self, found: standing.Standing, compare: dict[str, int]) -> None:
        if found != self._told:
            puts = {standing.KEY: found.model_dump_json().encode()}
            await self._resources.store.apply(compare=compare, puts=puts)
            self._told = found

    def _conditions(self, ruler: Ruler, now: float) -> dict[str, _Raised]:
        """By the uid of its alarm."""
        found = list(self._holding(ruler, now))
        return {str(uuid.uuid5(_SPACE, f"{one[0].type}/{one[2]}")): one for one in found}

    def _holding(self, ruler: Ruler, now: float) -> Iterator[_Raised]:
        silent = ruler.silence.silent(now)
        if ruler.silence.most_are_silent(now):
            names = sorted(self._chronicle.name_of(host) for host in silent)
            yield outages.MostSilent(hosts=names), None, ""
        for host, fence in ruler.ruling.fences.items():
            name, known = self._chronicle.name_of(host), self._mirror.get(ground.Host, host)
            subject = known.ref if known else None
            status = self._chronicle.status_of(host, fence.number)
            if status.proof is not None:  # whoever proved it
                yield outages.HostDead(host=name), subject, host
                continue
            yield outages.HostSilent(host=name), subject, host
            waits = status.waits.message if status.waits else None
            if isinstance(waits, alarms.Condition):
                yield waits, subject, host
        for name, one in self._chronicle.lacking(ruler.ruling.fences.values()):
            reason = one.problem.model_dump() if one.problem else {}
            yield outages.NoHostForVm(vm=one.vm.name, host=name, reason=reason), one.vm, one.vm.uid
        if self._mirror.setting(standstill.KEY) is not None:
            yield outages.StandsStill(), None, ""
        if unsurvived := self._unsurvived():
            yield outages.NotSurvived.of(unsurvived), None, ""

    async def _write_alarms(self, holding: dict[str, _Raised], compare: dict[str, int]) -> None:
        raised = self._mirror.every(work.Alarm)
        present = {alarm.uid: alarm for alarm in raised if alarm.spec.raised_by == work.BY_LEADER}
        for uid in present.keys() - holding.keys():
            transaction = resources.Transaction(compare=dict(compare))
            transaction.delete(present[uid])
            await self._resources.commit(transaction)
        for uid, (condition, subject, _) in holding.items():
            if uid not in present:
                await self._raise(uid, condition, subject, compare)
            elif not condition.same(present[uid].spec.said.params):
                said = base.Saying.of(condition)
                changed = resources.bumped(present[uid], resources.with_spec(present[uid], said=said))
                transaction = resources.Transaction(compare=dict(compare))
                transaction.update(changed)
                await self._resources.commit(transaction)

    async def _raise(
        self, uid: str, condition: alarms.Condition, subject: base.Ref | None, compare: dict[str, int]
    ) -> None:
        project = subject.project if subject and subject.project else "default"
        said = base.Saying.of(condition)
        alarm = work.Alarm(
            metadata=base.Metadata(uid=uid, name=condition.type, project=project),
            spec=work.AlarmSpec(
                said=said, severity=base.Severity.ERROR, subject=subject, raised=self._now(), raised_by=work.BY_LEADER
            ),
        )
        transaction = resources.Transaction(compare=dict(compare))
        transaction.create(alarm)
        transaction.create(work.event(condition, severity=base.Severity.ERROR, subject=subject))
        await self._resources.commit(transaction)
