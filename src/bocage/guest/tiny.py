"""The `tiny` guest: a distribution's kernel and a static busybox on a disk that boots in seconds.

What runs inside lies beside this module, in the folder `tiny`, laid out as the guest's root. The guest's root
is in its memory; the disk holds only what the BIOS loads.
"""

from __future__ import annotations

import asyncio
import gzip
import pathlib
import tempfile
from collections.abc import Callable

from bocage import errors, files, process, words
from bocage.guest import bootdisk, cpio, modules, packages, tools
from bocage.words import N_

FORMAT = "raw"
"""The format of the image that `build` writes."""

ROOT = pathlib.Path(__file__).with_name("tiny")
"""The guest's own programs, as they lie in its root directory."""

_KERNEL = "linux-image-cloud-amd64"
_KERNEL_BEHIND = r"linux-image-\d\S*-cloud-amd64"
_BUSYBOX = "busybox-static"
_APPLETS = 30.0  # seconds for busybox to list what it can do

# What drives the devices that a guest may be given. A kernel that has one of them built in needs no module.
_DRIVERS = (
    "virtio_pci", "virtio_net", "virtio_blk", "virtio_scsi", "virtio_console", "virtio_balloon", "virtio_mem",
    "virtio_rng", "virtio_input", "sd_mod", "sr_mod", "ata_piix", "ahci", "nvme", "e1000", "e1000e",
)  # fmt: skip
_ALWAYS = ("button", "evdev", "isofs")

# Hot-added memory goes where it can be given back. The self-tests of the kernel's ciphers and what guards
# against hostile programs in the guest cost half a second of each boot.
_COMMAND_LINE = (
    "console=tty0 console=ttyS0 quiet panic=-1 memhp_default_state=online_movable "
    "cryptomgr.notests nokaslr mitigations=off"
)
_SETTINGS = f"""\
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
    report(Fetching(packages=[_KERNEL, _BUSYBOX]), 0.0)
    kernel_package = await packages.fetch(_KERNEL, cache=cache, behind=_KERNEL_BEHIND)
    busybox_package = await packages.fetch(_BUSYBOX, cache=cache)

    report(Unpacking(package=kernel_package.stem.split("_")[0]), 0.3)
    kernel, available = await _kernel(kernel_package)
    busybox = await _only(busybox_package, "bin/busybox", what="busybox")

    report(Assembling(), 0.7)
    if await asyncio.to_thread(destination.exists):
        raise FileExistsError(destination)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".tiny-") as name:
        scratch = pathlib.Path(name)
        root = await _first_root(busybox, available, scratch)
        boot = {"vmlinuz": kernel, "initrd": await asyncio.to_thread(gzip.compress, root, 9, mtime=0)}
        made = scratch / "disk"
        await bootdisk.write(made, files=boot, settings=_SETTINGS, scratch=scratch)
        await asyncio.to_thread(files.rename_durably, made, destination)
    report(Assembling(), 1.0)


async def _kernel(package: pathlib.Path) -> tuple[bytes, dict[str, modules.Module]]:
    held = await packages.read(
        package, lambda path: path.startswith("boot/vmlinuz-") or path.partition(".ko")[0] != path
    )
    image = next((content for path, content in held.items() if path.startswith("boot/")), None)
    if image is None:
        raise Lacking(package=package.name, what="kernel")
    parsed = [modules.parse(path, content) for path, content in held.items() if not path.startswith("boot/")]
    return image, {module.name: module for module in parsed}


async def _only(package: pathlib.Path, path: str, *, what: str) -> bytes:
    held = await packages.read(package, lambda found: found.removeprefix("usr/") == path)
    if not held:
        raise Lacking(package=package.name, what=what)
    return next(iter(held.values()))


async def _first_root(busybox: bytes, available: dict[str, modules.Module], scratch: pathlib.Path) -> bytes:
    """The guest's root directory, as the archive that the kernel unpacks."""
    archive = cpio.Archive()
    for directory in ("bin", "dev", "proc", "sys", "run", "tmp", "usr", "usr/bin", "usr/lib", "usr/lib/modules"):
        archive.directory(directory)
    archive.character_device("dev/console", 5, 1)
    archive.file("bin/busybox", busybox, mode=0o755)
    for applet in await _applets(busybox, scratch):
        archive.link(f"bin/{applet}", "busybox")
    drivers = [name for name in _DRIVERS if name in available]
    for module in modules.in_order([*drivers, *(name for name in _ALWAYS if name in available)], available):
        archive.file(f"usr/lib/modules/{module.name}.ko", module.content)
    for path in sorted(ROOT.rglob("*")):
        inside = path.relative_to(ROOT).as_posix()
        if path.is_dir():
            if inside not in ("usr", "usr/bin", "usr/lib"):
                archive.directory(inside)
        else:
            content = path.read_bytes()
            archive.file(inside, content, mode=0o755 if content.startswith(b"#!") else 0o644)
    archive.file("usr/lib/tiny/modules", modules.shell_table(drivers, available).encode())
    return archive.finish()


async def _applets(busybox: bytes, scratch: pathlib.Path) -> list[str]:
    program = scratch / "busybox"
    program.write_bytes(busybox)
    program.chmod(0o755)
    listed = await process.run(program, "--list", within=_APPLETS)
    return [name for name in listed.decode().split() if name != "busybox"]
