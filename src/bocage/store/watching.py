"""What a watch is under every engine: a reader that stands somewhere in the history and is woken when there is more."""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Iterable
from typing import Self

from bocage.store import contract


class Watch(abc.ABC):
    """Reads on from `position`, at its own pace: nothing queues up for it."""

    def __init__(self, prefix: str, since: int) -> None:
        self.wake = asyncio.Event()
        self.position = since
        self._prefix = prefix
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    @abc.abstractmethod
    async def __anext__(self) -> list[contract.Change]:
        """See contract.Watch."""

    async def aclose(self) -> None:
        """See contract.Watch."""
        self._ended = True
        self.wake.set()

    def notice(self, previous: int, newest: int, keys: Iterable[str]) -> None:
        """Wake for what matches; what does not is passed by, so that a quiet watch keeps up with compaction.

        `keys` are all that were changed after `previous`, up to `newest`.
        """
        if self.position >= previous and not any(key.startswith(self._prefix) for key in keys):
            self.position = max(self.position, newest)
        else:
            self.wake.set()
