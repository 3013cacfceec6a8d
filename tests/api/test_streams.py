"""What is passed through to the node and back."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import httpx
import pytest
import websockets
from websockets.asyncio import client as ws

from bocage.engine.qemu import console as serial
from tests.api.conftest import VMS, World, create, over_socket, problem


@pytest.fixture
async def machine(served, world):
    """The client that made a VM, over the real socket."""
    async with over_socket(world) as client:
        await create(client)
        yield client


def console(world: World, query: str = "", name: str = "web1") -> ws.connect:
    """A WebSocket to a VM's console."""
    uri = f"ws://bocage/api/v1{VMS}/{name}/console{query}"
    return ws.unix_connect(str(world.home.socket), uri, compression=None)


async def test_a_log_is_passed_on_with_its_offset(machine, node):
    answer = await machine.get(f"{VMS}/web1/log", params={"source": "qemu", "offset": 3})
    assert (answer.text, answer.headers["bocage-offset"]) == ("all of it", "7")
    assert node.asked == [{"source": "qemu", "follow": "false", "offset": "3"}]


async def test_a_log_that_is_followed_ends_at_the_node_when_nobody_listens(machine, node):
    async with machine.stream("GET", f"{VMS}/web1/log", params={"follow": True}) as answer:
        lines = answer.aiter_lines()
        assert [await anext(lines) for _ in range(3)] == ["line 0", "line 1", "line 2"]
    await asyncio.wait_for(node.ended.wait(), 10)


async def test_expect_gives_the_line_or_a_problem_at_its_bound(machine, node):
    answer = await machine.post(f"{VMS}/web1/expect", json={"pattern": "ready"})
    assert answer.json() == {"line": "saw ready"}
    answer = await machine.post(f"{VMS}/web1/expect", json={"pattern": "never", "timeout": 0.1})
    said = problem(answer, 504, "timed-out")
    assert said["title"] == "the line did not answer within 0.1 s"
    problem(await machine.post(f"{VMS}/web1/expect", json={"pattern": ""}), 422, "invalid-fields")


async def test_a_problem_of_the_nodes_that_is_not_known_here_is_told_all_the_same(machine, node):
    answer = await machine.post(f"{VMS}/web1/expect", json={"pattern": "unknown"})
    said = problem(answer, 409, "node-problem")
    assert "so" in said["title"]


async def test_keys_and_the_command_are_passed_on(machine, node):
    assert (await machine.post(f"{VMS}/web1/keys", json={"keys": ["ctrl", "alt"]})).status_code == 204
    assert node.asked == [{"keys": ["ctrl", "alt"]}]
    assert (await machine.get(f"{VMS}/web1/command")).json()["line"] == "qemu -S"
    assert (await machine.get("/doctor")).json()["checks"][0]["text"] == "well"


async def test_without_a_node_it_is_said_that_it_is_away(machine):
    for path in (f"{VMS}/web1/log", f"{VMS}/web1/screenshot", "/doctor", "/uploads/0123456789"):
        problem(await machine.get(path), 503, "node-away")
    problem(await machine.get(f"{VMS}/nope/log"), 404, "not-found")


async def test_an_answer_that_breaks_off_is_never_taken_for_whole(machine, node):
    with pytest.raises(httpx.TransportError):
        await machine.get(f"{VMS}/web1/export")


async def test_a_hand_edit_is_taken(machine, node):
    document = (await machine.get(f"{VMS}/web1")).json()
    node.edited = {"metadata": document["metadata"], "spec": {**document["spec"], "memory": "1G"}}
    assert (await machine.post(f"{VMS}/web1/apply")).json()["spec"]["memory"] == "1G"
    node.edited["spec"]["memory"] = "a lot"
    problem(await machine.post(f"{VMS}/web1/apply"), 422, "invalid-fields")
    node.edited = {"nonsense": True}
    problem(await machine.post(f"{VMS}/web1/apply"), 422, "invalid-fields")


async def test_an_upload_goes_on_where_it_broke_off(machine, node):
    path, content = "/uploads/0123456789abcdef", bytes(range(256)) * 4096

    async def breaks_off() -> AsyncIterator[bytes]:
        yield content[:300_000]
        raise ConnectionError

    with contextlib.suppress(ConnectionError, httpx.HTTPError):
        await machine.patch(path, content=breaks_off(), headers={"upload-offset": "0"})
    await asyncio.wait_for(node.ended.wait(), 10)
    offset = int((await machine.head(path)).headers["upload-offset"])
    assert 0 <= offset <= 300_000
    answer = await machine.patch(path, content=content[offset:], headers={"upload-offset": str(offset)})
    assert (answer.status_code, answer.headers["upload-offset"]) == (204, str(len(content)))
    assert node.uploads["0123456789abcdef"] == content


async def test_an_archive_is_sent_and_then_imported(machine, node, world):
    assert (await machine.put("/projects/default/imports/0123456789", content=b"archive")).status_code == 204
    answer = await machine.post(f"{VMS}/import", json={"upload": "0123456789", "new_identity": True})
    assert answer.json()["spec"]["params"] == {
        "upload": "0123456789",
        "name": None,
        "new_identity": True,
        "networks": {},
        "storage": world.storage.uid,
    }


async def test_an_upload_needs_an_offset_and_bytes(machine, node):
    problem(await machine.patch("/uploads/0123456789", content=b"x"), 422, "invalid-fields")
    problem(await machine.patch("/uploads/short", content=b"x", headers={"upload-offset": "0"}), 422, "invalid-fields")
    answer = await machine.patch("/uploads/0123456789", json={}, headers={"upload-offset": "0"})
    problem(answer, 415, "upload-not-bytes")


async def test_a_console_carries_bytes_both_ways_and_tells_why_it_ended(machine, node, world):
    async with console(world, "?write=false&take=true") as socket:
        for piece in (b"hello", b"\x00\xff\r\n", b"x" * 100_000):
            await socket.send(piece)
            assert await asyncio.wait_for(socket.recv(), 10) == b"<" + piece + b">"
        await socket.send(b"end")
        with pytest.raises(websockets.ConnectionClosed):
            await asyncio.wait_for(socket.recv(), 10)
        assert (socket.close_code, socket.close_reason) == (4409, "somebody else writes")
    assert node.asked == [{"write": "False".lower(), "take": "true"}]


async def test_a_console_that_the_node_refuses_is_refused_with_its_problem(machine, node, world, caplog):
    taken = serial.Taken(name="web1")
    node.refusal = {"type": taken.type, "params": taken.params, "status": taken.status}
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with console(world):
            pass
    assert refused.value.response.status_code == 409
    told = json.loads(refused.value.response.body)
    assert (told["type"], told["hint"]) == (
        "urn:bocage:problem:console-taken",
        "watch it, or take it over: 'bocage vm console web1 --take-over'",
    )
    assert "uvicorn.error" not in {record.name for record in caplog.records}


async def test_a_console_that_is_left_ends_at_the_node(machine, node, world):
    async with console(world) as socket:
        await socket.send(b"hello")
        await asyncio.wait_for(socket.recv(), 10)
        socket.transport.abort()
    await asyncio.wait_for(node.ended.wait(), 10)


async def test_a_console_that_cannot_be_is_refused_with_the_problem(machine, world):
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with console(world):
            pass
    assert refused.value.response.status_code == 503
    assert b"node-away" in refused.value.response.body
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with console(world, name="nope"):
            pass
    assert refused.value.response.status_code == 404
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with console(world, "?write=perhaps"):
            pass
    assert refused.value.response.status_code == 422
