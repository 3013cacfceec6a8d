"""The API on real sockets: who is at the other end, bounds, taken addresses, an orderly end."""

import asyncio
import json
import os
import pathlib
import signal
import socket
import stat

import pytest

from bocage.api import serve
from tests.api.conftest import VMS, create, over_socket


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


async def ask(address: pathlib.Path | int, request: bytes) -> bytes:
    """One raw request; the whole answer."""
    if isinstance(address, int):
        reader, writer = await asyncio.open_connection("127.0.0.1", address)
    else:
        reader, writer = await asyncio.open_unix_connection(str(address))
    writer.write(request)
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


GET = b"GET /api/v1/whoami HTTP/1.1\r\nhost: x\r\nconnection: close\r\n%s\r\n"


async def test_the_socket_is_the_owners_alone_and_its_peer_is_known(served, world):
    assert stat.S_IMODE(world.home.socket.stat().st_mode) == 0o600
    async with over_socket(world) as client:
        assert (await client.get("/whoami")).json() == {"name": f"unix:{os.geteuid()}", "local": True}


@pytest.mark.parametrize(
    "header", [b"x-forwarded-for: unix\r\n", b"forwarded: for=unix\r\n", b"x-forwarded-proto: ws\r\n"]
)
async def test_over_tcp_no_header_makes_anybody_local(world, header):
    port = free_port()
    async with serve.serve(world.kept, homes=world.home, listen=f"127.0.0.1:{port}"):
        answer = await ask(port, GET % header)
    assert answer.startswith(b"HTTP/1.1 401 ")


async def test_over_tcp_a_token_opens(world):
    port = free_port()
    async with serve.serve(world.kept, homes=world.home, listen=f"127.0.0.1:{port}"):
        async with over_socket(world) as client:
            token = (await client.post("/tokens", json={"name": "ci"})).json()["token"]
        answer = await ask(port, GET % f"authorization: Bearer {token}\r\n".encode())
    assert b'"token:ci"' in answer


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 200_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"x: yy\r\n" * 25_000 + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"nonsense\r\n\r\n",
    ],
)
async def test_a_head_that_is_none_or_has_no_end_is_refused(served, world, request_):
    answer = await ask(world.home.socket, request_)
    assert answer.startswith(b"HTTP/1.1 400 ")
    document = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert document["type"] == "urn:bocage:problem:request-malformed"
    async with over_socket(world) as client:
        assert (await client.get("/whoami")).status_code == 200


async def test_a_body_without_an_end_is_refused_when_it_is_too_large(served, world):
    reader, writer = await asyncio.open_unix_connection(str(world.home.socket))
    head = (
        f"POST /api/v1{VMS} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    writer.write(head.encode())
    piece = b"%x\r\n" % (1 << 16) + b"a" * (1 << 16) + b"\r\n"
    async with asyncio.timeout(10):
        for _ in range(20):
            writer.write(piece)
        assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
    writer.close()


async def test_an_address_that_is_taken_is_named_with_what_to_do(world):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(serve.AddressTaken) as refused:
            async with serve.serve(world.kept, homes=world.home, listen=listen):
                pass
    assert refused.value.listen == listen
    assert "BOCAGE_LISTEN" in serve.AddressTaken.hint
    assert not world.home.socket.exists()


@pytest.mark.parametrize(
    "listen", ["", "localhost", "localhost:", ":80", "localhost:x", "localhost:70000", "no.such.host.invalid:1"]
)
async def test_an_address_that_is_none_is_refused(listen):
    with pytest.raises(serve.BadAddress):
        serve.bind(listen)


async def test_the_socket_of_a_daemon_that_died_is_not_in_the_way(world):
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(world.home.socket))
    left.close()
    async with serve.serve(world.kept, homes=world.home), over_socket(world) as client:
        assert (await client.get("/whoami")).status_code == 200
    assert not world.home.socket.exists()


async def test_signals_stay_the_daemons(world):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    async with serve.serve(world.kept, homes=world.home):
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


async def test_at_the_end_streams_and_waits_end_and_soon(world, node):
    loop = asyncio.get_running_loop()
    async with over_socket(world) as client:
        async with serve.serve(world.kept, homes=world.home, host=world.host.uid):
            task = await create(client)
            waiting = [
                asyncio.create_task(client.get("/events/stream")),
                asyncio.create_task(client.get(f"/tasks/{task['metadata']['uid']}", params={"wait": 300})),
            ]
            log = client.stream("GET", f"{VMS}/web1/log", params={"follow": True})
            answer = await log.__aenter__()
            await anext(answer.aiter_lines())
            async with asyncio.timeout(10):
                while len(world.kept.store._watches) < 2:
                    await asyncio.sleep(0.005)
            begun = loop.time()
        assert loop.time() - begun < 5
        events, ended = await asyncio.wait_for(asyncio.gather(*waiting), 10)
        assert events.status_code == 200
        assert ended.json()["status"]["state"] == "pending"
        await asyncio.wait_for(node.ended.wait(), 10)


async def test_a_thousand_calls_at_once_are_all_answered(served, world):
    async with over_socket(world, timeout=120) as client:
        for number in range(20):
            await create(client, f"web{number}")
        calls = [
            client.get(f"{VMS}/web{number % 20}") if number % 2 else
            client.patch(f"{VMS}/web{number % 20}", json={"title": f"title {number}"})
            for number in range(1000)
        ]  # fmt: skip
        answers = await asyncio.gather(*calls)
        assert {answer.status_code for answer in answers} == {200}
        titles = {item["metadata"]["title"] for item in (await client.get(VMS)).json()["items"]}
        assert "" in titles
        assert len(titles) > 1
