"""The daemon as a process in the background: found by its socket, started, stopped, its log read.

Its pid is not believed from a file alone: the kernel says who listens on the socket, when the process began, or that
it has the database's lock open.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import select
import signal
import socket
import struct
import subprocess
import sys
import time

from bocage import errors, systemd
from bocage import home as homes
from bocage.cli import failure
from bocage.client import connection, rest
from bocage.words import N_

_SAID = 15  # lines of its log that a failed start shows


class DidNotStart(failure.Error):
    type = "daemon-did-not-start"
    text = N_("the daemon did not start ({how}); the last it said:\n{said}")
    hint = N_("all of it is in {log}")
    how: str
    said: str
    log: str


class DidNotStop(failure.Error):
    type = "daemon-did-not-stop"
    text = N_("the daemon (pid {pid}) has not stopped within {bound:seconds}")
    hint = N_("'bocage daemon log' may say what holds it; VMs go on whatever becomes of it")
    pid: int
    bound: float


class NotYours(failure.Error):
    type = "daemon-not-yours"
    status = 403
    text = N_("the daemon (pid {pid}) belongs to another user")
    hint = N_("stop it as that user, or as root")
    pid: int


class SocketGone(failure.Error):
    type = "daemon-socket-gone"
    text = N_("the daemon (pid {pid}) runs, but {runtime} with its sockets was removed: nobody can ask it any more")
    hint = N_("'bocage daemon stop', then 'bocage daemon start'; the VMs go on")
    pid: int
    runtime: str


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    pid: int


def find() -> Found | None:
    """The daemon of this home: who listens on its socket, else who noted itself there or in the lock and still runs."""
    home = homes.Home.from_environment()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(5)
        try:
            probe.connect(str(home.socket))
        except OSError:
            return _noted(home.pid_file) or _holder(home.database_lock)
        pid, _, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return Found(pid) if pid > 0 else None


def listens(found: Found) -> str | None:
    """The address that a daemon listens on beside its socket, as it noted it."""
    try:
        note = json.loads(homes.Home.from_environment().pid_file.read_text())
        return str(note["listen"]) if int(note["pid"]) == found.pid else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _noted(path: pathlib.Path) -> Found | None:
    """Who wrote the pid file, when that very process (pid and start time) is still there: it starts, ends or hangs."""
    try:
        note = json.loads(path.read_text())
        stat = pathlib.Path(f"/proc/{int(note['pid'])}/stat").read_text().rpartition(")")[2].split()
        same = int(stat[19]) == note["start_time"] and stat[0] not in "ZX"  # proc(5): fields 22 and 3
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Found(int(note["pid"])) if same else None


def _holder(lock: pathlib.Path) -> Found | None:
    """Who wrote the database's lock file, when that process has it open: it lives without its runtime directory."""
    try:
        pid = int(lock.read_text())
        held = any(os.path.samefile(one, lock) for one in pathlib.Path(f"/proc/{pid}/fd").iterdir() if one.exists())
    except (OSError, ValueError):
        return None
    return Found(pid) if held else None


def unreachable(found: Found) -> SocketGone | None:
    """The problem of a daemon that runs and whose runtime directory was removed; None when that is there."""
    home = homes.Home.from_environment()
    return None if home.runtime.exists() else SocketGone(pid=found.pid, runtime=str(home.runtime))


def answers(*, within: float = 5.0) -> bool:
    """Whether the API answers on the home's socket."""
    address = connection.Address(socket=str(homes.Home.from_environment().socket))
    try:
        with rest.connect(address) as api:
            api.version(within=within)
    except errors.Problem:
        return False
    return True


def start(*, within: float) -> Found:
    """Start it, detached, its output in its log, or by its service where it has one; returns when it answers.

    Raises DidNotStart with the last it said, home.Unusable, and systemd.Refused.
    """
    home = homes.Home.from_environment()
    if systemd.serves(home.path):
        return _start_service(within)
    home.prepare()
    try:
        opened = home.log.open("ab")
    except OSError as error:
        raise homes.Unusable(path=str(home.path), reason=f"{home.log}: {error.strerror}") from error
    with opened as log:
        before = log.tell()
        child = subprocess.Popen(
            [sys.executable, "-m", "bocage", "daemon", "run"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
        )
    bound = time.monotonic() + within
    while time.monotonic() < bound:
        if (found := find()) and answers(within=max(0.1, bound - time.monotonic())):
            return found
        if child.poll() is not None and ((other := find()) is None or unreachable(other)):
            raise _did_not_start(home, before, f"exit code {child.returncode}")
        # else somebody else's start was faster, and is waited for
        time.sleep(0.03)
    child.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(10)
    raise _did_not_start(home, before, f"no answer within {within:g} s")


def _start_service(within: float) -> Found:
    systemd.control("start", systemd.SERVICE)
    bound = time.monotonic() + within
    while time.monotonic() < bound:
        if (found := find()) and answers(within=max(0.1, bound - time.monotonic())):
            return found
        time.sleep(0.03)
    said = systemd.journal(_SAID).rstrip() or "nothing"
    raise DidNotStart(how=f"no answer within {within:g} s", said=said, log=f"the journal of {systemd.SERVICE}")


def _did_not_start(home: homes.Home, before: int, how: str) -> DidNotStart:
    said = tail(home.log, lines=_SAID, after=before).rstrip() or "nothing"
    return DidNotStart(how=how, said=said, log=str(home.log))


def stop(found: Found, *, within: float) -> None:
    """Ask it to end and wait until it has; raises DidNotStop."""
    try:
        handle = os.pidfd_open(found.pid)
    except ProcessLookupError:
        return
    try:
        if find() != found:  # the pid was taken over between the two looks
            return
        signal.pidfd_send_signal(handle, signal.SIGTERM)
        if not select.select([handle], [], [], within)[0]:
            raise DidNotStop(pid=found.pid, bound=within)
    except PermissionError as error:
        raise NotYours(pid=found.pid) from error
    finally:
        os.close(handle)


def tail(path: pathlib.Path, *, lines: int, after: int = 0) -> str:
    """The last lines of a file, of what lies behind the byte `after`."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(min(after, end), end - 400 * max(lines, 1)))
        kept = file.read().decode(errors="replace").splitlines(keepends=True)
    return "".join(kept[-lines:]) if lines else ""
