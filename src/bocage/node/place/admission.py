"""What the running VMs of this host were given of its memory and CPUs, so that no further one is promised it again."""

from __future__ import annotations

from collections.abc import Callable

from bocage import errors, words
from bocage.model import ground, sample, vm
from bocage.node.ground import Ground
from bocage.planner import admission
from bocage.words import N_


class Error(errors.Problem):
    """A host has too little for what was asked."""


class NotAdmitted(Error, errors.Unavailable):
    """`reason` is the planner's."""

    type = "host-without-room"
    status = 507
    text = N_("{reason}")
    hint = N_("{advice}")
    reason: str
    advice: str = ""


class Admission:
    """What was given on this host."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._given: dict[str, admission.Demand] = {}  # by VM
        self._kept: dict[str, int] = {}  # bytes that a guest with dynamic memory cannot give now, by VM

    async def claim(self, machine: vm.VM, spec: vm.VMSpec) -> None:
        """Give a VM what it is to have, when that is left; what it has it keeps until `note`. Raises NotAdmitted."""
        host = await self._host()
        asked, present = admission.Demand.of(spec), self._given.get(machine.uid)
        if present is not None:
            present = self._with_kept(machine.uid)
            asked = asked.over(present)
        others = admission.total(self._with_kept(uid) for uid in self._given if uid != machine.uid)
        if refusal := admission.admit(host.name, admission.Capacity.of(host), others, asked, present=present):
            raise NotAdmitted(reason=words.say(refusal), advice=words.advise(refusal))
        self._given[machine.uid] = asked

    def note(self, uid: str, spec: vm.VMSpec | None) -> None:
        """Make this what a VM has, whatever is left; None: it does not run.

        A guest with dynamic memory that had more before keeps that until it is known what it gave.
        """
        before = self._with_kept(uid).memory if uid in self._given else 0
        self._given.pop(uid, None)
        if spec is not None:
            self._given[uid] = admission.Demand.of(spec)
        if spec is None or spec.dynamic_memory is None:
            self._kept.pop(uid, None)
        elif before > self._given[uid].memory:
            self._kept[uid] = before

    def find(self, uid: str, spec: vm.VMSpec) -> None:
        """A VM runs since before anybody here knew of it: what its guest has is all, until it has told."""
        if spec.dynamic_memory and uid not in self._given:
            self._kept[uid] = spec.memory
        self.note(uid, spec)

    def keep(self, uid: str, how: Callable[[int], int]) -> None:
        """A guest with dynamic memory has told: `how` makes of what was kept for it what is."""
        if uid in self._given:
            self._kept[uid] = how(self._kept.get(uid, 0))

    async def shown(self) -> sample.Given:
        """What is given, and what is left."""
        return admission.shown(
            admission.Capacity.of(await self._host()), admission.total(map(self._with_kept, self._given))
        )

    def _with_kept(self, uid: str) -> admission.Demand:
        return self._given[uid].over(admission.Demand(memory=self._kept.get(uid, 0)))

    async def _host(self) -> ground.Host:
        return await self._ground.resources.get(ground.Host, None, self._ground.uid)
