"""Returning: how a host comes by a life, at boot, after its epoch was raised, and in a store that was restored."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Mapping

from bocage.protocol import records, timing


class Phase(enum.Enum):
    BOOTED = "nothing runs, no epoch is taken"
    LIVE = "in the epoch it has taken"
    CHANGING = "in an epoch, with its VMs on the way to the next one, that has other bounds"
    ENDING = "its epoch was raised: what ran is being ended"
    STOPPING = "it is to be stopped: what runs is being ended, then the epoch is closed"
    STRANGE = "the store is another incarnation: what runs is told, and waits"


@dataclasses.dataclass(frozen=True, slots=True)
class EndLife:
    """To the guard: end this life, as if its epoch had been raised. A restored store was settled without it."""

    life: records.Life


@dataclasses.dataclass(frozen=True, slots=True)
class Narrow:
    """To the guard: the tighter of its bounds and these hold from now on."""

    bounds: records.Bounds


Act = records.Ask | EndLife | Narrow


class Returning:
    """One host's way into its next life."""

    def __init__(self, host: str, bounds: records.Bounds, profile: timing.Timing) -> None:
        self.host = host
        self._wanted = bounds
        self._profile = profile
        self.phase = Phase.BOOTED
        self.life: records.Life | None = None
        self.bounds = bounds  # that its life was taken with
        self.waits = False  # in a life that may not run anything before the store is settled
        self._clean = True  # nothing runs here that an older life has started and the store may give to others
        self._attempt = 0
        self._asked: float | None = None
        self._proposed: tuple[str, int, records.Bounds] | None = None  # incarnation, epoch, bounds of the attempt
        self._narrowed: records.Bounds | None = None  # bounds that the guard keeps already

    @classmethod
    def resumed(
        cls, life: records.Life, bounds: records.Bounds, wanted: records.Bounds, profile: timing.Timing
    ) -> Returning:
        """A daemon that was started anew in the same boot: a file of the home has its life and the bounds of that."""
        host = cls(life.host, wanted, profile)
        host.life, host.bounds, host.phase = life, bounds, Phase.LIVE
        return host

    def change(self, bounds: records.Bounds) -> None:
        """Other bounds: they come with another epoch, and the tighter ones hold until then."""
        self._wanted = bounds

    def stop(self) -> None:
        """A planned stop: what runs is ended, then the epoch is closed, and others need no further proof."""
        self.phase = Phase.STOPPING

    def narrowed(self, bounds: records.Bounds) -> None:
        """The guard keeps these bounds, and a file has them for its successor."""
        self._narrowed = bounds

    def seen(
        self,
        view: records.View,
        runs: Mapping[str, int],
        started: Mapping[str, int],
        *,
        gone: float | None,
        sent: float,
        now: float,
    ) -> list[Act]:
        """The records, by a read sent at `sent`; what `runs` here, by generation; the generations under which VMs were
        `started` last, as their own directories say, wherever that was; since when nothing of the old life is left.

        What had reached an array by then lands within T_drain: only after it the old life is over.
        """
        cluster = view.get(records.Cluster, records.CLUSTER)
        if cluster is None:
            return []
        key = records.epoch_of(self.host)
        epoch = view.get(records.Epoch, key) or records.Epoch()
        over = gone is not None and now > gone + self._profile.drain * timing.RATE
        if self.life is not None and self.phase in (Phase.LIVE, Phase.CHANGING):
            self._look(cluster, epoch, view.revision(key), self.life)
        if self.phase is Phase.LIVE or (self._asked is not None and sent <= self._asked + self._profile.answer):
            return []
        asked = self._proposed[:2] if self._proposed else None
        if asked == (cluster.incarnation, epoch.taken) and epoch.lives and self.phase is not Phase.STOPPING:
            self._proposed = (*asked, epoch.bounds)
            self._live(view.revision(key))  # it was written after all
            return []
        if self.phase is Phase.STOPPING:
            return self._stop(view, epoch, over=over)
        ends = self.phase is Phase.ENDING or (self.phase is Phase.STRANGE and cluster.settled)
        if ends and self.life is not None and gone is None:
            return [EndLife(self.life)]
        if not over and (
            self.phase in (Phase.BOOTED, Phase.ENDING) or (self.phase is Phase.STRANGE and gone is not None)
        ):
            return []
        if self._narrowed != self._wanted:
            return [Narrow(self._wanted)]
        number = epoch.number if not epoch.lives else epoch.number + 1
        self._clean = self._clean if self.phase is Phase.CHANGING else over
        last = number - 1 if self._clean else min(epoch.gone, number - 2)  # the last life that is over
        taken = records.Epoch(number, number, last, self._wanted)
        puts: dict[str, object] = {key: taken}
        if not cluster.settled:
            puts[records.report_of(self.host)] = records.Report(cluster.incarnation, dict(runs), dict(started))
        self.waits = not (cluster.settled and self._clean)
        self._proposed = (cluster.incarnation, number, self._wanted)
        return [self._ask(view, cluster.incarnation, puts, now)]

    def _look(self, cluster: records.Cluster, epoch: records.Epoch, revision: int, life: records.Life) -> None:
        """What the records say of a life that goes on."""
        if cluster.incarnation != life.incarnation:
            self.phase = Phase.STRANGE
        elif revision > life.revision and not (epoch.lives and epoch.taken > life.epoch):
            self.phase = Phase.ENDING
        elif revision > life.revision and self._asked is None:
            self._proposed = (life.incarnation, epoch.taken, epoch.bounds)
            self._live(revision)  # an earlier daemon of this host had asked for it
        elif self.phase is Phase.LIVE:
            if revision == life.revision:
                self._clean = epoch.gone >= epoch.taken - 1
            self.waits = not (cluster.settled and self._clean)
            if self._wanted != self.bounds:
                self.phase = Phase.CHANGING

    def _stop(self, view: records.View, epoch: records.Epoch, *, over: bool) -> list[Act]:
        if self.life is None or not over:
            return [EndLife(self.life)] if self.life is not None else []
        if not epoch.lives and epoch.over:
            return []
        number = epoch.number + 1 if epoch.lives else epoch.number
        closed = records.Epoch(number, epoch.taken, epoch.taken, epoch.bounds)
        self._proposed = None
        return [self._ask(view, self.life.incarnation, {records.epoch_of(self.host): closed}, None)]

    def _ask(self, view: records.View, incarnation: str, puts: dict[str, object], now: float | None) -> records.Ask:
        key = records.epoch_of(self.host)
        compare = {key: view.revision(key), records.CLUSTER: view.revision(records.CLUSTER)}
        self._attempt += 1
        self._asked = now
        return records.Ask(self._attempt, records.Transaction(incarnation, compare, puts))

    def ended(self, view: records.View) -> None:
        """All that a settled store gave to others is ended here: now it takes an epoch that says so.

        Only then do the storages let a host in again that they had shut out.
        """
        settled = self.life is not None and records.settled(view, self.life.incarnation)
        if self.phase is Phase.LIVE and settled and not self._clean:
            self._clean = True
            self.phase = Phase.CHANGING

    def to_end(self, view: records.View, runs: Iterable[str]) -> list[str]:
        """The VMs that run here and belong elsewhere, or are to be started anew: a restored store was settled so.

        They are ended, and what they have sent with them, before the guard is given the new life: it would let them go
        on with the others.
        """
        ends = []
        for machine in runs:
            owner = view.get(records.Owner, records.owner_of(machine))
            if owner is None or owner.host != self.host or owner.anew:
                ends.append(machine)
        return ends

    def answered(self, attempt: int, answer: records.Answer) -> None:
        """What the store said. An answer to an attempt that was given up is found in the records."""
        if attempt != self._attempt or self._proposed is None or self.phase in (Phase.LIVE, Phase.STOPPING):
            return
        if isinstance(answer, records.Applied):
            self._live(answer.revision)
        else:
            self._asked = self._proposed = None

    def raised(self) -> None:
        """The guard has heard that this life was ended."""
        if self.phase in (Phase.LIVE, Phase.CHANGING):
            self.phase = Phase.ENDING

    def _live(self, revision: int) -> None:
        assert self._proposed is not None
        incarnation, number, self.bounds = self._proposed
        self.life = records.Life(self.host, incarnation, number, revision)
        self.phase = Phase.LIVE
        self._asked = self._proposed = None
