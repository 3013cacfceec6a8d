"""What a process leaves that dies with the database open."""

from __future__ import annotations

import pathlib
import shutil


def copy(path: pathlib.Path, to: pathlib.Path) -> pathlib.Path:
    """The database as it would be found if the one who has it open died now (shared memory is made anew)."""
    to.mkdir()
    for name in (path.name, path.name + "-wal"):
        shutil.copy(path.with_name(name), to / name)
    return to / path.name
