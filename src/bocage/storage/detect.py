"""Which formats a file can be read as, by its signatures alone."""

from __future__ import annotations

from bocage.storage import foreign, reader

TAKEN = ("raw", "qcow2", "vmdk", "vhd", "vhdx", "vdi", "iso")

_AT_START = (
    (b"QFI\xfb", "qcow2"),
    (b"KDMV", "vmdk"),
    (b"vhdxfile", "vhdx"),
    (b"conectix", "vhd"),
    (b"QED\x00", "QED"),
    (b"LUKS\xba\xbe", "LUKS"),
    (b"COWD", "VMDK of ESX 2"),
    (b"\xbe\xba\xfe\xca\x00\x00\x00\x00", "seSparse VMDK"),
    (b"WithoutFreeSpace", "Parallels"),
    (b"WithouFreSpacExt", "Parallels"),
    (b"Bochs Virtual HD Image", "Bochs disk"),
    (b"#!/bin/sh\n#V2.0 Format", "cloop"),
    (b"\x1f\x8b\x08", "gzip-compressed data"),
    (b"BZh", "bzip2-compressed data"),
    (b"\xfd7zXZ\x00", "xz-compressed data"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed data"),
    (b"PK\x03\x04", "a zip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"MSWIM\x00", "a Windows image (WIM)"),
)
_VOLUME_DESCRIPTORS = (b"CD001", b"NSR02", b"NSR03", b"BEA01")
_ENDINGS = {
    "raw": "raw",
    "qcow2": "qcow2",
    "qcow": "qcow2",
    "vmdk": "vmdk",
    "vhd": "vhd",
    "vpc": "vhd",
    "vhdx": "vhdx",
    "vdi": "vdi",
    "iso": "iso",
}
_ANY_DISK = ("img", "image", "dd", "bin", "disk", "dsk", "flp", "ima", "vfd", "hdd")


def formats(source: reader.Reader) -> list[str]:
    """Every format whose signature the file carries; one of `TAKEN`, or a plain name for what is not taken."""
    head = source.peek(0, 4096)
    found = [name for magic, name in _AT_START if head.startswith(magic)]
    if head[64:68] == b"\x7f\x10\xda\xbe":
        found.append("vdi")
    if foreign.is_vmdk_descriptor(head):
        found.append("vmdk descriptor")
    if head[257:262] == b"ustar":
        found.append("a tar archive")
    if source.peek(32769, 5) in _VOLUME_DESCRIPTORS:
        found.append("iso")
    tail = source.peek(source.size - 512, 512) if source.size >= 512 else b""
    if tail.startswith(b"conectix") and "vhd" not in found:
        found.append("vhd")
    if tail.startswith(b"koly"):
        found.append("Apple disk image")
    return found


def has_partitions(source: reader.Reader) -> bool:
    """Whether the first sector ends as a boot sector does: MBR, GPT, FAT."""
    return source.peek(510, 2) == b"\x55\xaa"


def by_name(file_name: str) -> str | None:
    """The format that a file name's ending promises; None when it promises nothing (`.img` is used for any)."""
    return _ENDINGS.get(file_name.rpartition(".")[2].lower()) if "." in file_name else None


def may_be_bare(file_name: str) -> bool:
    """Whether a file of this name may be the bare contents of a disk, though no signature says so."""
    return "." in file_name and file_name.rpartition(".")[2].lower() in ("raw", *_ANY_DISK)
