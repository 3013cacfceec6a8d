"""A disk that a BIOS boots: an MBR, one FAT partition, SYSLINUX in it; made in plain files by any user."""

from __future__ import annotations

import os
import pathlib
import struct
from collections.abc import Mapping

from bocage import process
from bocage.guest import tools

SECTOR = 512
START = 2048  # sectors before the partition
_MIB = 1 << 20
_BOOT_CODE = "/usr/lib/syslinux/mbr/mbr.bin"
_STEP = 60.0  # seconds for each program, none of which moves more than the image's own size
_IDENTITY = 0xB0CA6E01  # of the disk and its file system, the same in each build
_FAT16_LBA = 0x0E


async def write(destination: pathlib.Path, *, files: Mapping[str, bytes], settings: str, scratch: pathlib.Path) -> None:
    """Write a raw disk image that holds `files` and boots as `settings` (SYSLINUX's configuration) say.

    `destination` must not exist; `scratch` is a directory for what is made on the way. The same input
    gives the same bytes. Raises ToolMissing, process.Failed.
    """
    mkfs = tools.program("mkfs.fat", package="dosfstools")
    mcopy = tools.program("mcopy", package="mtools")
    syslinux = tools.program("syslinux", package="syslinux")
    boot_code = tools.file(_BOOT_CODE, package="syslinux-common").read_bytes()
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "315532800", "MTOOLS_SKIP_CHECK": "1", "TZ": "UTC"}
    contents = {**files, "syslinux.cfg": settings.encode()}
    room = sum(len(content) for content in contents.values()) + 2 * _MIB
    sectors = -(-max(room, 16 * _MIB) // _MIB) * _MIB // SECTOR

    volume = scratch / "volume.fat"
    with volume.open("xb") as file:
        file.truncate(sectors * SECTOR)
    await process.run(
        mkfs, "--invariant", "-F", "16", "-s", "4", "-h", str(START), "-n", "TINY", "-i", f"{_IDENTITY:08x}", volume,
        within=_STEP,
    )  # fmt: skip
    await process.run(syslinux, "--install", volume, within=_STEP, environment=environment)
    for name, content in contents.items():
        (scratch / name).write_bytes(content)
    names = [str(scratch / name) for name in contents]
    await process.run(mcopy, "-i", volume, *names, "::/", within=_STEP, environment=environment)
    with destination.open("xb") as file:
        file.write(master_boot_record(boot_code, sectors=sectors))
        file.seek(START * SECTOR)
        file.write(volume.read_bytes())


def require() -> None:
    """Raise ToolMissing when `write` would."""
    tools.program("mkfs.fat", package="dosfstools")
    tools.program("mcopy", package="mtools")
    tools.program("syslinux", package="syslinux")
    tools.file(_BOOT_CODE, package="syslinux-common")


def master_boot_record(boot_code: bytes, *, sectors: int) -> bytes:
    """The first sector: boot code, and one active partition of `sectors` from `START` on."""
    beyond = b"\xfe\xff\xff"  # cylinder, head, sector: not used, the partition is found by LBA
    entry = struct.pack("<B3sB3sII", 0x80, beyond, _FAT16_LBA, beyond, START, sectors)
    table = struct.pack("<IH", _IDENTITY, 0) + entry + bytes(48) + b"\x55\xaa"
    return boot_code.ljust(440, b"\0")[:440] + table
