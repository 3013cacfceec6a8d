"""Bytes between the event loop and blocking code in a thread: few at a time, and stopped when the caller is."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from bocage import threads

_BATCH = 1 << 20
_LOOK = 0.5  # seconds between two looks whether to stop
T = TypeVar("T")


class Out:
    """Bytes that a thread writes, to be taken from `queue` in the event loop."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes] = asyncio.Queue(maxsize=4)
        self._loop = asyncio.get_running_loop()
        self._pending = bytearray()

    def write(self, job: threads.Job, data: bytes) -> None:
        """Called in the thread. Raises threads.Stopped."""
        self._pending += data
        if len(self._pending) >= _BATCH:
            self.flush(job)

    def flush(self, job: threads.Job) -> None:
        """Called in the thread: pass on what was written."""
        if self._pending:
            _wait(job, self._loop, self.queue.put(bytes(self._pending)))
            self._pending.clear()


class In:
    """Bytes that come in the event loop, read by a thread as from a file."""

    def __init__(self, job: threads.Job, loop: asyncio.AbstractEventLoop, chunks: AsyncIterator[bytes]) -> None:
        self._job, self._loop, self._chunks = job, loop, chunks
        self._pending = b""

    def read(self, size: int, /) -> bytes:
        """Called in the thread: up to `size` bytes, none at the end. Raises threads.Stopped."""
        while not self._pending:
            piece = _wait(self._job, self._loop, self._next())
            if piece is None:
                return b""
            self._pending = piece
        data, self._pending = self._pending[:size], self._pending[size:]
        return data

    async def _next(self) -> bytes | None:
        return await anext(self._chunks, None)


def _wait(job: threads.Job, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]) -> T:
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    while True:
        try:
            return future.result(_LOOK)
        except concurrent.futures.TimeoutError:
            if future.done():
                raise
            try:
                job.check()
            except threads.Stopped:
                future.cancel()
                raise
