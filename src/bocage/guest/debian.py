"""A Debian disk made from packages, as clouds have it: cloud-init, guest agent, ssh; BIOS and UEFI.

mmdebstrap fills a root directory in namespaces of its own, as root or as an ordinary user with subordinate
ids; what lies beside this module in the folder `debian` is put into it. No loop or network block device is
used: the file system is made from the directory, and GRUB is placed by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import pathlib
import re
import shlex
import tarfile
import tempfile
from collections.abc import Callable, Sequence

from bocage import errors, files, process, words
from bocage.guest import gptdisk, sources, tools
from bocage.words import N_

FORMAT = "qcow2"
"""The format of the image that `build` writes."""

RELEASES = ("bookworm", "trixie")
SIZE = 2 << 30
"""Bytes of the disk; the root file system grows with it at the first start."""

_HERE = pathlib.Path(__file__).with_name("debian")
_MIRROR_BOUND = 2400.0  # seconds for mmdebstrap, nearly all of it the mirror and dpkg
_CONVERT_BOUND = 600.0
_PACKAGES = (
    "systemd-sysv", "udev", "dbus", "libpam-systemd", "linux-image-cloud-amd64", "initramfs-tools", "grub-cloud-amd64",
    "cloud-init", "cloud-guest-utils", "fdisk", "e2fsprogs", "dosfstools", "qemu-guest-agent", "openssh-server", "sudo",
    "iproute2", "iputils-ping", "netbase", "systemd-resolved", "systemd-timesyncd", "ca-certificates",
    "debian-archive-keyring", "less", "nano",
)  # fmt: skip
_SIGNED_GRUB = "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"
_SIGNED_SHIM = "usr/lib/shim/shimx64.efi.signed"
_CORE, _BOOT = "boot/grub/i386-pc/core.img", "boot/grub/i386-pc/boot.img"
_EFI_SETTINGS = b"""\
search --no-floppy --label root --set=root
set prefix=($root)/boot/grub
configfile $prefix/grub.cfg
"""


class NotKnown(tools.Error, errors.Invalid, ValueError):
    """No image of this release can be built."""

    type = "guest-release-unknown"
    text = N_("'{release}' is no release of Debian that can be built")
    hint = N_("one of: {known}")
    release: str
    known: list[str]


class NotBuilt(tools.Error, errors.Unavailable):
    """mmdebstrap could not make the root directory."""

    type = "guest-image-not-built"
    text = N_("Debian {release} could not be built: {output}")
    hint = N_("most often a mirror that cannot be reached, or has no such release: 'apt-get update' shows it")
    release: str
    output: str


class NoSubordinateIds(tools.Error, errors.Unavailable):
    """An ordinary user needs ids for the new system's users."""

    type = "guest-no-subordinate-ids"
    text = N_("user {user} has no subordinate ids in /etc/subuid and /etc/subgid")
    hint = N_("as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}")
    user: str


class NoNamespaces(tools.Error, errors.Unavailable):
    """An ordinary user may not have a root of its own here."""

    type = "guest-no-user-namespaces"
    text = N_("user {user} may make no user namespaces here, which building Debian needs without root: {reason}")
    hint = N_(
        "let root build it, or permit them: 'sysctl -a | grep -E \"user_namespaces|userns\"' shows what forbids them"
    )
    user: str
    reason: str


class Filling(words.Message):
    """Step: packages are fetched and installed into the new root directory."""

    type = "guest-debian-filling"
    text = N_("installing Debian {release}: {doing}")
    release: str
    doing: str


class Placing(words.Message):
    """Step: file systems and boot loader are placed on the disk."""

    type = "guest-debian-placing"
    text = N_("placing file systems and boot loader")


class Compressing(words.Message):
    """Step: the disk is written as a compressed qcow2."""

    type = "guest-debian-compressing"
    text = N_("compressing the image")


async def build(
    destination: pathlib.Path,
    *,
    release: str,
    cache: pathlib.Path,
    report: Callable[[words.Message, float], None],
    more: Sequence[str] = (),
) -> None:
    """Write the image as `destination`, a compressed qcow2; packages are kept in the directory `cache`.

    `more` are packages beside those that each image has. `report` is called with each step and the fraction of the
    work that is done. Raises NotKnown, NotBuilt, NoSubordinateIds, NoNamespaces, ToolMissing, FileExistsError when
    `destination` is there.
    """
    if release not in RELEASES:
        raise NotKnown(release=release, known=list(RELEASES))
    if await asyncio.to_thread(destination.exists):
        raise FileExistsError(destination)
    qemu_img = tools.program("qemu-img", package="qemu-utils")
    gptdisk.require()
    archives = cache / f"debian-{release}"
    await asyncio.to_thread(archives.mkdir, parents=True, exist_ok=True)

    async with contextlib.AsyncExitStack() as undo:
        scratch = pathlib.Path(tempfile.mkdtemp(prefix="bocage-debian-", dir="/var/tmp"))
        undo.push_async_callback(_remove, scratch)
        root, loader = await _fill(scratch, release=release, archives=archives, more=more, report=report)
        report(Placing(), 0.8)
        raw = scratch / "disk.raw"
        await gptdisk.write(raw, size=SIZE, root=root, loader=loader, scratch=scratch)
        report(Compressing(), 0.85)
        beside = destination.with_name(f".{destination.name}.part")
        undo.callback(beside.unlink, missing_ok=True)
        await process.run(
            qemu_img, "convert", "-p", "-c", "-W", "-f", "raw", "-O", "qcow2", "-o", "compression_type=zstd",
            raw, beside, within=_CONVERT_BOUND, each_line=lambda line: _converted(line, report),
        )  # fmt: skip
        await asyncio.to_thread(files.rename_durably, beside, destination)
    report(Compressing(), 1.0)


async def _fill(
    scratch: pathlib.Path,
    *,
    release: str,
    archives: pathlib.Path,
    more: Sequence[str],
    report: Callable[[words.Message, float], None],
) -> tuple[pathlib.Path, gptdisk.Loader]:
    """The root's file system in a file, and what boots it."""
    await asyncio.to_thread(scratch.chmod, 0o711)  # the ids inside are not ours, and must get through
    inside = scratch / "inside"
    inside.mkdir()
    inside.chmod(0o1777)
    filesystem = scratch / "root.ext4"
    with filesystem.open("xb") as file:
        file.truncate(gptdisk.root_room(SIZE))
    filesystem.chmod(0o666)
    (scratch / "overlay.tar").write_bytes(_overlay(_HERE / "root"))
    loot = scratch / "boot"
    command = [
        *await _namespaces(),
        *_command(scratch, release=release, archives=archives, more=more, proxies=await _apt_options()),
    ]
    doing = _Progress(release, report)
    try:
        # What mmdebstrap does is told on its standard error, which no one else reads line by line.
        shell = ("sh", "-c", 'exec "$@" 2>&1', "sh")
        environment = {**os.environ, "TMPDIR": str(inside)}
        await process.run(*shell, *command, within=_MIRROR_BOUND, environment=environment, each_line=doing.line)
    except process.Failed as failure:
        raise NotBuilt(release=release, output=_complaints(failure.output)) from failure
    held = {path.name: path.read_bytes() for path in loot.iterdir()}
    efi = {
        "EFI/BOOT/BOOTX64.EFI": held["shim"],
        "EFI/BOOT/grubx64.efi": held["grub"],
        "EFI/debian/grub.cfg": _EFI_SETTINGS,
    }
    return filesystem, gptdisk.Loader(boot=held["boot.img"], core=held["core.img"], efi=efi)


def _command(
    scratch: pathlib.Path, *, release: str, archives: pathlib.Path, more: Sequence[str], proxies: list[str]
) -> list[str | os.PathLike[str]]:
    quoted = shlex.quote
    pack = (_HERE / "pack").read_text().replace("@FILESYSTEM@", quoted(str(scratch / "root.ext4")))
    loot = scratch / "boot"
    loot.mkdir()
    customize = [
        'APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get -q autoclean',
        f"sync-out /var/cache/apt/archives {quoted(str(archives))}",
        f"tar-in {quoted(str(scratch / 'overlay.tar'))} /",
        (_HERE / "customize").read_text(),
        *(
            f"download /{path} {quoted(str(loot / name))}"
            for name, path in (("core.img", _CORE), ("boot.img", _BOOT), ("shim", _SIGNED_SHIM), ("grub", _SIGNED_GRUB))
        ),
        pack,
    ]
    setup = ['mkdir -p "$1/var/cache/apt/archives"', f"sync-in {quoted(str(archives))} /var/cache/apt/archives"]
    return [
        tools.program("mmdebstrap", package="mmdebstrap"), "--mode=unshare", "--format=null", "--variant=minbase",
        f"--include={','.join((*_PACKAGES, *more))}", "--skip=essential/unlink",
        "--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        "--dpkgopt=force-unsafe-io",  # what is half built is thrown away; the image itself does without
        *(f"--aptopt={option}" for option in proxies),
        *(f"--setup-hook={hook}" for hook in setup),
        *(f"--customize-hook={hook}" for hook in customize),
        release, "/dev/null", *(source.line() for source in sources.for_release(release)),
    ]  # fmt: skip


async def _namespaces() -> list[str]:
    """What goes before mmdebstrap, so that its mounts are seen by nobody else and end with it."""
    tools.program("mke2fs", package="e2fsprogs")
    if os.geteuid() == 0:
        unshare = tools.program("unshare", package="util-linux")
        return [unshare, "--mount", "--propagation", "private", "--"]
    mmdebstrap = tools.program("mmdebstrap", package="mmdebstrap")
    tools.program("newuidmap", package="uidmap")
    user = tools.user_name()
    for table in ("/etc/subuid", "/etc/subgid"):
        if not {user, str(os.getuid())} & await asyncio.to_thread(_owners, pathlib.Path(table)):
            raise NoSubordinateIds(user=user)
    try:  # how a kernel refuses them differs, so they are tried
        await process.run(mmdebstrap, "--unshare-helper", "mount", "-t", "tmpfs", "none", "/mnt", within=30)
    except process.Failed as failure:
        raise NoNamespaces(user=user, reason=_complaints(failure.output).split("; ")[0]) from failure
    return []


def _owners(table: pathlib.Path) -> set[str]:
    """Who has subordinate ids, by name or number (subuid(5))."""
    try:
        return {line.split(":")[0] for line in table.read_text().splitlines()}
    except OSError:
        return set()


async def _apt_options() -> list[str]:
    """The machine's own ways to a mirror (proxies, certificates), which mmdebstrap leaves out."""
    apt_config = tools.program("apt-config", package="apt")
    dump = (await process.run(apt_config, "dump", within=30)).decode()
    wanted = r'^(Acquire::(?:https?::\S+|Check-(?:Date|Valid-Until)|Retries|ForceIPv[46]) "[^"]+";)$'
    return re.findall(wanted, dump, re.MULTILINE)


def _overlay(folder: pathlib.Path) -> bytes:
    """The files of a folder as a tar archive, belonging to root."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            content = path.read_bytes()
            entry = tarfile.TarInfo(path.relative_to(folder).as_posix())
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    return written.getvalue()


class _Progress:
    """Fractions from what mmdebstrap says it is doing."""

    _AT = {
        "running apt-get update": 0.02,
        "downloading packages with apt": 0.08,
        "extracting archives": 0.15,
        "installing essential packages": 0.2,
        "installing remaining packages inside the chroot": 0.3,
        "running --customize-hook": 0.7,
    }

    def __init__(self, release: str, report: Callable[[words.Message, float], None]) -> None:
        self._release, self._report, self._said = release, report, -1.0

    def line(self, line: str) -> None:
        """Take one line of its output."""
        for doing, fraction in self._AT.items():
            if line.startswith(f"I: {doing}") and fraction > self._said:
                self._said = fraction
                self._report(Filling(release=self._release, doing=doing), fraction)


def _converted(line: str, report: Callable[[words.Message, float], None]) -> None:
    if found := re.search(r"\((\d+)\.00/100%\)", line):  # once for each percent
        report(Compressing(), 0.85 + 0.0015 * int(found[1]))


def _complaints(output: str) -> str:
    lines = [line for line in output.splitlines() if re.match(r"(E|W|Err|error)\b", line)]
    return "; ".join(lines[:5]) or output[-400:]


async def _remove(scratch: pathlib.Path) -> None:
    """Remove what was made on the way; what belongs to subordinate ids only they can remove."""
    if os.geteuid() != 0 and await asyncio.to_thread(lambda: any((scratch / "inside").glob("*"))):
        mmdebstrap = tools.program("mmdebstrap", package="mmdebstrap")
        with contextlib.suppress(process.Error, errors.TimedOut):
            left = [str(path) for path in (scratch / "inside").iterdir()]
            await process.run(mmdebstrap, "--unshare-helper", "rm", "-rf", "--", *left, within=120)
    await asyncio.to_thread(files.remove_tree, scratch)
