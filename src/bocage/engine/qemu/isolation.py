"""What a VM's process may see and do: which hedges this machine allows, why not the others, and how to raise them."""

from __future__ import annotations

import functools
import itertools
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from bocage import errors, process, words
from bocage.words import N_

_SYSTEM = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_ETC = ("ld.so.cache", "localtime", "hosts", "host.conf", "nsswitch.conf", "resolv.conf", "ssl/certs", "gai.conf")
_TRIAL_BOUND = 5.0  # seconds

Path = str | os.PathLike[str]


class NotRoot(words.Message):
    """Only root can give a process another uid."""

    type = "isolation-not-root"
    text = N_("the daemon does not run as root, so every virtual machine has the daemon's own uid")


class NoOwner(words.Message):
    """It was not asked for."""

    type = "isolation-no-owner"
    text = N_("no uid of its own was given to it")


class NoBubblewrap(words.Message):
    """The program that makes the mount namespace is missing."""

    type = "isolation-no-bubblewrap"
    text = N_("bubblewrap (bwrap) is not installed")
    hint = N_("apt-get install bubblewrap")


class NoNamespace(words.Message):
    """The kernel or a container around us forbids it."""

    type = "isolation-no-namespace"
    text = N_("this machine lets us make no mount namespace: {said}")
    said: str


class NoNetwork(words.Message):
    """The kernel or a container around us forbids a network of its own."""

    type = "isolation-no-network"
    text = N_("this machine lets us make no network namespace: {said}")
    said: str


class CarriesNic(words.Message):
    """QEMU's own user-mode network needs the machine's."""

    type = "isolation-carries-nic"
    text = N_("a NIC is carried by QEMU itself, which needs this machine's network for that")
    hint = N_("'apt install passt', then stop and start it")


class ReachesLun(words.Message):
    """QEMU's own initiator needs the machine's network."""

    type = "isolation-reaches-lun"
    text = N_("its disks are on a LUN, which QEMU itself reaches over this machine's network")


class NoGroup(words.Message):
    """Nowhere to make a cgroup."""

    type = "isolation-no-cgroup"
    text = N_("no cgroup may be made here by uid {uid}")
    uid: int


class NoSandbox(words.Message):
    """The command line does without."""

    type = "isolation-no-sandbox"
    text = N_("the command line does not ask for QEMU's seccomp sandbox")


@dataclass(frozen=True, slots=True)
class Part:
    """One hedge: `sandbox`, `uid`, `mounts`, `network` or `cgroup`; `reason` when it does not apply."""

    name: str
    applies: bool
    reason: words.Message | None = None


@dataclass(frozen=True, slots=True)
class Isolation:
    """How a process is kept apart."""

    parts: tuple[Part, ...]

    @property
    def level(self) -> str:
        """`full`, `partial` or `none`."""
        applied = sum(part.applies for part in self.parts)
        return "full" if applied == len(self.parts) else "partial" if applied else "none"


@dataclass(frozen=True, slots=True)
class Owner:
    """Whom a process runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()  # supplementary ones, such as kvm's


@dataclass(frozen=True, slots=True)
class View:
    """The files that a process sees under their own paths, beside the system's programs and libraries."""

    read_only: Sequence[Path] = ()
    read_write: Sequence[Path] = ()
    devices: Sequence[Path] = ()  # as /dev/kvm; the harmless ones are always there


def state(
    *,
    argv: Sequence[str],
    owner: Owner | None,
    mounts: words.Message | None,
    network: words.Message | None,
    cgroup: bool,
) -> Isolation:
    """What applies to a process that is started so; `mounts` and `network` say why it has none of its own."""
    return Isolation(
        (
            _part("sandbox", None if _sandboxed(argv) else NoSandbox()),
            _part("uid", None if owner else NoOwner() if os.geteuid() == 0 else NotRoot()),
            _part("mounts", mounts),
            _part("network", network),
            _part("cgroup", None if cgroup else NoGroup(uid=os.geteuid())),
        )
    )


async def mounts_refused() -> words.Message | None:
    """Why no mount namespace can be made here; None when one was made in a trial (once a process)."""
    return (await _verdicts())[0]


async def network_refused() -> words.Message | None:
    """Why no network namespace can be made beside it; None when one was made in the trial."""
    return (await _verdicts())[1]


async def _verdicts() -> tuple[words.Message | None, words.Message | None]:
    if not _tried:
        without = await _trial(network=False)
        mounts = await _trial(network=True) if without else None
        if mounts is None and isinstance(without, NoNamespace):
            without = NoNetwork(said=without.said)
        _tried.append((mounts, without))
    return _tried[0]


_tried: list[tuple[words.Message | None, words.Message | None]] = []


def enclosed(
    argv: Sequence[str], *, view: View, cwd: Path, owner: Owner | None, mounts: bool, network: bool = True
) -> list[str]:
    """`argv` behind the programs that confine it, of which the last replace themselves by it.

    With `mounts`, bubblewrap stays as the parent and tells the end on its standard output. It reports
    and waits, and its own death does not end the child. Without `network` it has a loopback alone.
    """
    inside = [*_identity(owner), *argv]
    if not mounts:
        return inside
    return [*_bubblewrap(network=network), "--json-status-fd", "1", *_mounts(view), "--chdir", os.fspath(cwd), *inside]


def _identity(owner: Owner | None) -> list[str]:
    if owner is None:
        return ["setpriv", "--no-new-privs"]
    groups = ["--groups", ",".join(map(str, owner.groups))] if owner.groups else ["--clear-groups"]
    dropped = ["--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]
    return ["setpriv", f"--reuid={owner.uid}", f"--regid={owner.gid}", *groups, *dropped]


def _bubblewrap(*, network: bool) -> list[str]:
    shared = ["bwrap", "--unshare-ipc", "--unshare-uts", *([] if network else ["--unshare-net"])]
    # Root needs no user namespace, and keeps what setpriv needs inside until it gives it up.
    return shared if os.geteuid() == 0 else [*shared, "--unshare-user", "--disable-userns", "--cap-drop", "ALL"]


def _mounts(view: View) -> list[str]:
    """Arguments of bubblewrap: the system read-only, no /proc and no /sys, then the process's own files."""
    there = {pathlib.PurePath(path) for path in ("/", "/usr", "/dev", "/etc", "/tmp")}  # noqa: S108
    bound: set[pathlib.PurePath] = set()
    arguments = ["--ro-bind", "/usr", "/usr", *_system(), "--dev", "/dev", "--tmpfs", "/tmp"]  # noqa: S108
    kinds = (("--ro-bind", view.read_only), ("--bind", view.read_write), ("--dev-bind", view.devices))
    for option, paths in kinds:
        for path in map(pathlib.PurePath, paths):
            arguments += [*_parents(path, there, bound), option, str(path), str(path)]
            bound.add(path)
    return [*arguments, "--remount-ro", "/"]


def _parents(path: pathlib.PurePath, there: set[pathlib.PurePath], bound: Iterable[pathlib.PurePath]) -> Iterator[str]:
    """Make the directories above a path to bind; bubblewrap alone would close some to others than root."""
    for parent in reversed(path.parents):
        # What lies in a bound directory is there already, and would be made outside if it were not.
        if parent not in there and not any(parent.is_relative_to(one) for one in bound):
            yield from ("--perms", "0755", "--dir", str(parent))
        there.add(parent)


@functools.cache
def _system() -> tuple[str, ...]:
    arguments: list[str] = []
    for name in _SYSTEM:
        path = pathlib.Path("/", name)
        if path.is_symlink():
            arguments += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            arguments += ["--ro-bind", str(path), str(path)]
    arguments += ["--perms", "0755", "--dir", "/etc", "--perms", "0755", "--dir", "/etc/ssl"]
    for name in _ETC:
        arguments += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    return tuple(arguments)


async def _trial(*, network: bool) -> words.Message | None:
    if not shutil.which("bwrap"):
        return NoBubblewrap()
    try:
        await process.run(*_bubblewrap(network=network), *_mounts(View()), "true", within=_TRIAL_BOUND)
    except process.Failed as error:
        return NoNamespace(said=error.output)
    except errors.TimedOut as error:
        return NoNamespace(said=str(error))
    return None


def _sandboxed(argv: Sequence[str]) -> bool:
    values = [value for option, value in itertools.pairwise(argv) if option == "-sandbox"]
    return bool(values) and values[-1].split(",")[0] == "on"


def _part(name: str, reason: words.Message | None) -> Part:
    return Part(name, applies=reason is None, reason=reason)
