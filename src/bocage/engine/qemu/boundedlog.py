"""Logs of bounded size whose byte offsets never change: their old part becomes a hole, writers notice nothing."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import pathlib
import stat
import struct
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass

_KEEP_SIZE, _PUNCH_HOLE = 0x01, 0x02  # fallocate(2)
_PIECE = 256 * 1024  # bytes read at once
_MODIFY, _CREATE, _MOVED_TO = 0x2, 0x100, 0x80  # inotify(7)
_ATTRIBUTES = 0x4  # also that its last name is gone
_EVENT = struct.Struct("iIII")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of a log and where they stand in it."""

    offset: int
    data: bytes

    @property
    def end(self) -> int:
        """The offset after the last byte."""
        return self.offset + len(self.data)


def trim(path: pathlib.Path, keep: int) -> int:
    """Free the blocks of all but the last `keep` bytes; the offset of the first byte that is left.

    Where the file system has no holes nothing is freed and nothing is harmed. Raises OSError.
    """
    with _opened(path, os.O_RDWR) as descriptor:
        status = os.fstat(descriptor)
        cut = max(0, status.st_size - keep) // status.st_blksize * status.st_blksize
        if cut and _libc.fallocate(descriptor, _PUNCH_HOLE | _KEEP_SIZE, 0, cut):
            number = ctypes.get_errno()
            if number not in (errno.EOPNOTSUPP, errno.ENOSYS):
                raise OSError(number, os.strerror(number), str(path))
        return _first(descriptor)


def start_offset(path: pathlib.Path) -> int:
    """The offset of the first byte that is left. Raises OSError."""
    with _opened(path) as descriptor:
        return _first(descriptor)


def read(path: pathlib.Path, offset: int, limit: int) -> Piece:
    """At most `limit` bytes from `offset`, or from the first byte that is left. Raises OSError."""
    with _opened(path) as descriptor:
        return _read(descriptor, offset, limit)


def tail_lines(path: pathlib.Path, count: int, *, start: int = 0) -> list[str]:
    """The last `count` lines after offset `start`, of the last 256 KiB; none when there is no such file."""
    try:
        with _opened(path) as descriptor:
            size = os.fstat(descriptor).st_size
            data = _read(descriptor, max(start, size - _PIECE), _PIECE).data
    except OSError:
        return []
    return data.decode(errors="replace").splitlines()[-count:] if count > 0 else []


async def follow(
    path: pathlib.Path, offset: int, *, until: asyncio.Future[None] | None = None
) -> AsyncGenerator[Piece, None]:
    """What is in the log from `offset` on and whatever comes after it, for ever.

    With `until` it ends when that is done and all that was there by then has been given; and when the file
    is removed. When another file takes the name, that one's bytes follow, from offset 0. Raises OSError
    when there is no such file at first.
    """
    with contextlib.ExitStack() as stack:
        changes = stack.enter_context(_Changes(path))
        descriptor = _open(path)
        if until:
            until.add_done_callback(changes.wake)
            stack.callback(until.remove_done_callback, changes.wake)
        try:
            while True:
                changes.watch(descriptor)
                ended = (until is not None and until.done()) or os.fstat(descriptor).st_nlink == 0
                while (piece := _read(descriptor, offset, _PIECE)).data:
                    offset = piece.end
                    yield piece
                if (newer := _replacement(path, descriptor)) is not None:
                    os.close(descriptor)
                    descriptor, offset = newer, 0
                    continue
                if ended:
                    return
                await changes.wait()
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _opened(path: pathlib.Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    descriptor = _open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open(path: pathlib.Path, flags: int = os.O_RDONLY) -> int:
    # A VM's process may write its directory: neither a link nor a pipe that it left there is opened.
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "not a regular file", str(path))


def _first(descriptor: int) -> int:
    try:
        return os.lseek(descriptor, 0, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:  # nothing but a hole, or empty
            return os.fstat(descriptor).st_size
        return 0


def _read(descriptor: int, offset: int, limit: int) -> Piece:
    start = max(offset, _first(descriptor))
    return Piece(start, os.pread(descriptor, limit, start))


def _replacement(path: pathlib.Path, descriptor: int) -> int | None:
    with contextlib.suppress(OSError):
        newer = _open(path)
        if not os.path.sameopenfile(newer, descriptor):
            return newer
        os.close(newer)
    return None


class _Changes:
    """The kernel's word that a file grew or that its name was given to another (inotify)."""

    def __init__(self, path: pathlib.Path) -> None:
        self._name = os.fsencode(path.name)
        self._descriptor = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self._file: int | None = None
        self._ready = asyncio.Event()
        try:
            self._directory = self._add(os.fsencode(path.parent), _CREATE | _MOVED_TO)
        except OSError:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> _Changes:
        asyncio.get_running_loop().add_reader(self._descriptor, self._heard)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)

    def watch(self, descriptor: int) -> None:
        """Look at this open file; before it is read, so that nothing is missed in between."""
        self._ready.clear()
        self._file = self._add(b"/proc/self/fd/%d" % descriptor, _MODIFY | _ATTRIBUTES)

    async def wait(self) -> None:
        await self._ready.wait()

    def wake(self, _: object) -> None:
        self._ready.set()

    def _add(self, path: bytes, mask: int) -> int:
        return _checked(_libc.inotify_add_watch(self._descriptor, path, mask))

    def _heard(self) -> None:
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._descriptor, 65536)
            position = 0
            while position < len(data):
                watch, _mask, _cookie, length = _EVENT.unpack_from(data, position)
                name = data[position + _EVENT.size : position + _EVENT.size + length].rstrip(b"\0")
                position += _EVENT.size + length
                if watch == self._file or watch == -1 or name == self._name:  # -1: the queue overflowed
                    self._ready.set()


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
