"""A user id of its own for each VM's process, when the daemon is root: one VM's files are closed to another's."""

from __future__ import annotations

import hashlib
import os
import pathlib
from collections.abc import Iterable

FIRST = 1_900_000_000  # above the ranges that distributions and containers use (systemd: UIDS-GIDS.md)
_EACH = 65_536  # VMs of one home
_HOMES = (2**31 - FIRST) // _EACH


class Uids:
    """Which uid belongs to which VM of this host. The files themselves are the record.

    Each home takes from a range that its path chooses, so that the VMs of two homes are kept apart as well.
    """

    def __init__(self, home: pathlib.Path) -> None:
        chosen = int.from_bytes(hashlib.sha256(os.fsencode(home)).digest()[:8], "big") % _HOMES
        self._range = range(FIRST + chosen * _EACH, FIRST + (chosen + 1) * _EACH)
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
            present = self._owner(directory)
            others = {one for place in siblings if place.is_dir() for one in place.iterdir() if one != directory}
            used = set(self._taken.values()) | {uid for uid in map(self._owner, others) if uid}
            if present is None or present in used:
                present = next(uid for uid in self._range if uid not in used)
            self._taken[vm_uid] = present
        return self._taken[vm_uid]

    def forget(self, vm_uid: str) -> None:
        self._taken.pop(vm_uid, None)

    def _owner(self, directory: pathlib.Path) -> int | None:
        try:
            uid = os.stat(directory / "serial.log", follow_symlinks=False).st_uid
        except OSError:
            return None
        return uid if uid in self._range else None
