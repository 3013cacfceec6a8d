"""What is asked of a guest is passed on to the node, and kept nowhere on the way."""

import json

import pytest

from bocage.model import work
from tests.api.conftest import VMS, create, over_socket, problem


@pytest.fixture
async def machine(served, world):
    async with over_socket(world) as client:
        await create(client)
        yield client


async def test_a_command_is_passed_on_with_its_input(machine, node):
    asked = {"command": ["sh", "-c", "cat"], "stdin": "aGk=", "timeout": 5}
    assert (await machine.post(f"{VMS}/web1/exec", json=asked)).json()["exit_code"] == 0
    method, _, body = node.asked[0]
    assert method == "POST"
    assert json.loads(body) == asked
    problem(await machine.post(f"{VMS}/web1/exec", json={"command": []}), 422, "invalid-fields")
    problem(await machine.post(f"{VMS}/web1/exec", json={"command": ["x"], "stdin": "?"}), 422, "invalid-fields")
    problem(await machine.post(f"{VMS}/none/exec", json={"command": ["x"]}), 404, "not-found")


async def test_files_go_both_ways(machine, node):
    got = await machine.get(f"{VMS}/web1/file", params={"path": "/etc/hosts"})
    assert (got.content, got.headers["bocage-size"]) == (b"abc", "3")
    headers = {"content-type": "application/octet-stream"}
    put = await machine.put(
        f"{VMS}/web1/file", params={"path": "C:\\x y", "mode": "640"}, content=b"12", headers=headers
    )
    assert put.json() == {"size": 2, "mode": "0640"}
    assert node.asked == [("GET", {"path": "/etc/hosts"}, b""), ("PUT", {"path": "C:\\x y", "mode": "640"}, b"12")]
    problem(await machine.get(f"{VMS}/web1/file", params={"path": "etc/hosts"}), 422, "invalid-fields")
    problem(await machine.put(f"{VMS}/web1/file", params={"path": "/x", "mode": "8"}), 422, "invalid-fields")


async def test_a_password_is_in_no_task_and_no_event_and_no_complaint(machine, node, world):
    answer = await machine.post(f"{VMS}/web1/password", json={"user": "root", "password": "tr0ub4dor"})
    assert answer.status_code == 204
    assert json.loads(node.asked[0][2]) == {"user": "root", "password": "tr0ub4dor"}
    too_long = await machine.post(f"{VMS}/web1/password", json={"user": "root", "password": "tr0ub4dor" * 100})
    assert "tr0ub4dor" not in problem(too_long, 422, "invalid-fields")["title"]
    for kind in (work.Task, work.Event):
        for one in (await world.kept.list(kind)).items:
            assert "tr0ub4dor" not in one.model_dump_json()
