"""Reading an archive from a stranger: blocking, bounded, and never outside of its directory."""

from __future__ import annotations

import hashlib
import os
import pathlib
from typing import IO, Protocol, cast

import zstandard

from bocage import threads
from bocage.storage import digests, sparse
from bocage.storage.archive import manifest, members, problems

_PIECE = 1 << 20
_TRAILER = 1 << 20  # bytes; tar programs fill the last record with zeros
_LARGEST_WINDOW = 128 << 20  # bytes of memory that a frame may make the decompressor take


class Source(Protocol):
    """What compressed bytes are read from."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""


class Stream:
    """The decompressed stream, and how much of it may still come."""

    def __init__(self, source: Source, limit_bytes: int, limit_files: int) -> None:
        decompressor = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
        self._stream = decompressor.stream_reader(cast(IO[bytes], source), read_across_frames=True)
        self._limit_bytes, self._left = limit_bytes, limit_bytes
        self._limit_files = limit_files
        self.names: set[str] = set()
        self.taken = 0

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes. Raises problems.Broken."""
        pieces = []
        while size > 0:
            try:
                piece = self._stream.read(size)
            except zstandard.ZstdError as error:
                raise problems.Broken(fault=str(error)) from error
            if not piece:
                raise problems.Broken(fault="it is cut short")
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def finish(self) -> None:
        """Read what follows the last member: zeros alone. Raises problems.Broken."""
        left = _TRAILER
        try:
            while piece := self._stream.read(left):
                left -= len(piece)
                if any(piece) or left == 0:
                    raise problems.Broken(fault="something follows its end")
        except zstandard.ZstdError as error:
            raise problems.Broken(fault=str(error)) from error

    def following(self) -> members.Member | None:
        """The next member, counted against the bounds. Raises problems.TooMuch, Unsafe, Broken."""
        member = members.following(self.read)
        if member is None:
            return None
        if member.name in self.names:
            raise problems.Unsafe(member=member.name, fault="there twice")
        self.names.add(member.name)
        if len(self.names) > self._limit_files + 2:
            raise problems.TooMany(limit=self._limit_files)
        self._left -= member.stored
        if self._left < 0:
            raise problems.TooMuch(limit=self._limit_bytes)
        return member

    def small(self, member: members.Member) -> bytes:
        """All of a member that is read into memory. Raises problems.Broken."""
        if member.sparse or member.size > manifest.LARGEST:
            raise problems.Broken(fault=f"{member.name} is too large")
        return self.read(member.size + -member.size % members.BLOCK)[: member.size]


def extract(job: threads.Job, stream: Stream, into: pathlib.Path) -> dict[str, int]:
    """Write all members below the directory `into`, which is empty; the files and their sizes.

    Raises problems.Error; then what was written is worth nothing.
    """
    listed: dict[str, int] | None = None
    recorded: dict[str, str] | None = None
    found: dict[str, str] = {}
    sizes: dict[str, int] = {}
    while member := stream.following():
        if member.name == manifest.CONTENTS:
            listed = manifest.read_contents(stream.small(member))
        elif member.name == manifest.SUMS:
            recorded = manifest.read_sums(stream.small(member))
        else:
            found[member.name] = _extract_file(job, stream, member, into, sum((listed or {}).values()))
            sizes[member.name] = member.size
    stream.finish()
    if listed is None or recorded is None:
        raise problems.Broken(fault=f"it has no {manifest.CONTENTS if listed is None else manifest.SUMS}")
    manifest.compare(recorded, found)
    if listed != sizes:
        raise problems.Broken(fault=f"its files are not those that {manifest.CONTENTS} names")
    return sizes


def _extract_file(job: threads.Job, stream: Stream, member: members.Member, into: pathlib.Path, total: int) -> str:
    path = into / member.name
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except (FileExistsError, NotADirectoryError) as error:
        raise problems.Unsafe(member=member.name, fault="a file and a directory at once") from error
    try:
        os.ftruncate(descriptor, member.size)
        extents, stored = [(0, member.size)], member.stored
        if member.sparse:
            extents, stored = members.read_map(stream.read, member)
        hashed, at = hashlib.sha256(), 0
        for start, length in [*extents, (member.size, 0)]:
            digests.add_zeros(job, hashed, start - at)
            for offset in range(start, start + length, _PIECE):
                job.step(min(stream.taken, total), total)
                data = stream.read(min(_PIECE, start + length - offset))
                hashed.update(data)
                sparse.write_thin(descriptor, data, offset)
                stream.taken += len(data)
            at = start + length
        stream.read(-stored % members.BLOCK)
        os.fsync(descriptor)
        return hashed.hexdigest()
    finally:
        os.close(descriptor)
