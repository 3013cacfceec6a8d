"""A disk that forgets: what was written and not flushed is kept in memory, and a random part of it is lost at the cut.

    python forgetful.py BACKING DIRECTORY SEED      then, on its standard input: `cut`

It is one file, DIRECTORY/disk, served by FUSE (linux/fuse.h, version 7.31) for a loop device: so a file system on it
sees what a real disk with a write cache does. A sector of 4 KiB is whole in its last state, or as it was at the last
flush. After the cut nothing is written any more. Needs root.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import select
import stat
import struct
import sys

_SECTOR = 4096
_MOST = 128 << 10  # bytes of one write
_IN, _OUT, _MOVE = struct.Struct("<IIQQIIII"), struct.Struct("<IiQ"), struct.Struct("<QQIIQII")
_ATTRIBUTES = struct.Struct("<6Q10I")
_FILE = 2
(_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ, _WRITE, _STATFS, _FSYNC, _INIT, _OPENDIR, _BATCH) = (
    *(1, 2, 3, 14, 15, 16, 17, 20, 26, 27, 42),
)
_FINE = (18, 25, 29, 34)  # RELEASE, FLUSH, RELEASEDIR, ACCESS


class Disk:
    """The backing file, and what is not on it yet."""

    def __init__(self, path: str, dice: random.Random) -> None:
        self._file = os.open(path, os.O_RDWR)
        self.size = os.fstat(self._file).st_size
        self._held: dict[int, bytes] = {}
        self._dice = dice
        self.is_cut = False

    def read(self, at: int, length: int) -> bytes:
        first, last = at // _SECTOR, -(-(at + length) // _SECTOR)
        data = b"".join(self._sector(number) for number in range(first, last))
        return data[at - first * _SECTOR :][:length]

    def write(self, at: int, data: bytes) -> None:
        first, last = at // _SECTOR, -(-(at + len(data)) // _SECTOR)
        begin = at - first * _SECTOR
        if begin or len(data) % _SECTOR:
            whole = bytearray(b"".join(self._sector(number) for number in range(first, last)))
            whole[begin : begin + len(data)] = data
            data = bytes(whole)
        for place, number in enumerate(range(first, last)):
            self._held[number] = data[place * _SECTOR :][:_SECTOR]

    def flush(self) -> None:
        self._keep(self._held)
        self._held = {}

    def cut(self) -> tuple[int, int]:
        """How many sectors were lost, and how many were not, of those that nobody had flushed."""
        self.is_cut = True
        kept = {number: data for number, data in self._held.items() if self._dice.random() < 0.5}
        self._keep(kept)
        return len(self._held) - len(kept), len(kept)

    def _keep(self, sectors: dict[int, bytes]) -> None:
        for number, data in sectors.items():
            os.pwrite(self._file, data, number * _SECTOR)

    def _sector(self, number: int) -> bytes:
        held = self._held.get(number)
        return os.pread(self._file, _SECTOR, number * _SECTOR).ljust(_SECTOR, b"\0") if held is None else held


def answer(disk: Disk, opcode: int, node: int, body: bytes) -> bytes | int | None:
    """What a request is answered: bytes, an error's number, or nothing at all."""
    if opcode in (_FORGET, _BATCH):
        return None
    if opcode == _INIT:
        return struct.pack("<IIIIHHIIHH8I", 7, 31, 1 << 17, 1 << 5, 16, 12, _MOST, 1, 32, 0, *[0] * 8)
    if opcode == _LOOKUP:
        if body.rstrip(b"\0") != b"disk":
            return errno.ENOENT
        return struct.pack("<QQQQII", _FILE, 0, 3600, 3600, 0, 0) + _attributes(disk, _FILE)
    if opcode == _GETATTR:
        return struct.pack("<QII", 3600, 0, 0) + _attributes(disk, node)
    if opcode in (_OPEN, _OPENDIR):
        return struct.pack("<QII", 0, 0, 0)
    if opcode == _STATFS:
        return struct.pack("<5Q4I6I", 1 << 20, 0, 0, 2, 0, _SECTOR, 255, _SECTOR, 0, *[0] * 6)
    if opcode in (_READ, _WRITE, _FSYNC) and disk.is_cut:
        return errno.EIO
    if opcode == _READ:
        _, at, length, *_ = _MOVE.unpack_from(body)
        return disk.read(at, min(length, disk.size - at))
    if opcode == _WRITE:
        _, at, length, *_ = _MOVE.unpack_from(body)
        disk.write(at, body[_MOVE.size :][:length])
        return struct.pack("<II", length, 0)
    if opcode == _FSYNC:
        disk.flush()
        return b""
    return b"" if opcode in _FINE else errno.ENOSYS


def _attributes(disk: Disk, node: int) -> bytes:
    file = node == _FILE
    mode = stat.S_IFREG | 0o600 if file else stat.S_IFDIR | 0o700
    size = disk.size if file else 0
    return _ATTRIBUTES.pack(node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1 if file else 2, 0, 0, 0, _SECTOR, 0)


def main() -> None:
    backing, directory, seed = sys.argv[1:]
    disk, device = Disk(backing, random.Random(seed)), os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"forgetful", directory.encode(), b"fuse", 0, options.encode()) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), directory)
    print("ready", flush=True)
    while True:
        readable, _, _ = select.select([device, sys.stdin], [], [])
        if sys.stdin in readable:
            if sys.stdin.readline() != "cut\n":
                return
            print(*disk.cut(), flush=True)
            continue
        try:
            request = os.read(device, _MOST + (64 << 10))
        except OSError as error:
            if error.errno == errno.ENODEV:  # it was unmounted
                return
            raise
        _, opcode, unique, node, *_ = _IN.unpack_from(request)
        given = answer(disk, opcode, node, request[_IN.size :])
        if given is None:
            continue
        data, failed = (given, 0) if isinstance(given, bytes) else (b"", -given)
        os.write(device, _OUT.pack(_OUT.size + len(data), failed, unique) + data)


if __name__ == "__main__":
    main()
