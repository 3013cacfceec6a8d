"""Has VMs that wait for it go over to virtio's drivers once their guest drives a virtio disk."""

from __future__ import annotations

import asyncio

from bocage import errors, words
from bocage.engine import base as engine
from bocage.model import base, requests, vm
from bocage.node import notes, started
from bocage.node.life.actor import Actor
from bocage.node.life.crew import Crew
from bocage.node.shop import Shop
from bocage.planner import definition
from bocage.store import resources


class Switching:
    """The looks of one node."""

    def __init__(self, shop: Shop, crew: Crew) -> None:
        self._shop, self._crew = shop, crew
        self._told: set[str] = set()  # VMs of which it was said why they do not go over

    async def look(self) -> None:
        """Look at each VM that waits."""
        for actor in self._crew.running():
            try:
                await self._look(actor)
            except (resources.Missing, engine.NotRunning, errors.TimedOut):
                continue

    async def _look(self, actor: Actor) -> None:
        standing = actor.standing
        machine, running = await standing.read(), standing.machine
        if not machine.spec.virtio_when_driven:
            self._told.discard(machine.uid)
            return
        built = await asyncio.to_thread(started.read, standing.ground.home.vm_runtime(machine.uid))
        if running is None or built is None:
            return
        disks = [disk.name for disk in built.disks if disk.bus is vm.Bus.VIRTIO]
        seen = {name: await running.drives_virtio(name) for name in disks}
        if driven := [name for name, does in seen.items() if does]:
            await self._switch(actor, machine, driven[0])
        elif disks and not any(does is False for does in seen.values()):
            await self._tell_once(actor, machine, notes.VirtioUnseen(name=machine.name))

    async def _switch(self, actor: Actor, machine: vm.VM, disk: str) -> None:
        def wanted(present: vm.VM) -> vm.VM:
            waits = present.spec.virtio_when_driven
            return definition.change(present, requests.VMPatch(drivers="virtio")) if waits else present

        try:
            await self._shop.ground.resources.change(vm.VM, machine.metadata.project, machine.uid, wanted)
        except (errors.Conflict, errors.Invalid) as problem:  # such as no free slot
            told = notes.VirtioRefused(name=machine.name, reason=words.say(problem))
            await self._tell_once(actor, machine, told)
        else:
            await actor.standing.tell(machine, notes.GoesToVirtio(name=machine.name, disk=disk))

    async def _tell_once(self, actor: Actor, machine: vm.VM, note: words.Message) -> None:
        if machine.uid not in self._told:
            self._told.add(machine.uid)
            await actor.standing.tell(machine, note, base.Severity.WARNING)
