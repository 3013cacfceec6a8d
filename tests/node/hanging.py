"""A file system that hangs: what lies in another directory, by FUSE, for as long as this process is not stopped.

    python hanging.py BACKING MOUNTPOINT

While it is stopped (SIGSTOP) nothing there is answered, as by a server that cannot be reached; when it has ended,
everything fails. It is linux/fuse.h, version 7.31, without caches that matter here. Needs root.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import struct
import sys

_MOST = 128 << 10  # bytes of one write
_IN, _OUT, _MOVE = struct.Struct("<IIQQIIII"), struct.Struct("<IiQ"), struct.Struct("<QQIIQII")
_ATTRIBUTES, _SETTING = struct.Struct("<6Q10I"), struct.Struct("<IIQQQQQQIIIIIIII")
_MODE, _UID, _GID, _SIZE = 1, 2, 4, 8


class Tree:
    """Files by number; each is kept open by its path alone, so that it is found wherever it is renamed to."""

    def __init__(self, root: str) -> None:
        self._files = {1: os.open(root, os.O_PATH | os.O_DIRECTORY)}
        self._known: dict[tuple[int, int], int] = {}
        self._open: dict[int, int] = {}

    def at(self, node: int) -> int:
        return self._files[node]

    def path(self, node: int) -> str:
        return f"/proc/self/fd/{self._files[node]}"

    def entry(self, parent: int, name: bytes) -> bytes:
        file = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=self.at(parent))
        found = os.fstat(file)
        node = self._known.setdefault((found.st_dev, found.st_ino), len(self._files) + 1)
        if node in self._files:
            os.close(file)
        else:
            self._files[node] = file
        return struct.pack("<QQQQII", node, 0, 0, 0, 0, 0) + attributes(self.at(node))

    def handle(self, node: int, flags: int) -> bytes:
        if stat.S_ISLNK(os.fstat(self.at(node)).st_mode):
            raise OSError(errno.ELOOP, "")
        file = os.open(self.path(node), flags & ~(os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW) | os.O_CLOEXEC)
        return struct.pack("<QII", file, 0, 0)


def attributes(file: int) -> bytes:
    one = os.fstat(file)
    times = [one.st_atime_ns, one.st_mtime_ns, one.st_ctime_ns]
    whole, rest = [time // 10**9 for time in times], [time % 10**9 for time in times]
    owners = (one.st_mode, one.st_nlink, one.st_uid, one.st_gid, 0, one.st_blksize, 0)
    return _ATTRIBUTES.pack(one.st_ino, one.st_size, one.st_blocks, *whole, *rest, *owners)


def change(tree: Tree, node: int, body: bytes) -> bytes:
    valid, _, _, size, *_, mode, _, uid, gid, _ = _SETTING.unpack_from(body)
    path = tree.path(node)
    if valid & (_UID | _GID):
        os.chown(path, uid if valid & _UID else -1, gid if valid & _GID else -1)
    if valid & _MODE:
        os.chmod(path, stat.S_IMODE(mode))
    if valid & _SIZE:
        os.truncate(path, size)
    return struct.pack("<QII", 0, 0, 0) + attributes(tree.at(node))


def listed(tree: Tree, node: int, at: int, size: int) -> bytes:
    found = b""
    for place, one in enumerate(sorted(os.scandir(tree.path(node)), key=lambda one: one.name)):
        if place < at:
            continue
        name = os.fsencode(one.name)
        record = struct.pack("<QQII", one.inode(), place + 1, len(name), 0) + name
        record = record.ljust(-(-len(record) // 8) * 8, b"\0")
        if len(found) + len(record) > size:
            break
        found += record
    return found


def answer(tree: Tree, opcode: int, node: int, body: bytes) -> bytes | int | None:
    """What a request is answered: bytes, an error's number, or nothing at all."""
    match opcode:
        case 2 | 36 | 42:  # FORGET, INTERRUPT, BATCH_FORGET
            return None
        case 26:  # INIT
            return struct.pack("<IIIIHHIIHH8I", 7, 31, 1 << 17, 1 << 5, 16, 12, _MOST, 1, 32, 0, *[0] * 8)
        case 1:  # LOOKUP
            return tree.entry(node, body.rstrip(b"\0"))
        case 3:  # GETATTR
            return struct.pack("<QII", 0, 0, 0) + attributes(tree.at(node))
        case 4:  # SETATTR
            return change(tree, node, body)
        case 5:  # READLINK
            return os.fsencode(os.readlink("", dir_fd=tree.at(node)))
        case 6:  # SYMLINK
            name, target, _ = body.split(b"\0", 2)
            os.symlink(target, name, dir_fd=tree.at(node))
            return tree.entry(node, name)
        case 9:  # MKDIR
            (mode,), name = struct.unpack_from("<I", body), body[8:].rstrip(b"\0")
            os.mkdir(name, mode, dir_fd=tree.at(node))
            return tree.entry(node, name)
        case 10:  # UNLINK
            os.unlink(body.rstrip(b"\0"), dir_fd=tree.at(node))
        case 11:  # RMDIR
            os.rmdir(body.rstrip(b"\0"), dir_fd=tree.at(node))
        case 12 | 45:  # RENAME, RENAME2
            (to,), names = struct.unpack_from("<Q", body), body[8 if opcode == 12 else 16 :].split(b"\0")
            os.rename(names[0], names[1], src_dir_fd=tree.at(node), dst_dir_fd=tree.at(to))
        case 14 | 27:  # OPEN, OPENDIR
            return tree.handle(node, struct.unpack_from("<I", body)[0])
        case 15:  # READ
            file, at, length, *_ = _MOVE.unpack_from(body)
            return os.pread(file, length, at)
        case 16:  # WRITE
            file, at, length, *_ = _MOVE.unpack_from(body)
            return struct.pack("<II", os.pwrite(file, body[_MOVE.size :][:length], at), 0)
        case 17:  # STATFS
            one = os.statvfs(tree.path(1))
            sizes = (one.f_blocks, one.f_bfree, one.f_bavail, one.f_files, one.f_ffree)
            return struct.pack("<5Q4I6I", *sizes, one.f_bsize, 255, one.f_frsize, *[0] * 7)
        case 18 | 29:  # RELEASE, RELEASEDIR
            os.close(struct.unpack_from("<Q", body)[0])
        case 20 | 30:  # FSYNC, FSYNCDIR
            os.fsync(struct.unpack_from("<Q", body)[0])
        case 28:  # READDIR
            _, at, length, *_ = _MOVE.unpack_from(body)
            return listed(tree, node, at, length)
        case 35:  # CREATE
            (flags, mode), name = struct.unpack_from("<II", body), body[16:].rstrip(b"\0")
            os.close(os.open(name, flags | os.O_CREAT | os.O_CLOEXEC, mode, dir_fd=tree.at(node)))
            entry = tree.entry(node, name)
            return entry + tree.handle(struct.unpack_from("<Q", entry)[0], flags)
        case 34:  # ACCESS
            pass
        case _:  # also FLUSH, which a process that is killed would wait for when its files are closed
            return errno.ENOSYS
    return b""


def main() -> None:
    backing, mountpoint = sys.argv[1:]
    os.umask(0)
    tree, device = Tree(backing), os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"hanging", mountpoint.encode(), b"fuse", 0, options.encode()) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), mountpoint)
    print("ready", flush=True)
    while True:
        try:
            request = os.read(device, _MOST + (64 << 10))
        except OSError as error:
            if error.errno == errno.ENODEV:  # it was unmounted
                return
            raise
        _, opcode, unique, node, *_ = _IN.unpack_from(request)
        try:
            given = answer(tree, opcode, node, request[_IN.size :])
        except OSError as error:
            given = error.errno or errno.EIO
        if given is None:
            continue
        data, failed = (given, 0) if isinstance(given, bytes) else (b"", -given)
        with contextlib.suppress(FileNotFoundError):  # who asked is dead
            os.write(device, _OUT.pack(_OUT.size + len(data), failed, unique) + data)


if __name__ == "__main__":
    main()
