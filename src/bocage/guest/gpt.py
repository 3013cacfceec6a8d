"""A partition table of the GUID kind, as bytes for both ends of a disk (UEFI specification, chapter 5)."""

from __future__ import annotations

import dataclasses
import struct
import uuid
import zlib
from collections.abc import Mapping

SECTOR = 512
_ENTRIES, _ENTRY_SIZE = 128, 128
_ENTRY_SECTORS = _ENTRIES * _ENTRY_SIZE // SECTOR
FIRST_USABLE = 2 + _ENTRY_SECTORS
_REVISION, _HEADER_SIZE = 0x0001_0000, 92

BIOS_BOOT = uuid.UUID("21686148-6449-6e6f-744e-656564454649")
EFI_SYSTEM = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
LINUX_ROOT_X86_64 = uuid.UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709")


@dataclasses.dataclass(frozen=True, slots=True)
class Partition:
    """One partition; `start` and `size` in sectors of 512 bytes."""

    kind: uuid.UUID
    start: int
    size: int
    identity: uuid.UUID = dataclasses.field(default_factory=uuid.uuid4)
    name: str = ""


def table(partitions: Mapping[int, Partition], *, sectors: int) -> tuple[bytes, bytes]:
    """The first sectors of a disk of `sectors`, and its last ones; partitions by their number from 1 on.

    The first sector protects the rest from programs that know the MBR only; boot code may be put before
    its byte 440.
    """
    entries = bytearray(_ENTRIES * _ENTRY_SIZE)
    for number, partition in partitions.items():
        name = partition.name.encode("utf-16-le").ljust(72, b"\0")
        last = partition.start + partition.size - 1
        entry = partition.kind.bytes_le + partition.identity.bytes_le
        entry += struct.pack("<QQQ", partition.start, last, 0) + name
        at = (number - 1) * _ENTRY_SIZE
        entries[at : at + _ENTRY_SIZE] = entry
    identity = uuid.uuid4()
    first_header = _header(identity, bytes(entries), here=1, there=sectors - 1, entries_at=2, sectors=sectors)
    last_header = _header(
        identity, bytes(entries), here=sectors - 1, there=1, entries_at=sectors - 1 - _ENTRY_SECTORS, sectors=sectors
    )
    return _protection(sectors) + first_header + bytes(entries), bytes(entries) + last_header


def _protection(sectors: int) -> bytes:
    entry = struct.pack("<B3sB3sII", 0, b"\x00\x02\x00", 0xEE, b"\xff\xff\xff", 1, min(sectors - 1, 0xFFFFFFFF))
    return bytes(446) + entry + bytes(48) + b"\x55\xaa"


def _header(identity: uuid.UUID, entries: bytes, *, here: int, there: int, entries_at: int, sectors: int) -> bytes:
    def packed(checksum: int) -> bytes:
        return struct.pack(
            "<8sIIIIQQQQ16sQIII",
            b"EFI PART", _REVISION, _HEADER_SIZE, checksum, 0, here, there, FIRST_USABLE, sectors - FIRST_USABLE,
            identity.bytes_le, entries_at, _ENTRIES, _ENTRY_SIZE, zlib.crc32(entries),
        )  # fmt: skip

    return packed(zlib.crc32(packed(0))).ljust(SECTOR, b"\0")
