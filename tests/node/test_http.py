"""The node's own interface: streams, and problems in place of faults whatever is asked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import socket
from collections.abc import AsyncIterator

import httpx
import pytest
from websockets.asyncio import client as websockets
from websockets.exceptions import ConnectionClosed, InvalidStatus

from bocage import words
from bocage.model import base, vm, work
from bocage.node import doctor, http
from bocage.store import resources
from tests.node.house import BLANK, House


@pytest.fixture
async def interface(house: House) -> AsyncIterator[httpx.AsyncClient]:
    async with http.serve(house.node.shop, house.node.crew, house.node.sampling, house.homes.node_socket):
        transport = httpx.AsyncHTTPTransport(uds=str(house.homes.node_socket))
        async with httpx.AsyncClient(transport=transport, base_url="http://node", timeout=60) as client:
            yield client


def problem(answer: httpx.Response) -> tuple[int, str]:
    told = answer.json()
    assert told["status"] == answer.status_code
    assert words.say(words.revive(told["type"], told["params"]))  # it can be said
    return answer.status_code, told["type"]


NOBODY = base.new_uid()
PACKAGES = pathlib.Path(__file__).parents[2] / "script" / "packages"


@pytest.mark.parametrize(
    "path",
    ["log", "screenshot", "command", "yaml", "diff", "edited", "export", "isolation", "log?offset=x&follow=true"],
)
async def test_a_vm_that_nobody_knows_is_not_found(interface: httpx.AsyncClient, path: str):
    assert problem(await interface.get(f"/vms/{NOBODY}/{path}")) == (404, "not-found")
    assert (await interface.get(f"/vms/..%2f..%2fetc/{path}")).status_code == 404


@pytest.mark.parametrize("offset", ["x", "-1", "1e9", "9" * 30, "0x10", "\u0661"])
async def test_an_offset_that_is_no_number_of_bytes_is_refused(house: House, interface: httpx.AsyncClient, offset: str):
    made = await house.create(**BLANK)
    assert problem(await interface.get(f"/vms/{made.uid}/log", params={"offset": offset})) == (422, "invalid-fields")
    headers = [(b"Upload-Offset", offset.encode())]
    answer = await interface.patch("/uploads/some-key-1", content=b"x", headers=headers)
    assert problem(answer) == (422, "invalid-fields")


async def test_an_upload_without_an_offset_is_refused_and_one_goes_on_where_it_was(
    house: House, interface: httpx.AsyncClient
):
    assert problem(await interface.patch("/uploads/some-key-1", content=b"x")) == (422, "invalid-fields")
    assert problem(await interface.patch("/uploads/..%2e", content=b"x", headers={"Upload-Offset": "0"}))[0] == 422
    sent = await interface.patch("/uploads/some-key-1", content=b"abc", headers={"Upload-Offset": "0"})
    assert (sent.status_code, sent.headers["upload-offset"]) == (204, "3")
    assert problem(await interface.patch("/uploads/some-key-1", content=b"x", headers={"Upload-Offset": "9"}))[0] == 409
    assert (await interface.head("/uploads/some-key-1")).headers["upload-offset"] == "3"
    assert (await interface.delete("/uploads/some-key-1")).status_code == 204
    assert (await interface.head("/uploads/some-key-1")).headers["upload-offset"] == "0"
    assert problem(await interface.get("/uploads/some-key-1", params={"storage": "none"})) == (404, "not-found")


BODIES = [
    (b"", 422),
    (b"{", 422),
    (b"[]", 422),
    (b'"x"', 422),
    (b"\xff\xfe", 422),
    (b'{"pattern": 5, "timeout": 1}', 422),
    (b'{"timeout": 1}', 422),
    (b'{"pattern": "x", "timeout": NaN}', 422),
    (b'{"pattern": "x", "timeout": -1}', 422),
    (b'{"pattern": "x", "timeout": 1e999}', 422),
    (b'{"pattern": "(", "timeout": 1}', 422),
    (b'{"pattern": "x", "timeout": 1, "more": 1}', 422),
    (b"[" * 100_000, 422),
    (b'{"pattern": "' + b"a" * (2 << 20) + b'"}', 413),
]


@pytest.mark.parametrize(("body", "expected"), BODIES)
async def test_a_body_that_makes_no_sense_is_refused_with_words(
    house: House, interface: httpx.AsyncClient, body: bytes, expected: int
):
    made = await house.create(**BLANK)
    for verb in ("expect", "keys"):
        status, _ = problem(await interface.post(f"/vms/{made.uid}/{verb}", content=body))
        assert status == expected


async def test_what_needs_a_running_vm_says_so(house: House, interface: httpx.AsyncClient):
    made = await house.create(**BLANK)
    for what in ("screenshot", "isolation"):
        assert problem(await interface.get(f"/vms/{made.uid}/{what}")) == (409, "vm-not-running")
    assert problem(await interface.post(f"/vms/{made.uid}/keys", json={"keys": ["a"]})) == (409, "vm-not-running")


async def test_a_vm_that_is_not_made_yet_has_an_empty_log_and_no_definition(house: House, interface: httpx.AsyncClient):
    template = await house.create("template", **BLANK)
    volume = {"disks": (), "boot": vm.Boot()}
    made = vm.VM(metadata=base.Metadata(name="box", project="default"), spec=template.spec.model_copy(update=volume))
    await house.resources.create(made)
    await house.until(lambda: house.read(made), lambda one: one.status.ready)
    place = house.place(made)
    place.serial_log.unlink()
    answer = await interface.get(f"/vms/{made.uid}/log")
    assert (answer.status_code, answer.content, answer.headers["bocage-offset"]) == (200, b"", "0")
    place.definition.unlink()
    assert problem(await interface.get(f"/vms/{made.uid}/yaml")) == (404, "adopt-no-definition")


async def test_a_log_is_read_from_an_offset_and_followed(house: House, interface: httpx.AsyncClient):
    made = await house.create(**BLANK)
    log = house.place(made).serial_log
    log.write_bytes(b"one\ntwo\n")
    assert (await interface.get(f"/vms/{made.uid}/log")).text == "one\ntwo\n"
    assert (await interface.get(f"/vms/{made.uid}/log", params={"offset": 4})).text == "two\n"
    assert (await interface.get(f"/vms/{made.uid}/log", params={"source": "qemu"})).text == ""
    async with interface.stream("GET", f"/vms/{made.uid}/log", params={"follow": "true"}) as following:
        pieces = following.aiter_bytes()
        assert await anext(pieces) == b"one\ntwo\n"
        with log.open("ab") as file:
            file.write(b"three\n")
        async with asyncio.timeout(30):
            assert await anext(pieces) == b"three\n"


async def test_the_command_the_definition_and_its_differences_are_told(house: House, interface: httpx.AsyncClient):
    made = await house.create(start=True, **BLANK)
    told = (await interface.get(f"/vms/{made.uid}/command")).json()
    assert told["command"][0] == "qemu-system-x86_64"
    assert told["line"].startswith("qemu-system-x86_64 ")
    assert told["script"] == house.place(made).by_hand.read_text()
    await house.resources.change(vm.VM, "default", made.uid, lambda one: resources.with_spec(one, memory="48M"))
    differences = (await interface.get(f"/vms/{made.uid}/diff")).json()
    assert differences["pending"] == [{"path": "memory", "running": "32M", "wanted": "48M"}]
    definition = house.place(made).definition
    await house.until(lambda: asyncio.to_thread(definition.read_text), lambda text: "memory: 48M" in text)
    assert problem(await interface.get(f"/vms/{made.uid}/edited")) == (409, "vm-yaml-not-edited")
    definition.write_text(definition.read_text().replace("memory: 48M", "memory: 64M"))
    assert (await interface.get(f"/vms/{made.uid}/edited")).json()["spec"]["memory"] == "64M"
    differences = (await interface.get(f"/vms/{made.uid}/diff")).json()
    assert differences["edited"] == [{"path": "spec.memory", "is": "48M", "edited": "64M"}]
    definition.write_text("- no definition\n")
    assert problem(await interface.get(f"/vms/{made.uid}/edited")) == (422, "vm-yaml-unreadable")


async def test_an_export_of_a_running_vm_is_refused_before_the_stream_begins(
    house: House, interface: httpx.AsyncClient
):
    made = await house.create(start=True, **BLANK)
    assert problem(await interface.get(f"/vms/{made.uid}/export")) == (409, "export-while-running")
    await house.ask("vm.kill", made)
    exported = await interface.get(f"/vms/{made.uid}/export")
    assert exported.content.startswith(b"\x28\xb5\x2f\xfd")  # zstd
    assert (await house.ask("vm.start", made)).status.state is work.TaskState.DONE


async def test_a_client_that_goes_away_in_an_export_leaves_the_vm_free(house: House, interface: httpx.AsyncClient):
    made = await house.create(**{**BLANK, "disk": "256M"})
    disk = next(house.place(made).disks.iterdir())
    with disk.open("r+b") as file:
        file.seek(1 << 20)
        file.write(os.urandom(64 << 20))
    async with interface.stream("GET", f"/vms/{made.uid}/export") as answer:
        await anext(answer.aiter_raw())
    await house.until(
        lambda: asyncio.to_thread(lambda: list(house.place(made).path.glob(".export*"))), lambda left: left == []
    )
    assert not house.node.preparation.in_use.is_copied(made)


def console(house: House, uid: str, **query: str) -> websockets.connect:
    tail = "&".join(f"{name}={value}" for name, value in query.items())
    return websockets.unix_connect(str(house.homes.node_socket), f"ws://node/vms/{uid}/console?{tail}")


async def heard(socket: websockets.ClientConnection, wanted: bytes) -> None:
    said = b""
    async with asyncio.timeout(60):
        async for piece in socket:
            said += piece if isinstance(piece, bytes) else piece.encode()
            if wanted in said:
                return


@pytest.mark.guest
async def test_many_watch_a_console_one_types_and_another_may_take_that_over(
    tiny_house: House, interface: httpx.AsyncClient
):
    house = tiny_house
    made = await house.create(start=True, image="tiny", memory="128M", disk="64M", nics=[])
    await house.says(made, "^tiny: ready")
    async with (
        console(house, made.uid, write="false") as first,
        console(house, made.uid, write="false") as second,
        console(house, made.uid) as writer,
    ):
        await writer.send(b"echo her''on\r")
        await asyncio.gather(*[heard(one, b"heron") for one in (first, second, writer)])
        assert await refused(house, made.uid) == (409, "console-taken")
        async with console(house, made.uid, take="true") as taker:
            await taker.send(b"echo wa''gtail\r")
            await heard(first, b"wagtail")
            await writer.send(b"x")
            assert await closing(writer) == (4409, "somebody else has taken over the console of box")
            await taker.send(b"echo la''st; tiny stop\r")
            await heard(first, b"last")
            for one in (first, taker):
                assert await closing(one) == (1000, "box is off")
    await house.becomes(made, vm.State.STOPPED)
    for write in ("true", "false"):
        assert await refused(house, made.uid, write=write) == (409, "vm-not-running")


async def closing(socket: websockets.ClientConnection) -> tuple[int | None, str | None]:
    """How it is closed."""
    async with asyncio.timeout(60):
        with contextlib.suppress(ConnectionClosed):
            async for _ in socket:
                pass
    return socket.close_code, socket.close_reason


async def refused(house: House, uid: str, **query: str) -> tuple[int, str]:
    """With what a console is refused."""
    with pytest.raises(InvalidStatus) as closed:
        await asyncio.wait_for(console(house, uid, **query), 30)
    answer = closed.value.response
    return answer.status_code, json.loads(answer.body)["type"]


async def test_a_console_of_nobody_is_refused(house: House, interface: httpx.AsyncClient):
    assert await refused(house, NOBODY) == (404, "not-found")


async def test_a_console_ends_with_its_vm_and_has_shown_all_until_then(house: House, interface: httpx.AsyncClient):
    made = await house.create(start=True, **BLANK)
    async with console(house, made.uid, write="false") as watcher:
        with house.place(made).serial_log.open("ab") as log:
            log.write(b"x" * (1 << 20))
        await house.ask("vm.kill", made)
        said = 0
        async with asyncio.timeout(60):
            async for piece in watcher:
                said += len(piece)
        assert said >= 1 << 20
        assert (watcher.close_code, watcher.close_reason) == (1000, "box is off")


async def test_the_doctor_looks_for_every_package_that_the_project_names(
    interface: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
):
    checks = (await interface.get("/doctor")).json()["checks"]
    assert {check["level"] for check in checks} <= {"ok", "warning", "error"}
    assert all(check["text"] for check in checks)
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    lacking = {
        check["params"]["package"]: check["level"]
        for check in (await interface.get("/doctor")).json()["checks"]
        if check["type"].startswith("doctor-lacking")
    }
    lines = [line.split() for line in PACKAGES.read_text().splitlines() if not line.startswith("#")]
    for_us = [[], ["root"], ["disks"]] if os.geteuid() == 0 else [[]]
    needed = {name for name, _, *purpose in lines if purpose in for_us}
    assert lacking.keys() == needed - {"python3", "python3-venv"}
    assert (lacking["qemu-utils"], lacking["mmdebstrap"]) == ("error", "warning")


async def test_the_doctor_says_how_memory_is_written_and_what_would_spare_the_guest_that(
    interface: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
):
    async def said() -> list[str]:
        checks = (await interface.get("/doctor")).json()["checks"]
        return [check["type"] for check in checks if check["type"].startswith("doctor-memory")]

    monkeypatch.setattr(doctor, "_HOLDS_BACK", tmp_path / "knob")
    assert await said() == ["doctor-memory-ahead-always"]
    for value, expected in (("0", "doctor-memory-ahead"), ("1", "doctor-memory-behind")):
        (tmp_path / "knob").write_text(f"{value}\n")
        assert await said() == [expected]


async def test_the_doctor_says_which_published_port_somebody_else_has(house: House, interface: httpx.AsyncClient):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        nics = [{"network": "default", "publish": [{"host_port": port, "guest_port": 22}]}]
        made = await house.create(**BLANK | {"nics": nics})
        checks = (await interface.get("/doctor")).json()["checks"]
        [taken] = [check for check in checks if check["type"] == "doctor-port-taken"]
    assert (taken["params"]["name"], taken["params"]["port"]) == (made.name, port)
    checks = (await interface.get("/doctor")).json()["checks"]
    assert not any(check["type"] == "doctor-port-taken" for check in checks)


async def test_a_fault_of_the_program_is_told_by_a_reference_and_no_more(
    house: House, interface: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
):
    made = await house.create(**BLANK)
    place = house.place(made)
    place.serial_log.unlink()
    place.serial_log.mkdir()
    answer = await interface.get(f"/vms/{made.uid}/log")
    assert answer.status_code >= 500
    assert json.loads(answer.content)["type"] in ("os-error", "internal")
    with contextlib.suppress(OSError):
        place.serial_log.rmdir()
