"""A web server that misbehaves as told."""

import asyncio
import contextlib
import dataclasses
import ssl
from collections.abc import AsyncIterator


@dataclasses.dataclass
class Server:
    """What it serves, and what was asked of it. `cuts` are bodies' lengths at which it hangs up, one a request."""

    data: bytes
    etag: str | None = '"v1"'
    cuts: list[int] = dataclasses.field(default_factory=list)
    status: int = 200
    ranges: bool = True
    says_length: bool = True
    more: dict[str, str] = dataclasses.field(default_factory=dict)
    redirects: dict[str, str] = dataclasses.field(default_factory=dict)
    asked: list[dict[str, str]] = dataclasses.field(default_factory=list)
    address: str = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            request, *lines = head.split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines if line)
            self.asked.append(headers)
            path = request.split()[1]
            if path in self.redirects:
                writer.write(
                    f"HTTP/1.1 302 Found\r\nLocation: {self.redirects[path]}\r\nContent-Length: 0\r\n\r\n".encode()
                )
            else:
                self._body(headers, writer)
            await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError, asyncio.CancelledError):
            await writer.wait_closed()

    def _body(self, headers: dict[str, str], writer: asyncio.StreamWriter) -> None:
        start, status = 0, self.status
        fresh = headers.get("if-range") in (None, (self.etag or "").lower())
        if self.ranges and "range" in headers and fresh and status == 200:
            start, status = int(headers["range"].removeprefix("bytes=").rstrip("-")), 206
            if start >= len(self.data):
                status = 416
        body = self.data[start:]
        answer = {"Connection": "close", **self.more}
        if self.etag:
            answer["ETag"] = self.etag
        if self.says_length:
            answer["Content-Length"] = str(len(body))
        if status == 206:
            answer["Content-Range"] = f"bytes {start}-{len(self.data) - 1}/{len(self.data)}"
        lines = "".join(f"{key}: {value}\r\n" for key, value in answer.items())
        writer.write(f"HTTP/1.1 {status} Whatever\r\n{lines}\r\n".encode())
        writer.write(body[: self.cuts.pop(0)] if self.cuts else body)


@contextlib.asynccontextmanager
async def serving(server: Server, trust: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """Serve on a free port of the loopback address."""
    running = await asyncio.start_server(server.answer, "127.0.0.1", 0, ssl=trust)
    port = running.sockets[0].getsockname()[1]
    server.address = f"{'https' if trust else 'http'}://127.0.0.1:{port}/image.qcow2"
    async with running:
        yield server
