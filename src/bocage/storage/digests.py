"""SHA-256 of an image's contents as they were given: its identity in a library, and what publishers print."""

from __future__ import annotations

import hashlib
import os
import re

from bocage import threads

_PIECE = 4 << 20
_ZEROS = bytes(1 << 20)


def is_digest(text: str) -> bool:
    """Whether it is a SHA-256 as lower-case hexadecimal digits."""
    return re.fullmatch(r"[0-9a-f]{64}", text) is not None


def of_descriptor(job: threads.Job, descriptor: int, length: int) -> str:
    """The digest of a file's first `length` bytes; blocking."""
    return running(job, descriptor, length).hexdigest()


def running(job: threads.Job, descriptor: int, length: int) -> hashlib._Hash:
    """The hash over a file's first `length` bytes, to be carried on; blocking."""
    hashed = hashlib.sha256()
    buffer = memoryview(bytearray(_PIECE))
    at = 0
    while at < length:
        job.step(at, length)
        count = os.preadv(descriptor, [buffer[: min(_PIECE, length - at)]], at)
        if count == 0:
            break
        hashed.update(buffer[:count])
        at += count
    return hashed


def add_zeros(job: threads.Job, hashed: hashlib._Hash, count: int) -> None:
    """Feed a hash the zeros of a hole; blocking."""
    while count > 0:
        job.check()
        hashed.update(_ZEROS if count >= len(_ZEROS) else _ZEROS[:count])
        count -= len(_ZEROS)
