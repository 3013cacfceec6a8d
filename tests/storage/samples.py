"""Disk images made by qemu-img, and others made to do harm."""

import json
import os
import pathlib
import shutil
import struct
import subprocess
from collections.abc import Callable

QEMU_IMG = shutil.which("qemu-img") or "qemu-img"
MIB = 1 << 20


def qemu_img(*arguments: str | pathlib.Path) -> str:
    """Run the real qemu-img."""
    return subprocess.run([QEMU_IMG, *map(str, arguments)], check=True, capture_output=True, text=True).stdout


def info(path: pathlib.Path, driver: str) -> dict[str, object]:
    """What QEMU itself says of an image."""
    answer = json.loads(qemu_img("info", "--output=json", "-f", driver, path))
    assert isinstance(answer, dict)
    return answer


def patch(path: pathlib.Path, at: int, data: bytes) -> pathlib.Path:
    """Overwrite bytes; a negative place counts from the end."""
    with open(path, "r+b") as file:
        file.seek(at, os.SEEK_END if at < 0 else os.SEEK_SET)
        file.write(data)
    return path


def raw(path: pathlib.Path, size: int = 4 * MIB) -> pathlib.Path:
    """A bare disk with a boot sector, data and holes."""
    with open(path, "wb") as file:
        file.truncate(size)
        file.seek(510)
        file.write(b"\x55\xaa")
        file.seek(MIB)
        file.write(b"Bocage " * 20000)
        file.seek(size - 4096)
        file.write(b"end" + bytes(4093))
    return path


def image(directory: pathlib.Path, form: str, *options: str, size: int = 4 * MIB) -> pathlib.Path:
    """An image of the format `form` (QEMU's name) with the contents of `raw`."""
    source = raw(directory / "source.raw", size)
    made = directory / f"sample.{ {'vpc': 'vhd'}.get(form, form) }"
    qemu_img("convert", "-f", "raw", "-O", form, *[part for one in options for part in ("-o", one)], source, made)
    source.unlink()
    return made


def iso(path: pathlib.Path) -> pathlib.Path:
    """A small disc."""
    import pycdlib

    disc = pycdlib.PyCdlib()
    disc.new(interchange_level=3, vol_ident="BOCAGE")
    disc.add_directory("/A")
    disc.write(str(path))
    disc.close()
    return path


def qcow2_backed_by(directory: pathlib.Path, name: str) -> pathlib.Path:
    """A qcow2 whose header names a backing file."""
    made = directory / "overlay.qcow2"
    qemu_img("create", "-u", "-f", "qcow2", "-F", "raw", "-b", name, made, "4M")
    return made


def qcow2_with_data_file(directory: pathlib.Path) -> pathlib.Path:
    made = directory / "split.qcow2"
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={directory}/elsewhere.raw,data_file_raw=on", made, "4M")
    return made


def qcow2_encrypted(directory: pathlib.Path) -> pathlib.Path:
    return patch(image(directory, "qcow2"), 32, struct.pack(">I", 2))


def qcow2_patched(at: int, data: bytes) -> Callable[[pathlib.Path], pathlib.Path]:
    return lambda directory: patch(image(directory, "qcow2"), at, data)


def qcow2_that_is_an_iso_too(directory: pathlib.Path) -> pathlib.Path:
    return patch(image(directory, "qcow2"), 32768, b"\x01CD001\x01")


def qcow2_that_is_a_vhd_too(directory: pathlib.Path) -> pathlib.Path:
    footer = image(directory, "vpc").read_bytes()[-512:]
    made = image(directory, "qcow2")
    with open(made, "ab") as file:
        file.write(footer)
    return made


def vmdk_descriptor(directory: pathlib.Path, extent: str = 'RW 2048 FLAT "/etc/shadow" 0') -> pathlib.Path:
    made = directory / "list.vmdk"
    made.write_text(
        f'# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\n\n{extent}\n'
    )
    return made


def vmdk_with_text(old: bytes, new: bytes) -> Callable[[pathlib.Path], pathlib.Path]:
    """A sparse VMDK whose embedded descriptor was edited."""

    def make(directory: pathlib.Path) -> pathlib.Path:
        made = image(directory, "vmdk")
        data = made.read_bytes()[512 : 512 * 21]
        assert old in data
        return patch(made, 512, data.replace(old, new, 1)[: len(data)])

    return make


def vmdk_of_no_capacity(directory: pathlib.Path) -> pathlib.Path:
    """With capacity 0 QEMU opens the extents that the embedded descriptor names."""
    return patch(image(directory, "vmdk"), 12, bytes(8))


def vmdk_with_another_footer(directory: pathlib.Path) -> pathlib.Path:
    """QEMU goes by the footer; this one says capacity 0."""
    made = image(directory, "vmdk", "subformat=streamOptimized")
    header = made.read_bytes()[:512]
    marker = struct.pack("<QII", 1, 0, 3).ljust(512, b"\x00")
    footer = header[:12] + bytes(8) + header[20:]
    patch(made, 56, b"\xff" * 8)
    with open(made, "ab") as file:
        file.write(marker + footer + bytes(512))
    return made


def vmdk_child(directory: pathlib.Path) -> pathlib.Path:
    base = image(directory, "vmdk")
    made = directory / "child.vmdk"
    qemu_img("create", "-f", "vmdk", "-b", base, "-F", "vmdk", made)
    return made


def vhd_differencing(directory: pathlib.Path) -> pathlib.Path:
    made = image(directory, "vpc")
    footer = bytearray(made.read_bytes()[-512:])
    footer[60:64] = struct.pack(">I", 4)
    footer[64:68] = bytes(4)
    footer[64:68] = struct.pack(">I", ~sum(footer) & 0xFFFFFFFF)
    patch(made, 0, bytes(footer))
    return patch(made, -512, bytes(footer))


def vhdx_differencing(directory: pathlib.Path) -> pathlib.Path:
    made = image(directory, "vhdx")
    data = made.read_bytes()
    entry = data.index(bytes.fromhex("3767a1ca36fa434db3b633f0aa44e76b"))
    metadata = data.index(b"metadata")
    (item,) = struct.unpack_from("<I", data, entry + 16)
    return patch(made, metadata + item + 4, struct.pack("<I", 2))


def vdi_differencing(directory: pathlib.Path) -> pathlib.Path:
    return patch(image(directory, "vdi"), 0x4C, struct.pack("<I", 4))


def cut(form: str, size: int) -> Callable[[pathlib.Path], pathlib.Path]:
    """An image cut short."""

    def make(directory: pathlib.Path) -> pathlib.Path:
        made = image(directory, form)
        os.truncate(made, size)
        return made

    return make


def written(name: str, data: bytes) -> Callable[[pathlib.Path], pathlib.Path]:
    """A file of these bytes."""

    def make(directory: pathlib.Path) -> pathlib.Path:
        (directory / name).write_bytes(data)
        return directory / name

    return make


def named(make: Callable[[pathlib.Path], pathlib.Path], name: str) -> Callable[[pathlib.Path], pathlib.Path]:
    """The same file under another name."""
    return lambda directory: make(directory).rename(directory / name)


def listing(directory: pathlib.Path) -> list[str]:
    """The names in a directory, sorted."""
    return sorted(os.listdir(directory))


def noise(path: pathlib.Path, size: int) -> pathlib.Path:
    """A file of `size` random bytes, whole MiB."""
    with open(path, "wb") as file:
        file.writelines(os.urandom(MIB) for _ in range(size // MIB))
    return path
