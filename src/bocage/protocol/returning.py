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
    STRANGE = "the store is another incarnation: what runs is told, and waits"


@dataclasses.dataclass(frozen=True, slots=True)
class Ask:
    """A transaction; its answer comes back under `attempt`."""

    attempt: int
    transaction: records.Transaction


@dataclasses.dataclass(frozen=True, slots=True)
class EndLife:
    """To the guard: end this life, as if its epoch had been raised. A restored store was settled without it."""

    life: records.Life


@dataclasses.dataclass(frozen=True, slots=True)
class Narrow:
    """To the guard: the tighter of its bounds and these hold from now on."""

    bounds: records.Bounds


Act = Ask | EndLife | Narrow


class Returning:
    """One host's way into its next life."""

    def __init__(self, host: str, bounds: records.Bounds, profile: timing.Timing) -> None:
        self.host = host
        self._bounds = bounds
        self._profile = profile
        self.phase = Phase.BOOTED
        self.life: records.Life | None = None
        self.waits = False  # in a life that may not run anything before the store is settled
        self._clean = True  # nothing runs here that an older life has started and the store may give to others
        self._attempt = 0
        self._asked: float | None = None
        self._proposed: tuple[str, int] | None = None  # incarnation and epoch of the attempt under way

    def change(self, bounds: records.Bounds) -> list[Act]:
        """Other bounds: they come with another epoch, and the tighter ones hold until then."""
        self._bounds = bounds
        if self.phase is not Phase.LIVE:
            return []
        self.phase = Phase.CHANGING
        return [Narrow(bounds)]

    def seen(self, view: records.View, runs: Mapping[str, int], *, gone: bool, sent: float, now: float) -> list[Act]:
        """The records, by a read sent at `sent`; what `runs` here, by generation; whether the guard has said gone."""
        cluster = view.get(records.Cluster, records.CLUSTER)
        if cluster is None:
            return []
        key = records.epoch_of(self.host)
        epoch = view.get(records.Epoch, key) or records.Epoch()
        if self.life is not None and self.phase in (Phase.LIVE, Phase.CHANGING):
            self.waits = self.waits and not (cluster.settled and self._clean)
            if cluster.incarnation != self.life.incarnation:
                self.phase = Phase.STRANGE
            elif view.revision(key) > self.life.revision and not (epoch.lives and epoch.taken > self.life.epoch):
                self.phase = Phase.ENDING
        if self.phase is Phase.LIVE or (self._asked is not None and sent <= self._asked + self._profile.answer):
            return []
        if self._proposed == (cluster.incarnation, epoch.taken) and epoch.lives and self._asked is not None:
            self._live(view.revision(key))  # it was written after all
            return []
        if self.phase is Phase.STRANGE and cluster.settled and self.life is not None and not gone:
            return [EndLife(self.life)]
        if self.phase is Phase.ENDING and not gone:
            return []
        number = epoch.number if not epoch.lives else epoch.number + 1
        self._clean = self._clean if self.phase is Phase.CHANGING else gone
        over = number - 1 if self._clean else epoch.gone
        taken = records.Epoch(number, number, over, self._bounds)
        puts: dict[str, object] = {key: taken}
        compare = {key: view.revision(key), records.CLUSTER: view.revision(records.CLUSTER)}
        self.waits = not (cluster.settled and self._clean)
        if not cluster.settled:
            puts[records.report_of(self.host)] = records.Report(cluster.incarnation, dict(runs))
        self._attempt += 1
        self._asked, self._proposed = now, (cluster.incarnation, number)
        return [Ask(self._attempt, records.Transaction(cluster.incarnation, compare, puts))]

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
            if owner is not None and (owner.host != self.host or owner.anew):
                ends.append(machine)
        return ends

    def answered(self, attempt: int, answer: records.Answer) -> None:
        """What the store said. An answer to an attempt that was given up is found in the records."""
        if attempt != self._attempt or self._proposed is None or self.phase is Phase.LIVE:
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
        incarnation, number = self._proposed
        self.life = records.Life(self.host, incarnation, number, revision)
        self.phase = Phase.LIVE
        self._asked = self._proposed = None
