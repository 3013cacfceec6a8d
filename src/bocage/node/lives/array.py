"""The storages whose VMs other hosts may start too."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
from collections.abc import Mapping

from bocage import errors
from bocage.model import ground
from bocage.node.place import directory
from bocage.store import resources


class Array:
    """All that this host reaches of them."""

    def __init__(self, kept: resources.Resources, host: str) -> None:
        self._kept, self._host = kept, host

    async def root(self, storage: str, *, replicated: bool = False) -> pathlib.Path | None:
        """Where such a storage lies; None for one whose VMs nobody else may start: none but those with a replica.

        Raises errors.Problem.
        """
        found = await self._kept.get(ground.Storage, None, storage)
        return pathlib.Path(found.spec.path) if found.shared or replicated else None

    async def started(self) -> Mapping[str, int]:
        """The generations under which VMs were started last, wherever that was, as their own directories say."""
        found: dict[str, int] = {}
        for storage in (await self._kept.list(ground.Storage)).items:
            if storage.shared and storage.reached_by(self._host):
                found |= await asyncio.to_thread(_started, pathlib.Path(storage.spec.path))
        return found

    async def roots(self, *storages: str) -> list[pathlib.Path]:
        """Where those lie of these storages, of all when none is given, that others may write to as well."""
        every = (await self._kept.list(ground.Storage)).items
        return [pathlib.Path(one.spec.path) for one in every if one.shared and (not storages or one.uid in storages)]


def _started(root: pathlib.Path) -> dict[str, int]:
    found = {}
    for place in directory.unknown(root, set()):
        with contextlib.suppress(errors.Problem, OSError):
            held = directory.Directory(place).read()
            if held.owner is not None:
                found[held.vm.uid] = held.owner.generation
    return found
