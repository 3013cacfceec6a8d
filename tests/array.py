"""A simple array: tgt on the loopback, or in a network namespace, one target with one LUN."""

from __future__ import annotations

import contextlib
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
    """One running tgtd."""

    def __init__(self, scratch: pathlib.Path, size: int, address: str, within: str | None) -> None:
        self.disk = scratch / "lun.img"
        self._socket = scratch / "tgt"
        self._control = str(os.getpid() % 30000 + 1000)
        self.portal = f"{address}:{3260 if within else _free_port()}"
        with self.disk.open("wb") as file:
            file.truncate(size)
        line = ["tgtd", "-f", "--control-port", self._control, "--iscsi", f"portal={self.portal}"]
        self.process = subprocess.Popen(
            [*(["ip", "netns", "exec", within] if within else []), *line],
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


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def running(
    size: int, *, user: str | None = None, address: str = "127.0.0.1", within: str | None = None
) -> Iterator[Array]:
    """An array with an empty LUN of so many bytes; by CHAP where a user is given; in a namespace where that is."""
    with tempfile.TemporaryDirectory(prefix="bocage-array-", dir="/var/tmp") as scratch:
        made = Array(pathlib.Path(scratch), size, address, within)
        try:
            due = time.monotonic() + 120
            while not made.admin("--op", "new", "--mode", "target", "--tid", "1", "-T", TARGET, check=False):
                if made.admin("--op", "show", "--mode", "target", check=False):
                    break
                assert made.process.poll() is None, "tgtd has ended"
                assert time.monotonic() < due, "tgtd does not come up"
                time.sleep(0.05)
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
