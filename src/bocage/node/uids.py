"""A user id of its own for each VM's process, when the daemon is root: one VM's files are closed to another's."""

from __future__ import annotations

import os
import pathlib

FIRST = 1_900_000_000  # above the ranges that distributions and containers use (systemd: UIDS-GIDS.md)
LAST = FIRST + 65_535


class Uids:
    """Which uid belongs to which VM of this host. The files themselves are the record."""

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}

    def of(self, vm_uid: str, directory: pathlib.Path, siblings: pathlib.Path) -> int | None:
        """The VM's uid: what owns its logs already, else the first free one. None when the daemon is no root."""
        if os.geteuid() != 0:
            return None
        if vm_uid not in self._taken:
            present = _owner(directory)
            others = {uid for uid in map(_owner, siblings.iterdir()) if uid} if siblings.is_dir() else set()
            used = set(self._taken.values()) | (others - {present})
            if present is None or present in used:
                present = next(uid for uid in range(FIRST, LAST + 1) if uid not in used | others)
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
