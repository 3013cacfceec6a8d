"""Leadership: one host places and fences. The key is taken by compare-and-swap when its holder is silent.

A leader beats by a key of its own: its host may live, and beat, while the daemon that leads does not.
"""

from __future__ import annotations

from bocage.protocol import records, silence, timing


class Leading:
    """One host's part in it."""

    def __init__(self, me: str, profile: timing.Timing) -> None:
        self._me = me
        self._profile = profile
        self._seen: float | None = None  # when the read was sent that showed the key last
        self._holder: str | None = None
        self.revision = 0
        self._term = 0
        self._ruled: tuple[int, int] | None = None  # revisions of the key and of its holder's beat
        self._ruled_at = 0.0  # when they were seen to change
        self._beaten = 0.0

    def seen(self, view: records.View, sent: float, now: float) -> None:
        """The key as a read through the majority, sent at `sent`, has shown it."""
        ruled = (view.revision(records.LEADER), view.revision(records.RULES))
        if ruled != self._ruled:
            self._ruled, self._ruled_at = ruled, now
        leader = view.get(records.Leader, records.LEADER)
        self._holder, self._term = (leader.host, leader.term) if leader else (None, 0)
        self.revision = view.revision(records.LEADER)
        self._seen = sent if self._seen is None else max(self._seen, sent)

    def leads(self, now: float) -> bool:
        """Whether this host leads and has seen so lately. Its transactions compare the key all the same; what it does
        outside the store (power, access lists) it does only while this holds."""
        return self._holder == self._me and self._seen is not None and now - self._seen <= self._profile.outage

    def stand(
        self, clocks: silence.Silence, incarnation: str, life: records.Life, now: float
    ) -> records.Transaction | None:
        """The transaction that makes this host the leader, if nobody leads or the holder is silent."""
        if self._seen is None or self._holder == self._me or not clocks.sure(now):
            return None
        quiet = now - max(self._ruled_at, clocks.sure_since)
        if self._holder is not None and quiet <= self._profile.silence:
            return None
        return records.Transaction(
            incarnation,
            {records.LEADER: self.revision, records.epoch_of(self._me): life.revision},
            {records.LEADER: records.Leader(self._me, self._term + 1)},
        )

    def beat(self, incarnation: str, now: float) -> records.Transaction | None:
        """The leader's beat, if it is time."""
        if not self.leads(now) or now < self._beaten + self._profile.beat:
            return None
        self._beaten = now
        rules = {records.RULES: records.Beat(self._term)}
        return records.Transaction(incarnation, {records.LEADER: self.revision}, rules)
