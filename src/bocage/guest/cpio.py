"""The archive that a kernel unpacks as its first file system: cpio in the `newc` form.

Follows the kernel's Documentation/driver-api/early-userspace/buffer-format.rst. Written here since the
`cpio` program needs root for device nodes, and takes times and owners from the disk.
"""

from __future__ import annotations

import stat


class Archive:
    """Entries in the order in which they are added; all belong to root and carry no time."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._count = 0

    def directory(self, path: str, *, mode: int = 0o755) -> None:
        """Add a directory; its parent must have been added before."""
        self._add(path, stat.S_IFDIR | mode, b"")

    def file(self, path: str, content: bytes, *, mode: int = 0o644) -> None:
        """Add a file."""
        self._add(path, stat.S_IFREG | mode, content)

    def link(self, path: str, target: str) -> None:
        """Add a symbolic link to `target`."""
        self._add(path, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, path: str, major: int, minor: int, *, mode: int = 0o600) -> None:
        """Add a character device."""
        self._add(path, stat.S_IFCHR | mode, b"", device=(major, minor))

    def finish(self) -> bytes:
        """The whole archive, with its trailer."""
        self._add("TRAILER!!!", 0, b"")
        return b"".join(self._pieces)

    def _add(self, path: str, mode: int, content: bytes, *, device: tuple[int, int] = (0, 0)) -> None:
        self._count += 1
        name = path.encode() + b"\0"
        links, owner, group, time = 1, 0, 0, 0
        numbers = (self._count, mode, owner, group, links, time, len(content), 0, 0, *device, len(name), 0)
        header = b"070701" + b"".join(b"%08X" % number for number in numbers)
        self._pieces += [_padded(header + name), _padded(content)]


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
