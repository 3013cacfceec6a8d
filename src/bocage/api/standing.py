"""What VMs stand on, as the index has it: hosts, storage, images, networks and their rules, without reading."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from bocage.model import base, ground, keys
from bocage.model.firewall import FirewallGroup
from bocage.store import contract, resources

KINDS = frozenset(cls.kind for cls in (ground.Host, ground.Storage, ground.Image, ground.Network, FirewallGroup))

R = TypeVar("R", bound=base.Resource[Any, Any])


class Ground:
    """Few resources that are asked for often; each is made from its record when it is first asked for."""

    def __init__(self) -> None:
        self._records: dict[str, dict[str, contract.Entry]] = {}  # by the key's stem, then by its last part
        self._stems: dict[tuple[str, str | None, str], str] = {}  # by kind, project, name
        self._made: dict[str, base.Resource[Any, Any]] = {}

    def clear(self) -> None:
        """Forget everything."""
        for held in (self._records, self._stems, self._made):
            held.clear()

    def put(self, entry: contract.Entry) -> None:
        """Take in one record. Raises ValueError, KeyError and TypeError for one that is damaged."""
        stem, _, part = entry.key.rpartition("/")
        if part == "spec":
            metadata = json.loads(entry.value)["metadata"]
            self._unname(stem)
            self._stems[(keys.kind_of(entry.key), metadata["project"], metadata["name"])] = stem
        self._records.setdefault(stem, {})[part] = entry
        self._made.pop(stem, None)

    def forget(self, key: str) -> None:
        """Take out what was deleted."""
        stem, _, part = key.rpartition("/")
        self._made.pop(stem, None)
        if part == "spec":
            self._unname(stem)
            self._records.pop(stem, None)
        elif stem in self._records:
            self._records[stem].pop(part, None)

    def named(self, cls: type[R], project: str | None, name: str) -> R | None:
        """By name."""
        stem = self._stems.get((cls.kind, project, name))
        return self._make(cls, stem) if stem else None

    def get(self, cls: type[R], project: str | None, uid: str) -> R | None:
        """By uid."""
        return self._make(cls, keys.base(cls.kind, project, uid).rstrip("/"))

    def every(self, cls: type[R]) -> list[R]:
        """All of a kind, of whatever project."""
        found = [self._make(cls, stem) for (kind, _, _), stem in self._stems.items() if kind == cls.kind]
        return [one for one in found if one is not None]

    def _make(self, cls: type[R], stem: str) -> R | None:
        made = self._made.get(stem)
        if made is None:
            parts = self._records.get(stem, {})
            if "spec" not in parts:
                return None
            made = self._made[stem] = resources.decode(cls, parts["spec"], parts.get("status"))
        assert isinstance(made, cls)
        return made

    def _unname(self, stem: str) -> None:
        for place in [place for place, held in self._stems.items() if held == stem]:
            del self._stems[place]
