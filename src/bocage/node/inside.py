"""What is asked of a guest through its agent: commands, files, passwords."""

from __future__ import annotations

import base64
import contextlib
import json
import pathlib
import tempfile
from collections.abc import AsyncGenerator
from typing import BinaryIO

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from bocage import errors
from bocage.engine import inside
from bocage.model import inside as requests
from bocage.node import asking, streaming
from bocage.node.carrying import export
from bocage.words import N_


class BrokenOff(asking.Error, errors.Invalid):
    type = "guest-file-broken-off"
    text = N_("what was sent for {path} broke off; the guest has a part of it")
    path: str


async def execute(guest: inside.Inside, request: Request, scratch: pathlib.Path) -> Response:
    """Run a command, and answer when it has ended: a JSON document a line, pieces of output and at last the exit."""
    asked = await asking.body(request, requests.Exec)
    order = inside.Order(command=asked.command, stdin=base64.b64decode(asked.stdin), within=asked.timeout)
    async with contextlib.AsyncExitStack() as stack:
        spool: BinaryIO = stack.enter_context(tempfile.TemporaryFile(dir=scratch))  # noqa: SIM115
        ended = await guest.execute(order, spool)
        held = stack.pop_all()

    async def lines() -> AsyncGenerator[bytes, None]:
        async with held:
            for piece in guest.output(spool):
                yield b'{"%s": "%s"}\n' % (piece.stream.encode(), piece.data)
            end = {"exit_code": ended.code, "signal": ended.signal, "cut": ended.cut}
            yield json.dumps(end).encode() + b"\n"

    return streaming.Stream(await export.started(lines()), media_type="application/x-ndjson")


async def read_file(guest: inside.Inside, request: Request) -> Response:
    """A file's content; its size goes before where it is known."""
    stack = contextlib.AsyncExitStack()
    async with stack:
        size, pieces = await stack.enter_async_context(guest.read(_path(request)))
        held = stack.pop_all()

    async def content() -> AsyncGenerator[bytes, None]:
        async with held:
            left = size
            async for piece in pieces:
                left -= len(piece)
                yield piece
            if size and left:
                raise inside.NotWhole(path=_path(request), found=size - left, sent=size)

    headers = {"Bocage-Size": str(size)} if size else {}
    return streaming.Stream(await export.started(content()), media_type="application/octet-stream", headers=headers)


async def write_file(guest: inside.Inside, request: Request) -> Response:
    """Write a file with what is sent."""
    path, mode = _path(request), request.query_params.get("mode")
    try:
        written = await guest.write(path, request.stream(), mode=int(mode, 8) if mode else None)
    except ClientDisconnect as error:
        raise BrokenOff(path=path) from error
    return JSONResponse({"size": written.size, "mode": None if written.mode is None else f"{written.mode:04o}"})


async def set_password(guest: inside.Inside, request: Request) -> Response:
    """Give an account another password, which is written nowhere."""
    asked = await asking.body(request, requests.GuestPassword)
    await guest.set_password(asked.user, asked.password)
    return Response(status_code=204)


def _path(request: Request) -> str:
    return request.query_params["path"]
