"""The guest agent: what a good one says, and what a hostile one can."""

import asyncio
import json
import pathlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from bocage.engine.qemu import agent

Answer = Callable[[str, Any], bytes]
Serve = Callable[[Answer], Any]


@pytest.fixture
async def serve(tmp_path: pathlib.Path) -> AsyncIterator[Serve]:
    """Speak the agent's protocol with answers of one's own."""
    servers: list[asyncio.Server] = []

    async def begin(answer: Answer) -> agent.Agent:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while line := await reader.readline():
                asked = json.loads(line.lstrip(b"\xff"))
                writer.write(answer(asked["execute"], asked.get("arguments")))
            writer.close()

        path = tmp_path / "qga"
        servers.append(await asyncio.start_unix_server(talk, path))
        return agent.Agent(path)

    yield begin
    for server in servers:
        server.close()


def said(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


def good(command: str, arguments: Any) -> bytes:
    match command:
        case "guest-sync-delimited":
            return b'left from before\n{"return": 1}\n\xff' + said({"return": arguments["id"]})
        case "guest-ping":
            return said({"return": {}})
        case "guest-shutdown":
            return b""
        case _:
            return said({"error": {"class": "CommandNotFound", "desc": f"{command} has not been found"}})


async def test_what_an_earlier_client_left_is_skipped(serve):
    assert await (await serve(good)).ask("guest-ping") == {}


async def test_several_may_ask_at_once(serve):
    asked = await serve(good)
    assert await asyncio.gather(*(asked.ask("guest-ping") for _ in range(5))) == [{}] * 5


async def test_a_refusal_has_the_agents_words(serve):
    with pytest.raises(agent.Refused, match="has not been found"):
        await (await serve(good)).ask("guest-no-such")


async def test_a_command_that_says_nothing_on_success_is_done_when_nothing_is_said(serve):
    assert await (await serve(good)).ask("guest-shutdown", {"mode": "powerdown"}, answers=False) is None


@pytest.mark.parametrize(
    "noise",
    [
        b"",
        b"\xff\n",
        b"\xff[]\n",
        b"\xff{",
        b"\xff\xff\xff" * 1000,
        b"x" * (5 << 20),
        b'\xff{"return": "\xff"}\n',
        b"\xffnull\n",
        b"\xff" + b"[" * (1 << 20) + b"\n",
    ],
)
async def test_an_agent_that_talks_nonsense_is_as_good_as_none(serve, noise):
    asked = await serve(lambda command, arguments: noise)
    with pytest.raises(agent.Absent):
        await asked.ask("guest-ping", within=0.5)


async def test_no_agent_is_known_at_once(tmp_path):
    async with asyncio.timeout(1):
        with pytest.raises(agent.Absent):
            await agent.Agent(tmp_path / "none").ask("guest-ping")


def test_addresses_are_told_by_mac_and_loopback_is_nobodys():
    own = [{"ip-address": "10.0.0.5"}, {"ip-address": "FE80::1"}]
    interfaces = [
        {"name": "lo", "ip-addresses": [{"ip-address": "127.0.0.1"}], "hardware-address": "00:00:00:00:00:00"},
        {"name": "eth0", "ip-addresses": own, "hardware-address": "52:54:00:AA:00:01"},
        {"name": "sit0"},
    ]
    assert agent.addresses(interfaces) == {"52:54:00:aa:00:01": ("10.0.0.5", "fe80::1")}


def test_of_addresses_without_end_some_are_known():
    own = [{"ip-address": f"10.0.{number >> 8}.{number & 255}"} for number in range(1000)]
    many = [{"hardware-address": "52:54:00:aa:00:01", "ip-addresses": own}] * 1000
    assert len(agent.addresses(many)["52:54:00:aa:00:01"]) < 100


@pytest.mark.parametrize(
    "nonsense",
    [None, {}, "x", [None], [{"hardware-address": 5}], [{"hardware-address": "52:54:00:aa:00:01", "ip-addresses": 7}]],
)
def test_addresses_that_make_no_sense_are_left_out(nonsense):
    assert set(agent.addresses(nonsense).values()) <= {()}
