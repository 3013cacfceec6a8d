"""The hardware watchdog, as the kernel shows it (Documentation/watchdog/watchdog-api.rst)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import struct

_SETTIMEOUT = 0xC0045706  # WDIOC_SETTIMEOUT


class Watchdog:
    """It resets the host when it was not fed for its bound. Opening it arms it."""

    def __init__(self, path: pathlib.Path, seconds: float) -> None:
        """Raises OSError."""
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        with contextlib.suppress(OSError):  # one that has its own bound keeps it
            fcntl.ioctl(self._descriptor, _SETTIMEOUT, struct.pack("i", round(seconds)))

    def feed(self) -> None:
        """Raises OSError."""
        os.write(self._descriptor, b"\0")

    def disarm(self) -> None:
        """The magic close; where the kernel forbids it, it bites all the same."""
        os.write(self._descriptor, b"V")
        os.close(self._descriptor)
