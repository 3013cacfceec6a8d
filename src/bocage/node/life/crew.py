"""The actors of one host's VMs."""

from __future__ import annotations

from collections.abc import Iterator

from bocage.node.life.actor import Actor


class Crew:
    """One actor for each VM of the host, by the VM's uid."""

    def __init__(self) -> None:
        self._actors: dict[str, Actor] = {}

    def __iter__(self) -> Iterator[Actor]:
        return iter(list(self._actors.values()))

    def of(self, uid: str) -> Actor | None:
        """The actor of a VM, when it is one of this host."""
        return self._actors.get(uid)

    def running(self) -> list[Actor]:
        """The actors whose VM has a process."""
        return [one for one in self if one.standing.machine is not None]

    def join(self, uid: str, actor: Actor) -> None:
        """A VM has an actor from now on."""
        self._actors[uid] = actor

    def leave(self, uid: str) -> None:
        """It has none any more."""
        self._actors.pop(uid, None)
