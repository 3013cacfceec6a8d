"""Who may ask."""

import datetime
import logging

import pytest
from fastapi.routing import APIRoute, APIWebSocketRoute

from bocage.api import app as application
from bocage.api import auth, calls
from bocage.model import base, work
from tests.api.conftest import asking, problem

TCP = ("127.0.0.1", 40000)


@pytest.fixture
async def token(client):
    return (await client.post("/tokens", json={"name": "ci"})).json()["token"]


async def test_over_the_socket_the_peers_uid_is_known(app):
    async with asking(app, ("unix", 1000)) as client:
        assert (await client.get("/whoami")).json() == {"name": "unix:1000", "local": True}
    async with asking(app, ("unix", 1001)) as client:
        problem(await client.get("/whoami"), 403, "user-not-allowed")


async def test_over_the_network_a_token_is_needed_for_everything(app):
    async with asking(app, TCP) as client:
        for path in ("/whoami", "/version", "/openapi.json", "/projects/default/vms", "/nothing"):
            answer = await client.get(path)
            problem(answer, 401, "token-needed")
            assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_token_opens_and_is_kept_as_a_hash_alone(app, token, world):
    async with asking(app, TCP, headers={"authorization": f"Bearer {token}"}) as client:
        assert (await client.get("/whoami")).json() == {"name": "token:ci", "local": False}
    secret = token[-43:].encode()
    assert not any(secret in entry.value for entry in (await world.kept.store.list("/")).entries)


async def test_what_is_no_token_opens_nothing(app, token):
    wrong = token[:-1] + ("A" if token[-1] != "A" else "B")
    other = "bcg_" + "0" * 32 + token[-43:]
    async with asking(app, TCP) as client:
        for given in (
            f"Bearer {wrong}",
            f"Bearer {other}",
            f"Basic {token}",
            "Bearer",
            "Bearer bcg_",
            token,
            "Bearer é",
        ):
            answer = await client.get("/whoami", headers=[(b"authorization", given.encode())])
            problem(answer, 401, "token-unknown")


async def test_a_wrong_token_is_not_made_good_by_the_socket(client):
    problem(await client.get("/whoami", headers={"authorization": "Bearer x"}), 401, "token-unknown")


async def test_a_deleted_token_opens_nothing_more(app, client, token):
    assert (await client.delete("/tokens/ci")).status_code == 204
    problem(await client.delete("/tokens/ci"), 404, "not-found")
    async with asking(app, TCP, headers={"authorization": f"Bearer {token}"}) as other:
        problem(await other.get("/whoami"), 401, "token-unknown")


async def test_an_expired_token_opens_nothing(app, client, world):
    made = (await client.post("/tokens", json={"name": "short", "days": 1})).json()
    held = await world.kept.find(work.Token, "default", "short")
    assert held.spec.expires
    assert abs(held.spec.expires - base.now() - datetime.timedelta(days=1)) < datetime.timedelta(minutes=5)
    await world.kept.change(
        work.Token, "default", held.uid, lambda one: one.model_copy(
            update={"spec": work.TokenSpec(hash=one.spec.hash, expires=base.now() - datetime.timedelta(seconds=1))}
        )
    )  # fmt: skip
    async with asking(app, TCP, headers={"authorization": f"Bearer {made['token']}"}) as other:
        problem(await other.get("/whoami"), 401, "token-expired")


async def test_the_last_use_is_written_once_a_minute_at_most(app, token, world):
    authentication = auth.Authentication(world.kept, allowed_uids=[0])
    scope = {"type": "http", "headers": [(b"authorization", f"Bearer {token}".encode())], "client": TCP}
    for _ in range(5):
        await authentication.ask(scope)
    for noting in list(authentication._noting):
        await noting
    held = await world.kept.find(work.Token, "default", "ci")
    assert held.status.last_used
    revision = await world.kept.store.revision()
    await authentication.ask(scope)
    assert not authentication._noting
    assert await world.kept.store.revision() == revision


async def test_files_of_the_host_are_named_only_from_the_host(app, client, token):
    image = {"name": "shadow", "path": "/etc/shadow"}
    async with asking(app, TCP, headers={"authorization": f"Bearer {token}"}) as other:
        problem(await other.post("/projects/default/images", json=image), 403, "path-only-locally")
        problem(await other.post("/adopt", json={"directories": ["/srv/old"]}), 403, "adopt-only-locally")
    assert (await client.post("/projects/default/images", json=image)).status_code == 202


async def test_a_permission_that_is_not_held_is_refused(client, monkeypatch):
    monkeypatch.setattr(auth.Asker, "may", lambda self, permission: permission != "vm:create")
    said = problem(await client.post("/projects/default/vms", json={"name": "a", "image": "tiny"}), 403, "not-allowed")
    assert said["permission"] == "vm:create"
    assert (await client.get("/projects/default/vms")).status_code == 200


def test_every_route_declares_what_it_needs():
    undeclared = []
    for route in application.routes():
        assert isinstance(route, APIRoute | APIWebSocketRoute)
        needs = [one.call.permission for one in route.dependant.dependencies if isinstance(one.call, calls.May)]
        if len(needs) != 1 or ":" not in needs[0]:
            undeclared.append(route.path)
    assert undeclared == ["/api/v1/openapi.json"]


async def test_a_refusal_is_in_the_log_once(client, caplog):
    with caplog.at_level(logging.INFO):
        await client.get("/projects/default/vms/nope")
    lines = [record for record in caplog.records if record.name.startswith("bocage")]
    assert len(lines) == 1
    assert "not-found" in lines[0].getMessage()
    assert lines[0].levelno == logging.INFO


async def test_a_fault_of_our_own_is_answered_with_a_reference_and_logged_once_with_its_trace(client, app, caplog):
    async def broken(*_, **__):
        raise ZeroDivisionError("secret words")

    app.state.api.views.page = broken
    with caplog.at_level(logging.INFO):
        answer = await client.get("/projects/default/vms")
    said = problem(answer, 500, "internal")
    assert "secret" not in answer.text
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert said["reference"] in record.getMessage()
    assert record.exc_info
