"""Every hostile image that the suite knows, and the refusal that each must meet."""

import pathlib
import struct
from collections.abc import Callable

from bocage.storage import refusals
from tests.storage import samples

Make = Callable[[pathlib.Path], pathlib.Path]


def _backed_by(name: str) -> Make:
    return lambda directory: samples.qcow2_backed_by(directory, name)


def _form(form: str, ending: str = "img") -> Make:
    return samples.named(lambda directory: samples.image(directory, form), f"disk.{ending}")


IMAGES: dict[str, tuple[Make, type[refusals.Refused]]] = {
    "backing-shadow": (_backed_by("/etc/shadow"), refusals.BackingFile),
    "backing-relative": (_backed_by("../../../../etc/shadow"), refusals.BackingFile),
    "backing-json": (_backed_by('json:{"driver":"file","filename":"/etc/shadow"}'), refusals.BackingFile),
    "backing-nbd": (_backed_by("nbd:unix:/run/somewhere.sock"), refusals.BackingFile),
    "backing-nbd-url": (_backed_by("nbd://127.0.0.1:1/x"), refusals.BackingFile),
    "backing-without-name": (samples.qcow2_patched(8, struct.pack(">Q", 600)), refusals.BackingFile),
    "backing-named-outside": (samples.qcow2_patched(8, struct.pack(">QI", 1 << 40, 9)), refusals.Malformed),
    "data-file": (samples.qcow2_with_data_file, refusals.DataFile),
    "data-file-without-name": (samples.qcow2_patched(72, struct.pack(">Q", 4)), refusals.DataFile),
    "vmdk-absolute-extent": (samples.vmdk_descriptor, refusals.Extent),
    "vmdk-flat-extent": (
        lambda directory: samples.vmdk_descriptor(directory, 'RW 2048 FLAT "disk-flat.vmdk" 0'),
        refusals.Extent,
    ),
    "vmdk-embedded-absolute-extent": (
        samples.vmdk_with_text(b'SPARSE "sample.vmdk"', b'SPARSE "/etc/shadow"'),
        refusals.Extent,
    ),
    "vmdk-embedded-flat": (samples.vmdk_with_text(b"monolithicSparse", b'monolithicFlat" \n'), refusals.Extent),
    "vmdk-embedded-two-extents": (
        samples.vmdk_with_text(b"# The Disk Data Base", b'RW 1 FLAT "x" 0\n# Data'),
        refusals.Extent,
    ),
    "vmdk-embedded-no-capacity": (samples.vmdk_of_no_capacity, refusals.Extent),
    "vmdk-footer": (samples.vmdk_with_another_footer, refusals.Extent),
    "vmdk-parent": (samples.vmdk_child, refusals.BackingFile),
    "vhd-differencing": (samples.vhd_differencing, refusals.BackingFile),
    "vhdx-differencing": (samples.vhdx_differencing, refusals.BackingFile),
    "vdi-differencing": (samples.vdi_differencing, refusals.BackingFile),
    "size-bomb": (samples.qcow2_patched(24, struct.pack(">Q", 1 << 62)), refusals.Malformed),
    "size-bomb-with-tables": (
        lambda directory: _created(directory, "-o", "cluster_size=2M", size="65T"),
        refusals.TooLarge,
    ),
    "size-bomb-vdi": (
        lambda directory: samples.patch(samples.image(directory, "vdi"), 0x170, struct.pack("<Q", 1 << 60)),
        refusals.Malformed,
    ),
    "size-bomb-vmdk": (
        lambda directory: samples.patch(samples.image(directory, "vmdk"), 12, struct.pack("<Q", 1 << 52)),
        refusals.Truncated,
    ),
    "size-nothing": (samples.qcow2_patched(24, bytes(8)), refusals.Malformed),
    "l1-absurd": (samples.qcow2_patched(36, struct.pack(">I", 1 << 30)), refusals.Malformed),
    "l1-outside": (samples.qcow2_patched(40, struct.pack(">Q", 1 << 50)), refusals.Truncated),
    "l1-over-header": (samples.qcow2_patched(40, bytes(8)), refusals.Malformed),
    "refcount-absurd": (samples.qcow2_patched(56, struct.pack(">I", 1 << 31)), refusals.Malformed),
    "refcount-none": (samples.qcow2_patched(56, bytes(4)), refusals.Malformed),
    "snapshots-absurd": (samples.qcow2_patched(60, struct.pack(">I", 1 << 31)), refusals.Malformed),
    "cluster-bits": (samples.qcow2_patched(20, struct.pack(">I", 63)), refusals.Malformed),
    "incompatible-feature": (samples.qcow2_patched(72, struct.pack(">Q", 1 << 17)), refusals.Malformed),
    "marked-corrupt": (samples.qcow2_patched(72, struct.pack(">Q", 2)), refusals.Malformed),
    "header-length": (samples.qcow2_patched(100, struct.pack(">I", 1 << 31)), refusals.Malformed),
    "version-4": (samples.qcow2_patched(4, struct.pack(">I", 4)), refusals.Unsupported),
    "truncated-header": (samples.cut("qcow2", 60), refusals.Truncated),
    "truncated-tables": (samples.cut("qcow2", 70000), refusals.Truncated),
    "truncated-vmdk": (samples.cut("vmdk", 1024), refusals.Truncated),
    "truncated-vhd": (samples.cut("vpc", 2048), refusals.Truncated),
    "truncated-vhdx": (samples.cut("vhdx", 300000), refusals.Truncated),
    "truncated-vdi": (samples.cut("vdi", 600), refusals.Truncated),
    "lie-raw-name": (samples.named(lambda d: samples.image(d, "qcow2"), "disk.raw"), refusals.NameLie),
    "lie-iso-name": (samples.named(lambda d: samples.image(d, "vmdk"), "disk.iso"), refusals.NameLie),
    "lie-qcow2-name": (lambda directory: samples.raw(directory / "disk.qcow2"), refusals.NameLie),
    "polyglot-iso": (samples.qcow2_that_is_an_iso_too, refusals.Polyglot),
    "polyglot-vhd": (samples.qcow2_that_is_a_vhd_too, refusals.Polyglot),
    "encrypted-qcow2": (samples.qcow2_encrypted, refusals.Encrypted),
    "encrypted-luks": (samples.written("disk.img", b"LUKS\xba\xbe\x00\x01" + bytes(4096)), refusals.Encrypted),
    "qcow1": (_form("qcow"), refusals.Unsupported),
    "qed": (_form("qed"), refusals.Unsupported),
    "parallels": (_form("parallels"), refusals.Unsupported),
    "compressed": (samples.written("disk.img", b"\x1f\x8b\x08" + bytes(1000)), refusals.Unsupported),
    "unknown": (samples.written("holiday", b"what is it?" * 100), refusals.Unknown),
    "empty": (samples.written("disk.raw", b""), refusals.Empty),
}


def _created(directory: pathlib.Path, *options: str, size: str) -> pathlib.Path:
    made = directory / "large.qcow2"
    samples.qemu_img("create", "-f", "qcow2", *options, made, size)
    return made
