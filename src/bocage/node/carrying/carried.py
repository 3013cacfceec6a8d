"""The files of a VM's directory that is carried: which belong to it, whether they are whole and lead nowhere else."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import stat
from collections.abc import Iterable

from bocage import errors
from bocage.engine import block
from bocage.model import ground, snapshot
from bocage.node.carrying import shelving
from bocage.node.place import disks
from bocage.node.shop import Shop
from bocage.planner import layers
from bocage.store import resources
from bocage.words import N_

BESIDE_DEFINITION = (
    *("firmware-vars.fd", "tpm.state", "seed.iso", "saved.state", "saved.json"),
    *("serial.log", "qemu.log"),
)
"""What belongs to a VM and is neither its definition nor a disk, by its name in the directory."""
BESIDE_DISKS = ("vm.yaml", *BESIDE_DEFINITION)


def of_snapshots(snapshots: Iterable[snapshot.Snapshot]) -> list[str]:
    """What belongs to snapshots and is no disk, by its name in the directory; not all of it need be there."""
    return [f"snapshots/{one.uid}.{ending}" for one in snapshots for ending in ("json", "state", "fd", "tpm")]


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
    """See that the disks of `name`, whose directory `path` is, are there. Raises Error, HeaderDiffers, ImageMissing."""
    for volume in volumes:
        await _check_file(shop, volume, path, name)


def check_plain(path: pathlib.Path) -> None:
    """See that nothing in a directory is a link or a device, before any of it is opened. Raises NotAFile."""
    directories = [(name, stat.S_ISDIR) for name in ("disks", "snapshots")]
    for name, right in [(name, stat.S_ISREG) for name in BESIDE_DISKS] + directories:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if not right((path / name).lstat().st_mode):
                raise NotAFile(path=str(path / name))


async def _check_file(shop: Shop, volume: ground.Volume, path: pathlib.Path, name: str) -> None:
    """The files are there, are files, and their headers name what they should and nothing else."""
    if volume.spec.vm is None:
        try:
            root = await shop.ground.storage_root(volume.spec.storage)
        except resources.Missing as error:
            raise DiskMissing(path=volume.name, name=name) from error
        place = disks.place_of(volume, root).parent
    else:
        place = path / "disks"
    for layer in layers.every(volume.spec):
        try:
            known = await asyncio.to_thread((place / layer).lstat)
        except FileNotFoundError as error:
            raise DiskMissing(path=str(place / layer), name=name) from error
        if not stat.S_ISREG(known.st_mode):
            raise NotAFile(path=str(place / layer))
    image = await _image(shop, volume, path) if volume.spec.linked else None
    for layer in layers.every(volume.spec):
        if not layers.above(volume.spec, layer):  # each chain once, from its end
            chain = [disks.file_beside(place / layer, one) for one in layers.chain(volume.spec, layer)]
            if image is not None:
                chain.append(block.File(place / "../../../images" / image.name, image.suffix.removeprefix(".")))
            await asyncio.to_thread(disks.check_chain, chain, volume.spec)


async def _image(shop: Shop, volume: ground.Volume, path: pathlib.Path) -> pathlib.Path:
    """The image that a volume is linked to, here or beside what comes in. Raises disks.ImageMissing."""
    assert volume.spec.image
    digest = volume.spec.image
    image = await shop.preparation.disks.image_file(volume.spec.storage, digest) or await asyncio.to_thread(
        shelving.beside, path, digest
    )
    if image is None:
        raise disks.ImageMissing(digest=digest[:12], disk=volume.name)
    return image
