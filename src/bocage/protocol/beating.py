"""The beat: a host tells the store that it lives, and its guard what the store has confirmed.

A process of its own drives it (node/beat), which has no other duty: a daemon that is down or slow is no dead host.
"""

from __future__ import annotations

import dataclasses

from bocage.protocol import records, timing

_KEPT = 1024  # beats whose answers may still come


@dataclasses.dataclass(frozen=True, slots=True)
class Confirmed:
    """To the guard: the store has taken a beat of this life that was sent at `sent`. When its answer came does not
    matter: it may have lain in TCP for minutes."""

    life: records.Life
    sent: float


@dataclasses.dataclass(frozen=True, slots=True)
class Raised:
    """To the guard: this life was ended by who fences."""

    life: records.Life


@dataclasses.dataclass(frozen=True, slots=True)
class Strange:
    """To the daemon: the store is another incarnation. Neither confirmed nor raised."""

    life: records.Life


@dataclasses.dataclass(frozen=True, slots=True)
class Look:
    """Read the host's epoch: this life is over, and whoever took it from us, it is there. Told by `looked`."""


Word = Confirmed | Raised | Strange | Look


class Beating:
    """The beats of one life."""

    def __init__(self, life: records.Life, profile: timing.Timing) -> None:
        self.life = life
        self._profile = profile
        self._number = 0
        self._sent: dict[int, float] = {}
        self._ended = False

    def tick(self, now: float) -> list[records.Ask]:
        """Send a beat if it is time. Those before it may still be under way: any answer counts, by its own sending."""
        last = self._sent.get(self._number)
        if self._ended or (last is not None and now < last + self._profile.beat):
            return []
        self._number += 1
        self._sent[self._number] = now
        self._sent.pop(self._number - _KEPT, None)
        life = self.life
        return [
            records.Ask(
                self._number,
                records.Transaction(
                    life.incarnation,
                    {records.epoch_of(life.host): life.revision},
                    {records.beat_of(life.host): records.Beat(self._number)},
                ),
            )
        ]

    def answered(self, number: int, answer: records.Answer) -> list[Word]:
        """What the store said to that beat."""
        sent = self._sent.get(number)
        if isinstance(answer, records.Applied):
            return [] if sent is None else [Confirmed(self.life, sent)]
        if answer.key == records.CLUSTER:
            return [Strange(self.life)]
        self._ended = True
        return [Look()]

    def looked(self, view: records.View) -> list[Word]:
        """The host's epoch, read through the majority after a beat was refused."""
        cluster = view.get(records.Cluster, records.CLUSTER)
        epoch = view.get(records.Epoch, records.epoch_of(self.life.host))
        if not self._ended or epoch is None or cluster is None:
            return []
        if cluster.incarnation != self.life.incarnation:
            return [Strange(self.life)]
        if epoch.lives and epoch.taken > self.life.epoch:
            return []  # the host itself lives on in a newer one: its guard is told by who took it
        return [Raised(self.life)]

    @property
    def ended(self) -> bool:
        """No beat of this life can be confirmed any more; look until that was answered."""
        return self._ended
