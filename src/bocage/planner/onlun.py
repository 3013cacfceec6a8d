"""What cannot be done with a VM whose disks are slices of a LUN: it keeps nothing but what is there."""

from __future__ import annotations

from collections.abc import Mapping

from bocage import errors
from bocage.model import board, ground, vm
from bocage.words import N_


class Error(errors.Problem):
    """Of a storage of kind `iscsi`."""


class NotThere(Error, errors.Conflict):
    type = "lun-holds-disks-alone"
    text = N_("{what}: the storage {storage} is a LUN, which holds the disks of VMs and nothing else yet")
    hint = N_("a storage of kind 'dir' or 'shared' can; 'bocage storage show {storage}' says what this one does")
    what: str
    storage: str


CANNOT: Mapping[str, str] = {
    "vm.snapshot-create": "no snapshot is taken",
    "vm.snapshot-revert": "it goes back to no snapshot",
    "vm.move": "its disks are not carried elsewhere",
    "vm.disk-detach": "no disk is taken out",
    "vm.save": "its memory is not saved",
    "vm.disk-attach": "no disk comes to it while it runs",
    "file": "no image and no volume lies there by itself",
    "copy": "its disks are not copied from or exported",
    "grow": "a disk does not grow",
}
"""By task, or by what is asked for."""


def refuse(storage: ground.Storage, what: str) -> None:
    """Raises NotThere where the storage is a LUN and that cannot be done there."""
    if storage.spec.kind == "iscsi" and what in CANNOT:
        raise NotThere(what=CANNOT[what], storage=storage.name)


def check(storage: ground.Storage, spec: vm.VMSpec) -> None:
    """Raises NotThere where a VM would keep what is no disk."""
    if storage.spec.kind != "iscsi":
        return
    if spec.hardware.firmware is vm.Firmware.UEFI:
        raise NotThere(what="no VM with UEFI lies there, whose firmware keeps variables", storage=storage.name)
    if spec.hardware.tpm is not board.Tpm.NONE:
        raise NotThere(what="no VM with a TPM lies there, whose state is kept", storage=storage.name)
