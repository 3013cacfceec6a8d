"""One run of the bench: how often, where, and what several figures share."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

from bench import ground, libvirt, ours

_CLONE_NEWNET = 0x40000000  # linux/sched.h


class Session:
    """`runs` of each side; `tiny` is the guest's image; the peer libvirt is started when it is first wanted.

    `traces` is a file of what real machines used, `clusters` a directory of clusters to be planned for; `vms` are on
    the host that dies, all hosts are busy for so many `minutes`.
    """

    def __init__(
        self,
        at: pathlib.Path,
        runs: int,
        undo: contextlib.ExitStack,
        *,
        traces: pathlib.Path | None = None,
        clusters: pathlib.Path | None = None,
        vms: int = 50,
        minutes: float = 2.0,
    ) -> None:
        self.runs, self.vms, self.minutes = runs, vms, minutes
        self.traces, self.clusters = traces, clusters
        self._at = at
        self._undo = undo
        self._libvirt: libvirt.Libvirt | str | None = None

    @functools.cached_property
    def tiny(self) -> pathlib.Path:
        return ours.build_tiny(self._at)

    @functools.cached_property
    def hosts(self) -> ground.Hosts:
        """Three hosts, joined; a figure leaves them as they were."""
        return self._undo.enter_context(ground.up(self.place("hosts")))

    def place(self, name: str) -> pathlib.Path:
        """A directory, empty and new, into which others may look."""
        path = self._at / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(mode=0o711)
        path.chmod(0o711)
        return path

    def libvirt_or_reason(self, home: ours.Ours) -> libvirt.Libvirt | str:
        """libvirt, up and without any domain, on the accelerator of `home`; or why it cannot be had."""
        if self._libvirt is None:
            try:
                self._libvirt = self._undo.enter_context(libvirt.running(self._at / "libvirt", home.accelerator))
            except libvirt.Unavailable as reason:
                self._libvirt = str(reason)
        return self._libvirt


@contextlib.contextmanager
def opened(runs: int, **how: Any) -> Iterator[Session]:
    """A session; nothing of it is left afterwards. From then on this process has a network of its own."""
    at = pathlib.Path(tempfile.mkdtemp(prefix="bocage-bench-", dir="/var/tmp"))
    at.chmod(0o711)
    try:
        with contextlib.ExitStack() as undo:
            made = Session(at, runs, undo, **how)
            _leave_the_network()
            yield made
    finally:
        shutil.rmtree(at, ignore_errors=True)


def _leave_the_network() -> None:
    """Go to a network namespace that has a loopback alone: the bridges and rules of our VMs are nobody else's."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "network namespace")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
