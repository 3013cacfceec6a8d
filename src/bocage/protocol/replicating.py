"""The continuous replica of a VM's local disks: a write is acknowledged when both copies have it, or when the store
has it on record that the second one is stale.

QEMU's quorum holds both copies, and a write that one of them does not take stops the VM by itself (`werror=stop`); it
is tried again when the VM goes on.
"""

from __future__ import annotations

import dataclasses
import enum

from bocage.protocol import records, timing


class Phase(enum.Enum):
    ALONE = "the guest writes here alone; the record says stale"
    COPYING = "what the copy lacks is copied while the guest runs"
    LAST = "the guest stands still while the last of it is copied"
    JOINING = "every write goes to both again; the store is asked to say so"
    IN_SYNC = "every write goes to both, and the store says so"
    FAILING = "the copy has failed, the guest stands still; the store is asked to call it stale"


class Act(enum.Enum):
    LET_GO = "end what hangs on the copy (yank), and write here alone from now on"
    CONTINUE = "let the guest run: the write that stopped it is tried again"
    PAUSE = "pause the guest"
    JOIN = "give the quorum its second child back"


@dataclasses.dataclass(frozen=True, slots=True)
class Copy:
    """Copy what the bitmap says the copy lacks; its end comes back under `number`, by `copied`."""

    number: int


_LITTLE = 64 << 20  # bytes that are copied while the guest stands still


class Replicating:
    """The side on which the VM runs. It begins with the guest at a stand: `CONTINUE` says that it may write."""

    def __init__(self, machine: str, copy: str, profile: timing.Timing) -> None:
        self.machine = machine
        self._copy = copy  # the host that has it
        self._profile = profile
        self.phase = Phase.FAILING  # what the record says is of an earlier life of this VM, or of this daemon
        self._pass = 0
        self._attempt = 0
        self._asked: float | None = None

    def reachable(self) -> list[Act | Copy]:
        """The copy's host serves it again."""
        if self.phase is not Phase.ALONE:
            return []
        self.phase = Phase.COPYING
        return [self._next_pass()]

    def copied(self, number: int, *, left: int) -> list[Act | Copy]:
        """That pass has ended; `left` bytes were written meanwhile."""
        if number != self._pass:
            return []
        if self.phase is Phase.COPYING:
            if left > _LITTLE:
                return [self._next_pass()]
            self.phase = Phase.LAST
            return [Act.PAUSE, self._next_pass()]
        if self.phase is Phase.LAST:
            self.phase = Phase.JOINING
            self._asked = None
            return [Act.JOIN, Act.CONTINUE]
        return []

    def _next_pass(self) -> Copy:
        self._pass += 1
        return Copy(self._pass)

    def failed(self) -> list[Act | Copy]:
        """The copy did not take a write, or a pass, or hangs. A write that failed has stopped the guest."""
        if self.phase in (Phase.COPYING, Phase.LAST):
            stood = self.phase is Phase.LAST
            self.phase = Phase.ALONE
            return [Act.LET_GO, *([Act.CONTINUE] if stood else [])]
        if self.phase in (Phase.JOINING, Phase.IN_SYNC):
            self.phase = Phase.FAILING
            self._asked = None
            self._attempt += 1
        return [Act.LET_GO, Act.CONTINUE] if self.phase is Phase.ALONE else []

    def seen(self, view: records.View, life: records.Life, sent: float, now: float) -> list[records.Ask]:
        """The records, by a read that was sent at `sent`: ask what is to be asked, and again if nobody answered."""
        if self.phase not in (Phase.JOINING, Phase.FAILING):
            return []
        if self._asked is not None and sent <= self._asked + self._profile.answer:
            return []
        key, owner = records.replica_of(self.machine), records.owner_of(self.machine)
        compare = {
            key: view.revision(key),
            owner: view.revision(owner),
            records.epoch_of(life.host): life.revision,
        }
        held = view.get(records.Owner, owner)
        if held is None or held.host != life.host:
            return []
        record = records.Replica(self._copy, in_sync=self.phase is Phase.JOINING)
        self._attempt += 1
        self._asked = now
        return [records.Ask(self._attempt, records.Transaction(life.incarnation, compare, {key: record}))]

    def answered(self, attempt: int, answer: records.Answer) -> list[Act | Copy]:
        """What the store said. A write of ours that comes late fails: a newer one was made on what it had not seen."""
        if attempt != self._attempt:
            return []
        if isinstance(answer, records.Refused):
            self._asked = None
            return []
        if self.phase is Phase.JOINING:
            self.phase = Phase.IN_SYNC
        elif self.phase is Phase.FAILING:
            self.phase = Phase.ALONE
            return [Act.LET_GO, Act.CONTINUE]
        return []


def taking_over(
    machine: str, view: records.View, epoch: int, leader: int, incarnation: str, host: str
) -> records.Transaction | None:
    """The transaction that gives a VM of the dead `host` (its raised epoch has revision `epoch`) to its copy's host.

    None where the copy is not in sync. What was the first copy is the second now, and stale.
    """
    key, owner_key = records.replica_of(machine), records.owner_of(machine)
    replica, owner = view.get(records.Replica, key), view.get(records.Owner, owner_key)
    if replica is None or owner is None or owner.host != host or not replica.in_sync:
        return None
    compare = {
        key: view.revision(key),
        owner_key: view.revision(owner_key),
        records.epoch_of(host): epoch,
        records.LEADER: leader,
    }
    puts = {owner_key: records.Owner(replica.host, owner.generation + 1), key: records.Replica(host, in_sync=False)}
    return records.Transaction(incarnation, compare, puts)
