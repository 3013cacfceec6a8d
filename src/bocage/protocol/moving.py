"""Live migration between hosts: whichever process dies at whichever step, exactly one side runs in the end.

The source is the owner until one transaction has made the target the owner, and QEMU's own will is not to be trusted:
until it reports `completed`, a source resumes by itself on any error.
"""

from __future__ import annotations

import enum

from bocage.protocol import records, timing


class SourcePhase(enum.Enum):
    COPYING = "memory is copied; the source runs, or would resume by itself"
    HANDING = "QEMU has reported `completed`; the store is asked to give the VM to the target"
    UNSETTLED = "that was not answered: nothing runs until the records were read"
    KEEPING = "the target is not the owner: the store is asked to keep the VM here, under a new generation"
    STAYED = "it runs here"
    GONE = "it runs on the target"


class Act(enum.Enum):
    CONTINUE = "let this side's vCPUs run"
    END = "end this side's process"


class Source:
    """The side that a VM leaves."""

    def __init__(self, machine: str, target: records.Life | None, generation: int, profile: timing.Timing) -> None:
        self.machine = machine
        self._target = target
        self.generation = generation
        self._profile = profile
        self.phase = SourcePhase.COPYING
        self._attempt = self._handing = 0
        self._asked: float | None = None

    @classmethod
    def found(cls, machine: str, generation: int, profile: timing.Timing) -> Source:
        """A daemon that was started anew has found a process that has `completed`: the store knows what came of it."""
        source = cls(machine, None, generation, profile)
        source.phase = SourcePhase.UNSETTLED
        return source

    def failed(self) -> None:
        """QEMU has given up before `completed`: it runs here, as it always did."""
        if self.phase is SourcePhase.COPYING:
            self.phase = SourcePhase.STAYED

    def completed(self, view: records.View, life: records.Life, now: float) -> list[records.Ask | Act]:
        """QEMU has reported `completed`: its vCPUs stand still and it will not resume by itself."""
        owner = view.get(records.Owner, records.owner_of(self.machine))
        if self.phase is not SourcePhase.COPYING or self._target is None:
            return []
        if not records.settled(view, life.incarnation):
            return []
        if owner is None or owner != records.Owner(life.host, self.generation):
            self.phase = SourcePhase.GONE
            return [Act.END]
        self.phase = SourcePhase.HANDING
        self._handing = self._attempt + 1
        target = {records.epoch_of(self._target.host): self._target.revision}
        return [self._ask(view, life, records.Owner(self._target.host, self.generation + 1), target, now)]

    def answered(self, attempt: int, answer: records.Answer) -> list[records.Ask | Act]:
        """What the store said to the newest transaction."""
        if attempt != self._attempt:
            return []
        applied = isinstance(answer, records.Applied)
        if attempt == self._handing and self.phase in (SourcePhase.HANDING, SourcePhase.UNSETTLED):
            self.phase = SourcePhase.GONE if applied else SourcePhase.UNSETTLED
            return [Act.END] if applied else []
        if self.phase is SourcePhase.KEEPING:
            self.phase = SourcePhase.STAYED if applied else SourcePhase.UNSETTLED
            self.generation += 1 if applied else 0
            return [Act.CONTINUE] if applied else []
        return []

    def strange(self) -> None:
        """The store is another incarnation: what it says to older questions counts for nothing."""
        if self.phase in (SourcePhase.HANDING, SourcePhase.KEEPING):
            self.phase = SourcePhase.UNSETTLED
            self._attempt += 1

    def seen(self, view: records.View, life: records.Life, sent: float, now: float) -> list[records.Ask | Act]:
        """The records, by a read sent at `sent`: what became of a transaction that nobody answered."""
        if not records.settled(view, life.incarnation):
            return []
        waiting = self.phase in (SourcePhase.HANDING, SourcePhase.KEEPING)
        settled_from = (self._asked or 0.0) + self._profile.answer if waiting else self._asked
        if waiting and now > (settled_from or 0.0):
            self.phase = SourcePhase.UNSETTLED
        if self.phase is not SourcePhase.UNSETTLED or (settled_from is not None and sent <= settled_from):
            return []
        owner = view.get(records.Owner, records.owner_of(self.machine))
        if owner is None or owner.host != life.host:
            self.phase = SourcePhase.GONE
            return [Act.END]
        self.generation = owner.generation
        self.phase = SourcePhase.KEEPING
        return [self._ask(view, life, records.Owner(life.host, self.generation + 1), {}, now)]

    def _ask(
        self, view: records.View, life: records.Life, owner: records.Owner, compare: dict[str, int], now: float
    ) -> records.Ask:
        self._attempt += 1
        self._asked = now
        key = records.owner_of(self.machine)
        compare = {key: view.revision(key), records.epoch_of(life.host): life.revision} | compare
        return records.Ask(self._attempt, records.Transaction(life.incarnation, compare, {key: owner}))


class Target:
    """The side that a VM comes to: paused, its disks not opened, until the records say that it is the owner."""

    def __init__(self, machine: str, life: records.Life, generation: int) -> None:
        self.machine = machine
        self._life = life
        self.generation = generation + 1  # that the hand-over gives
        self._received = False
        self.runs = False
        self.ended = False

    def received(self) -> None:
        """QEMU has everything. That is no leave to run: the source may still resume."""
        self._received = True

    def seen(self, view: records.View) -> list[Act]:
        """The records, read through the majority."""
        owner = view.get(records.Owner, records.owner_of(self.machine))
        if self.runs or self.ended or owner is None or owner.generation < self.generation:
            return []
        if not records.settled(view):
            return []
        if owner != records.Owner(self._life.host, self.generation):
            self.ended = True
            return [Act.END]
        self.runs = self._received
        return [Act.CONTINUE] if self._received else []
