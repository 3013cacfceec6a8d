"""Which host takes which VM that nobody has: decided for all of them at once, and asked for one by one."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

from bocage import words
from bocage.cluster.mirror import Mirror
from bocage.model import ground, plan, vm
from bocage.planner import failing, snapshot

_ANEW = 1.0  # seconds before what has changed meanwhile is looked at


class Places:
    """`place` is what `protocol.ruling` asks."""

    def __init__(self, mirror: Mirror, clock: Callable[[], float] = time.monotonic) -> None:
        self._mirror, self._clock = mirror, clock
        self._fit: frozenset[str] = frozenset()
        self._as_of, self._made = -1, float("-inf")
        self._where: dict[str, str] = {}  # uids
        self.nowhere: dict[str, words.Message] = {}
        """Why no host can have a VM, by its uid."""

    def place(self, machine: str, fit: Sequence[str]) -> str | None:
        """Which of these hosts is to have a VM that has none."""
        known = machine in self._where or machine in self.nowhere
        stale = self._as_of < self._mirror.changed and self._clock() - self._made > _ANEW
        if not known or self._fit != frozenset(fit) or stale:
            self._decide(machine, fit)
        return self._where.get(machine)

    def _decide(self, machine: str, fit: Sequence[str]) -> None:
        self._fit, self._as_of, self._made = frozenset(fit), self._mirror.changed, self._clock()
        vms = list(map(_planned, self._mirror.every(vm.VM)))
        world = self._world(fit, vms)
        free = (one for one in vms if one.uid == machine or _is_free(one))
        keys = {one.uid: snapshot.key(one.metadata.project, one.name) for one in free}
        homes = failing.homes(world, keys.values())
        uids = {host.name: host.uid for host in self._mirror.every(ground.Host)}
        self._where = {uid: uids[homes.where[key]] for uid, key in keys.items() if key in homes.where}
        self.nowhere = {uid: homes.nowhere[key] for uid, key in keys.items() if key in homes.nowhere}

    def world(self, fit: Collection[str]) -> plan.World:
        """All as it stands, with the hosts that are not fit silent."""
        return self._world(fit, [one for one in self._mirror.every(vm.VM) if one.metadata.deleted is None])

    def _world(self, fit: Collection[str], vms: Collection[vm.VM]) -> plan.World:
        """All as it stands; hosts that are not fit are silent."""
        hosts, storages = self._mirror.every(ground.Host), self._mirror.every(ground.Storage)
        beside: list[ground.Volume | ground.Image] = list(self._mirror.every(ground.Volume))
        beside += self._mirror.every(ground.Image)
        world = snapshot.world(hosts, storages, self._mirror.every(ground.Network), vms, beside=beside)
        names = {host.name for host in hosts if host.uid in fit}
        shown = (one if one.name in names else one.model_copy(update={"state": "silent"}) for one in world.hosts)
        return world.model_copy(update={"hosts": tuple(shown)})


def _planned(machine: vm.VM) -> vm.VM:
    """One in the trash has to be somebody's as well; its name may have been given to another."""
    about = machine.metadata
    if about.deleted is None:
        return machine
    return machine.model_copy(update={"metadata": about.model_copy(update={"deleted": None, "name": about.uid})})


def _is_free(machine: vm.VM) -> bool:
    return machine.status.host is None and machine.status.owner_generation > 0
