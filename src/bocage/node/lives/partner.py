"""A process beside the daemon that outlives it: found by its socket, started where it is not there."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Sequence

from bocage.node import spoken

log = logging.getLogger(__name__)

_PAUSE = 0.02  # seconds between two attempts to find it
_AGAIN = 1.0  # seconds before another one is started when one has ended
_PATIENCE = 10.0  # seconds that one which was started has to be there


class Partner:
    """One of them. What it says is given to `heed`; `greet` is called whenever it was found."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        socket: pathlib.Path,
        log_file: pathlib.Path,
        greet: Callable[[], None],
        heed: Callable[[spoken.Document], None],
    ) -> None:
        self._line = [sys.executable, "-m", module, *arguments]
        self._module, self._socket, self._log = module, socket, log_file
        self._greet, self._heed = greet, heed
        self._writer: asyncio.StreamWriter | None = None
        self._replacing: asyncio.Task[None] | None = None
        self._started: subprocess.Popen[bytes] | None = None

    @property
    def there(self) -> bool:
        return self._writer is not None

    async def run(self) -> None:
        """Keep it there, until cancelled; it goes on."""
        begun = -_PATIENCE
        while True:
            if await self._listen():
                begun = -_PATIENCE
            now = spoken.now()
            ended = self._started is None or self._started.poll() is not None
            if now > begun + _PATIENCE or (ended and now > begun + _AGAIN):
                begun = now
                await asyncio.to_thread(self._start)
            await asyncio.sleep(_PAUSE)

    def say(self, say: str, **fields: object) -> bool:
        """Tell it; False where it is not there."""
        if self._writer is None:
            return False
        self._writer.write(spoken.line(say, **fields))
        return True

    def replace(self) -> None:
        """Have another take its place; it ends when that is there."""
        if self._replacing is None or self._replacing.done():
            self._replacing = asyncio.create_task(self._replace())

    async def _replace(self) -> None:
        old = await asyncio.to_thread(os.stat, self._socket)
        await asyncio.to_thread(self._start)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                there = old
                while there.st_ino == old.st_ino:
                    await asyncio.sleep(_PAUSE)
                    there = await asyncio.to_thread(os.stat, self._socket)
                self.say("end")

    async def _listen(self) -> bool:
        """Hear it to its end; False where nobody was there."""
        try:
            reader, writer = await asyncio.open_unix_connection(self._socket, limit=spoken.LONGEST)
        except OSError:
            return False
        self._writer = writer
        try:
            self._greet()
            while line := await reader.readline():
                for told in spoken.Splitter().feed(line):
                    self._heed(told)
        except (OSError, ValueError, KeyError, TypeError):
            log.exception("%s", self._module)
        finally:
            self._writer = None
            writer.close()
        log.warning("%s has ended", self._module)
        return True

    def _start(self) -> None:
        log.info("%s is started", self._module)
        with contextlib.ExitStack() as always:
            said = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            always.callback(os.close, said)
            self._started = subprocess.Popen(
                self._line, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True, cwd="/"
            )
