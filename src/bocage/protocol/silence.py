"""Who has not been heard for how long, by one observer's own clock."""

from __future__ import annotations

from bocage.protocol import records, timing


class Silence:
    """One host's clocks for all others.

    What it has not heard counts only while its own beats are confirmed: who was cut off himself has heard nobody, and
    starts all clocks anew when he is back.
    """

    def __init__(self, me: str, profile: timing.Timing, now: float) -> None:
        self.me = me
        self._profile = profile
        self._heard: dict[str, float] = {}
        self._answered: dict[str, float] = {}  # the newest answer to a probe
        self._written: dict[str, tuple[int, int]] = {}  # revisions of beat and epoch
        self.sure_since = now  # since when this observer was never cut off
        self._told = now  # when that was last confirmed
        self._sure: float | None = None  # when the newest confirmed beat of our own was sent

    def seen(self, view: records.View, now: float) -> None:
        """The records: a host was heard when it has written its beat or its epoch since the last look."""
        known = {}
        for host in records.hosts(view):
            written = (view.revision(records.beat_of(host)), view.revision(records.epoch_of(host)))
            if host != self.me:
                known[host] = now if self._written.get(host) != written else self._heard.get(host, now)
                self._written[host] = written
        self._heard = known

    def confirmed(self, sent: float, now: float) -> None:
        """A beat of our own, sent at `sent`, was confirmed, and what the store had to tell was heard."""
        if self._sure is not None and sent <= self._sure:
            return
        # A beat that lay in the store's queue was sent in time, and all the same nobody was heard meanwhile.
        if self._sure is None or max(sent - self._sure, now - self._told) > self._profile.outage:
            self.sure_since = now
        self._sure, self._told = sent, now

    def heard(self, host: str, now: float) -> None:
        """That host has answered a probe on a network that is shared with it.

        It counts for T_guard: a host whose beats do not come through stands still by then, whatever it answers.
        """
        if host in self._heard:
            self._answered[host] = now

    def sure(self, now: float) -> bool:
        """Whether this observer is confirmed itself."""
        return self._sure is not None and now - self._sure <= self._profile.outage

    def of(self, host: str, now: float) -> float:
        """For how long that host has been silent, in seconds; 0 where nobody can say."""
        if not self.sure(now) or host not in self._heard:
            return 0.0
        probed = min(self._answered.get(host, 0.0), self._heard[host] + self._profile.guard)
        return now - max(self._heard[host], probed, self.sure_since)

    def silent(self, now: float) -> list[str]:
        """The hosts that are silent by the cluster's profile."""
        return [host for host in self._heard if self.of(host, now) > self._profile.silence]

    def most_are_silent(self, now: float) -> bool:
        """More than half of all hosts at once: then the network is likelier than their death, and nobody is fenced."""
        return 2 * len(self.silent(now)) > len(self._heard) + 1
