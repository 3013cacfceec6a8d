"""A control group for each VM: all its processes under one name, on cgroup v2, v1 or both (cgroups(7))."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import pathlib
import re
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from bocage import errors
from bocage.words import N_

CONTROLLERS = ("memory", "cpu", "io", "pids")
"""Those of version 2 that each group is given."""
_OURS = "bocage"
_USED = ("freezer", "memory", "cpu", "cpuacct", "blkio", "pids")
_ROUNDS = 20  # against a process that forks meanwhile, or a parent that is removed meanwhile
_SHARES = 1024  # what each process outside of all groups has (sched(7)); v2's weight is another scale
_WEIGHT, _LARGEST_WEIGHT = 100, 10_000
_NAME = re.compile(r"\w[\w.-]*")
_PERIOD = 100_000  # microseconds over which a cap holds
_UNBOUND = (1 << 63) - 1  # v1's word for a memory limit that is none
_PAUSE = 0.002  # seconds between two attempts to remove a group that is about to be empty


class Error(errors.Problem):
    """Anything that goes wrong with a control group."""


class Busy(Error, errors.Conflict):
    """Processes that should be gone are still in it."""

    type = "cgroup-busy"
    text = N_("the control group {name} still holds processes: {pids}")
    name: str
    pids: list[int]


class Lacks(Error, errors.Unavailable):
    """The kernel does not divide this here, or it is not ours to divide."""

    type = "cgroup-lacks"
    text = N_("the control group {name} has no controller for {what}: {said}")
    hint = N_("'bocage doctor' says what this host has")
    name: str
    what: str
    said: str


class Group(Protocol):
    """Where one VM's processes live together, whoever made it."""

    def doors(self) -> tuple[pathlib.Path, ...]:
        """The files by which a process of one thread goes into it by itself, writing 0; none: it has to be put in.

        It is made for that. Raises OSError.
        """

    async def enter(self, pid: int) -> None:
        """Put a process into it, and make it when it is not there. Raises OSError, Error."""

    def procs(self) -> list[int]:
        """The pids in it."""

    def kill(self) -> None:
        """Send SIGKILL to all of it, frozen or not, including what it forks meanwhile."""

    def freeze(self) -> None:
        """Stop all of it; `frozen` tells when that is done."""

    def thaw(self) -> None:
        """Let it go on."""

    def frozen(self) -> bool:
        """Whether every process in it stands still."""

    def memory_bytes(self) -> int | None:
        """Memory that is charged to it; None where nobody counts."""

    def oom_kills(self) -> int:
        """How many of its processes the kernel killed for lack of memory; may take a moment."""

    async def weigh(self, weight: int) -> None:
        """Its weight among the other groups where they want one CPU; 100 is usual. Raises Lacks."""

    def cap(self, cpus: float | None) -> None:
        """How many CPUs' time it never has more of. Raises Lacks."""

    def bound_memory(self, most: int | None) -> None:
        """How many bytes it may have before the kernel kills in it. Raises Lacks, also when it has more now."""

    async def remove(self, *, within: float = 2.0) -> None:
        """Remove it, waiting for its last process to leave. Not an error when it is gone. Raises Busy."""


@dataclass(frozen=True, slots=True)
class Place:
    """The directories of cgroup file systems in which we may make groups."""

    unified: pathlib.Path | None
    legacy: Mapping[str, pathlib.Path]  # by controller

    def group(self, home: str, name: str) -> Directories:
        """The group of one VM of one home; it is there when `make` was called. Raises ValueError."""
        if not (_NAME.fullmatch(home) and _NAME.fullmatch(name)):
            raise ValueError(f"no name of a control group: {home!r}, {name!r}")
        below = pathlib.PurePath(_OURS, home, name)
        legacy = {controller: path / below for controller, path in self.legacy.items()}
        return Directories(str(below), self.unified / below if self.unified else None, legacy)

    def names(self, home: str) -> set[str]:
        """The groups that are there for a home."""
        roots = {path for path in (self.unified, *self.legacy.values()) if path}
        return {name for root in roots for name in subdirectories(root / _OURS / home)}


@dataclass(frozen=True, slots=True)
class Directories:
    """A group made by us in the cgroup file systems."""

    name: str
    unified: pathlib.Path | None
    legacy: Mapping[str, pathlib.Path]

    def doors(self) -> tuple[pathlib.Path, ...]:
        # Whoever moves another, or one of several threads, waits for the kernel's grace period: some 10 ms.
        if self.unified:
            return ()  # version 2 takes whole processes alone
        self.make()
        return tuple(path / "tasks" for path in self._all())

    async def enter(self, pid: int) -> None:
        self.make()
        for path in self.members:
            put(path, str(pid))

    @property
    def members(self) -> tuple[pathlib.Path, ...]:
        """The files that hold the pids in it, and take one."""
        return tuple(path / "cgroup.procs" for path in self._all())

    def make(self) -> None:
        """Make it; not an error when it is there. Raises OSError, and then made nothing."""
        with contextlib.ExitStack() as undo:
            for path in self._all():
                _make(path)
                undo.callback(_remove, path)
            if self.unified:
                _offer_controllers(self.unified)
            self._weigh()
            undo.pop_all()

    def _weigh(self) -> None:
        """Let all VMs together count as one busy process on each CPU: as they are made, they would as one on all."""
        cpus = os.cpu_count() or 1
        if "cpu" in self.legacy:
            _write(self.legacy["cpu"].parents[1] / "cpu.shares", str(_SHARES * cpus))
        elif self.unified:
            _write(self.unified.parents[1] / "cpu.weight", str(min(_WEIGHT * cpus, _LARGEST_WEIGHT)))

    def freezers(self) -> dict[str, str | None]:
        """The directories whose files freeze it: of version 2, or of version 1."""
        legacy = self.legacy.get("freezer")
        return {"unified": str(self.unified) if self.unified else None, "legacy": str(legacy) if legacy else None}

    def exists(self) -> bool:
        """Whether any part of it is there."""
        return any(path.is_dir() for path in self._all())

    def procs(self) -> list[int]:
        return sorted({pid for path in self.members for pid in _numbers(path)} - {0})

    def kill(self) -> None:
        if self.unified and _write(self.unified / "cgroup.kill", "1"):
            return
        self.freeze()  # so that nothing is born between the list and the signal
        try:
            _kill_each(self)
        finally:
            self.thaw()  # on v1 a frozen process dies when it is thawed
        _kill_each(self)  # who was born before the freeze took hold

    def freeze(self) -> None:
        self._set_frozen(True)

    def thaw(self) -> None:
        self._set_frozen(False)

    def frozen(self) -> bool:
        if self.unified:
            return _field(self.unified / "cgroup.events", "frozen") == 1
        return "freezer" in self.legacy and _read(self.legacy["freezer"] / "freezer.state") == "FROZEN"

    def memory_bytes(self) -> int | None:
        path = self._memory("memory.usage_in_bytes", "memory.current")
        numbers = _numbers(path) if path else []
        return numbers[0] if numbers else None

    def oom_kills(self) -> int:
        path = self._memory("memory.oom_control", "memory.events")
        return _field(path, "oom_kill") if path else 0

    async def weigh(self, weight: int) -> None:
        if "cpu" in self.legacy:
            self._divide("cpu", "cpu.shares", str(weight * _SHARES // _WEIGHT))
        else:
            self._divide("cpu", "cpu.weight", str(weight))

    def cap(self, cpus: float | None) -> None:
        quota = None if cpus is None else max(round(cpus * _PERIOD), 1000)  # the least that the kernel takes
        if "cpu" in self.legacy:
            self._divide("cpu", "cpu.cfs_period_us", str(_PERIOD))
            self._divide("cpu", "cpu.cfs_quota_us", str(-1 if quota is None else quota))
        else:
            self._divide("cpu", "cpu.max", f"{'max' if quota is None else quota} {_PERIOD}")

    def bound_memory(self, most: int | None) -> None:
        if "memory" in self.legacy:
            self._divide("memory", "memory.limit_in_bytes", str(_UNBOUND if most is None else most))
        else:
            if most is not None and self._held() > most:  # v1 refuses by itself; here it would be killed
                busy = OSError(errno.EBUSY, os.strerror(errno.EBUSY))
                raise Lacks(name=self.name, what="memory", said=str(busy.strerror)) from busy
            self._divide("memory", "memory.max", "max" if most is None else str(most))

    def _held(self) -> int:
        """Bytes that it has and that cannot be had back by dropping cached files."""
        assert self.unified
        try:
            taken = int((self.unified / "memory.current").read_text())
            told = dict(line.split() for line in (self.unified / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            return 0
        return taken - int(told.get("active_file", 0)) - int(told.get("inactive_file", 0))

    def _divide(self, controller: str, file: str, value: str) -> None:
        path = self.legacy.get(controller, self.unified)
        try:
            if path is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            put(path / file, value)
        except OSError as error:
            raise Lacks(name=self.name, what=controller, said=error.strerror or str(error)) from error

    async def remove(self, *, within: float = 2.0) -> None:
        deadline = time.monotonic() + within
        for path in self._all():
            while not _remove(path):
                if time.monotonic() > deadline:
                    raise Busy(name=self.name, pids=self.procs())
                await asyncio.sleep(_PAUSE)
            for parent in (path.parent, path.parent.parent):
                _remove(parent)

    def _all(self) -> Iterator[pathlib.Path]:
        yield from dict.fromkeys(path for path in (self.unified, *self.legacy.values()) if path)

    def _set_frozen(self, wanted: bool) -> None:
        if self.unified:
            _write(self.unified / "cgroup.freeze", str(int(wanted)))
        elif "freezer" in self.legacy:
            _write(self.legacy["freezer"] / "freezer.state", "FROZEN" if wanted else "THAWED")

    def _memory(self, legacy: str, unified: str) -> pathlib.Path | None:
        if "memory" in self.legacy:
            return self.legacy["memory"] / legacy
        return self.unified / unified if self.unified else None


def place() -> Place | None:
    """Where this process may make groups; None when nowhere.

    That is the top of each hierarchy, else the group that we are in (delegated to an ordinary user).
    On a machine with both versions, v2 is used only where v1 has no freezer.
    """
    unified: pathlib.Path | None = None
    legacy: dict[str, pathlib.Path] = {}
    within = _own_groups()
    for kind, root, top, options in _mounts():
        controllers = [""] if kind == "cgroup2" else [name for name in options if name in _USED]
        found = _writable(pathlib.Path(top), root, within.get(controllers[0], "/")) if controllers else None
        if found and kind == "cgroup2":
            unified = found
        elif found:
            legacy |= dict.fromkeys(controllers, found)
    if "freezer" in legacy:
        unified = None
    return Place(unified, legacy) if unified or legacy else None


def _mounts() -> Iterator[tuple[str, str, str, list[str]]]:
    """Kind, root, mount point and options of each mounted hierarchy (proc(5), mountinfo)."""
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        front, _, back = line.partition(" - ")
        kind, _source, options = back.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            root, top = front.split(" ")[3:5]
            yield kind, root, top.replace("\\040", " "), options.split(",")


def _own_groups() -> dict[str, str]:
    """The path of our own group by controller; v2's under the empty name."""
    groups: dict[str, str] = {}
    for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        groups |= dict.fromkeys(controllers.split(","), path)
    return groups


def _writable(top: pathlib.Path, root: str, own: str) -> pathlib.Path | None:
    inside = pathlib.PurePath(own).relative_to(root) if own.startswith(root) else pathlib.PurePath(own.lstrip("/"))
    for path in (top, top / inside):
        ours = path / _OURS
        if os.access(ours if ours.is_dir() else path, os.W_OK):
            return path
    return None


def _make(path: pathlib.Path) -> None:
    for _ in range(_ROUNDS):
        # Another VM's removal took the empty parent in between, before or after mkdir looked for it.
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            return path.mkdir(parents=True, exist_ok=True)
    return path.mkdir(parents=True, exist_ok=True)


def _remove(path: pathlib.Path) -> bool:
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _offer_controllers(path: pathlib.Path) -> None:
    """Pass v2's controllers down to a group; where processes stand above it, the kernel refuses and it does without."""
    for parent in reversed(path.parents[:3]):
        for controller in CONTROLLERS:
            _write(parent / "cgroup.subtree_control", f"+{controller}")


def _kill_each(group: Directories) -> None:
    told: set[int] = set()
    for _ in range(_ROUNDS):
        fresh = set(group.procs()) - told
        if not fresh:
            return
        for pid in fresh:
            _kill_member(pid, group)
        told |= fresh


def _kill_member(pid: int, group: Directories) -> None:
    with contextlib.suppress(OSError):
        pidfd = os.pidfd_open(pid)
        try:
            if pid in group.procs():  # the descriptor's process is then really the member
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)


def subdirectories(path: pathlib.Path) -> list[str]:
    """The groups right below one."""
    try:
        return [entry.name for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:  # gone, or a controller that is not there
        return ""


def _numbers(path: pathlib.Path) -> list[int]:
    return [int(word) for word in _read(path).split() if word.isdigit()]


def _field(path: pathlib.Path, name: str) -> int:
    found = re.search(rf"^{name} (\d+)$", _read(path), re.MULTILINE)
    return int(found[1]) if found else 0


def _write(path: pathlib.Path, text: str) -> bool:
    try:
        put(path, text)
    except OSError:
        return False
    return True


def put(path: pathlib.Path, text: str) -> None:
    """Write into a file of the kernel's. Raises OSError."""
    # Not Path.write_text: a missing file must not be made, nor its length be touched.
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
