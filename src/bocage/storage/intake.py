"""Bytes that come in piece by piece and may be carried on later: uploads and downloads, before they are images."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator

from bocage import errors, files, storage, threads
from bocage.storage import digests, half_made, space, sparse
from bocage.words import N_

_BATCH = 2 << 20  # bytes written at once
_BOOT_ID = pathlib.Path("/proc/sys/kernel/random/boot_id")


class BadKey(storage.Error, errors.Invalid, ValueError):
    """A key that cannot name a partial file."""

    type = "intake-bad-key"
    text = N_("'{key}' cannot be the key of an upload: letters, digits, dots, dashes and underscores, 100 at most")
    key: str


class WrongOffset(storage.Error, errors.Conflict):
    """The piece does not start where the last one ended."""

    type = "intake-wrong-offset"
    text = N_("the upload '{key}' goes on at byte {offset}, not at {given}")
    key: str
    offset: int
    given: int


class Busy(storage.Error, errors.Conflict):
    """Another request is sending to the same key."""

    type = "intake-busy"
    text = N_("the upload '{key}' is being sent by another request")
    hint = N_("wait until it ends, then ask where to go on")
    key: str


class OverLimit(storage.Error, errors.Invalid):
    """More bytes came than may."""

    type = "intake-over-limit"
    status = 413
    text = N_("the upload '{key}' is larger than the {limit:size} that may come in; it was removed")
    key: str
    limit: int


@dataclasses.dataclass(slots=True)
class _Partial:
    """The hash over a partial file's first `offset` bytes."""

    hash: hashlib._Hash
    offset: int


class Intake:
    """Partial files in one directory, each under a key that its sender chose."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory
        self._partials: dict[str, _Partial] = {}
        self._busy: set[str] = set()

    def path(self, key: str) -> pathlib.Path:
        """Where the bytes of `key` are. Raises BadKey."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", key):
            raise BadKey(key=key[:100])
        return self._directory / f"{key}{half_made.SUFFIX}"

    def offset(self, key: str) -> int:
        """How many bytes of `key` are here: where its sender goes on."""
        with contextlib.suppress(FileNotFoundError):
            return self.path(key).stat().st_size
        return 0

    async def append(
        self,
        key: str,
        offset: int,
        chunks: AsyncIterator[bytes],
        *,
        limit: int | None = None,
        received: Callable[[int], None] | None = None,
    ) -> int:
        """Write what comes, from `offset` on, and return the offset reached; `received` is told it on the way.

        When the sender goes away, what came so far stays. Raises WrongOffset, Busy, OverLimit and
        space.Full; after the last two the partial file is gone and its room free.
        """
        with self.held(key):
            if offset != self.offset(key):
                raise WrongOffset(key=key, offset=self.offset(key), given=offset)
            partial = await self._hashed(key)
            try:
                with space.told_when_full(self._directory):
                    async for batch in _batches(chunks):
                        if limit is not None and partial.offset + len(batch) > limit:
                            raise OverLimit(key=key, limit=limit)
                        await threads.run(_write, self.path(key), partial, batch)
                        if received:
                            received(partial.offset)
            except (OverLimit, space.Full):
                await self._remove(key)
                raise
            return partial.offset

    async def digest(self, key: str, progress: threads.Progress | None = None) -> str:
        """The SHA-256 of what came in; computed anew only where the daemon was started again in between."""
        return (await self._hashed(key, progress)).hash.hexdigest()

    async def discard(self, key: str) -> None:
        """Remove a partial file; not an error when there is none. Raises Busy."""
        with self.held(key):
            await self._remove(key)

    def note(self, key: str, text: str) -> None:
        """Keep a line beside a partial file, until it goes."""
        files.write_durably(self._note(key), text, mode=0o600)

    def noted(self, key: str) -> str:
        """The line that was kept beside a partial file; empty when there is none."""
        with contextlib.suppress(OSError, ValueError):
            return self._note(key).read_text()
        return ""

    def _note(self, key: str) -> pathlib.Path:
        return self.path(key).with_suffix(".note")

    def forget(self, key: str) -> None:
        """Let go of what is known of a key whose file went elsewhere."""
        self._partials.pop(key, None)
        self._note(key).unlink(missing_ok=True)

    @contextlib.contextmanager
    def held(self, key: str) -> Iterator[None]:
        """Keep others away from a key. Raises Busy."""
        if key in self._busy:
            raise Busy(key=key)
        self._busy.add(key)
        try:
            yield
        finally:
            self._busy.discard(key)

    async def _remove(self, key: str) -> None:
        self.forget(key)
        await threads.run(files.remove_tree, self.path(key))

    async def _hashed(self, key: str, progress: threads.Progress | None = None) -> _Partial:
        size = self.offset(key)
        partial = self._partials.get(key)
        if partial is None or partial.offset != size:
            partial = _Partial(hashlib.sha256(), 0)
            if size:
                partial = await threads.run_job(_hash_again, progress, self.path(key), size)
            self._partials[key] = partial
        return partial

    def sweep(self, older_than: float) -> list[str]:
        """Remove partial files that nobody added to for `older_than` seconds, and those of before the last boot.

        After a power cut a partial file's end may never have reached the disk. Returns the names.
        """
        boot = _BOOT_ID.read_text().strip()
        noted = self._directory / "boot-id"
        same_boot = noted.exists() and noted.read_text().strip() == boot
        removed = []
        for path in sorted(self._directory.glob(f"*{half_made.SUFFIX}")):
            if not same_boot or time.time() - path.stat().st_mtime > older_than:
                files.remove_tree(path)
                path.with_suffix(".note").unlink(missing_ok=True)
                removed.append(path.name)
        if not same_boot:
            files.write_durably(noted, boot + "\n")
        return removed


async def _batches(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    pending = bytearray()
    async for chunk in chunks:
        pending += chunk
        if len(pending) >= _BATCH:
            yield bytes(pending)
            pending.clear()
    if pending:
        yield bytes(pending)


def _hash_again(job: threads.Job, path: pathlib.Path, size: int) -> _Partial:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        return _Partial(digests.running(job, descriptor, size), size)
    finally:
        os.close(descriptor)


def _write(path: pathlib.Path, partial: _Partial, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o600)
    try:
        sparse.write_thin(descriptor, data, partial.offset)
        os.ftruncate(descriptor, partial.offset + len(data))
        partial.hash.update(data)
        partial.offset += len(data)
    except OSError:
        os.ftruncate(descriptor, partial.offset)
        raise
    finally:
        os.close(descriptor)
