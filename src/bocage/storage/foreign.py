"""The headers of other hypervisors' disk formats: what each describes, and refusals of what QEMU must not follow."""

from __future__ import annotations

import array
import re
import struct

from bocage.storage import reader, refusals

_SECTOR = 512
_GUID_BLOCK_TABLE = bytes.fromhex("6677c22d23f600429d64115e9bfd4a08")
_GUID_METADATA_REGION = bytes.fromhex("06a27c8b90479a4bb8fe575f050f886e")
_GUID_FILE_PARAMETERS = bytes.fromhex("3767a1ca36fa434db3b633f0aa44e76b")
_GUID_VIRTUAL_SIZE = bytes.fromhex("2442a52f1bcd7648b2115dbed83bf4b8")
_GUID_PARENT_LOCATOR = bytes.fromhex("2d5fd3a80bb34d45abf7d3d84834ab0c")


def vmdk(source: reader.Reader) -> int:
    """The virtual size in bytes of a VMDK in one sparse file.

    Taken: `monolithicSparse` and `streamOptimized` (VMware, Virtual Disk Format 5.0). Raises refusals.Refused.
    """
    capacity, descriptor_at, directory_at = _sparse_header(source, 0)
    if directory_at == 0xFFFFFFFFFFFFFFFF:
        # QEMU goes by the copy of the header at the end, so that copy must be as harmless
        at_end = _sparse_header(source, source.size - 1024)
        if at_end[:2] != (capacity, descriptor_at) or at_end[2] == 0xFFFFFFFFFFFFFFFF:
            raise source.malformed("its footer is not like its header")
    _vmdk_descriptor(source, source.peek(descriptor_at * _SECTOR, 20 * _SECTOR))
    return capacity * _SECTOR


def _sparse_header(source: reader.Reader, at: int) -> tuple[int, int, int]:
    magic, version, _, capacity, grain, descriptor_at, descriptor_size, entries, _, directory_at = source.unpack(
        "<4sIIQQQQIQQ", at
    )
    if magic != b"KDMV" or version not in (1, 2, 3):
        raise source.malformed(f"version is {version}")
    if capacity == 0:  # QEMU would then take the embedded text for a list of other files
        raise refusals.Extent(file=source.name, extent="(capacity 0)")
    if descriptor_at != 1 or not 1 <= descriptor_size <= 2048:
        raise source.malformed(f"descriptorOffset is {descriptor_at}, descriptorSize {descriptor_size}")
    if not 8 <= grain <= 0x200000 or grain & (grain - 1) or entries != 512:
        raise source.malformed(f"grainSize is {grain}, numGTEsPerGT {entries}")
    if directory_at != 0xFFFFFFFFFFFFFFFF:
        tables = -(-capacity // (grain * entries))
        source.must_hold(directory_at * _SECTOR + tables * 4)
    return capacity, descriptor_at, directory_at


def _vmdk_descriptor(source: reader.Reader, data: bytes) -> None:
    if b"parentfilenamehint" in data.lower():
        hint = re.search(rb'parentfilenamehint\s*=\s*"?([^"\n\x00]*)', data, re.IGNORECASE)
        raise refusals.BackingFile(file=source.name, backing=_shown(hint.group(1) if hint else b""))
    text = data.split(b"\x00", 1)[0].decode("ascii", errors="replace").lower()
    kind = re.search(r'^\s*createtype\s*=\s*"([^"]*)"', text, re.MULTILINE)
    if not kind:
        raise source.malformed("its descriptor has no createType")
    if kind.group(1) not in ("monolithicsparse", "streamoptimized"):
        raise refusals.Extent(file=source.name, extent=kind.group(1)[:100])
    parent = re.search(r"^\s*parentcid\s*=\s*(\w*)", text, re.MULTILINE)
    if parent and parent.group(1) != "ffffffff":
        raise refusals.BackingFile(file=source.name, backing=f"parentCID {parent.group(1)[:16]}")
    extents = re.findall(r"^\s*(?:rw|rdonly|noaccess)\s.*$", text, re.MULTILINE)
    one = re.fullmatch(r'\s*(?:rw|rdonly)\s+\d+\s+sparse\s+"([^"/\\]+)"\s*', extents[0]) if len(extents) == 1 else None
    if not one:
        raise refusals.Extent(file=source.name, extent="; ".join(extents)[:200] or "(none)")


def is_vmdk_descriptor(head: bytes) -> bool:
    """Whether a file starts as the text form of a VMDK, which names its data files."""
    text = head.lstrip(b" \t\r\n").lower()
    return text.startswith(b"# disk descriptorfile") or (b"createtype=" in text and b"\x00" not in text[:64])


def vmdk_text(source: reader.Reader, head: bytes) -> refusals.Refused:
    """Why a VMDK in text form is refused: the first extent that it names."""
    extent = re.search(rb"^\s*(?:rw|rdonly|noaccess)\s.*$", head, re.MULTILINE | re.IGNORECASE)
    return refusals.Extent(file=source.name, extent=_shown(extent.group(0).strip() if extent else b"(none)"))


def vhd(source: reader.Reader) -> int:
    """The virtual size in bytes of a fixed or dynamic VHD (Microsoft, Virtual Hard Disk Image Format 1.0)."""
    footer = source.read(source.size - _SECTOR, _SECTOR)
    if not footer.startswith(b"conectix"):
        raise refusals.Truncated(file=source.name, size=source.size, expected=source.size + _SECTOR)
    features, version, data_at = struct.unpack_from(">IIQ", footer, 8)
    size, kind, checksum = struct.unpack_from(">Q4xII", footer, 48)
    if checksum != ~(sum(footer) - sum(footer[64:68])) & 0xFFFFFFFF or version >> 16 != 1:
        raise source.malformed("its footer's checksum is wrong")
    if kind == 4:
        raise refusals.BackingFile(file=source.name, backing="parent of a differencing disk")
    if kind == 2:
        if size > source.size - _SECTOR:
            raise refusals.Truncated(file=source.name, size=source.size, expected=size + _SECTOR)
        return int(size)
    if kind != 3 or features & ~3:
        raise source.malformed(f"disk type is {kind}")
    copy = source.read(0, _SECTOR)
    if copy != footer:
        raise source.malformed("the copy of the footer at its start differs")
    _vhd_dynamic(source, data_at, size)
    return int(size)


def _vhd_dynamic(source: reader.Reader, at: int, size: int) -> None:
    header = source.read(at, 1024)
    cookie, _, table_at, _, entries, block = struct.unpack_from(">8sQQIII", header)
    if cookie != b"cxsparse":
        raise source.malformed("no dynamic disk header")
    if any(header[40:56]) or any(header[576:768]):
        raise refusals.BackingFile(file=source.name, backing="parent of a differencing disk")
    if block < _SECTOR or block & (block - 1) or entries * block < size:
        raise source.malformed(f"max table entries is {entries}, block size {block}")
    source.must_hold(table_at + entries * 4)


def vhdx(source: reader.Reader) -> int:
    """The virtual size in bytes of a VHDX without parent (Microsoft, [MS-VHDX])."""
    signature, _, count = source.unpack("<4sII", 192 << 10)
    if signature != b"regi" or count > 2047:
        raise source.malformed(f"its region table has {count} entries")
    table = source.read(192 << 10, 16 + 32 * count)
    regions: dict[bytes, tuple[int, int]] = {}
    for at in range(16, len(table), 32):
        region_at, length, _ = struct.unpack_from("<QII", table, at + 16)
        source.must_hold(region_at + length)
        if region_at < 1 << 20:
            raise source.malformed(f"a region at {region_at:#x}")
        regions[table[at : at + 16]] = region_at, length
    if _GUID_METADATA_REGION not in regions or _GUID_BLOCK_TABLE not in regions:
        raise source.malformed("no metadata region, or no block allocation table")
    size, block = _vhdx_metadata(source, *regions[_GUID_METADATA_REGION])
    _vhdx_blocks(source, *regions[_GUID_BLOCK_TABLE], size, block)
    return size


def _vhdx_metadata(source: reader.Reader, start: int, length: int) -> tuple[int, int]:
    signature, count = source.unpack("<8s2xH", start)
    if signature != b"metadata" or count > 2047 or 32 + 32 * count > length:
        raise source.malformed(f"its metadata table has {count} entries")
    table = source.read(start, 32 + 32 * count)
    size = block = 0
    for at in range(32, len(table), 32):
        (item_at,) = struct.unpack_from("<I", table, at + 16)
        guid = table[at : at + 16]
        if guid == _GUID_FILE_PARAMETERS:
            block, flags = source.unpack("<II", start + item_at)
        if guid == _GUID_PARENT_LOCATOR or (guid == _GUID_FILE_PARAMETERS and flags & 2):
            raise refusals.BackingFile(file=source.name, backing="parent of a differencing disk")
        if guid == _GUID_VIRTUAL_SIZE:
            (size,) = source.unpack("<Q", start + item_at)
    if size == 0 or not 1 << 20 <= block <= 256 << 20 or block & (block - 1):
        raise source.malformed(f"virtual disk size is {size}, block size {block}")
    return size, block


def _vhdx_blocks(source: reader.Reader, start: int, length: int, size: int, block: int) -> None:
    """Raise Truncated when a block that should be there lies beyond the end; QEMU would read zeros."""
    if -(-size // block) * 8 > length:
        raise source.malformed(f"its block allocation table of {length} bytes is too small")
    for at in range(start, start + length, 1 << 20):
        entries = array.array("Q", source.read(at, min(1 << 20, start + length - at) & ~7))
        last = max((entry >> 20 for entry in entries if entry & 7 in (6, 7)), default=None)
        if last is not None:
            source.must_hold((last << 20) + block)


def vdi(source: reader.Reader) -> int:
    """The virtual size in bytes of a dynamic or fixed VDI (VirtualBox, VDICore.h, version 1.1)."""
    version, _, kind = source.unpack("<III", 68)
    map_at, data_at = source.unpack("<II", 340)
    size, block, _, blocks, allocated = source.unpack("<QIIII", 368)
    if version != 0x00010001:
        raise refusals.Unsupported(file=source.name, found=f"VDI version {version:#x}")
    if kind in (3, 4) or any(source.read(424, 32)):
        raise refusals.BackingFile(file=source.name, backing="parent of a differencing disk")
    if kind not in (1, 2):
        raise source.malformed(f"image type is {kind}")
    if block < _SECTOR or block & (block - 1) or blocks * block < size or allocated > blocks:
        raise source.malformed(f"{blocks} blocks of {block} for a disk of {size}")
    source.must_hold(map_at + blocks * 4)
    source.must_hold(data_at + allocated * block)
    return int(size)


def _shown(data: bytes) -> str:
    return data[:200].decode(errors="backslashreplace")
