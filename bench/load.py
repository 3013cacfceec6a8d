"""The load generator, a process of its own: `python -m bench.load SOCKET CLIENTS` with requests on standard input.

Each of the clients holds one connection and sends its next request when it has the whole answer to the
last. Prints the milliseconds of each request and how often each status came, as JSON.
"""

from __future__ import annotations

import asyncio
import collections
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import uvloop

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
Request = tuple[str, str, Any]
"""Method, path, and a document or None."""


def run(socket: str, clients: int, requests: Sequence[Request]) -> dict[str, Any]:
    """Send the requests from `clients` connections at once: `milliseconds` of each, `seconds` in all, `statuses`."""
    command = [sys.executable, "-m", "bench.load", socket, str(clients)]
    done = subprocess.run(command, input=json.dumps(requests), stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    if unwanted := {status: count for status, count in answer["statuses"].items() if not status.startswith("2")}:
        raise RuntimeError(f"unwanted answers: {unwanted}")
    return answer


async def _send_all(socket: str, clients: int, requests: Sequence[Request]) -> dict[str, Any]:
    waiting = iter(requests)
    took: list[float] = []
    statuses: collections.Counter[str] = collections.Counter()
    lines = [await asyncio.open_unix_connection(socket) for _ in range(clients)]
    begun = time.monotonic()
    await asyncio.gather(*[_client(reader, writer, waiting, took, statuses) for reader, writer in lines])
    return {"milliseconds": took, "seconds": time.monotonic() - begun, "statuses": statuses}


async def _client(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    waiting: Iterator[Request],
    took: list[float],
    statuses: collections.Counter[str],
) -> None:
    for method, path, document in waiting:
        content = b"" if document is None else json.dumps(document).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        begun = time.monotonic()
        writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        answer = await reader.readuntil(b"\r\n\r\n")
        if length := _LENGTH.search(answer):
            await reader.readexactly(int(length[1]))
        took.append((time.monotonic() - begun) * 1000)
        statuses[answer[9:12].decode()] += 1
    writer.close()


def main() -> None:
    socket, clients = sys.argv[1], int(sys.argv[2])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(_send_all(socket, clients, json.load(sys.stdin)))))


if __name__ == "__main__":
    main()
