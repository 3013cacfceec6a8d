"""What hosts are made of: namespaces, mounts and control groups of this machine."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Iterator

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 4096, 16384, 1 << 18
NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWPID, NEWNET = 1 << 17, 1 << 25, 1 << 26, 1 << 27, 1 << 29, 1 << 30
NAMED = pathlib.Path("/run/netns")
_CGROUPS = pathlib.Path("/sys/fs/cgroup")
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str | pathlib.Path, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    arguments = (source.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), data.encode())
    _check(_libc.mount(*arguments), f"mount {target}")


def unshare(flags: int) -> None:
    """unshare(2)."""
    _check(_libc.unshare(flags), "unshare")


def enter_net(name: str) -> None:
    """Go into a named network namespace."""
    descriptor = os.open(NAMED / name, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(descriptor, NEWNET), f"setns {name}")
    finally:
        os.close(descriptor)


def ip(*lines: str, within: str = "") -> None:
    """Some commands of ip(8) at once, in a network namespace. Raises CalledProcessError."""
    command = ["ip", *(["-n", within] if within else []), "-batch", "-"]
    done = subprocess.run(command, input="\n".join(lines) + "\n", text=True, capture_output=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


def namespaces(prefix: str) -> list[str]:
    """The named network namespaces that begin so."""
    return sorted(path.name for path in NAMED.glob(f"{prefix}*")) if NAMED.is_dir() else []


def drop_namespace(name: str) -> None:
    """Take its name from a network namespace; it goes with its last process."""
    with contextlib.suppress(OSError):
        ip(f"netns delete {name}")


def destroy_sockets(name: str) -> None:
    """Have nothing left in a network namespace that the kernel would go on sending."""
    subprocess.run(["ip", "netns", "exec", name, "ss", "-K", "-a"], capture_output=True, check=False)


def hierarchies() -> dict[str, pathlib.Path]:
    """Where control groups are mounted, by their options: `freezer`; `` for version 2."""
    found: dict[str, pathlib.Path] = {}
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            told = [one for one in options.split(",") if one not in ("rw", "ro", "xattr", "nsdelegate")]
            found.setdefault(",".join(told) if kind == "cgroup" else "", pathlib.Path(before.split()[4]))
    return found


class Groups:
    """The control groups of one host, one in each hierarchy: all of its processes are in them."""

    def __init__(self, name: str) -> None:
        self._paths = {options: path / name for options, path in hierarchies().items()}

    def enter(self) -> None:
        """Put the caller into them; makes them."""
        for options, path in self._paths.items():
            path.mkdir(parents=True, exist_ok=True)
            if "cpuset" in options.split(","):  # version 1's groups begin without any CPU
                for one in (path.parent, path):
                    for name in ("cpuset.cpus", "cpuset.mems"):
                        (one / name).write_text((one.parent / name).read_text())
            (path / "cgroup.procs").write_text("0")

    def weigh(self, machines: int) -> None:
        """On a busy machine they get as much of its CPUs as so many processes' groups do, in place of one."""
        for path in self._paths.values():
            for name, one in (("cpu.shares", 1024), ("cpu.weight", 100)):
                if (path / name).exists():
                    (path / name).write_text(str(one * machines))

    def freeze(self) -> None:
        """Have every process of it stand still, and wait until it does."""
        for path, done in self._freezers():
            path.write_text("FROZEN" if path.name == "freezer.state" else "1")
            _until(done, lambda text: "FREEZING" not in text and "frozen 0" not in text)
            return

    def frozen(self) -> bool:
        return any("FROZEN" in done.read_text() or "frozen 1" in done.read_text() for _, done in self._freezers())

    def thaw(self) -> None:
        """Let it go on. What it froze itself stays frozen."""
        for path, _ in self._freezers():
            path.write_text("THAWED" if path.name == "freezer.state" else "0")

    def pids(self) -> list[int]:
        """Every process in them. One that is just going has no number any more, and is told as 0."""
        found = {int(pid) for path in self._all() for pid in _read(path / "cgroup.procs").split()}
        return sorted(found - {0})

    def end(self) -> None:
        """Kill all that is in them, also what is frozen, and remove them."""
        deadline = time.monotonic() + 30
        while pids := self.pids():
            assert time.monotonic() < deadline, f"processes that do not die: {pids}"
            for pid in pids:
                assert pid > 1, "that would be everybody"
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for path in self._all():
                for name, word in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
                    with contextlib.suppress(OSError):
                        if (path / name).exists():
                            (path / name).write_text(word)
            time.sleep(0.005)
        for path in self._all():
            _until_gone(path)

    def _freezers(self) -> Iterator[tuple[pathlib.Path, pathlib.Path]]:
        for path in self._paths.values():
            if (path / "freezer.state").exists():
                yield path / "freezer.state", path / "freezer.state"
        if (second := self._paths.get("")) and (second / "cgroup.freeze").exists():
            yield second / "cgroup.freeze", second / "cgroup.events"

    def _all(self) -> Iterator[pathlib.Path]:
        """Each group, what is in one before itself."""
        for root in self._paths.values():
            for at, _, _ in os.walk(root, topdown=False):
                yield pathlib.Path(at)


def mount_groups() -> None:
    """In new mount and control group namespaces: the host's own groups are at the root of what it sees."""
    found = hierarchies()
    mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    if set(found) == {""}:
        mount("cgroup2", _CGROUPS, "cgroup2")
        return
    mount("tmpfs", _CGROUPS, "tmpfs", 0, "mode=755")
    for options, path in found.items():
        path.mkdir(parents=True, exist_ok=True)
        mount("cgroup", path, "cgroup" if options else "cgroup2", 0, options)


def start_time(pid: int) -> int:
    """When a process began (field 22 of proc(5)'s stat); 0 of one that is dead, though nobody has looked yet."""
    said = _read(pathlib.Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return 0 if not said or said[0] in "ZX" else int(said[19])


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _until(path: pathlib.Path, holds: object) -> None:
    assert callable(holds)
    deadline = time.monotonic() + 30
    while not holds(path.read_text()):
        assert time.monotonic() < deadline, f"{path}: {path.read_text()}"
        time.sleep(0.005)


def _until_gone(path: pathlib.Path) -> None:
    deadline = time.monotonic() + 10
    while path.exists():
        try:
            path.rmdir()
        except OSError:
            assert time.monotonic() < deadline, f"{path} stays"
            time.sleep(0.005)
