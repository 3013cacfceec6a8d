"""What the running VMs of this host were given of its memory and CPUs, so that no further one is promised it again."""

from __future__ import annotations

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

    async def claim(self, machine: vm.VM, spec: vm.VMSpec) -> None:
        """Give a VM what it needs to be so, when that is left. Raises NotAdmitted."""
        host = await self._host()
        asked, present = admission.Demand.of(spec), self._given.get(machine.uid)
        others = admission.total(one for uid, one in self._given.items() if uid != machine.uid)
        if refusal := admission.admit(host.name, _capacity(host), others, asked, present=present):
            raise NotAdmitted(reason=words.say(refusal), advice=words.advise(refusal))
        self._given[machine.uid] = asked

    def note(self, uid: str, spec: vm.VMSpec | None) -> None:
        """Make this what a VM has, whatever is left; None: it does not run."""
        self._given.pop(uid, None)
        if spec is not None:
            self._given[uid] = admission.Demand.of(spec)

    async def shown(self) -> sample.Given:
        """What is given, and what is left."""
        return admission.shown(_capacity(await self._host()), admission.total(self._given.values()))

    async def _host(self) -> ground.Host:
        return await self._ground.resources.get(ground.Host, None, self._ground.uid)


def _capacity(host: ground.Host) -> admission.Capacity:
    aside = host.spec.memory_for_vms
    memory = host.status.memory_bytes if aside == "usual" else int(aside)
    return admission.Capacity(memory, host.status.cpus, host.spec.memory_overcommit, host.spec.cpu_overcommit)
