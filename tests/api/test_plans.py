"""What a planner would do, asked over the API: of the world as it is, and of one that was kept."""

import asyncio
import json
import threading
import time
from typing import Any

import pytest

from bocage.api import plans
from bocage.model import plan
from bocage.planner import rebalance, snapshot
from tests.api.conftest import VMS, over_socket, problem

HOSTS = [{"name": name, "memory": "8G", "cpus": 4, "storages": ["array"]} for name in ("host1", "host2")]
KEPT = {
    "hosts": HOSTS,
    "vms": [{"name": f"vm{n}", "memory": "1G", "host": "host1", "storages": ["array"]} for n in range(4)],
}


async def test_the_world_is_given_as_it_is_and_taken_as_it_was_given(client, world):
    await client.post(VMS, json={"name": "web1", "image": "tiny"})
    await world.set_status("web1", host=world.host.uid)
    told = (await client.get("/plan/world", params={"survive": 1})).json()
    assert [host["name"] for host in told["hosts"]] == [world.host.name]
    assert [(vm["name"], vm["storages"]) for vm in told["vms"]] == [("web1", [world.storage.name])]
    assert plan.World.model_validate(told).survive == 1
    asked = await client.post("/plan/rebalance", json={"world": told})
    assert (asked.status_code, asked.json()["moves"]) == (200, [])
    replayed = await client.post("/plan/place", json={"vm": "web1", "world": told})
    now = await client.post("/plan/place", json={"vm": "web1"})
    assert replayed.json()["verdicts"][0]["host"] == now.json()["verdicts"][0]["host"] == world.host.name


async def test_a_kept_world_is_planned_and_each_answer_has_its_words(client):
    found = (await client.post("/plan/rebalance", json={"world": KEPT, "survive": 1})).json()
    assert [(move["origin"], move["to"]) for move in found["moves"]] == [("host1", "host2")] * 2
    assert found["moves"][0]["because"]["text"].startswith("the score falls from")
    new = {"name": "new", "memory": "9G"}
    placed = (await client.post("/plan/place", json={"world": KEPT, "new": new})).json()
    assert placed["host"] is None
    assert [verdict["reasons"][0]["type"] for verdict in placed["verdicts"]] == ["admission-no-memory"] * 2
    assert placed["verdicts"][0]["reasons"][0]["text"].startswith("9G of memory are asked for")


async def test_what_does_not_hold_together_is_refused_with_where_it_stands(client):
    lost = await client.post("/plan/place", json={"world": KEPT, "vm": "other"})
    assert (lost.status_code, lost.json()["type"]) == (404, "urn:bocage:problem:plan-no-such-vm")
    broken = {**KEPT, "hosts": HOSTS[1:]}
    refused = await client.post("/plan/rebalance", json={"world": broken})
    assert refused.status_code == 422
    many = {"hosts": [{"name": f"host{n}", "memory": "1G", "cpus": 1} for n in range(101)]}
    refused = await client.post("/plan/rebalance", json={"world": many, "survive": 2})
    assert (refused.status_code, refused.json()["faults"][0]["path"]) == (422, "survive")


async def test_groups_of_a_kept_world_have_a_bound(client):
    def kept(count: int, groups: list[str]) -> dict[str, object]:
        return {"vms": [{"name": f"vm{n}", "memory": "1M", "apart": groups} for n in range(count)]}

    for world, path in (
        (kept(1001, ["web"]), "world.vms"),
        (kept(1, [f"g{n}" for n in range(17)]), "world.vms.0.apart"),
    ):
        refused = problem(await client.post("/plan/rebalance", json={"world": world}), 422, "invalid-fields")
        assert refused["faults"][0]["path"] == path
    assert (await client.post("/plan/rebalance", json={"world": kept(1000, ["web"])})).status_code == 200


async def test_a_new_vm_must_hold_together_with_the_world(client):
    new = {"name": "new", "memory": "1G", "replica": "nohost"}
    refused = await client.post("/plan/place", json={"world": KEPT, "new": new})
    assert problem(refused, 422, "invalid-fields")["faults"][0]["path"] == "vms"
    known = await client.post("/plan/place", json={"world": KEPT, "new": {**new, "replica": "host2", "host": "other"}})
    assert known.json()["host"] == "host1"


async def test_a_place_is_asked_for_one_vm(client):
    new = {"name": "new", "memory": "1G"}
    for asked in ({}, {"vm": "vm1", "new": new}):
        refused = await client.post("/plan/place", json={"world": KEPT, **asked})
        assert problem(refused, 422, "invalid-fields")["faults"][0]["path"] == "vm"


async def test_a_kept_world_may_be_larger_than_other_bodies(client):
    text, headers = json.dumps({"world": KEPT, "vm": "vm1"}), {"content-type": "application/json"}
    taken = await client.post("/plan/place", content=text + " " * (6 << 20), headers=headers)
    assert taken.status_code == 200
    refused = await client.post("/plan/place", content=text + " " * (8 << 20), headers=headers)
    problem(refused, 413, "body-too-large")


async def test_a_world_says_its_version_and_two_hosts_at_once_have_a_bound(client, world, monkeypatch):
    assert (await client.get("/plan/world")).json()["version"] == 1
    many = plan.World.model_validate({"hosts": [{"name": f"host{n}", "memory": "1G", "cpus": 1} for n in range(101)]})
    monkeypatch.setattr(snapshot, "world", lambda *_, survive=0, **__: plan.World(hosts=many.hosts, survive=survive))
    refused = problem(await client.get("/plan/world", params={"survive": 2}), 422, "invalid-fields")
    assert refused["faults"][0]["path"] == "survive"


class Endless:
    """The real plan, made over and over until it is told to end, and not before."""

    def __init__(self) -> None:
        self.begun, self.ended = threading.Event(), threading.Event()
        self._plan = rebalance.rebalance

    def __call__(self, of: plan.World, **asked: Any) -> plan.Rebalanced:
        bound = time.monotonic() + 120
        self.begun.set()
        try:
            while (found := self._plan(of, **asked)).complete:
                assert time.monotonic() < bound, "nobody told it to end"
            return found
        finally:
            self.ended.set()


@pytest.fixture
def endless(monkeypatch):
    found = Endless()
    monkeypatch.setattr(rebalance, "rebalance", found)
    return found


async def test_a_plan_ends_when_whoever_asked_leaves(served, world, endless):
    async with over_socket(world) as client:
        asking = asyncio.create_task(client.post("/plan/rebalance", json={"world": KEPT}))
        assert await asyncio.to_thread(endless.begun.wait, 60)
        asking.cancel()
    assert await asyncio.to_thread(endless.ended.wait, 60)
    async with over_socket(world) as client:
        assert (await client.post("/plan/place", json={"world": KEPT, "vm": "vm1"})).status_code == 200


async def test_a_plan_ends_with_the_daemon(served, world, endless):
    async with over_socket(world) as client:
        asking = asyncio.create_task(client.post("/plan/rebalance", json={"world": KEPT}))
        assert await asyncio.to_thread(endless.begun.wait, 60)
        served.state.api.closing.set()
        problem(await asking, 503, "plan-given-up")
    assert endless.ended.is_set()


async def test_a_plan_has_its_time_and_another_waits_so_long_for_it(client, endless, monkeypatch):
    monkeypatch.setattr(plans, "_WAITED", 0.01)
    asking = asyncio.create_task(client.post("/plan/rebalance", json={"world": KEPT}))
    assert await asyncio.to_thread(endless.begun.wait, 60)
    problem(await client.post("/plan/place", json={"world": KEPT, "vm": "vm1"}), 503, "plan-busy")
    asking.cancel()
    assert await asyncio.to_thread(endless.ended.wait, 60)
    monkeypatch.setattr(plans, "_LONGEST", 0.01)
    assert (await client.post("/plan/rebalance", json={"world": KEPT})).json()["complete"] is False
