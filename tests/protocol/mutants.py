"""Each rule broken once: the simulation must find every one of these worlds out.

Two of them would do no harm by themselves, since raising an epoch compares the beat that was seen last: the fence's
timer from sending, and silence counted during one's own outage. They are broken together with that compare.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from bocage.protocol import beating, fencing, guarding, moving, owning, records, ruling, silence
from tests.protocol import ground, host, world


class _OwnsWithoutEpoch(owning.Owning):
    def seen(self, view, life, sent, now):
        acts = super().seen(view, life, sent, now)
        return [_without_epoch(act) if isinstance(act, records.Ask) else act for act in acts]


class _TakesOldGrants(owning.Owning):
    """What was granted counts, whatever life it was granted to."""

    def answered(self, attempt, answer, life):
        return super().answered(attempt, answer, self._life)

    def still(self, attempt, life):
        return super().still(attempt, self._life)


def _without_epoch(claim: records.Ask) -> records.Ask:
    compare = {key: revision for key, revision in claim.transaction.compare.items() if not key.startswith("epoch/")}
    return dataclasses.replace(claim, transaction=dataclasses.replace(claim.transaction, compare=compare))


class _BeatsInAnyStore(beating.Beating):
    def tick(self, now: float) -> list[records.Ask]:
        return [
            dataclasses.replace(
                send, transaction=dataclasses.replace(send.transaction, incarnation=ground.NOT_COMPARED)
            )
            for send in super().tick(now)
        ]


def _told_of_receipt(beat: beating.Beating, number: int, answer: records.Answer, now: float) -> list[beating.Word]:
    words = beat.answered(number, answer)
    return [dataclasses.replace(word, sent=now) if isinstance(word, beating.Confirmed) else word for word in words]


class _ThawsLate(guarding.Guard):
    def confirmed(self, life: records.Life, sent: float, now: float) -> list[guarding.Act]:
        acts = super().confirmed(life, sent, now)
        if not acts and self.phase is guarding.Phase.HELD and life == self.standing.life:
            self._confirmed = now
            return super().confirmed(life, now, now)
        return acts


class _FeedsUnread(guarding.Guard):
    def _may_feed(self, now: float) -> bool:
        return self.phase is guarding.Phase.HELD or super()._may_feed(now)


class _FeedsWhileTheKilledLive(guarding.Guard):
    def _may_feed(self, now: float) -> bool:
        return self.phase is guarding.Phase.ENDING or super()._may_feed(now)


class _ThawsUnkilled(guarding.Guard):
    def raised(self, life: records.Life) -> list[guarding.Act]:
        acts = super().raised(life)
        return [guarding.Act.THAW, guarding.Act.LET_PASS, *acts[1:]] if acts else acts

    def tick(self, now: float) -> list[guarding.Act]:
        return [act for act in super().tick(now) if act is not guarding.Act.KILL]


def _counts_anew(life: records.Life, bounds: records.Bounds, now: float) -> guarding.Guard:
    guard = guarding.Guard.alone(life, bounds, now)
    guard.phase, guard._confirmed, guard._since, guard._complete = guarding.Phase.OPEN, now, None, True
    return guard


def _in_place(victim: host.Host, bounds: records.Bounds) -> None:
    if victim.guard is not None:
        victim.guard.bounds = bounds


class _ResumesUnsettled(moving.Source):
    def seen(self, view, life, sent, now):
        if self.phase is moving.SourcePhase.HANDING and now > (self._asked or 0.0) + self._profile.answer:
            self.phase = moving.SourcePhase.STAYED
            return [moving.Act.CONTINUE]
        return super().seen(view, life, sent, now)


class _RunsUncompleted(moving.Target):
    def seen(self, view: records.View) -> list[moving.Act]:
        if self._received and not self.runs:
            self.runs = True
            return [moving.Act.CONTINUE]
        return super().seen(view)


class _Ruling(ruling.Ruling):
    """A leader that changes what it does: `alter` is asked for each transaction, `fence` for each fence."""

    def _watch(self, host, view, clocks, life, now):
        before = set(self.fences)
        acts = super()._watch(host, view, clocks, life, now)
        if host in self.fences and host not in before:
            new = self._fence(host)
            new.seen(view, now)
            self.fences[host] = new
        return acts

    def _fence(self, host: str) -> fencing.Fencing:
        return fencing.Fencing(host, self._means[host], self._profile)


class _WritesUnled(ruling.Ruling):
    def seen(self, view, clocks, life, sent, now):
        return [_unled(act) for act in super().seen(view, clocks, life, sent, now)]


def _unled(act: ruling.Act) -> ruling.Act:
    if not isinstance(act, ruling.Write) or records.LEADER in act.transaction.puts:
        return act
    compare = {key: revision for key, revision in act.transaction.compare.items() if key != records.LEADER}
    return ruling.Write(dataclasses.replace(act.transaction, compare=compare))


class _BlindRaise(ruling.Ruling):
    def seen(self, view, clocks, life, sent, now):
        return [_blind(act) for act in super().seen(view, clocks, life, sent, now)]


def _blind(act: ruling.Act) -> ruling.Act:
    if not isinstance(act, ruling.Write):
        return act
    compare = {key: revision for key, revision in act.transaction.compare.items() if not key.startswith("beat/")}
    return ruling.Write(dataclasses.replace(act.transaction, compare=compare))


class _FromSending(_BlindRaise):
    """The time counts from when the raise was sent, which may be long before it is done."""

    def seen(self, view, clocks, life, sent, now):
        acts = super().seen(view, clocks, life, sent, now)
        for act in acts:
            if isinstance(act, ruling.Write):
                for key in act.transaction.puts:
                    if key.startswith("epoch/"):
                        self._sendings().setdefault(key.removeprefix("epoch/"), now)
        for name, fence in self.fences.items():
            if name in self._sendings() and fence._since is not None:
                fence._since = min(fence._since, self._sendings()[name])
        for name in list(self._sendings()):
            epoch = view.get(records.Epoch, records.epoch_of(name))
            if name not in self.fences and epoch is not None and now - self._sendings()[name] > 6:
                del self._sendings()[name]
        return acts

    def _sendings(self) -> dict[str, float]:
        if not hasattr(self, "_sent"):
            self._sent: dict[str, float] = {}
        return self._sent


class _Undrained(fencing.Fencing):
    @property
    def proven(self) -> bool:
        return self.proof is not None

    def tick(self, now: float) -> list[fencing.Act]:
        if self._since is not None and self._epoch is not None and self._epoch.bounds.proves:
            bounds = self._epoch.bounds
            assert bounds.watchdog is not None
            if now > self._since + bounds.guard + bounds.watchdog:
                self._prove(fencing.Proof.TIME)
        return super().tick(now)


class _StartsUndrained(_Ruling):
    def _fence(self, host: str) -> fencing.Fencing:
        return _Undrained(host, self._means[host], self._profile)


class _LiftsEarly(ruling.Ruling):
    def _lift(self, host, view, life):
        fence = view.get(records.Fence, records.fence_of(host))
        owned = any(isinstance(e.record, records.Owner) and e.record.host == host for e in view.entries.values())
        if fence is not None and not owned and self._lifted.get(host, 0) < fence.number:
            return [ruling.Lift(host, fence.number)]
        return super()._lift(host, view, life)


class _CountsItsOwnOutage(silence.Silence):
    def of(self, host: str, now: float) -> float:
        return now - self._heard[host] if host in self._heard else 0.0

    def sure(self, now: float) -> bool:
        return True


def _with(**parts: object) -> Callable[[], world.Kinds]:
    return lambda: world.Kinds(**parts)  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A rule that is broken, and the troubles in which it matters (all, if none is named)."""

    kinds: Callable[[], world.Kinds]
    only: tuple[str, ...] = ()

    def found(self, seed: int) -> bool:
        """Whether this world finds it out, and would find nothing amiss with the rule whole.

        Every second world is a calm one with nothing but the troubles that matter.
        """
        only = self.only if seed % 2 else ()
        try:
            world.World(seed, self.kinds(), only=only).run()
        except ground.Violation:
            world.World(seed, only=only).run()
            return True
        return False


MUTANTS: dict[str, Mutant] = {
    "ownership without epoch compare": Mutant(_with(owning=_OwnsWithoutEpoch), ("slow claims",)),
    "a grant to a life that is over": Mutant(_with(owning=_TakesOldGrants), ("late grants",)),
    "beat without incarnation compare": Mutant(_with(beating=_BeatsInAnyStore), ("lost history",)),
    "fence timer from sending": Mutant(_with(ruling=_FromSending)),
    "guard told the time of receipt": Mutant(_with(answered=_told_of_receipt), ("answers stick",)),
    "a late answer that thaws": Mutant(_with(guard=_ThawsLate), ("answers stick",)),
    "clock that stops in suspend": Mutant(_with(clock=host.Clock.monotonic), ("suspended while cut off",)),
    "watchdog fed while freeze is not read back": Mutant(_with(guard=_FeedsUnread), ("stuck for long",)),
    "watchdog fed while a killed process lives": Mutant(_with(guard=_FeedsWhileTheKilledLive), ("stuck",)),
    "new guard that counts anew": Mutant(_with(alone=_counts_anew), ("guard dies unconfirmed",)),
    "source resumed after a time-out": Mutant(_with(source=_ResumesUnsettled), ("migration",)),
    "target run before completed": Mutant(_with(target=_RunsUncompleted), ("migration",)),
    "fence lifted before the new epoch": Mutant(_with(ruling=_LiftsEarly), ("network", "hang")),
    "clients born after the fence not covered": Mutant(_with(whole=False), ("slow starts",)),
    "T_guard lengthened in place": Mutant(_with(change=_in_place), ("bounds, then the network",)),
    "leader's write without leadership": Mutant(_with(ruling=_WritesUnled), ("leader hangs",)),
    "raise without the beat compare": Mutant(_with(ruling=_BlindRaise)),
    "start before the drain": Mutant(_with(ruling=_StartsUndrained), ("network", "array slow")),
    "thaw of a process not killed": Mutant(_with(guard=_ThawsUnkilled), ("network",)),
    "silence counted during one's own outage": Mutant(_with(silence=_CountsItsOwnOutage, ruling=_BlindRaise)),
}
