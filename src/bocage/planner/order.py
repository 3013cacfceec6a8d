"""In which order VMs start, and stop the other way round: those that others wait for first, then by their order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bocage.model import vm as model


def stages(machines: Iterable[model.VM]) -> list[list[model.VM]]:
    """What starts together, one stage after another, within each by name.

    A VM is as early as the earliest that waits for it. In a ring of VMs that wait for each other the one with the
    lowest order and name comes first.
    """
    ranks = _Ranks(machines)
    found: dict[tuple[int, int], list[model.VM]] = {}
    for one in ranks.machines:
        found.setdefault(ranks.of(one.uid), []).append(one)
    return [found[rank] for rank in sorted(found)]


class _Ranks:
    """The rank of each VM: its order, or that of an earlier one that waits for it; then how many it waits for."""

    def __init__(self, machines: Iterable[model.VM]) -> None:
        self.machines = sorted(machines, key=lambda one: (one.spec.autostart.order, one.name, one.uid))
        known = {one.uid: one for one in self.machines}
        self._after: dict[str, list[str]] = {}
        self._order = {one.uid: one.spec.autostart.order for one in self.machines}
        self._depth: dict[str, int] = {}
        for one in self.machines:
            self._walk(one.uid, known)
        for uid in reversed(self._depth):  # whoever waits comes before those that it waits for
            for leader in self._after[uid]:
                self._order[leader] = min(self._order[leader], self._order[uid])

    def of(self, uid: str) -> tuple[int, int]:
        return (self._order[uid], self._depth[uid])

    def _walk(self, first: str, known: Mapping[str, model.VM]) -> None:
        """Depth first; what leads back to where it is on its way from is left out."""
        if first in self._depth:
            return
        path: list[tuple[str, list[str]]] = [(first, list(known[first].spec.autostart.after))]
        on_path = {first}
        self._after[first] = []
        while path:
            uid, left = path[-1]
            if not left:
                path.pop()
                on_path.discard(uid)
                self._depth[uid] = max((self._depth[one] + 1 for one in self._after[uid]), default=0)
                continue
            leader = left.pop(0)
            if leader not in known or leader in on_path:
                continue
            self._after[uid].append(leader)
            if leader not in self._depth:
                self._after[leader] = []
                on_path.add(leader)
                path.append((leader, list(known[leader].spec.autostart.after)))


def awaited(machine: model.VM, others: Mapping[str, model.VM]) -> list[str]:
    """The names of those that it still waits for; `others` by uid."""
    named = (others.get(uid) for uid in machine.spec.autostart.after)
    return [one.name for one in named if one is not None and not _answers(one)]


def _answers(leader: model.VM) -> bool:
    if leader.metadata.deleted is not None or leader.spec.power is not model.Power.RUNNING:
        return True  # it is to be off: nobody waits for it
    up = leader.status.state is model.State.RUNNING
    return up and (leader.spec.autostart.answers == "runs" or leader.status.answers)


def ring(uid: str, after: Iterable[str], others: Mapping[str, model.VM]) -> list[str]:
    """The way from a VM, were it to wait for these, back to itself, by uid; empty where there is none."""
    seen: set[str] = set()
    ways = [[one] for one in after]
    while ways:
        way = ways.pop()
        if way[-1] == uid:
            return way
        if way[-1] in others and way[-1] not in seen:
            seen.add(way[-1])
            ways += [[*way, one] for one in others[way[-1]].spec.autostart.after]
    return []
