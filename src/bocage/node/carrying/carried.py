"""The files of a VM's directory that is carried: which belong to it, whether they are whole and lead nowhere else."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import stat
from collections.abc import Iterable

from bocage import errors
from bocage.model import ground
from bocage.node.carrying import shelving
from bocage.node.place import disks
from bocage.node.shop import Shop
from bocage.storage import qcow2
from bocage.store import resources
from bocage.words import N_

BESIDE_DISKS = (
    *("vm.yaml", "firmware-vars.fd", "tpm.state", "seed.iso", "saved.state", "saved.json"),
    *("serial.log", "qemu.log"),
)
"""What belongs to a VM and is no disk, by its name in the directory."""


class Error(errors.Problem):
    """The files of a VM do not hold."""


class DiskMissing(Error, errors.Conflict):
    type = "adopt-disk-missing"
    text = N_("{path}, a disk of {name}, is not there")
    path: str
    name: str


class NotAFile(Error, errors.Invalid):
    """A link or a device where a disk should be: it could lead anywhere."""

    type = "adopt-not-a-file"
    text = N_("{path} is no ordinary file or directory; nothing was opened")
    path: str


async def check(shop: Shop, path: pathlib.Path, name: str, volumes: Iterable[ground.Volume]) -> None:
    """See that the disks of `name`, whose directory `path` is, are there. Raises Error, qcow2.Error, ImageMissing."""
    for volume in volumes:
        await _check_file(shop, volume, path, name)


def check_plain(path: pathlib.Path) -> None:
    """See that nothing in a directory is a link or a device, before any of it is opened. Raises NotAFile."""
    for name, right in [(name, stat.S_ISREG) for name in BESIDE_DISKS] + [("disks", stat.S_ISDIR)]:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if not right((path / name).lstat().st_mode):
                raise NotAFile(path=str(path / name))


async def _check_file(shop: Shop, volume: ground.Volume, path: pathlib.Path, name: str) -> None:
    """The file is there, is a file, and its header names what it should and nothing else."""
    if volume.spec.vm is None:
        try:
            root = await shop.ground.storage_root(volume.spec.storage)
        except resources.Missing as error:
            raise DiskMissing(path=volume.name, name=name) from error
        file = disks.place_of(volume, root)
    else:
        file = path / "disks" / f"{volume.spec.name}.{volume.spec.format}"
    try:
        known = await asyncio.to_thread(file.lstat)
    except FileNotFoundError as error:
        raise DiskMissing(path=str(file), name=name) from error
    if not stat.S_ISREG(known.st_mode):
        raise NotAFile(path=str(file))
    if volume.spec.linked:
        assert volume.spec.image
        digest = volume.spec.image
        image = await shop.preparation.disks.image_file(volume.spec.storage, digest) or await asyncio.to_thread(
            shelving.beside, path, digest
        )
        if image is None:
            raise disks.ImageMissing(digest=digest[:12], disk=volume.name)
        backing = f"../../../images/{image.name}"
        await asyncio.to_thread(
            qcow2.check_header, file, backing=backing, backing_format=image.suffix.removeprefix(".")
        )
    elif volume.spec.format == "qcow2":
        await asyncio.to_thread(qcow2.check_header, file, backing=None, backing_format=None)
