"""What the leader does with what it sees: fence the silent, free and place what they had, open a restored store.

Its writes need no answers: each compares what it was decided on, and the next view shows what became of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from bocage.protocol import census, fencing, leading, records, replicating, silence, timing

_AGAIN = 0.5  # seconds before what was not answered is done again
_SAID = 15.0  # seconds for which a BMC's unasked word counts: some take several to say it
_TO_PROVE = (fencing.Act.POWER_OFF, fencing.Act.READ_POWER, fencing.Act.END_WRITES)

Place = Callable[[str, Sequence[str]], "str | None"]
"""Which of these hosts is to run that VM."""


@dataclasses.dataclass(frozen=True, slots=True)
class Write:
    transaction: records.Transaction


@dataclasses.dataclass(frozen=True, slots=True)
class Do:
    """To be done to `host` outside the store. What is answered belongs to the raised epoch `number`."""

    act: fencing.Act
    host: str
    number: int


@dataclasses.dataclass(frozen=True, slots=True)
class Lift:
    """Let the host into the storages again; then the record of its fence is deleted by `lifted`."""

    host: str
    number: int


Act = Write | Do | Lift


class Ruling:
    """The leader's work on one host; that host may lead or not."""

    def __init__(
        self,
        me: str,
        means: Mapping[str, fencing.Means],
        profile: timing.Timing,
        place: Place,
        stays: Callable[[str], bool] = lambda machine: False,
    ) -> None:
        self._me = me
        self._means = means
        self._profile = profile
        self._place = place
        self._stays = stays  # whether no other host could have a VM: it is not taken from its own
        self.leading = leading.Leading(me, profile)
        self.fences: dict[str, fencing.Fencing] = {}
        self._owners: set[str] | None = None  # of VMs that others could have; None: nobody knows who owns what
        self._off: dict[str, float] = {}  # hosts whose BMC said, unasked, that they are off; when it was asked
        self._done: dict[object, float] = {}
        self._lifted: dict[str, int] = {}
        self._incarnation: str | None = None  # of the store that all of this is about

    def seen(
        self, view: records.View, clocks: silence.Silence, life: records.Life, sent: float, now: float
    ) -> list[Act]:
        """All records, by a read that was sent at `sent`."""
        self.leading.seen(view, sent, now)
        stands = self.leading.stand(clocks, life.incarnation, life, now)
        if stands is not None:
            return self._once(Write(stands), now)
        if not self.leading.leads(now):
            self.fences.clear()
            return []
        cluster = view.get(records.Cluster, records.CLUSTER)
        if cluster is None or cluster.incarnation != life.incarnation:
            return []
        if self._incarnation != life.incarnation:
            self._incarnation = life.incarnation
            for known in (self.fences, self._off, self._done, self._lifted):
                known.clear()
        beat = self.leading.beat(life.incarnation, now)
        acts: list[Act] = [Write(beat)] if beat else []
        for host in records.hosts(view):
            acts += self._lift(host, view, life)
            if host != self._me:
                acts += self._watch(host, view, clocks, life, now)
        self._owners = self._who_owns(view) if cluster.settled else None
        acts += self._settle(view, life) if not cluster.settled else self._free_and_place(view, clocks, life, now)
        return [act for each in acts for act in self._once(each, now)]

    def tick(self, now: float) -> list[Act]:
        """What is due for the hosts that are being fenced, as long as this host leads.

        One that owns nothing that others could have needs no proof: it may be starting again, and keeps its power.
        """
        if not self.leading.leads(now):
            return []
        acts: list[Act] = [
            Do(act, host, fence.number)
            for host, fence in self.fences.items()
            for act in fence.tick(now)
            if act not in _TO_PROVE or self._owners is None or host in self._owners
        ]
        return [act for each in acts for act in self._once(each, now)]

    def answered(self, act: Act) -> None:
        """What was to be done was answered, whatever was said: it may be done again at once."""
        self._done.pop(self._key(act), None)

    def read_power(self, host: str, *, off: bool, asked: float) -> None:
        """What a BMC has said."""
        if off:
            self._off[host] = asked
        else:
            self._off.pop(host, None)
        if host in self.fences:
            self.fences[host].read_power(off=off, asked=asked)

    def lifted(self, host: str, number: int) -> None:
        """All storages let the host in again."""
        self._lifted[host] = number

    def _watch(
        self, host: str, view: records.View, clocks: silence.Silence, life: records.Life, now: float
    ) -> list[Act]:
        epoch = view.get(records.Epoch, records.epoch_of(host))
        if epoch is None:
            return []  # a record that this version cannot read: nothing is done about that host, and all about others
        if not epoch.lives:
            fence = self.fences.setdefault(host, fencing.Fencing(host, self._means[host], self._profile))
            fence.seen(view, now)
            return []
        self.fences.pop(host, None)
        if host in clocks.silent(now):
            if clocks.most_are_silent(now) and not self._is_off(host, now):
                known = self._means[host].power
                return [Do(fencing.Act.READ_POWER, host, 0)] if known else []
            fence = fencing.Fencing(host, self._means[host], self._profile)
            raising = fence.raising(view, self.leading.revision, life.incarnation)
            return [Write(raising)] if raising else []
        return []

    def _is_off(self, host: str, now: float) -> bool:
        return host in self._off and now - self._off[host] < _SAID

    def _lift(self, host: str, view: records.View, life: records.Life) -> list[Act]:
        fence = view.get(records.Fence, records.fence_of(host))
        if fence is None or not fencing.lifting(host, view):
            return []
        if self._lifted.get(host, 0) < fence.number:
            return [Lift(host, fence.number)]
        key = records.fence_of(host)
        compare = {records.LEADER: self.leading.revision, key: view.revision(key)}
        return [Write(records.Transaction(life.incarnation, compare, {key: None}))]

    def _settle(self, view: records.View, life: records.Life) -> list[Act]:
        dead = [host for host, fence in self.fences.items() if fence.proven]
        settling = census.settling(view, dead, self.leading.revision)
        return [Write(settling)] if settling else []

    def _free_and_place(self, view: records.View, clocks: silence.Silence, life: records.Life, now: float) -> list[Act]:
        acts: list[Act] = []
        silent = clocks.silent(now)
        for key, entry in view.entries.items():
            owner = entry.record
            if not key.startswith("owner/") or not isinstance(owner, records.Owner):
                continue
            machine = key.removeprefix("owner/")
            if owner.host in self.fences and not self._stays(machine):
                clearing = self._free(machine, self.fences[owner.host], view, silent, life)
                acts += [Write(clearing)] if clearing else []
            elif owner.host is None:
                acts += self._give(machine, owner, view, silent, life)
        return acts

    def _who_owns(self, view: records.View) -> set[str]:
        owners = set()
        for key, entry in view.entries.items():
            owner = entry.record
            if isinstance(owner, records.Owner) and owner.host and not self._stays(key.removeprefix("owner/")):
                owners.add(owner.host)
        return owners

    def _free(
        self, machine: str, fence: fencing.Fencing, view: records.View, silent: Sequence[str], life: records.Life
    ) -> records.Transaction | None:
        """Take a VM from a dead host. One on local disks goes to its replica's host, or stays until its own returns."""
        replica = view.get(records.Replica, records.replica_of(machine))
        if replica is None:
            return fence.clearing(machine, view, self.leading.revision, life.incarnation)
        if not fence.proven or replica.host in silent or not self._can_take(replica.host, view):
            return None  # given to one that is away, it could not go back to its own host, whose disks are as good
        return replicating.taking_over(
            machine, view, fence.revision, self.leading.revision, life.incarnation, fence.host
        )

    def _give(
        self, machine: str, owner: records.Owner, view: records.View, silent: Sequence[str], life: records.Life
    ) -> list[Act]:
        """Give a VM to a host. The generation grows: what a migration left on that host is not what is given."""
        fit = [host for host in records.hosts(view) if host not in silent and self._can_take(host, view)]
        chosen = self._place(machine, fit) if fit else None
        if chosen is None:
            return []
        key, epoch = records.owner_of(machine), records.epoch_of(chosen)
        compare = {
            key: view.revision(key),
            epoch: view.revision(epoch),
            records.LEADER: self.leading.revision,
        }
        return [
            Write(records.Transaction(life.incarnation, compare, {key: records.Owner(chosen, owner.generation + 1)}))
        ]

    @staticmethod
    def _can_take(host: str, view: records.View) -> bool:
        epoch = view.get(records.Epoch, records.epoch_of(host))
        return epoch is not None and epoch.lives and view.get(records.Fence, records.fence_of(host)) is None

    def _once(self, act: Act, now: float) -> list[Act]:
        """`act`, unless it was begun a moment ago."""
        key = self._key(act)
        self._done = {each: begun for each, begun in self._done.items() if now - begun < _AGAIN}
        if key in self._done:
            return []
        self._done[key] = now
        return [act]

    @staticmethod
    def _key(act: Act) -> object:
        if not isinstance(act, Write):
            return act
        return (tuple(sorted(act.transaction.compare.items())), tuple(sorted(act.transaction.puts)))
