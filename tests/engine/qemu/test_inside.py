"""Inside a guest through its agent: one that does as it should, and those that do not."""

import asyncio
import base64
import io
import json
import pathlib
import tempfile
import tracemalloc
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from bocage.engine import inside
from bocage.engine.qemu import agent
from bocage.engine.qemu import inside as qemu

Asked = dict[str, Any]
Serve = Callable[..., Any]


class Guest:
    """An agent over a directory of its own, with what each test makes it do otherwise."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        self.files: dict[int, io.BufferedIOBase] = {}
        self.asked: list[tuple[str, Asked]] = []
        self.instead: dict[str, Callable[[Asked], Any]] = {}
        self.looks = 0

    def answer(self, command: str, given: Asked) -> Any:
        if command == "guest-sync-delimited":
            return given["id"]
        self.asked.append((command, given))
        if other := self.instead.get(command):
            return other(given)
        match command:
            case "guest-exec":
                return {"pid": 7}
            case "guest-exec-status":
                self.looks += 1
                done = {"exited": True, "exitcode": 3, "out-data": _base64(b"hi\n"), "err-data": _base64(b"oh\n")}
                return done if self.looks > 2 else {"exited": False}
            case "guest-file-open":
                path = self.root / given["path"].lstrip("/")
                if given["mode"] == "rb" and not path.exists():
                    raise LookupError("No such file or directory")
                handle = len(self.files) + 1000
                self.files[handle] = path.open("rb" if given["mode"] == "rb" else "wb")
                return handle
            case "guest-file-seek":
                where = {"set": 0, "end": 2}[given["whence"]]
                return {"position": self.files[given["handle"]].seek(given["offset"], where), "eof": False}
            case "guest-file-read":
                content = self.files[given["handle"]].read(given["count"])
                return {"count": len(content), "buf-b64": _base64(content), "eof": not content}
            case "guest-file-write":
                return {"count": self.files[given["handle"]].write(base64.b64decode(given["buf-b64"])), "eof": False}
            case "guest-file-close":
                self.files.pop(given["handle"]).close()
                return {}
            case "guest-file-flush":
                self.files[given["handle"]].flush()
                return {}
            case "guest-set-user-password":
                return {}
        raise LookupError(f"no {command}")

    def commands(self) -> list[str]:
        return [command for command, _ in self.asked]


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


async def _listens() -> bool:
    return True


@pytest.fixture
async def guest(tmp_path: pathlib.Path) -> AsyncIterator[tuple[Guest, inside.Inside]]:
    made = Guest(tmp_path)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            asked = json.loads(line.lstrip(b"\xff"))
            try:
                told = made.answer(asked["execute"], asked.get("arguments") or {})
            except LookupError as error:
                told = None
                answer = {"error": {"class": "GenericError", "desc": str(error.args[0])}}
            else:
                answer = {"return": told}
            if asked["execute"] == "guest-sync-delimited":
                writer.write(b"\xff")
            if isinstance(told, bytes):
                for at in range(0, len(told), 1 << 16):
                    writer.write(told[at : at + (1 << 16)])
                    await writer.drain()
                continue
            writer.write(json.dumps(answer).encode() + b"\n")
        writer.close()

    server = await asyncio.start_unix_server(talk, tmp_path / "qga", limit=8 << 20)
    yield made, qemu.Inside(agent.Agent(tmp_path / "qga"), _listens)
    server.close()


async def run(way: inside.Inside, *command: str, **more: Any) -> tuple[inside.Exit, dict[str, bytes]]:
    with tempfile.TemporaryFile() as spool:
        ended = await way.execute(inside.Order(command or ("true",), **more), spool)
        said = {"stdout": b"", "stderr": b""}
        for piece in way.output(spool):
            said[piece.stream] += base64.b64decode(piece.data)
        return ended, said


async def test_a_command_gets_its_input_and_gives_output_and_exit_code(guest):
    made, way = guest
    ended, said = await run(way, "wc", "-c", stdin=b"four")
    assert ended == inside.Exit(3, None)
    assert said == {"stdout": b"hi\n", "stderr": b"oh\n"}
    _, given = made.asked[0]
    assert given == {"path": "wc", "arg": ["-c"], "capture-output": True, "input-data": _base64(b"four")}
    assert made.commands().count("guest-exec") == 1


async def test_what_it_says_by_the_megabyte_never_stands_in_memory(guest):
    made, way = guest
    piece = _base64(b"0123456789ab" * 1024).encode()
    noise = b'{"return": {"exited": true, "signal": 9, "out-truncated": true, "out-data": "' + piece * 2900 + b'"}}\n'
    made.instead["guest-exec-status"] = lambda given: noise
    with tempfile.TemporaryFile() as spool:
        tracemalloc.start()
        try:
            ended = await way.execute(inside.Order(("yes",)), spool)
            taken = sum(len(base64.b64decode(piece.data)) for piece in way.output(spool))
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert ended == inside.Exit(None, 9, ("stdout",))
    assert taken == 12 * 1024 * 2900
    assert most < 12 << 20


@pytest.mark.parametrize(
    "nonsense",
    [
        b'{"return": {"exited": true, "out-data": "' + b"A" * (49 << 20) + b'"}}\n',
        b'{"return": {"exited": true, "out-data": "AAA"}}\n',
        b'{"return": {"exited": true, "x": "' + b"-" * (1 << 20) + b'"}}\n',
        b'{"return": {"exited": true' + b',"out-data":""' * (1 << 20) + b"}}\n",
        b'{"return": [1]}\n',
        b"[[[[[[\n",
        b"\n",
    ],
    ids=["flood", "no base64", "large", "in crumbs", "a list", "no JSON", "empty"],
)
async def test_an_agent_that_talks_nonsense_loses_its_command(guest, nonsense, monkeypatch):
    monkeypatch.setattr(qemu, "_SILENCE", 0.2)
    made, way = guest
    made.instead["guest-exec-status"] = lambda given: nonsense
    with pytest.raises(inside.Lost, match="process 7"):
        await run(way)


async def test_a_command_that_does_not_end_is_told_with_its_process(guest):
    made, way = guest
    made.instead["guest-exec-status"] = lambda given: {"exited": False}
    with pytest.raises(inside.NeverEnded, match="runs on in the guest as process 7"):
        await run(way, within=0.2)


async def test_an_agent_that_was_started_anew_has_forgotten_it(guest):
    made, way = guest

    def forgotten(given: Asked) -> Any:
        raise LookupError("Invalid parameter 'pid'")

    made.instead["guest-exec-status"] = forgotten
    with pytest.raises(inside.Lost):
        await run(way)


async def test_a_file_comes_back_as_it_went_and_a_new_one_gets_its_mode(guest, tmp_path):
    made, way = guest
    content = bytes(range(256)) * 20_000

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(content), 70_001):
            yield content[at : at + 70_001]

    made.instead["guest-exec-status"] = lambda given: {"exited": True, "exitcode": 0}
    assert await way.write("/a", pieces(), mode=0o640) == inside.Written(len(content), 0o640)
    order = made.commands()
    assert order.index("guest-exec") < order.index("guest-file-write"), "nobody else reads it meanwhile"
    assert [given["arg"] for command, given in made.asked if command == "guest-exec"] == [["640", "/a"]]
    assert (tmp_path / "a").read_bytes() == content
    assert await way.write("/a", pieces(), mode=0o600) == inside.Written(len(content), None), "it was there"
    async with way.read("/a") as (size, read):
        assert size == len(content)
        assert b"".join([piece async for piece in read]) == content
    assert made.files == {}


async def test_what_is_refused_has_the_agents_words_and_leaves_nothing_open(guest):
    made, way = guest
    with pytest.raises(agent.Refused, match="No such file"):
        async with way.read("/none"):
            pass

    def full(given: Asked) -> Any:
        raise LookupError("No space left on device")

    async def pieces() -> AsyncIterator[bytes]:
        yield b"x"

    made.instead["guest-file-write"] = full
    with pytest.raises(agent.Refused, match="No space left"):
        await way.write("/b", pieces())
    made.instead["guest-file-write"] = lambda given: {"count": 1, "eof": False}
    with pytest.raises(inside.NotWhole, match="0 bytes in the guest, 1 were sent"):
        await way.write("/b", pieces())
    assert made.files == {}


async def test_an_agent_that_sends_more_of_a_file_than_was_asked_for_is_not_believed(guest, tmp_path):
    made, way = guest
    (tmp_path / "a").write_bytes(b"abc")
    made.instead["guest-file-read"] = lambda given: {"count": 3, "buf-b64": _base64(b"abcdef"), "eof": False}
    with pytest.raises(agent.Absent):
        async with way.read("/a"):
            pass


async def test_a_password_goes_as_it_is_and_is_in_no_sentence(guest):
    made, way = guest
    await way.set_password("ada", "süß")
    assert made.asked == [
        ("guest-set-user-password", {"username": "ada", "password": _base64("süß".encode()), "crypted": False})
    ]

    def refuse(given: Asked) -> Any:
        raise LookupError("child process has failed to set user password")

    made.instead["guest-set-user-password"] = refuse
    with pytest.raises(agent.Refused) as told:
        await way.set_password("ada", "süß")
    assert "süß" not in str(told.value)
