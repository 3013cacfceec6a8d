"""Idempotency keys: sent twice, done once."""

import asyncio
import datetime

from bocage.api import idempotency
from bocage.model import base
from tests.api.conftest import VMS, problem

KEY = {"idempotency-key": "3b0c4e51-aaaa"}
TINY = {"name": "web1", "image": "tiny"}


async def test_the_same_request_is_answered_the_same_and_done_once(client, world):
    first = await client.post(VMS, json=TINY, headers=KEY)
    revision = await world.kept.store.revision()
    second = await client.post(VMS, json=TINY, headers=KEY)
    assert (second.status_code, second.content) == (first.status_code, first.content)
    assert second.headers["location"] == first.headers["location"]
    assert await world.kept.store.revision() == revision
    assert len(await world.tasks("vm.create")) == 1


async def test_many_of_the_same_at_once_are_done_once(client, world):
    answers = await asyncio.gather(*(client.post(VMS, json=TINY, headers=KEY) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.content for answer in answers}) == 1
    assert len(await world.tasks("vm.create")) == 1


async def test_verbs_are_done_once_too(client, world):
    await client.post(VMS, json=TINY)
    for _ in range(2):
        await client.post(f"{VMS}/web1/start", headers=KEY)
    assert len(await world.tasks("vm.start")) == 1


async def test_another_request_with_the_same_key_is_refused(client):
    await client.post(VMS, json=TINY, headers=KEY)
    problem(await client.post(VMS, json={**TINY, "name": "web2"}, headers=KEY), 422, "idempotency-key-reused")
    problem(await client.post(f"{VMS}/web1/start", headers=KEY), 422, "idempotency-key-reused")


async def test_what_was_refused_may_be_sent_again(client):
    problem(await client.post(VMS, json={**TINY, "image": "later"}, headers=KEY), 404, "no-such-image")
    assert (await client.post(VMS, json=TINY, headers=KEY)).status_code == 202


async def test_a_key_that_is_none_is_refused(client):
    for key in ("", "a" * 256, "two words"):
        problem(await client.post(VMS, json=TINY, headers={"idempotency-key": key}), 422, "idempotency-key-invalid")


async def test_a_tokens_text_is_not_kept_for_the_second_answer(client, world):
    first = (await client.post("/tokens", json={"name": "ci"}, headers=KEY)).json()
    second = (await client.post("/tokens", json={"name": "ci"}, headers=KEY)).json()
    assert first["token"].startswith("bcg_")
    assert second["token"] is None
    assert second["resource"] == first["resource"]
    secret = first["token"][-43:].encode()
    assert not any(secret in entry.value for entry in (await world.kept.store.list("/")).entries)


async def test_answers_are_forgotten_by_age_and_by_number(client, world, monkeypatch):
    for number in range(5):
        await client.post(VMS, json={**TINY, "name": f"web{number}"}, headers={"idempotency-key": f"key{number}"})
    store = world.kept.store
    monkeypatch.setattr(idempotency, "MOST", 3)
    assert await idempotency.prune(store) == 2
    assert await idempotency.prune(store, now=base.now() + datetime.timedelta(days=2)) == 3
    assert (await store.list("/bocage/1/idempotency/")).entries == []
