"""One run of the bench: how often, where, and what several figures share."""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from bench import libvirt, ours


class Session:
    """`runs` of each side; a directory of its own; the guest's image and the peer libvirt, made when first wanted."""

    def __init__(self, at: pathlib.Path, runs: int, undo: contextlib.ExitStack) -> None:
        self.runs = runs
        self._at = at
        self._undo = undo
        self._tiny: pathlib.Path | None = None
        self._libvirt: libvirt.Libvirt | str | None = None

    def place(self, name: str) -> pathlib.Path:
        """A directory, empty and new, into which others may look."""
        path = self._at / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(mode=0o711)
        path.chmod(0o711)
        return path

    @property
    def tiny(self) -> pathlib.Path:
        """The image of the suite's guest."""
        if self._tiny is None:
            self._tiny = ours.build_tiny(self._at)
        return self._tiny

    def libvirt_or_reason(self, home: ours.Ours) -> libvirt.Libvirt | str:
        """libvirt, up and without any domain, on the accelerator of `home`; or why it cannot be had."""
        if self._libvirt is None:
            try:
                self._libvirt = self._undo.enter_context(libvirt.running(self._at / "libvirt", home.accelerator))
            except libvirt.Unavailable as reason:
                self._libvirt = str(reason)
        return self._libvirt


@contextlib.contextmanager
def opened(runs: int) -> Iterator[Session]:
    """A session; nothing of it is left afterwards."""
    at = pathlib.Path(tempfile.mkdtemp(prefix="bocage-bench-", dir="/var/tmp"))
    at.chmod(0o711)
    try:
        with contextlib.ExitStack() as undo:
            yield Session(at, runs, undo)
    finally:
        shutil.rmtree(at, ignore_errors=True)
