"""What this host's daemon does itself on storage of kind `shared`: in its host's life, and not beyond it.

When the life is ended all of that is cancelled; its threads and child processes are waited for, and then the kernel has
to write what it still holds. Only after that may this host say that it is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import pathlib
from collections.abc import AsyncIterator, Callable, Iterator

from bocage import files, reach, sockets, under_way
from bocage.engine.qemu import processes
from bocage.node import rights, spoken
from bocage.node.lives import array, claims

log = logging.getLogger(__name__)


class Working:
    """All of it."""

    def __init__(self, guarded: claims.Guarded, shared: array.Array, waits: Callable[[], rights.Waits]) -> None:
        self._guarded, self._array, self._waits = guarded, shared, waits
        self._of_life = under_way.UnderWay()
        self._settling: asyncio.Task[float] | None = None

    @contextlib.asynccontextmanager
    async def within(self, root: pathlib.Path) -> AsyncIterator[None]:
        """Do something on that storage, in a life. Raises rights.Waits when that ended meanwhile."""
        life = self._of_life

        async def admit(pid: int, where: pathlib.Path) -> bool:
            return life is self._of_life and await self._admit(pid, where)

        async with life.within(root, admit, ended=self._waits):
            yield

    async def _admit(self, pid: int, root: pathlib.Path) -> bool:
        """Have the guard take charge of a child."""
        try:
            one = processes.identify(pid)
            name = f"work-{one.pid}-{one.start_time}"
            place = {"vm": name, "generation": 0, "storage": "/", "mortal": True}
            await self._guarded.admit(place, one.pid, one.start_time)
        except (rights.NotAdmitted, processes.Gone) as refused:
            log.info("%s", refused)
            return False
        return True

    @property
    def busy(self) -> bool:
        """Whether anything of it may still write."""
        return self._of_life.busy

    def end(self) -> None:
        """The life has ended, or stands still: so does all that is done in it."""
        self._of_life.end()

    def landed(self) -> float | None:
        """Since when nothing of a life that was ended writes, or is on its way to a storage; None while something may.

        To be asked again and again until it is.
        """
        if self.busy:
            return None
        if self._settling is None:
            self._settling = asyncio.create_task(self._settle())
        if not self._settling.done():
            return None
        if (problem := self._settling.exception()) is not None:
            log.info("what was written to shared storage has not landed yet: %s", problem)
            self._settling = None
            return None
        return self._settling.result()

    def begin(self) -> None:
        """Another life was taken. What goes on from one to the next, with the VMs, was never `landed`."""
        if self.busy:
            return
        self._of_life, self._settling = under_way.UnderWay(), None

    async def _settle(self) -> float:
        """Also what a daemon before this one has left: it may have been killed in the midst of it."""
        for root in await self._array.roots():
            with _nothing_lands():
                if (portal := await reach.Way(root).call(sockets.portal, str(root))) is not None:
                    await asyncio.to_thread(sockets.end_orphans, portal)
                await reach.Way(root).call(files.sync_file_system, root)
        return spoken.now()


@contextlib.contextmanager
def _nothing_lands() -> Iterator[None]:
    """What is not there any more, or whose server has forgotten this host, takes nothing either."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ENOTCONN):
            raise
