"""Bare QEMU: the line of `bocage vm command` run by hand, its sockets and its log in a directory of our own.

What carries its NIC stands ready before it is started.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence

from bench import measure
from bocage.network import user

_IO = re.compile(r'(/[^",]*/vms/[0-9a-f-]+/io)/')
_DISK = re.compile(r'"filename":"([^"]*\.qcow2)"')
_PASST = re.compile(r'"type":"unix","path":"([^"]*)"')
_TAP = re.compile(r'"ifname":"([^"]*)"')
_RUNNING = b"VM status: running"
_BOUND = 60.0  # seconds


class Bare:
    """One machine, started and killed as often as is wanted; `bridge` is that of its network, if it has one."""

    def __init__(self, command: Sequence[str], at: pathlib.Path, *, bridge: str = "") -> None:
        self._at = at
        self._bridge = bridge
        self.io = at / "io"
        self.serial = at / "serial.log"
        theirs = next(found[1] for part in command if (found := _IO.search(part)))
        self._command = [
            re.sub(r"logfile=[^,]*", f"logfile={self.serial}", part.replace(theirs, str(self.io))) for part in command
        ]
        self._passts = _PASST.findall(" ".join(self._command))
        self._taps = _TAP.findall(" ".join(self._command))
        self._helpers: list[subprocess.Popen[bytes]] = []
        self._qemu: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._qemu
        return self._qemu.pid

    def uses(self, disk: pathlib.Path) -> Bare:
        """The same machine on another disk file."""
        theirs = next(found[1] for part in self._command if (found := _DISK.search(part)))
        self._command = [part.replace(theirs, str(disk)) for part in self._command]
        return self

    def ready(self) -> None:
        """Make all that stands around the line."""
        shutil.rmtree(self.io, ignore_errors=True)
        self.io.mkdir(parents=True)
        self.io.chmod(0o777)  # passt gives root up before it makes its socket
        os.mkfifo(self.io / "tty.in")
        (self.io / "tty.out").symlink_to(os.devnull)
        self.serial.unlink(missing_ok=True)
        for passt in map(pathlib.Path, self._passts):
            line = user.passt_command(asyncio.run(user.plan()), passt)
            self._helpers.append(subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            measure.until(passt.is_socket, what="passt", within=_BOUND)
        for tap in self._taps:
            subprocess.run(["ip", "tuntap", "add", "dev", tap, "mode", "tap"], check=True)
            subprocess.run(["ip", "link", "set", tap, "master", self._bridge, "up"], check=True)

    def start(self) -> float:
        """Start it; the monotonic time just before."""
        with (self._at / "qemu.log").open("ab") as log:
            begun = time.monotonic()
            self._qemu = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return begun

    def end(self) -> None:
        """Pull the plug."""
        for process in [*([self._qemu] if self._qemu else []), *self._helpers]:
            process.kill()
            process.wait()
        for tap in self._taps:
            subprocess.run(["ip", "link", "delete", tap], check=False, stderr=subprocess.DEVNULL)
        self._qemu, self._helpers = None, []


def running(monitor: pathlib.Path) -> float:
    """The monotonic time at which QEMU's monitor for people says that the vCPUs run. Raises measure.Late."""
    deadline = time.monotonic() + _BOUND
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as line:
            line.settimeout(_BOUND)
            line.connect(str(monitor))
            while _RUNNING not in _asked(line):
                time.sleep(0.0005)
            return time.monotonic()
        time.sleep(0.0005)
    raise measure.Late(f"{monitor}: its vCPUs do not run")


@contextlib.contextmanager
def asking(path: pathlib.Path) -> Iterator[Callable[[str], str]]:
    """QEMU's monitor for people: what it says to a command."""
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(_BOUND)
        line.connect(str(path))
        _read(line)
        yield lambda command: _asked(line, command, "").decode(errors="replace")


def _asked(line: socket.socket, command: str = "info status", word: str = "VM status:") -> bytes:
    line.sendall(command.encode() + b"\n")
    return _read(line, word)


def _read(line: socket.socket, word: str = "") -> bytes:
    """Up to its prompt, behind a word."""
    said = b""
    while word.encode() not in said or not said.endswith(b"(qemu) "):
        piece = line.recv(4096)
        if not piece:
            raise ConnectionResetError
        said += piece
    return said


def line_that_says(log: pathlib.Path, word: bytes = b"") -> float:
    """The monotonic time at which a log has a whole line with `word` in it. Raises measure.Late."""

    def said() -> bool:
        try:
            content = log.read_bytes()
        except FileNotFoundError:
            return False
        return any(word in one for one in content.split(b"\n")[:-1])

    return measure.until(said, what=f"a line in {log}", within=_BOUND)


def overlay(image: pathlib.Path, at: pathlib.Path) -> pathlib.Path:
    """A disk linked to a copy of a raw image, both in `at`."""
    shutil.copy(image, at / "base.raw")
    disk = at / "disk.qcow2"
    line = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", str(disk)]
    subprocess.run(line, check=True)
    return disk
