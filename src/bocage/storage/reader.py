"""Reading an image's headers without trusting them: every read is bounded and checked against the file's end."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import stat
import struct
from collections.abc import Iterator
from typing import Any

from bocage.storage import refusals

_MOST = 16 << 20  # bytes; no table of a header that is read whole is larger


@dataclasses.dataclass(frozen=True, slots=True)
class Reader:
    """An open image, its size in bytes, and the name to call it by in refusals."""

    descriptor: int
    size: int
    name: str

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes at `offset`. Raises Truncated, Malformed and Unreadable."""
        if offset < 0 or not 0 <= length <= _MOST:
            raise self.malformed(f"a table of {length} bytes at {offset}")
        self.must_hold(offset + length)
        try:
            data = os.pread(self.descriptor, length, offset)
        except (OSError, OverflowError) as error:
            raise refusals.Unreadable(file=self.name, fault=str(error)) from error
        if len(data) != length:
            raise refusals.Truncated(file=self.name, size=self.size, expected=offset + length)
        return data

    def peek(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes at `offset`; fewer at the end of the file, none before its start."""
        if offset < 0 or offset >= self.size:
            return b""
        return self.read(offset, min(length, self.size - offset))

    def unpack(self, layout: str, offset: int) -> tuple[Any, ...]:
        """Numbers laid out as by the module `struct`, at `offset`."""
        return struct.unpack(layout, self.read(offset, struct.calcsize(layout)))

    def must_hold(self, end: int) -> None:
        """Raise Truncated when the file ends before `end`."""
        if end > self.size:
            raise refusals.Truncated(file=self.name, size=self.size, expected=end)

    def malformed(self, fault: str) -> refusals.Malformed:
        """The refusal of a header that does not hold together."""
        return refusals.Malformed(file=self.name, fault=fault)


@contextlib.contextmanager
def opened(path: pathlib.Path, name: str | None = None) -> Iterator[Reader]:
    """Open a regular file to read its headers; links, devices and pipes are refused.

    Raises refusals.NotAFile and refusals.Unreadable.
    """
    called = name or path.name
    try:
        # O_NONBLOCK: a pipe that nobody writes to must not hold us up before it is recognised as one
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if path.is_symlink():
            raise refusals.NotAFile(file=called) from error
        raise refusals.Unreadable(file=called, fault=error.strerror or str(error)) from error
    try:
        known = os.fstat(descriptor)
        if not stat.S_ISREG(known.st_mode):
            raise refusals.NotAFile(file=called)
        yield Reader(descriptor=descriptor, size=known.st_size, name=called)
    finally:
        os.close(descriptor)
