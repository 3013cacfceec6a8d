"""The qcow2 header: read with nothing but the standard library, held against its file; and that of an empty overlay.

The layout is that of QEMU's docs/interop/qcow2.txt.
"""

from __future__ import annotations

import dataclasses
import struct

from bocage.storage import reader, refusals

MAGIC = b"QFI\xfb"
_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = (1 << bit for bit in range(5))
_KNOWN = _DIRTY | _CORRUPT | _DATA_FILE | _COMPRESSION | _EXTENDED_L2
_MOST_L1 = 32 << 20  # bytes; QEMU's own bounds on the tables that it reads whole
_MOST_REFCOUNT_TABLE = 8 << 20
_MOST_SNAPSHOTS = 65536
NAME_BOUND = 1023  # bytes of a backing file's name, by the specification
_CLUSTER = 1 << 16  # bytes, of what is made here
MOST = _MOST_L1 // 8 * (_CLUSTER // 8) * _CLUSTER
"""The largest virtual disk, in bytes, that a file of ours can hold."""
_BACKING_FORMAT, _DATA_FILE_NAME, _ENCRYPTION = 0xE2792ACA, 0x44415441, 0x0537BE77


@dataclasses.dataclass(frozen=True, slots=True)
class Header:
    """What a qcow2 header says. Sizes are bytes."""

    version: int
    virtual_size: int
    cluster_size: int
    backing: str | None
    backing_format: str | None
    data_file: str | None
    encryption: str | None
    incompatible: int


def parse(source: reader.Reader) -> Header:
    """Read a header and hold it against the file. Raises refusals.Refused for one that cannot be right."""
    (magic, version, backing_at, backing_length, cluster_bits, virtual_size, crypt, l1_size, l1_at,
     refcount_at, refcount_clusters, snapshots, snapshots_at) = source.unpack(">4sIQIIQIIQQIIQ", 0)  # fmt: skip
    if magic != MAGIC:
        raise source.malformed("no qcow2 magic")
    if version not in (2, 3):
        raise refusals.Unsupported(file=source.name, found=f"qcow version {version}")
    if not 9 <= cluster_bits <= 21:
        raise source.malformed(f"cluster_bits is {cluster_bits}")
    incompatible, header_length = 0, 72
    if version == 3:
        (incompatible,) = source.unpack(">Q", 72)
        order, header_length = source.unpack(">II", 96)
        if order > 6:
            raise source.malformed(f"refcount_order is {order}")
    cluster = 1 << cluster_bits
    if not 72 <= header_length <= cluster or header_length % 8:
        raise source.malformed(f"header_length is {header_length}")
    if incompatible & ~_KNOWN:
        raise source.malformed(f"incompatible features {incompatible:#x}")
    if incompatible & _CORRUPT:
        raise source.malformed("marked corrupt")
    _check_tables(source, cluster, l1_at, l1_size, refcount_at, refcount_clusters, snapshots_at, snapshots)
    entry = 16 if incompatible & _EXTENDED_L2 else 8
    if -(-virtual_size // cluster) > l1_size * (cluster // entry):
        raise source.malformed(f"size is {virtual_size}, more than l1_size {l1_size} can map")
    extensions = _extensions(source, header_length, min(cluster, backing_at or cluster))
    return Header(
        version=version,
        virtual_size=virtual_size,
        cluster_size=cluster,
        backing=_backing(source, backing_at, backing_length, cluster),
        backing_format=_text(extensions.get(_BACKING_FORMAT)),
        data_file=_text(extensions.get(_DATA_FILE_NAME, b"(unnamed)" if incompatible & _DATA_FILE else None)),
        encryption="AES" if crypt == 1 else "LUKS" if crypt or _ENCRYPTION in extensions else None,
        incompatible=incompatible,
    )


def empty(size: int, *, backing: str | None = None, backing_format: str | None = None) -> tuple[bytes, int]:
    """How a disk of `size` bytes begins that holds nothing yet, and how long it is; the rest is zeros.

    Header, refcounts and the first level of its map, in this order. To start `qemu-img create` would take far longer.
    """
    entries = -(-size // (_CLUSTER * (_CLUSTER // 8)))
    clusters = 3 + -(-entries * 8 // _CLUSTER)
    kind, name, length = (backing_format or "").encode(), (backing or "").encode(), 104
    told = struct.pack(">II", _BACKING_FORMAT, len(kind)) + kind.ljust(-(-len(kind) // 8) * 8, b"\0") if kind else b""
    extensions = told + bytes(8)
    named_at = length + len(extensions) if name else 0
    header = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        MAGIC, 3, named_at, len(name), _CLUSTER.bit_length() - 1, size, 0, entries, 3 * _CLUSTER,
        _CLUSTER, 1, 0, 0, 0, 0, 0, 4, length,
    )  # fmt: skip
    refcounts = struct.pack(">Q", 2 * _CLUSTER).ljust(_CLUSTER, b"\0") + struct.pack(">H", 1) * clusters
    return (header + extensions + name).ljust(_CLUSTER, b"\0") + refcounts, clusters * _CLUSTER


def _check_tables(
    source: reader.Reader,
    cluster: int,
    l1_at: int,
    l1_size: int,
    refcount_at: int,
    refcount_clusters: int,
    snapshots_at: int,
    snapshots: int,
) -> None:
    if l1_size * 8 > _MOST_L1:
        raise source.malformed(f"l1_size is {l1_size}")
    if refcount_clusters * cluster > _MOST_REFCOUNT_TABLE or refcount_clusters == 0:
        raise source.malformed(f"refcount_table_clusters is {refcount_clusters}")
    if snapshots > _MOST_SNAPSHOTS:
        raise source.malformed(f"nb_snapshots is {snapshots}")
    for field, offset in (("l1_table", l1_at), ("refcount_table", refcount_at), ("snapshots", snapshots_at)):
        if offset % cluster or offset >= 1 << 63:
            raise source.malformed(f"{field}_offset is {offset:#x}")
    if refcount_at == 0 or (l1_size and l1_at == 0):
        raise source.malformed("a table lies over the header")
    source.must_hold(l1_at + l1_size * 8)
    source.must_hold(refcount_at + refcount_clusters * cluster)
    source.must_hold(snapshots_at + snapshots * 40)


def _extensions(source: reader.Reader, start: int, end: int) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = start
    while at + 8 <= min(end, source.size):
        kind, length = source.unpack(">II", at)
        if kind == 0:
            break
        if at + 8 + length > end:
            raise source.malformed(f"header extension {kind:#x} of {length} bytes")
        if kind in found:
            raise source.malformed(f"header extension {kind:#x} twice")
        found[kind] = source.read(at + 8, length)
        at += 8 + -(-length // 8) * 8
    return found


def _backing(source: reader.Reader, offset: int, length: int, cluster: int) -> str | None:
    if offset == 0:
        return None
    if length == 0:
        return ""
    if length > NAME_BOUND or offset + length > cluster:
        raise source.malformed(f"backing file name of {length} bytes at {offset:#x}")
    return _text(source.read(offset, length))


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode(errors="backslashreplace")
