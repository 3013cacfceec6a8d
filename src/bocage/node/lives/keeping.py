"""The file that holds this host's life and its bounds, for the next daemon and for a guard without predecessor."""

from __future__ import annotations

import dataclasses
import json
import pathlib

from bocage import files
from bocage.node import spoken
from bocage.protocol import records


@dataclasses.dataclass(frozen=True, slots=True)
class Kept:
    """Of one boot: in the next one there is no life yet."""

    life: records.Life | None = None
    bounds: records.Bounds = dataclasses.field(default_factory=records.Bounds)  # that its guard keeps
    guarded: records.Life | None = None  # that its guard was given last

    def write(self, path: pathlib.Path) -> None:
        """Durably. Raises OSError."""
        content = {"boot": spoken.boot(), **dataclasses.asdict(self)}
        files.write_durably(path, json.dumps(content) + "\n", mode=0o600)


def read(path: pathlib.Path) -> Kept:
    """Raises OSError, ValueError, KeyError, TypeError."""
    try:
        told = json.loads(path.read_text())
    except FileNotFoundError:
        return Kept()
    bounds = spoken.bounds(told["bounds"])
    if told["boot"] != spoken.boot():
        return Kept(bounds=bounds)
    return Kept(spoken.life(told["life"]), bounds, spoken.life(told["guarded"]))
