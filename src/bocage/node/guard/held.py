"""What the guard holds of one VM: its control group, its processes and its storage, by descriptors opened beforehand.

A file for each in the runtime directory lets a guard that comes without a predecessor find them all.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import json
import os
import pathlib
import signal

from bocage import sockets

_PROC = pathlib.Path("/proc")
_ROUNDS = 20  # against a process that forks meanwhile
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where a VM's processes and files are. Of the two kinds of control group one at most is there."""

    vm: str
    generation: int  # under which it was started
    storage: str  # the directory of its storage
    unified: str | None = None  # its group's directory, cgroup version 2
    legacy: str | None = None  # the same in version 1's freezer
    mortal: bool = False  # no VM: what it does is done again, so it is killed where a VM is frozen

    def __post_init__(self) -> None:
        if "/" in self.vm or self.vm.startswith("."):
            raise ValueError(self.vm)


class Held:
    """One VM. All that is done to it later is done through what is open already."""

    def __init__(self, place: Place, known: pathlib.Path) -> None:
        """Raises OSError."""
        self.place = place
        self.processes: dict[str, tuple[int, int]] = {}  # pid and start time; also of those that have left something
        self.pidfds: dict[str, int] = {}  # of those that live
        self._known = known / f"{place.vm}.json"
        with contextlib.ExitStack() as undo:
            self.storage = _open(place.storage, os.O_RDONLY | os.O_DIRECTORY)
            undo.callback(os.close, self.storage)
            self._portal = sockets.portal(place.storage)
            group = place.unified or place.legacy
            names = ("cgroup.freeze", "cgroup.events", "cgroup.kill") if place.unified else ("freezer.state",)
            self._files = {}
            for name in names if group else ():
                flags = os.O_RDONLY if name == "cgroup.events" else os.O_RDWR
                self._files[name] = _open(f"{group}/{name}", os.O_WRONLY if name == "cgroup.kill" else flags)
                undo.callback(os.close, self._files[name])
            self._members = _open(f"{group}/cgroup.procs", os.O_RDONLY) if group else None
            undo.pop_all()

    @classmethod
    def found(cls, path: pathlib.Path) -> Held:
        """What a guard before has held. Raises OSError, ValueError, KeyError, TypeError."""
        told = json.loads(path.read_text())
        processes = {name: (int(pid), int(start)) for name, (pid, start) in told.pop("processes").items()}
        place = Place(**told)
        group = place.unified or place.legacy
        if group and not os.path.isdir(group):
            place = dataclasses.replace(place, unified=None, legacy=None)  # its last process has left it
        one = cls(place, path.parent)
        for name, (pid, start) in processes.items():
            with contextlib.suppress(OSError):
                one.take(name, pid, start)
            one.processes[name] = pid, start
        return one

    @property
    def freezes(self) -> bool:
        return bool(self._files) or self.place.mortal

    def take(self, process: str, pid: int, start: int) -> None:
        """Hold a process of it. Raises OSError: it is not there, or not in the group."""
        pidfd = os.pidfd_open(pid)
        if _start_time(pid) != start or (self._members is not None and pid not in self.members()):
            os.close(pidfd)
            raise ProcessLookupError(errno.ESRCH, "not this process, or not in the VM's group")
        self.pidfds[process] = pidfd
        self.processes[process] = pid, start

    def keep(self) -> None:
        """Tell a guard that comes without a predecessor; before the process is let go. Raises OSError."""
        content = json.dumps({**dataclasses.asdict(self.place), "processes": self.processes})
        beside = self._known.with_suffix(".part")
        beside.write_text(content)
        beside.rename(self._known)

    def ended(self, process: str) -> None:
        """It is no more; what it has left may be."""
        os.close(self.pidfds.pop(process))

    def over(self, process: str) -> None:
        """Nothing of it is left."""
        if process in self.pidfds:
            self.ended(process)
        self.processes.pop(process, None)

    def forget(self) -> None:
        """Nothing of it is left."""
        self._known.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        members = [self._members] if self._members is not None else []
        for descriptor in (self.storage, *members, *self._files.values(), *self.pidfds.values()):
            os.close(descriptor)

    def members(self) -> set[int]:
        """The pids in its group."""
        if self._members is None:
            return set()
        try:
            return {int(pid) for pid in os.pread(self._members, 1 << 16, 0).split()}
        except OSError:  # the group is gone, and so are they
            return set()

    def freeze(self) -> None:
        if self.place.mortal:
            self.kill()
        self._set("cgroup.freeze", b"1", "freezer.state", b"FROZEN")

    def thaw(self) -> None:
        self._set("cgroup.freeze", b"0", "freezer.state", b"THAWED")

    def frozen(self) -> bool:
        """Whether all of it is seen to stand still."""
        try:
            if "cgroup.events" in self._files:
                return b"frozen 1" in os.pread(self._files["cgroup.events"], 4096, 0)
            if "freezer.state" in self._files:
                return os.pread(self._files["freezer.state"], 64, 0).strip() == b"FROZEN"
        except OSError as error:
            return error.errno == errno.ENODEV  # the group was removed behind its last process
        return not self.pidfds

    def kill(self) -> None:
        """SIGKILL to all of it; on version 1 what is frozen dies when it is thawed."""
        if "cgroup.kill" in self._files:
            with contextlib.suppress(OSError):
                os.write(self._files["cgroup.kill"], b"1")
        else:
            told: set[int] = set()
            for _ in range(_ROUNDS):
                if not (fresh := self.members() - told):
                    break
                told |= fresh
                for pid in fresh:
                    self._kill_member(pid)
        for pidfd in self.pidfds.values():
            _kill(pidfd)

    def _kill_member(self, pid: int) -> None:
        with contextlib.suppress(OSError):
            pidfd = os.pidfd_open(pid)
            try:
                if pid in self.members():  # the descriptor's process is then really the member
                    _kill(pidfd)
            finally:
                os.close(pidfd)

    def settle(self) -> None:
        """Have the kernel write what the ended have left in its memory; may take as long as the storage does.

        An error says that it was dropped instead: it does not land later either. What they have sent to a LUN and not
        got rid of is dropped, too. Raises OSError where that cannot be done.
        """
        if self._portal:
            sockets.end_orphans(self._portal)
        _LIBC.syncfs(self.storage)

    def _set(self, unified: str, to: bytes, legacy: str, state: bytes) -> None:
        for name, content in ((unified, to), (legacy, state)):
            if name in self._files:
                with contextlib.suppress(OSError):
                    os.pwrite(self._files[name], content, 0)


def _kill(pidfd: int) -> None:
    with contextlib.suppress(OSError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC)


def _start_time(pid: int) -> int | None:
    """As proc(5)'s stat has it; None for a process that is over."""
    try:
        line = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    fields = line[line.rindex(")") + 2 :].split()
    return None if fields[0] in "ZXx" and int(fields[17]) <= 1 else int(fields[19])
