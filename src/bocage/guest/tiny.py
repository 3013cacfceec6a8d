"""The `tiny` guest: a distribution's kernel and a static busybox on a disk that boots in seconds.

What runs inside lies beside this module, in the folder `tiny`, laid out as the guest's root. The guest's root
is in its memory; the disk holds only what the BIOS loads.
"""

from __future__ import annotations

import asyncio
import gzip
import pathlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from bocage import errors, files, process, words
from bocage.guest import bootdisk, cpio, modules, packages, tools
from bocage.words import N_

FORMAT = "raw"
"""The format of the image that `build` writes."""

ROOT = pathlib.Path(__file__).with_name("tiny")
"""The guest's own programs, as they lie in its root directory."""

_KERNEL = packages.Wanted("linux-image-cloud-amd64", behind=r"linux-image-\d\S*-cloud-amd64")
_BUSYBOX = packages.Wanted("busybox-static")
NAMES = [_KERNEL.name, _BUSYBOX.name]
_APPLETS = 30.0  # seconds for busybox to list what it can do

# What drives the devices that a guest may be given. A kernel that has one of them built in needs no module.
_DRIVERS = (
    "virtio_pci", "virtio_net", "virtio_blk", "virtio_scsi", "virtio_console", "virtio_balloon", "virtio_mem",
    "virtio_rng", "virtio_input", "sd_mod", "sr_mod", "ata_piix", "ahci", "nvme", "e1000", "e1000e",
)  # fmt: skip
_ALWAYS = ("button", "evdev", "isofs", "8021q")

# Hot-added memory goes where it can be given back. The self-tests of the kernel's ciphers and what guards
# against hostile programs in the guest cost half a second of each boot. An emulated CPU that waits for its turn
# fails the test of the timer's interrupt, which then ends in a panic.
_COMMAND_LINE = (
    "console=tty0 console=ttyS0 quiet panic=-1 memhp_default_state=online_movable "
    "cryptomgr.notests nokaslr mitigations=off no_timer_check"
)
SETTINGS = f"""\
DEFAULT tiny
PROMPT 0
LABEL tiny
  LINUX /vmlinuz
  INITRD /initrd
  APPEND {_COMMAND_LINE}
"""


class Lacking(tools.Error, errors.Unavailable, LookupError):
    """A package does not hold what the image needs of it."""

    type = "guest-package-lacking"
    text = N_("the package '{package}' has no {what}")
    package: str
    what: str


class Fetching(words.Message):
    """Step: packages are fetched."""

    type = "guest-fetching"
    text = N_("fetching {packages}")
    packages: list[str]


class Unpacking(words.Message):
    """Step: what is needed is taken from the packages."""

    type = "guest-unpacking"
    text = N_("unpacking {package}")
    package: str


class Assembling(words.Message):
    """Step: the image is put together."""

    type = "guest-assembling"
    text = N_("assembling the image")


async def build(
    destination: pathlib.Path, *, cache: pathlib.Path, report: Callable[[words.Message, float], None]
) -> None:
    """Write the image as `destination`, a raw disk; any user can. Packages are kept in the directory `cache`.

    `report` is called with each step and the fraction of the work that is done. The same packages give the
    same bytes. Raises tools.Error for what the machine lacks, FileExistsError when `destination` is there.
    """
    bootdisk.require()
    if await asyncio.to_thread(destination.exists):
        raise FileExistsError(destination)
    report(Fetching(packages=NAMES), 0.0)
    kernel, root = await system(cache=cache, scratch=destination.parent, report=report)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".tiny-") as name:
        scratch = pathlib.Path(name)
        initrd = await asyncio.to_thread(gzip.compress, root, 9, mtime=0)
        made = scratch / "disk"
        await bootdisk.write(made, files={"vmlinuz": kernel, "initrd": initrd}, settings=SETTINGS, scratch=scratch)
        await asyncio.to_thread(files.rename_durably, made, destination)
    report(Assembling(), 1.0)


async def system(
    *,
    cache: pathlib.Path,
    scratch: pathlib.Path,
    report: Callable[[words.Message, float], None],
    drivers: Sequence[str] = (),
    further: Mapping[str, bytes] = MappingProxyType({}),
) -> tuple[bytes, bytes]:
    """The kernel, and its first root directory as an archive, with further modules and files in it."""
    fetched = await packages.fetch(_KERNEL, _BUSYBOX, cache=cache)
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".tiny-") as name:
        unpacked = pathlib.Path(name) / "packages"
        for package in fetched:
            report(Unpacking(package=package.stem.split("_")[0]), 0.3)
            await packages.unpack(package, into=unpacked)
        report(Assembling(), 0.7)
        kernel = next((unpacked / "boot").glob("vmlinuz-*"), None)
        if kernel is None:
            raise Lacking(package=_KERNEL.name, what="kernel")
        root = await _first_root(unpacked, drivers, further)
        return await asyncio.to_thread(kernel.read_bytes), root


async def _first_root(unpacked: pathlib.Path, drivers: Sequence[str], further: Mapping[str, bytes]) -> bytes:
    """The guest's root directory, as the archive that the kernel unpacks."""
    busybox = unpacked / "bin" / "busybox"
    if not await asyncio.to_thread(busybox.is_file):
        busybox = unpacked / "usr" / "bin" / "busybox"
    if not await asyncio.to_thread(busybox.is_file):
        raise Lacking(package=_BUSYBOX.name, what="busybox")
    archive = cpio.Archive()
    for directory in ("bin", "dev", "proc", "sys", "run", "tmp", "usr", "usr/bin", "usr/lib", "usr/lib/modules"):
        archive.directory(directory)
    archive.character_device("dev/console", 5, 1)
    archive.file("bin/busybox", await asyncio.to_thread(busybox.read_bytes), mode=0o755)
    for applet in await _applets(busybox):
        if f"bin/{applet}" not in further:
            archive.link(f"bin/{applet}", "busybox")
    available = await asyncio.to_thread(modules.needed, (*_DRIVERS, *_ALWAYS, *drivers), folder=unpacked)
    for module in available.values():
        archive.file(f"usr/lib/modules/{module.name}.ko", module.content)
    for path in sorted(ROOT.rglob("*")):
        inside = path.relative_to(ROOT).as_posix()
        if path.is_dir():
            if inside not in ("usr", "usr/bin", "usr/lib"):
                archive.directory(inside)
        else:
            content = path.read_bytes()
            archive.file(inside, content, mode=0o755 if content.startswith(b"#!") else 0o644)
    for inside, content in further.items():
        archive.file(inside, content, mode=0o755 if inside.startswith("bin/") else 0o644)
    table = modules.shell_table(available) + (modules.named_table(available, drivers) if drivers else "")
    archive.file("usr/lib/tiny/modules", table.encode())
    return archive.finish()


async def _applets(busybox: pathlib.Path) -> list[str]:
    listed = await process.run(busybox, "--list", within=_APPLETS)
    return [name for name in listed.decode().split() if name != "busybox"]
