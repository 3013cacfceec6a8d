"""The directory form of an archive: the files beside each other, with their checksums.

It is written file by file below a temporary name; when it breaks off, files that are whole stay and are
not copied again.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import stat
from collections.abc import Mapping

from bocage import files as durable
from bocage.storage import digests, half_made, sparse, threads
from bocage.storage.archive import journal, manifest, members, problems, writing

_PIECE = 1 << 20
_NO_LINK = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def write(job: threads.Job, files: Mapping[str, pathlib.Path], to: pathlib.Path) -> None:
    """Copy `files` into the new directory `to`, or carry that on; blocking. Raises problems.Changed, OSError."""
    beside = to.with_name(f".{to.name}{half_made.SUFFIX}")
    beside.mkdir(mode=0o700, exist_ok=True)
    noted = journal.Journal(beside / f".journal{half_made.SUFFIX}")
    contents = manifest.contents({name: path.stat().st_size for name, path in files.items()})
    done = noted.read(files, len(contents)) or [_note_contents(noted, contents)]
    digests_of = {one.name: one.sha256 for one in done[1:]}
    total = sum(os.stat(path).st_blocks * 512 for path in files.values())
    told = sum(os.stat(files[name]).st_blocks * 512 for name in digests_of)
    for name, path in files.items():
        if name not in digests_of:
            packed = _copy(job, name, path, beside / name, told, total)
            noted.add(packed)
            digests_of[name] = packed.sha256
            told += os.stat(path).st_blocks * 512
    durable.write_durably(beside / manifest.CONTENTS, contents)
    durable.write_durably(beside / manifest.SUMS, manifest.sums(digests_of))
    noted.path.unlink()
    for directory, _, _ in os.walk(beside):
        durable.sync_directory(pathlib.Path(directory))
    durable.rename_durably(beside, to)
    job.step(total, total)


def _note_contents(noted: journal.Journal, contents: bytes) -> writing.Packed:
    packed = writing.Packed(manifest.CONTENTS, hashlib.sha256(contents).hexdigest(), len(contents), 0)
    noted.add(packed)
    return packed


def _copy(job: threads.Job, name: str, source: pathlib.Path, to: pathlib.Path, told: int, total: int) -> writing.Packed:
    to.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    reading = writing.open_plain(source, name)
    try:
        before = os.fstat(reading)
        digest = _copy_hashing(job, reading, to, told, total)
        after = os.fstat(reading)
    finally:
        os.close(reading)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise problems.Changed(member=name)
    return writing.Packed(name, digest, before.st_size, before.st_mtime_ns)


def _copy_hashing(job: threads.Job, reading: int, to: pathlib.Path, told: int, total: int) -> str:
    """Copy an open file with its holes to `to`, sync it, and return the SHA-256 of what was read."""
    writing_to = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(reading).st_size
        os.ftruncate(writing_to, size)
        hashed, at, copied = hashlib.sha256(), 0, 0
        for start, length in [*sparse.extents(reading, size), (size, 0)]:
            digests.add_zeros(job, hashed, start - at)
            for offset in range(start, start + length, _PIECE):
                job.step(min(told + copied, total), total)
                data = os.pread(reading, min(_PIECE, start + length - offset), offset)
                hashed.update(data)
                sparse.write_all(writing_to, data, offset)
                copied += len(data)
            at = start + length
        os.fsync(writing_to)
        return hashed.hexdigest()
    finally:
        os.close(writing_to)


def take(
    job: threads.Job, source: pathlib.Path, into: pathlib.Path, limit_bytes: int, limit_files: int
) -> dict[str, int]:
    """Copy a directory that a stranger may have made into the empty directory `into`; blocking.

    Only the files that its contents list are taken, links are not followed. Raises problems.Error.
    """
    root = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        listed = manifest.read_contents(_small(root, manifest.CONTENTS))
        recorded = manifest.read_sums(_small(root, manifest.SUMS))
        if len(listed) > limit_files:
            raise problems.TooMany(limit=limit_files)
        found: dict[str, str] = {}
        total = taken = 0
        for name, size in listed.items():
            reading = _open_inside(root, name)
            try:
                known = os.fstat(reading)
                if known.st_size != size:
                    raise problems.Broken(fault=f"'{name}' has {known.st_size} bytes, {size} are recorded")
                total += min(known.st_blocks * 512, size)
                if total > limit_bytes:
                    raise problems.TooMuch(limit=limit_bytes)
                (into / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                found[name] = _copy_hashing(job, reading, into / name, taken, total)
                taken = total
            finally:
                os.close(reading)
        manifest.compare(recorded, found)
        return listed
    finally:
        os.close(root)


def _small(root: int, name: str) -> bytes:
    descriptor = _open_inside(root, name)
    try:
        if os.fstat(descriptor).st_size > manifest.LARGEST:
            raise problems.Broken(fault=f"{name} is too large")
        return os.pread(descriptor, manifest.LARGEST, 0)
    finally:
        os.close(descriptor)


def _open_inside(root: int, name: str) -> int:
    """Open a regular file below a directory without following any link. Raises problems.Unsafe and Broken."""
    if members.safe(name) != name:
        raise problems.Unsafe(member=name, fault="no plain path")
    at, opened = root, list[int]()
    try:
        *directories, last = name.split("/")
        for part in directories:
            at = os.open(part, os.O_RDONLY | os.O_DIRECTORY | _NO_LINK, dir_fd=at)
            opened.append(at)
        descriptor = os.open(last, os.O_RDONLY | _NO_LINK, dir_fd=at)
    except FileNotFoundError as error:
        raise problems.Broken(fault=f"'{name}' is missing") from error
    except OSError as error:
        raise problems.Unsafe(member=name, fault="a link, or no file at all") from error
    finally:
        for one in opened:
            os.close(one)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise problems.Unsafe(member=name, fault="no plain file")
    return descriptor
