"""A user id of its own for each VM's process, when the daemon is root: one VM's files are closed to another's."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable

FIRST = 1_900_000_000  # above the ranges that distributions and containers use (systemd: UIDS-GIDS.md)
LAST = FIRST + 65_535


class Uids:
    """Which uid belongs to which VM of this host. The files themselves are the record."""

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}

    def __contains__(self, vm_uid: str) -> bool:
        return vm_uid in self._taken or os.geteuid() != 0

    def of(self, vm_uid: str, directory: pathlib.Path, siblings: Iterable[pathlib.Path]) -> int | None:
        """The VM's uid: what owns its logs already, else the first that nobody has. None when the daemon is no root.

        `siblings` are the directories in which all VMs of this host lie.
        """
        if os.geteuid() != 0:
            return None
        if vm_uid not in self._taken:
            present = _owner(directory)
            others = {one for place in siblings if place.is_dir() for one in place.iterdir() if one != directory}
            used = set(self._taken.values()) | {uid for uid in map(_owner, others) if uid}
            if present is None or present in used:
                present = next(uid for uid in range(FIRST, LAST + 1) if uid not in used)
            self._taken[vm_uid] = present
        return self._taken[vm_uid]

    def forget(self, vm_uid: str) -> None:
        self._taken.pop(vm_uid, None)


def _owner(directory: pathlib.Path) -> int | None:
    try:
        uid = os.stat(directory / "serial.log", follow_symlinks=False).st_uid
    except OSError:
        return None
    return uid if FIRST <= uid <= LAST else None
