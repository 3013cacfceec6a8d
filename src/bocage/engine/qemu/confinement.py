"""Reads from /proc what a process really may, whatever was meant."""

from __future__ import annotations

import contextlib
import enum
import os
import pathlib
import re
from collections.abc import Iterator

from bocage.engine import base
from bocage.engine.qemu import processes
from bocage.model import confinement as model

_PROC = pathlib.Path("/proc")
_SETS = {"Eff": "effective", "Prm": "permitted", "Inh": "inheritable", "Bnd": "bounding", "Amb": "ambient"}
_SECCOMP = {"0": "off", "1": "strict", "2": "filter"}
_NAMESPACES = ("mnt", "net", "ipc", "uts", "pid", "user", "cgroup")
_WRITES = os.O_WRONLY | os.O_RDWR
_SOCKET = re.compile(r"socket:\[(\d+)\]")
_CAPABILITY = enum.IntEnum(  # linux/capability.h
    "_CAPABILITY",
    "chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable net_bind_service "
    "net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct sys_admin "
    "sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control setfcap mac_override "
    "mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore",
    start=0,
)


def read(identity: processes.Identity) -> model.Confinement:
    """What the kernel shows of a process. Raises processes.Gone, and PermissionError for another user's."""
    at = _PROC / str(identity.pid)
    try:
        status = _fields(at / "status")
        sockets = dict(_sockets(at))
        own, shared = _namespaces(at)
        threads = [_fields(task / "status") for task in (at / "task").iterdir()]
        found = model.Confinement(
            pid=identity.pid,
            uid=int(status["Uid"].split()[1]),
            gid=int(status["Gid"].split()[1]),
            groups=tuple(map(int, status["Groups"].split())),
            capabilities={name: _named(int(status[f"Cap{short}"], 16)) for short, name in _SETS.items()},
            new_privileges=status["NoNewPrivs"] != "1",
            seccomp=_SECCOMP.get(status["Seccomp"], status["Seccomp"]),
            threads=len(threads),
            threads_unfiltered=sum(thread["Seccomp"] == "0" for thread in threads),
            own_namespaces=own,
            shared_namespaces=shared,
            mounts=tuple(_mounts(at)),
            opened=tuple(_opened(at, sockets)),
            interfaces=tuple(_interfaces(at)),
            groups_of_control=tuple(_control_groups(at)),
        )
    except (FileNotFoundError, ProcessLookupError) as error:
        raise processes.Gone(pid=identity.pid) from error
    if not processes.alive(identity):  # what was read may have been another's
        raise processes.Gone(pid=identity.pid)
    return found.model_copy(update={"gaps": model.gaps(found, daemon=os.geteuid())})


def of(name: str, identity: processes.Identity) -> model.Confinement:
    """The same for a VM's process. Raises base.NotRunning."""
    try:
        return read(identity)
    except processes.Gone as error:
        raise base.NotRunning(name=name) from error


def _fields(path: pathlib.Path) -> dict[str, str]:
    lines = (line.partition(":") for line in path.read_text(errors="replace").splitlines())
    return {name: value.strip() for name, _, value in lines}


def _named(bits: int) -> tuple[str, ...]:
    known = [one.name for one in _CAPABILITY if bits >> one & 1]
    beyond = range(len(_CAPABILITY), bits.bit_length())
    return (*known, *(f"capability {number}" for number in beyond if bits >> number & 1))


def _namespaces(at: pathlib.Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    own: list[str] = []
    shared: list[str] = []
    for name in _NAMESPACES:
        with contextlib.suppress(FileNotFoundError):
            same = os.readlink(at / "ns" / name) == os.readlink(_PROC / "self" / "ns" / name)
            (shared if same else own).append(name)
    return tuple(own), tuple(shared)


def _mounts(at: pathlib.Path) -> Iterator[model.Seen]:
    """Field by field as proc(5), mountinfo, has them."""
    for line in (at / "mountinfo").read_text(errors="replace").splitlines():
        front, _, back = line.partition(" - ")
        root, path, options = front.split()[3:6]
        kind, source, options_of_all = back.split()[:3]
        shown = source if source.startswith("/") else kind
        yield model.Seen(
            path=_plain(path),
            kind=kind,
            source=_plain(f"{shown}:{root}" if root != "/" else shown),
            writable="rw" in options.split(",") and "rw" in options_of_all.split(","),
        )


def _opened(at: pathlib.Path, sockets: dict[str, str]) -> Iterator[model.Opened]:
    for entry in sorted((at / "fd").iterdir(), key=lambda one: int(one.name)):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            what = os.readlink(entry)
            flags = int(_fields(at / "fdinfo" / entry.name)["flags"], 8)
            number = _SOCKET.fullmatch(what)
            address = sockets.get(number[1], "") if number else ""
            yield model.Opened(
                descriptor=int(entry.name), what=f"{what} {address}".strip(), writable=bool(flags & _WRITES)
            )


def _sockets(at: pathlib.Path) -> Iterator[tuple[str, str]]:
    """The addresses of sockets by inode: paths, and those that are of a network."""
    for line in _lines(at / "net" / "unix"):
        fields = line.split(maxsplit=7)
        yield fields[6], f"unix {fields[7]}" if len(fields) > 7 else "unix"
    for kind in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6"):
        for line in _lines(at / "net" / kind):
            yield line.split()[9], kind


def _interfaces(at: pathlib.Path) -> Iterator[str]:
    for line in _lines(at / "net" / "dev")[1:]:
        yield line.partition(":")[0].strip()


def _lines(path: pathlib.Path) -> list[str]:
    """Without the heading."""
    try:
        return path.read_text(errors="replace").splitlines()[1:]
    except FileNotFoundError:  # such as IPv6 where there is none
        return []


def _control_groups(at: pathlib.Path) -> Iterator[str]:
    for line in (at / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if path != "/":
            yield f"{controllers}:{path}" if controllers else path


def _plain(path: str) -> str:
    """With the characters that the kernel writes as numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)
