"""The guest agent (qemu-ga) on its channel: asked in short bounds, since a guest may have none or be deaf."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import os
import pathlib
import re
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, BinaryIO

from bocage import errors
from bocage.engine import base
from bocage.model import sample
from bocage.words import N_

_BOUND = 3.0  # seconds for an answer
_LIMIT = 1 << 22  # bytes of an answer
_INTERFACES, _ADDRESSES = 256, 64  # that are read of an answer; of each interface
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_SAID = 1000  # characters of a refusal
_PIECE = 1 << 18
_COUNTERS = {
    "received_bytes": "rx-bytes",
    "sent_bytes": "tx-bytes",
    "received_packets": "rx-packets",
    "sent_packets": "tx-packets",
}


class Error(base.Error):
    """The guest agent did not do what was asked."""


class Absent(Error, errors.Unavailable):
    """No agent answers in the guest."""

    type = "guest-agent-absent"
    text = N_("no guest agent answers in the VM")
    hint = N_("install qemu-guest-agent in the guest")


class Refused(Error, errors.Conflict):
    """The agent said no."""

    type = "guest-agent-refused"
    text = N_("the guest agent refused '{command}': {description}")
    command: str
    description: str


class Lacking(Refused):
    """The agent has no such command, or it was switched off there."""

    type = "guest-agent-lacks"
    text = N_("the guest agent does not do '{command}': {description}")
    hint = N_("a newer agent may have it; its configuration in the guest may forbid it (block-rpcs, blacklist)")


class Session:
    """One conversation with the agent, while nobody else is heard. Raises Absent and Refused."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, command: str, arguments: Mapping[str, Any] | None = None, *, within: float = _BOUND) -> Any:
        """What the agent returns."""
        with _nonsense():
            async with asyncio.timeout(within):
                await self._say(command, arguments)
                return await _answer(self._reader, command)

    async def ask_into(
        self, file: BinaryIO, command: str, arguments: Mapping[str, Any], *, most: int, within: float
    ) -> None:
        """Write the agent's whole answer, one line of at most so many bytes, to a file as it comes."""
        with _nonsense():
            async with asyncio.timeout(within):
                await self._say(command, arguments)
                while (piece := await self._reader.read(_PIECE)) and most >= 0:
                    line, end, _ = piece.partition(b"\n")
                    most -= len(line)
                    file.write(line)
                    if end:
                        return
                raise EOFError

    async def _say(self, command: str, arguments: Mapping[str, Any] | None) -> None:
        _send(self._writer, command, arguments)
        await self._writer.drain()


class Agent:
    """The agent of one guest. It hears one client at a time."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._turn = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def session(self, *, within: float = _BOUND) -> AsyncIterator[Session]:
        """Have the agent to oneself for some questions. Raises Absent."""
        with _nonsense():
            async with asyncio.timeout(within):
                await self._turn.acquire()
        writer: asyncio.StreamWriter | None = None
        try:
            with _nonsense():
                async with asyncio.timeout(within):
                    reader, writer = await asyncio.open_unix_connection(os.fspath(self._path), limit=_LIMIT)
                    await _synchronise(reader, writer)
            yield Session(reader, writer)
        finally:
            if writer:
                writer.close()
            self._turn.release()

    async def ask(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, answers: bool = True, within: float = _BOUND
    ) -> Any:
        """What the agent returns; nothing for a command that has no answer on success. Raises Absent, Refused."""
        with _nonsense():
            async with asyncio.timeout(within), self._turn:
                reader, writer = await asyncio.open_unix_connection(os.fspath(self._path), limit=_LIMIT)
                try:
                    await _synchronise(reader, writer)
                    _send(writer, command, arguments)
                    return await _answer(reader, command) if answers else await _silence(reader, command)
                finally:
                    writer.close()


@contextlib.contextmanager
def _nonsense() -> Iterator[None]:
    """What answers late, not at all, or without sense is as good as no agent."""
    try:
        yield
    except (TimeoutError, OSError, EOFError, ValueError, RecursionError, asyncio.LimitOverrunError) as error:
        raise Absent from error


async def _synchronise(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Skip what an earlier client left behind (QGA protocol, guest-sync-delimited)."""
    token = secrets.randbits(31)
    writer.write(b"\xff")
    _send(writer, "guest-sync-delimited", {"id": token})
    while True:
        await reader.readuntil(b"\xff")
        if (await _message(reader)).get("return") == token:
            return


async def _message(reader: asyncio.StreamReader) -> dict[str, Any]:
    """What the guest sent; a guest can send anything. Raises ValueError and EOFError."""
    line = await reader.readline()
    if not line:
        raise EOFError
    message = json.loads(line)
    if not isinstance(message, dict):
        raise json.JSONDecodeError("not an object", repr(message)[:_SAID], 0)
    return message


def _send(writer: asyncio.StreamWriter, command: str, arguments: Mapping[str, Any] | None) -> None:
    message = {"execute": command, **({"arguments": dict(arguments)} if arguments else {})}
    writer.write(json.dumps(message).encode() + b"\n")


async def _answer(reader: asyncio.StreamReader, command: str) -> Any:
    return returned(await _message(reader), command)


def returned(answer: Mapping[str, Any], command: str) -> Any:
    """What an answer holds. Raises Refused."""
    if error := answer.get("error"):
        said = error if isinstance(error, dict) else {"desc": error}
        kind = Lacking if said.get("class") == "CommandNotFound" else Refused
        raise kind(command=command, description=str(said.get("desc", ""))[:_SAID])
    return answer.get("return")


async def _silence(reader: asyncio.StreamReader, command: str) -> None:
    """A command that says nothing when it succeeds gets a moment to say that it does not."""
    with contextlib.suppress(TimeoutError, EOFError):
        async with asyncio.timeout(_BOUND / 6):
            await _answer(reader, command)


def addresses(interfaces: Any) -> dict[str, tuple[str, ...]]:
    """IP addresses by MAC, from the answer to `guest-network-get-interfaces`; what makes no sense is left out."""
    found: dict[str, tuple[str, ...]] = {}
    for interface in _objects(interfaces)[:_INTERFACES]:
        mac = str(interface.get("hardware-address", "")).lower()
        own = [_address(one.get("ip-address")) for one in _objects(interface.get("ip-addresses"))[:_ADDRESSES]]
        if _MAC.fullmatch(mac) and mac != "00:00:00:00:00:00":
            found[mac] = (*found.get(mac, ()), *filter(None, own))[:_ADDRESSES]
    return found


def traffic(interfaces: Any) -> dict[str, sample.NicUse]:
    """Counters by MAC from the same answer, where the guest tells them (agents of QEMU 2.12 and newer)."""
    found: dict[str, sample.NicUse] = {}
    for interface in _objects(interfaces):
        mac, told = str(interface.get("hardware-address", "")).lower(), interface.get("statistics")
        if _MAC.fullmatch(mac) and isinstance(told, dict):
            counted = {field: told.get(name) for field, name in _COUNTERS.items()}
            if all(isinstance(value, int) and 0 <= value < 1 << 64 for value in counted.values()):
                found[mac] = sample.NicUse.model_validate(counted)
    return found


def _objects(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _address(value: Any) -> str:
    try:
        return str(ipaddress.ip_address(value)) if isinstance(value, str) else ""
    except ValueError:
        return ""
