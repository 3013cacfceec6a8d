"""What the asker should know of a VM that is made all the same."""

from __future__ import annotations

from collections.abc import Iterable

from bocage import words
from bocage.model import device_requests, ground, requests, vm
from bocage.planner import capacity
from bocage.words import N_

_BIOS_ONLY = frozenset({"built:tiny"})  # images by their origin


class BootsByBiosOnly(words.Message):
    type = "image-boots-by-bios-only"
    text = N_("the image {image} boots by BIOS only: with UEFI firmware the VM finds nothing to boot")
    hint = N_("make it without '--firmware uefi'")
    image: str


class NothingToBoot(words.Message):
    type = "vm-nothing-to-boot"
    text = N_("{name} has nothing to boot from: its disk is blank, and it has no CD")
    hint = N_("make it with '--image IMAGE', or with '--cd IMAGE' for an installation")
    name: str


def of_boot(request: requests.VMCreate, image: ground.Image | None) -> list[words.Message]:
    """Of what a VM boots from."""
    blank = not isinstance(request.disk, device_requests.DiskRequest) or request.disk.volume is None
    if (
        image is None
        and not request.cds
        and not request.floppies
        and blank
        and not any(disk.volume for disk in request.disks)
    ):
        return [NothingToBoot(name=request.name)]
    if image and request.firmware is vm.Firmware.UEFI and image.spec.origin in _BIOS_ONLY:
        return [BootsByBiosOnly(image=image.name)]
    return []


def of_room(storage: ground.Storage | None, present: int, new: Iterable[ground.Volume]) -> list[words.Message]:
    """Of `new` volumes beside those of `present` bytes that the storage has; a LUN has room for each, or refuses it."""
    if storage and storage.spec.kind == "iscsi":
        return []
    added = sum(volume.spec.size for volume in new)
    warning = capacity.forewarn(storage, present + added) if storage and added else None
    return [warning] if warning else []
