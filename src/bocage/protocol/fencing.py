"""Fencing: from a host's silence to the proof that nothing of it writes any more, and to VMs that nobody owns.

The epoch is raised first: from the answer on, no older beat can be confirmed. Then all proofs are sought side by side
and the first one wins. Silence alone proves nothing.
"""

from __future__ import annotations

import dataclasses
import enum

from bocage.protocol import records, timing

_READINGS = 2  # fresh readings of `Off` that count as the BMC's word


class Proof(enum.Enum):
    POWER = "its BMC was told to switch it off, and has said twice that it is off"
    STORAGE = "the storage lets nothing of it in"
    TIME = "its guard or its watchdog has stopped it by now"
    WORD = "it has said itself that nothing of that life runs"
    PERSON = "a person has said so"


class Act(enum.Enum):
    """What the leader does outside the store; done again until it is answered."""

    POWER_OFF = "tell the BMC to switch it off"
    READ_POWER = "ask the BMC whether it is off"
    SHUT_OUT = "take it from the access lists, then delete its sessions; or blocklist its addresses as a whole"
    END_WRITES = "see to it that nothing it has sent can land any more, as the storage's kind asks for"


@dataclasses.dataclass(frozen=True, slots=True)
class Means:
    """What can prove this host's death."""

    power: bool = False  # a BMC whose System UUID was compared with the host's own
    storage: bool = False  # every storage that it shares can shut it out


class Fencing:
    """What the leader does about one silent host. It ends by `proven`, or because the host lives again."""

    def __init__(self, host: str, means: Means, profile: timing.Timing) -> None:
        self.host = host
        self._means = means
        self._profile = profile
        self._epoch: records.Epoch | None = None  # as raised
        self.revision = 0  # of the raised epoch
        self._since: float | None = None  # when the answer "epoch raised" was there
        self._ordered: float | None = None  # when the BMC was told
        self._readings = 0
        self._shut_out = False
        self._person: str | None = None
        self._writes_ended = False
        self.proof: Proof | None = None

    @property
    def raised(self) -> bool:
        return self._since is not None

    @property
    def proven(self) -> bool:
        """Whether its VMs may be started elsewhere."""
        return self.proof is not None and (self._writes_ended or self.proof in (Proof.STORAGE, Proof.TIME))

    def raising(self, view: records.View, leader: int, incarnation: str) -> records.Transaction | None:
        """The transaction that ends the host's life: it fails if a beat came that this leader has not seen."""
        epoch = view.get(records.Epoch, records.epoch_of(self.host))
        if epoch is None or not epoch.lives:
            return None
        number = epoch.number + 1
        puts: dict[str, object] = {records.epoch_of(self.host): dataclasses.replace(epoch, number=number)}
        if self._means.storage:
            puts[records.fence_of(self.host)] = records.Fence(number)
        beat, key = records.beat_of(self.host), records.epoch_of(self.host)
        compare = {records.LEADER: leader, key: view.revision(key), beat: view.revision(beat)}
        return records.Transaction(incarnation, compare, puts)

    def seen(self, view: records.View, now: float) -> None:
        """The records, read through the majority. Whoever raised the epoch: the time counts from this look on."""
        key = records.epoch_of(self.host)
        epoch = view.get(records.Epoch, key)
        if epoch is None or epoch.lives:
            self._forget()
            return
        if self._epoch is None or (self._epoch.number, self._epoch.taken) != (epoch.number, epoch.taken):
            self._forget()
            self._since = now
        self._epoch, self.revision = epoch, view.revision(key)
        if epoch.over:
            self._prove(Proof.WORD)

    def ordered(self, now: float) -> None:
        """The BMC has taken the order to switch the host off."""
        if self._since is not None and self._ordered is None:
            self._ordered = now

    def read_power(self, *, off: bool, asked: float) -> None:
        """What the BMC said to a request that was sent at `asked`. A transitional state is not off."""
        if self._ordered is None or asked < self._ordered:
            return
        self._readings = self._readings + 1 if off else 0
        if self._readings >= _READINGS:
            self._prove(Proof.POWER)

    def shut_out(self, number: int) -> None:
        """The storage has confirmed, for every writable disk, that nothing of the host gets in."""
        if self._epoch is not None and number == self._epoch.number:
            self._shut_out = True
            self._prove(Proof.STORAGE)

    def said_by(self, person: str) -> None:
        """A person answers for it that the host is dead."""
        if self.raised:
            self._person = person
            self._prove(Proof.PERSON)

    def writes_ended(self, number: int) -> None:
        """Nothing that the host has sent can land any more."""
        if self._epoch is not None and number == self._epoch.number and self.proof is not None:
            self._writes_ended = True

    @property
    def number(self) -> int:
        """The raised epoch that acts and answers belong to."""
        return self._epoch.number if self._epoch else 0

    def tick(self, now: float) -> list[Act]:
        """What is to be asked of the world now."""
        if self._since is None or self._epoch is None:
            return []
        bounds = self._epoch.bounds
        if bounds.self_fence and bounds.watchdog is not None:
            bound = bounds.guard + bounds.watchdog + self._profile.drain
            if now > self._since + bound * timing.RATE:
                self._prove(Proof.TIME)
        if self.proven:
            return []
        if self.proof is not None:
            return [Act.END_WRITES]
        acts = []
        if self._means.power:
            acts.append(Act.POWER_OFF if self._ordered is None else Act.READ_POWER)
        if self._means.storage and not self._shut_out:
            acts.append(Act.SHUT_OUT)
        return acts

    def clearing(self, machine: str, view: records.View, leader: int, incarnation: str) -> records.Transaction | None:
        """The transaction that takes a VM from the dead host."""
        key = records.owner_of(machine)
        owner = view.get(records.Owner, key)
        if not self.proven or owner is None or owner.host != self.host:
            return None
        compare = {
            records.LEADER: leader,
            records.epoch_of(self.host): self.revision,
            key: view.revision(key),
        }
        return records.Transaction(incarnation, compare, {key: records.Owner(None, owner.generation + 1)})

    def _prove(self, proof: Proof) -> None:
        if self.proof is None or (not self.proven and proof in (Proof.STORAGE, Proof.TIME)):
            self.proof = proof

    def _forget(self) -> None:
        self._epoch, self.revision, self._since, self._ordered = None, 0, None, None
        self._readings, self._shut_out, self._person = 0, False, None
        self._writes_ended, self.proof = False, None


def lifting(host: str, view: records.View) -> bool:
    """Whether the storages may let the host in again: it has taken the epoch that it was shut out for, and has said
    that nothing of the lives before runs. (In a restored store it takes one before it can say that.)"""
    epoch = view.get(records.Epoch, records.epoch_of(host))
    fence = view.get(records.Fence, records.fence_of(host))
    return fence is not None and epoch is not None and epoch.lives and epoch.gone >= fence.number - 1
