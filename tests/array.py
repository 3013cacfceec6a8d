"""A simple array: tgt on a loopback address of its own, one target with one LUN."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import pathlib
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator

TARGET = "iqn.2026-01.bocage.test:array"
LUN = 1
USER, PASSWORD = "bocage", "twelve-letters"


class Array:
    """One running tgtd; it dies with us."""

    def __init__(self, scratch: pathlib.Path, size: int) -> None:
        self.disk = scratch / "lun.img"
        self._socket = scratch / "tgt"
        self._control = str(os.getpid() % 30000 + 1000)
        self.portal = _free_portal()
        with self.disk.open("wb") as file:
            file.truncate(size)
        line = ["tgtd", "-f", "--control-port", self._control, "--iscsi", f"portal={self.portal}"]
        self.process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *line],
            env={**os.environ, "TGT_IPC_SOCKET": str(self._socket)},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def admin(self, *arguments: str, check: bool = True) -> str:
        done = subprocess.run(
            ["tgtadm", "--control-port", self._control, "--lld", "iscsi", *arguments],
            env={**os.environ, "TGT_IPC_SOCKET": str(self._socket)},
            capture_output=True, text=True, check=check, timeout=60,
        )  # fmt: skip
        return done.stdout if done.returncode == 0 else ""

    @property
    def initiators(self) -> set[str]:
        """The names of those that are logged in."""
        told = self.admin("--op", "show", "--mode", "target")
        return {line.split()[1] for line in told.splitlines() if line.strip().startswith("Initiator: ")}


def _free_portal() -> str:
    """On an address of the loopback that no other process takes: what is free there stays so until tgtd has it."""
    address = str(ipaddress.IPv4Address("127.1.0.0") + os.getpid())
    with socket.socket() as free:
        free.bind((address, 0))
        return f"{address}:{free.getsockname()[1]}"


@contextlib.contextmanager
def running(size: int, *, user: str | None = None) -> Iterator[Array]:
    """An array with an empty LUN of so many bytes; by CHAP where a user is given."""
    with tempfile.TemporaryDirectory(prefix="bocage-array-", dir="/var/tmp") as scratch:
        made = Array(pathlib.Path(scratch), size)
        try:
            due = time.monotonic() + 120
            while not made.admin("--op", "show", "--mode", "sys", check=False):
                assert made.process.poll() is None, "tgtd has ended"
                assert time.monotonic() < due, "tgtd does not come up"
                time.sleep(0.05)
            made.admin("--op", "new", "--mode", "target", "--tid", "1", "-T", TARGET)
            lun = ("--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", str(LUN), "-b", str(made.disk))
            made.admin(*lun)
            made.admin("--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL")
            if user:
                made.admin("--op", "new", "--mode", "account", "--user", user, "--password", PASSWORD)
                made.admin("--op", "bind", "--mode", "account", "--tid", "1", "--user", user)
            yield made
        finally:
            made.process.kill()
            made.process.wait()
