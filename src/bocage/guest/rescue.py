"""The rescue CD: the `tiny` guest with what repairs another system's disks; it boots by BIOS and lives in memory."""

from __future__ import annotations

import asyncio
import gzip
import io
import pathlib
import tempfile
from collections.abc import Callable

from bocage import words
from bocage.guest import packages, tiny, tools

FORMAT = "iso"

_ISOLINUX = packages.Wanted("isolinux")
_FSCK = packages.Wanted("e2fsck-static")
_LOADER = "/usr/lib/syslinux/modules/bios/ldlinux.c32"
_FILE_SYSTEMS = ("vfat", "nls_cp437", "nls_ascii", "nls_utf8", "crc32c_generic", "xfs", "btrfs")
_HINT = """\
This is the rescue system of Bocage. The VM's disks are /dev/sda, /dev/sdb, ...
  cat /proc/partitions        what there is
  fsck.ext4 -f /dev/sda1      check ext2, ext3, ext4
  rescue-mount /dev/sda1      mount it on /mnt, with /dev, /proc, /sys, ready for
  chroot /mnt passwd root     the programs of its own: passwd, update-grub, fsck
  rescue-end                  ends the rescue, as 'bocage vm rescue NAME --end' does
"""
_MOUNT = """\
#!/bin/sh
# Mounts a file system for a chroot: rescue-mount DEVICE [DIRECTORY]
. /usr/lib/tiny/devices
to=${2:-/mnt}
mkdir -p "$to"
for type in ext4 vfat xfs btrfs; do
  case $type in
  ext4) drivers= ;; # built in, with ext2 and ext3
  vfat) drivers="vfat nls_cp437 nls_ascii nls_utf8" ;;
  *) drivers="crc32c_generic $type" ;;
  esac
  for driver in $drivers; do
    modules_of "$driver"
    load_named $modules
  done
  mount -t "$type" "$1" "$to" 2>/dev/null || continue
  for one in dev proc sys; do
    [ -d "$to/$one" ] && mount -o bind "/$one" "$to/$one"
  done
  echo "$1 is on $to ($type)"
  exit 0
done
echo "rescue-mount: $1 is no file system that is known here: ext2, ext3, ext4, vfat, xfs, btrfs" >&2
exit 1
"""
_END = """\
#!/bin/sh
# Ends the rescue: what is mounted is written out first.
umount -a -r -t noproc,nosysfs,nodevtmpfs,notmpfs,norootfs 2>/dev/null
sync
exec tiny stop
"""
_SETTINGS = tiny.SETTINGS.replace("/vmlinuz", "VMLINUZ").replace("/initrd", "INITRD")


async def build(
    destination: pathlib.Path, *, cache: pathlib.Path, report: Callable[[words.Message, float], None]
) -> None:
    """Write the CD as `destination`; any user can. As `tiny.build`, whose errors it raises."""
    loader = tools.file(_LOADER, package="syslinux-common")
    report(tiny.Fetching(packages=[*tiny.NAMES, _ISOLINUX.name, _FSCK.name]), 0.0)
    isolinux, fsck = await packages.fetch(_ISOLINUX, _FSCK, cache=cache)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".rescue-") as name:
        unpacked = pathlib.Path(name)
        for package in (isolinux, fsck):
            await packages.unpack(package, into=unpacked)
        checker = await asyncio.to_thread(_content, unpacked, "e2fsck.static", fsck)
        extra = {
            "bin/e2fsck": checker,
            "bin/rescue-mount": _MOUNT.encode(),
            "bin/rescue-end": _END.encode(),
            **{f"bin/fsck.ext{number}": b'#!/bin/sh\nexec e2fsck "$@"\n' for number in (2, 3, 4)},
            "etc/motd": _HINT.encode(),
            "etc/profile": b"export PATH=/usr/sbin:/usr/bin:/sbin:/bin\ncat /etc/motd\n",
        }
        kernel, root = await tiny.system(
            cache=cache, scratch=destination.parent, report=report, drivers=_FILE_SYSTEMS, further=extra
        )
        report(tiny.Assembling(), 0.8)
        contents = {
            "VMLINUZ": kernel,
            "INITRD": await asyncio.to_thread(gzip.compress, root, 9, mtime=0),
            "ISOLINUX.CFG": _SETTINGS.encode(),
            "ISOLINUX.BIN": await asyncio.to_thread(_content, unpacked, "isolinux.bin", isolinux),
            "LDLINUX.C32": await asyncio.to_thread(loader.read_bytes),
        }
        await asyncio.to_thread(_burn, destination, contents)
    report(tiny.Assembling(), 1.0)


def _content(unpacked: pathlib.Path, name: str, package: pathlib.Path) -> bytes:
    found = next((path for path in unpacked.rglob(name) if path.is_file()), None)
    if found is None:
        raise tiny.Lacking(package=package.stem.split("_")[0], what=name)
    return found.read_bytes()


def _burn(destination: pathlib.Path, contents: dict[str, bytes]) -> None:
    import pycdlib  # late: it takes long to import

    disc = pycdlib.PyCdlib()
    disc.new(interchange_level=1, vol_ident="RESCUE")
    for name, content in contents.items():
        disc.add_fp(io.BytesIO(content), len(content), f"/{name if '.' in name else name + '.'};1")
    disc.add_eltorito("/ISOLINUX.BIN;1", bootcatfile="/BOOT.CAT;1", boot_load_size=4, boot_info_table=True)
    with destination.open("xb") as file:
        disc.write_fp(file)
    disc.close()
