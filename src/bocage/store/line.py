"""The line of those who want something written: what every engine has before its own way of writing.

One task takes from the line's head and writes, so all is written in the order in which it was given.
"""

from __future__ import annotations

import abc
import asyncio
import collections
import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

from bocage.store import contract


@dataclasses.dataclass(slots=True, frozen=True)
class Transaction:
    """What `contract.Store.apply` was given."""

    compare: Mapping[str, int]
    puts: Mapping[str, bytes]
    deletes: frozenset[str]


W = TypeVar("W")  # what else an engine lets its callers want


@dataclasses.dataclass(slots=True, eq=False)
class Job(Generic[W]):
    """What one caller wants, and when that was given, on CLOCK_BOOTTIME."""

    wish: Transaction | W
    answer: asyncio.Future[int]
    given: float

    def tell(self, answer: int | contract.Error) -> None:
        """Answer the caller, if it still waits."""
        if self.answer.done():
            return
        if isinstance(answer, int):
            self.answer.set_result(answer)
        else:
            self.answer.set_exception(answer)


class Line(abc.ABC, Generic[W]):
    """The writing side of a store; an engine says how it writes, and what it holds."""

    def __init__(self) -> None:
        self._jobs: collections.deque[Job[W]] = collections.deque()
        self._wanted = asyncio.Event()
        self._closed = False
        self._held = False
        self._writing = asyncio.Lock()
        self._task = asyncio.create_task(self._write_on(), name="store")

    async def apply(
        self,
        *,
        compare: Mapping[str, int] = {},
        puts: Mapping[str, bytes] = {},
        deletes: Sequence[str] = (),
    ) -> int:
        """See contract.Store."""
        contract.check(compare, puts, deletes)
        values = {key: bytes(value) for key, value in puts.items()}
        return await self._submit(Transaction(dict(compare), values, frozenset(deletes)))

    async def close(self) -> None:
        """See contract.Store."""
        self._closed = True
        self._wanted.set()
        await asyncio.shield(self._task)

    async def hold(self) -> None:
        """Write nothing until `go_on`: what is being written is, and what is given from now on waits."""
        self._held = True
        async with self._writing:
            pass

    def go_on(self) -> None:
        """Write what has waited."""
        self._held = False
        self._wanted.set()

    def _check(self) -> None:
        if self._closed:
            raise contract.Closed

    async def _submit(self, wish: Transaction | W) -> int:
        self._check()
        given = time.clock_gettime(time.CLOCK_BOOTTIME)
        job: Job[W] = Job(wish, asyncio.get_running_loop().create_future(), given)
        self._jobs.append(job)
        self._wanted.set()
        return await job.answer

    async def _write_on(self) -> None:
        try:
            while not self._closed:
                await self._wanted.wait()
                self._wanted.clear()
                while self._jobs and not (self._closed or self._held):
                    async with self._writing:
                        if jobs := self._take():
                            await self._see_through(jobs)
        finally:
            self._closed = True
            for job in self._jobs:
                job.tell(contract.Closed())
            await self._release()

    async def _see_through(self, jobs: Sequence[Job[W]]) -> None:
        try:
            await self._write(jobs)
        except asyncio.CancelledError:
            for job in jobs:
                job.answer.cancel()  # nobody knows whether it was written
            raise
        except BaseException:  # a fault of ours: the store ends
            for job in jobs:
                job.tell(contract.Closed())
            raise

    def _take(self) -> Sequence[Job[W]]:
        """Those who are next and still wait: one, unless an engine writes several together."""
        while self._jobs:
            job = self._jobs.popleft()
            if not job.answer.done():
                return [job]
        return []

    @abc.abstractmethod
    async def _write(self, jobs: Sequence[Job[W]]) -> None:
        """Write what was taken, and tell each what came of it."""

    @abc.abstractmethod
    async def _release(self) -> None:
        """Let go of all that is held; nothing is written any more."""
