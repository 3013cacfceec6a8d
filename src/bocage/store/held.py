"""Resources as they were read last: whoever keeps them up by a watch asks for them without reading."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from bocage.model import base, keys
from bocage.store import contract, resources

R = TypeVar("R", bound=base.Resource[Any, Any])
_Place = tuple[str, str | None, str]  # kind, project, name


class Held:
    """Resources that are asked for often; each is made from its records when it is first asked for."""

    def __init__(self) -> None:
        self._records: dict[str, dict[str, contract.Entry]] = {}  # by the key's stem, then by its last part
        self._stems: dict[_Place, str] = {}
        self._places: dict[str, _Place] = {}  # by stem
        self._made: dict[str, base.Resource[Any, Any]] = {}

    def clear(self) -> None:
        """Forget everything."""
        for held in (self._records, self._stems, self._places, self._made):
            held.clear()

    def put(self, entry: contract.Entry) -> None:
        """Take in one record. Raises ValueError, KeyError and TypeError for one that is damaged."""
        stem, _, part = entry.key.rpartition("/")
        if part == "spec":
            metadata = json.loads(entry.value)["metadata"]
            self._unname(stem)
            self._places[stem] = place = (keys.kind_of(entry.key), metadata["project"], metadata["name"])
            self._stems[place] = stem
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
        found = [self.get(cls, project, uid) for project, uid in self.known(cls)]
        return [one for one in found if one is not None]

    def known(self, cls: type[base.Resource[Any, Any]]) -> list[tuple[str | None, str]]:
        """Project and uid of all of a kind."""
        held = ((stem, project) for stem, (kind, project, _) in self._places.items() if kind == cls.kind)
        return [(project, stem.rpartition("/")[2]) for stem, project in held]

    def revision(self, key: str) -> int:
        """Of one record; 0 where it is not there."""
        stem, _, part = key.rpartition("/")
        entry = self._records.get(stem, {}).get(part)
        return entry.revision if entry else 0

    def _make(self, cls: type[R], stem: str) -> R | None:
        made = self._made.get(stem)
        if made is None:
            parts = self._records.get(stem, {})
            if "spec" not in parts:
                return None
            made = resources.decode(cls, parts["spec"], parts.get("status"), parts.get("owner"))
            self._made[stem] = made
        assert isinstance(made, cls)
        return made

    def _unname(self, stem: str) -> None:
        place = self._places.pop(stem, None)
        if place is not None and self._stems.get(place) == stem:
            del self._stems[place]
