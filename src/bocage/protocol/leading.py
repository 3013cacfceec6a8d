"""Leadership: one host places and fences. The key is taken by compare-and-swap when its holder is silent."""

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

    def seen(self, view: records.View, sent: float) -> None:
        """The key as a read through the majority, sent at `sent`, has shown it."""
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
        if self._holder is not None and clocks.of(self._holder, now) <= self._profile.silence:
            return None
        return records.Transaction(
            incarnation,
            {records.LEADER: self.revision, records.epoch_of(self._me): life.revision},
            {records.LEADER: records.Leader(self._me, self._term + 1)},
        )
