"""A disk that BIOS and UEFI boot: GPT, GRUB in a partition of its own and in an EFI system partition, root last.

Made in plain files, without loop devices. How GRUB's first sectors find the rest is in its `boot.S` and
`diskboot.S`: two sector numbers, which its installer would write on a real disk.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import pathlib
import struct
import uuid
from typing import BinaryIO

from bocage import process
from bocage.guest import gpt, tools

_MIB = 1 << 20
_STEP = 300.0  # seconds
_BOOT_AT, _BOOT_SIZE = 1 * _MIB, 3 * _MIB
_ESP_AT, _ESP_SIZE = 4 * _MIB, 64 * _MIB
_ROOT_AT = _ESP_AT + _ESP_SIZE
_KERNEL_SECTOR_AT = 0x5C  # of boot.img: where core.img begins
_REST_AT = 500  # of core.img: where its second sector lies


@dataclasses.dataclass(frozen=True, slots=True)
class Loader:
    """What boots it: GRUB for the BIOS, and the files of the EFI system partition by their path there."""

    boot: bytes
    core: bytes
    efi: dict[str, bytes]


def root_room(size: int) -> int:
    """Bytes that the root file system may have on a disk of `size` bytes, which is a multiple of 1 MiB."""
    return size - _ROOT_AT - _MIB


async def write(
    destination: pathlib.Path, *, size: int, root: pathlib.Path, loader: Loader, scratch: pathlib.Path
) -> None:
    """Write a raw image of `size` bytes with the file system in the file `root`, which is used up.

    Raises ToolMissing, process.Failed, ValueError when GRUB does not fit.
    """
    esp = scratch / "esp.fat"
    await _system_partition(esp, loader.efi)
    if len(loader.core) > _BOOT_SIZE:
        raise ValueError(f"a core image of {len(loader.core)} bytes does not fit")
    # Numbers 14 and 15 as in Debian's own images: the root is the first, and the last on the disk, so it can grow.
    partitions = {
        14: _partition(gpt.BIOS_BOOT, _BOOT_AT, _BOOT_SIZE),
        15: _partition(gpt.EFI_SYSTEM, _ESP_AT, _ESP_SIZE),
        1: _partition(gpt.LINUX_ROOT_X86_64, _ROOT_AT, root_room(size)),
    }
    head, tail = gpt.table(partitions, sectors=size // gpt.SECTOR)
    core_at = _BOOT_AT // gpt.SECTOR
    with destination.open("xb") as file:
        file.truncate(size)
        file.write(first_sector(loader.boot, core_at=core_at)[:440] + head[440:])
        file.seek(_BOOT_AT)
        file.write(placed_core(loader.core, at=core_at))
        file.seek(size - len(tail))
        file.write(tail)
    await asyncio.to_thread(_place, destination, {_ESP_AT: esp, _ROOT_AT: root})


def require() -> None:
    """Raise ToolMissing when `write` would."""
    tools.program("mkfs.fat", package="dosfstools")
    tools.program("mcopy", package="mtools")


def _partition(kind: uuid.UUID, start: int, size: int) -> gpt.Partition:
    return gpt.Partition(kind, start // gpt.SECTOR, size // gpt.SECTOR)


def first_sector(boot: bytes, *, core_at: int) -> bytes:
    """GRUB's `boot.img`, told the sector of its core image."""
    return boot[:_KERNEL_SECTOR_AT] + struct.pack("<Q", core_at) + boot[_KERNEL_SECTOR_AT + 8 :]


def placed_core(core: bytes, *, at: int) -> bytes:
    """GRUB's `core.img`, told that it lies in one piece from the sector `at` on."""
    return core[:_REST_AT] + struct.pack("<Q", at + 1) + core[_REST_AT + 8 :]


async def _system_partition(volume: pathlib.Path, contents: dict[str, bytes]) -> None:
    mkfs = tools.program("mkfs.fat", package="dosfstools")
    mmd, mcopy = tools.program("mmd", package="mtools"), tools.program("mcopy", package="mtools")
    with volume.open("xb") as file:
        file.truncate(_ESP_SIZE)
    await process.run(mkfs, "-F", "32", "-h", str(_ESP_AT // gpt.SECTOR), "-n", "ESP", volume, within=_STEP)
    folders = {str(folder) for path in contents for folder in pathlib.PurePosixPath(path).parents if folder.name}
    await process.run(mmd, "-i", volume, *(f"::/{folder}" for folder in sorted(folders)), within=_STEP)
    for path, content in contents.items():
        await process.run(mcopy, "-i", volume, "-", f"::/{path}", stdin=content, within=_STEP)


def _place(disk: pathlib.Path, volumes: dict[int, pathlib.Path]) -> None:
    """Copy file systems to where their partitions begin, leaving out their holes."""
    with disk.open("r+b") as target:
        for offset, volume in volumes.items():
            with volume.open("rb") as source:
                position, end = 0, os.fstat(source.fileno()).st_size
                while position < end:
                    try:
                        begin = os.lseek(source.fileno(), position, os.SEEK_DATA)
                    except OSError:
                        break  # only a hole is left
                    position = os.lseek(source.fileno(), begin, os.SEEK_HOLE)
                    source.seek(begin)
                    target.seek(offset + begin)
                    _copy(source, target, position - begin)
            volume.unlink()


def _copy(source: BinaryIO, target: BinaryIO, count: int) -> None:
    while count:
        piece = source.read(min(count, 4 * _MIB))
        if not piece:
            raise EOFError
        target.write(piece)
        count -= len(piece)
