"""Commands, files and passwords by the guest agent (QGA protocol). A guest can say anything: all of it is bounded."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import mmap
import re
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, BinaryIO, Literal

from bocage.engine import inside
from bocage.engine.qemu import agent

_SLOW = 30.0  # seconds for an answer that carries data, or waits for the guest's disk
_SILENCE = 30.0  # seconds that a guest may be deaf while a command of it runs
_FIRST, _LONGEST, _SLOWER = 0.05, 1.0, 1.5  # seconds between two looks whether it has ended, and how they grow
_MOST = 48 << 20  # bytes of an answer: the agent keeps 16 MiB of each stream, in base64
_REST = 1 << 16  # bytes of it beside the data
_DATA = re.compile(rb'"(out|err)-data"\s*:\s*"([A-Za-z0-9+/]*={0,2})"')
_STREAMS = {"out": "stdout", "err": "stderr"}
_SHOWN = 1 << 18  # bytes of base64 in a piece; a multiple of 4
_CHUNK = 1 << 18  # bytes of a file in a question
_AT_ONCE = 16  # chunks, before somebody else is let in between
_Way = Literal["r", "w"]


class Inside:
    """The way into one guest."""

    def __init__(self, asked: agent.Agent, listens: Callable[[], Awaitable[bool]]) -> None:
        self._agent, self._listens = asked, listens

    async def execute(self, order: inside.Order, spool: BinaryIO) -> inside.Exit:
        program, *arguments = order.command
        begun = await self._ask(
            "guest-exec",
            path=program,
            arg=arguments,
            capture_output=True,
            **({"input_data": base64.b64encode(order.stdin).decode()} if order.stdin else {}),
        )
        pid = _number(begun, "pid")
        clock = asyncio.get_running_loop().time
        due, heard, pause = clock() + order.within, clock(), _FIRST
        while True:
            try:
                if ended := await self._ended(pid, spool):
                    return ended
                heard = clock()
            except agent.Refused as error:
                raise inside.Lost(pid=pid) from error
            except agent.Absent as error:  # it may be very busy just now
                if clock() > heard + _SILENCE:
                    raise inside.Lost(pid=pid) from error
            if (left := due - clock()) <= 0:
                raise inside.NeverEnded(bound=order.within, pid=pid)
            await asyncio.sleep(min(pause, left))
            pause = min(pause * _SLOWER, _LONGEST)

    def output(self, spool: BinaryIO) -> Iterator[inside.Output]:
        with _mapped(spool) as answer:
            found = {match[1].decode(): match.span(2) for match in _DATA.finditer(answer)}
            for name, stream in _STREAMS.items():
                start, end = found.get(name, (0, 0))
                for at in range(start, end, _SHOWN):
                    yield inside.Output(stream, answer[at : min(at + _SHOWN, end)])

    @contextlib.asynccontextmanager
    async def read(self, path: str) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
        handle = await self._open(path, "r")
        try:
            size = await self._length(handle)
            await self._ask("guest-file-seek", handle=handle, offset=0, whence="set")
            pieces = self._pieces(handle, size or None)
            first = await anext(pieces, b"")  # what cannot be read is known before anything is promised
            yield size, _again(first, pieces)
        finally:
            await self._let_go(handle)

    async def write(self, path: str, pieces: AsyncIterator[bytes], *, mode: int | None = None) -> inside.Written:
        was_there = await self._is_there(path)
        handle = await self._open(path, "w")
        try:
            # Before there is anything in it: the agent gives a new file to everybody.
            mode = None if was_there or mode is None else await self._set_mode(path, mode)
            sent = 0
            async for batch in _batches(pieces):
                await self._put(handle, batch)
                sent += len(batch)
            await self._ask("guest-file-flush", handle=handle)
        finally:
            await self._let_go(handle)
        handle = await self._open(path, "r")
        try:
            found = await self._length(handle)
        finally:
            await self._let_go(handle)
        if found != sent:
            raise inside.NotWhole(path=path, found=found, sent=sent)
        return inside.Written(sent, mode)

    async def set_password(self, user: str, password: str) -> None:
        secret = base64.b64encode(password.encode()).decode()
        await self._ask("guest-set-user-password", username=user, password=secret, crypted=False)

    async def _ask(self, command: str, **arguments: Any) -> Any:
        if not await self._listens():
            raise agent.Absent
        given = {name.replace("_", "-"): value for name, value in arguments.items()}
        async with self._agent.session() as session:
            return await session.ask(command, given, within=_SLOW)

    async def _ended(self, pid: int, spool: BinaryIO) -> inside.Exit | None:
        """How it ended, with its output in the spool; None while it runs."""
        spool.seek(0)
        spool.truncate()
        async with self._agent.session() as session:
            await session.ask_into(spool, "guest-exec-status", {"pid": pid}, most=_MOST, within=_SLOW)
        spool.flush()
        try:
            told = agent.returned(json.loads(await asyncio.to_thread(_without_data, spool)), "guest-exec-status")
            if told.get("exited") is not True:
                return None
            cut = tuple(stream for name, stream in _STREAMS.items() if told.get(f"{name}-truncated") is True)
            return inside.Exit(_perhaps(told.get("exitcode")), _perhaps(told.get("signal")), cut)
        except (ValueError, AttributeError, RecursionError) as error:
            raise agent.Absent from error

    async def _open(self, path: str, way: _Way) -> int:
        told = await self._ask("guest-file-open", path=path, mode=f"{way}b")
        if not isinstance(told, int):
            raise agent.Absent
        return told

    async def _is_there(self, path: str) -> bool:
        try:
            await self._let_go(await self._open(path, "r"))
        except agent.Lacking:
            raise
        except agent.Refused:
            return False
        return True

    async def _let_go(self, handle: int) -> None:
        with contextlib.suppress(agent.Error):
            await self._ask("guest-file-close", handle=handle)

    async def _length(self, handle: int) -> int:
        try:
            told = await self._ask("guest-file-seek", handle=handle, offset=0, whence="end")
        except agent.Refused:
            return 0  # a pipe, or the like
        return _number(told, "position")

    async def _set_mode(self, path: str, mode: int) -> int | None:
        try:
            with tempfile.TemporaryFile() as spool:
                done = await self.execute(inside.Order(("chmod", f"{mode:o}", path)), spool)
        except (agent.Refused, inside.Lost, inside.NeverEnded):
            return None
        return mode if done.code == 0 else None

    async def _put(self, handle: int, batch: bytes) -> None:
        async with self._agent.session() as session:
            for at in range(0, len(batch), _CHUNK):
                piece = batch[at : at + _CHUNK]
                given = {"handle": handle, "buf-b64": base64.b64encode(piece).decode()}
                told = await session.ask("guest-file-write", given, within=_SLOW)
                if (count := _number(told, "count")) != len(piece):
                    said = f"{count} of {len(piece)} bytes were written"
                    raise agent.Refused(command="guest-file-write", description=said)

    async def _pieces(self, handle: int, left: int | None) -> AsyncIterator[bytes]:
        """So many bytes from where it stands, or all that comes."""
        ended = False
        while not ended and left != 0:
            batch: list[bytes] = []
            async with self._agent.session() as session:
                while len(batch) < _AT_ONCE and not ended and left != 0:
                    count = _CHUNK if left is None else min(_CHUNK, left)
                    told = await session.ask("guest-file-read", {"handle": handle, "count": count}, within=_SLOW)
                    piece = _content(told, count)
                    batch.append(piece)
                    left = None if left is None else left - len(piece)
                    ended = not piece
            for piece in filter(None, batch):
                yield piece


async def _again(first: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
        async for piece in pieces:
            yield piece


async def _batches(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    held = bytearray()
    async for piece in pieces:
        held += piece
        while len(held) >= _CHUNK * _AT_ONCE:
            yield bytes(held[: _CHUNK * _AT_ONCE])
            del held[: _CHUNK * _AT_ONCE]
    if held:
        yield bytes(held)


@contextlib.contextmanager
def _mapped(spool: BinaryIO) -> Iterator[mmap.mmap]:
    with mmap.mmap(spool.fileno(), 0, access=mmap.ACCESS_READ) as answer:
        yield answer


def _without_data(spool: BinaryIO) -> bytes:
    """An answer without what the command has said, which may be large. Raises ValueError."""
    rest, at = b"", 0
    with _mapped(spool) as answer:
        for match in _DATA.finditer(answer):
            start, end = match.span(2)
            if (end - start) % 4 or start - at > _REST:
                raise ValueError("no base64")
            rest += answer[at:start]
            at = end
            if len(rest) > _REST:  # before it is copied a million times
                raise ValueError("too much beside the data")
        if len(answer) - at + len(rest) > _REST:
            raise ValueError("too much beside the data")
        return rest + answer[at:]


def _content(told: Any, most: int) -> bytes:
    try:
        content = base64.b64decode(told["buf-b64"], validate=True)
    except (ValueError, KeyError, TypeError) as error:
        raise agent.Absent from error
    if len(content) > most:
        raise agent.Absent
    return content


def _number(told: Any, name: str) -> int:
    value = told.get(name) if isinstance(told, dict) else None
    if not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise agent.Absent
    return value


def _perhaps(value: Any) -> int | None:
    """A number that a process can end with: 32 bits, as Windows has them."""
    return value if isinstance(value, int) and -(1 << 31) <= value < 1 << 32 else None
