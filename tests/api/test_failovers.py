"""Failovers over the API: what there is to read, what would be, and a person's word."""

import datetime

import httpx

from bocage.model import base, failover, ground, standing, standstill, vm
from bocage.planner import outages
from bocage.planner import standstill as planner
from bocage.store import resources
from tests.api.conftest import VMS, create, problem

OTHER = base.new_uid()


async def enter_other(world, **status) -> ground.Host:
    """A second host that reaches all that the first one does."""
    await world.kept.change(
        ground.Storage,
        None,
        world.storage.uid,
        lambda one: resources.with_spec(one, kind="shared", host=None, path="/array"),
    )
    reach = {uid: ground.Reach(state="ready") for uid in (world.host.uid, OTHER)}
    await world.kept.change_status(
        ground.Storage, None, world.storage.uid, lambda one: one.status.model_copy(update={"hosts": reach})
    )
    about = {"uid": OTHER, "name": "host2"}
    made = {**world.host.status.model_dump(), "memory_bytes": 64 << 30, "cpus": 8, **status}
    host = ground.Host.model_validate({"metadata": about, "spec": {}, "status": made})
    await world.kept.create(host)
    return host


async def own(world, name: str, host: str) -> vm.VM:
    machine = await world.kept.find(vm.VM, "default", name)
    transaction = resources.Transaction()
    transaction.set_owner(machine, vm.Owner(host=host, generation=1), expected=0)
    await world.kept.commit(transaction)
    return machine


async def failed(world, **status) -> failover.Failover:
    """A failover of this host that is under way."""
    spec = failover.FailoverSpec(host=world.host.uid, host_name=world.host.name, epoch=4)
    about = base.Metadata(name=failover.name_of(world.host.name, 4), uid=base.timed_uid())
    made = failover.Failover(metadata=about, spec=spec, status=failover.FailoverStatus(**status))
    await world.kept.create(made)
    return made


async def confirm(client, world, *, off: bool = True) -> httpx.Response:
    return await client.post("/failovers/confirm", json={"host": world.host.name, "off": off})


async def test_failovers_are_read_and_the_newest_comes_last(client, world):
    assert (await client.get("/failovers")).json()["items"] == []
    made = await failed(world)
    assert (await client.get("/failovers?limit=1")).json()["items"][-1]["metadata"]["uid"] == made.uid
    assert (await client.get(f"/failovers/{made.name}")).json()["spec"]["epoch"] == 4
    problem(await client.get("/failovers/host9-9"), 404, "not-found")


async def test_what_would_become_of_a_hosts_vms(client, world):
    await create(client, start=True)
    await create(client, "large", memory="8G", start=True)
    await enter_other(world, memory_bytes=4 << 30)
    for name in ("web1", "large"):
        await own(world, name, world.host.uid)
    found = (await client.get(f"/failovers/simulation?host={world.host.name}")).json()
    would = {one["vm"]["name"]: one for one in found["vms"]}
    assert (would["web1"]["to"], would["web1"]["runs"]) == ("host2", True)
    assert (would["large"]["to"], would["large"]["reason"]["type"]) == (None, "survive-no-room")
    assert [(one["vm"]["name"], one["stage"]) for one in found["vms"]] == [("web1", 1), ("large", None)]
    assert found["forecast"] == {"proof": None, "given": None, "started": None, "seen": 0}
    assert {one["kind"]: one["there"] for one in found["proofs"]} == {
        "power": False,
        "time": False,
        "word": True,
        "person": True,
    }
    assert (await client.get("/failovers/simulation?host=host2")).json()["vms"] == []
    problem(await client.get("/failovers/simulation?host=none"), 404, "not-found")


async def test_a_persons_word_is_kept_with_the_name_where_it_is_waited_for(client, world):
    problem(await confirm(client, world), 409, "failover-nothing-to-confirm")
    made = await failed(world)
    problem(await confirm(client, world, off=False), 422, "failover-not-said")
    assert (await world.kept.get(failover.Failover, None, made.uid)).spec.confirmed is None
    answer = await confirm(client, world)
    assert answer.json()["spec"]["confirmed"]["by"] == "unix:0"
    again = await confirm(client, world)
    assert again.json()["spec"]["confirmed"] == answer.json()["spec"]["confirmed"]
    await world.kept.change_status(
        failover.Failover, None, made.uid, lambda one: one.status.model_copy(update={"state": failover.State.MOVING})
    )
    problem(await confirm(client, world), 409, "failover-nothing-to-confirm")


async def test_no_word_counts_against_a_bmc_that_says_that_the_host_has_power(client, world):
    on = failover.Step(time=base.now(), said=base.Saying.of(outages.PowerStillOn(host="host1")))
    away = failover.Step(
        time=base.now(), said=base.Saying.of(outages.BmcFailed(host="host1", problem=on.said.model_dump()))
    )
    made = await failed(world, steps=(on,))
    problem(await confirm(client, world), 409, "failover-still-on")
    assert (await world.kept.get(failover.Failover, None, made.uid)).spec.confirmed is None
    await world.kept.change_status(
        failover.Failover, None, made.uid, lambda one: one.status.model_copy(update={"steps": (on, away)})
    )
    assert (await confirm(client, world)).status_code == 200


async def test_how_the_hosts_stand_is_what_the_leader_has_written(client, world):
    assert (await client.get("/failovers/standing")).json() == {"leader": None, "since": None, "hosts": []}
    one = standing.HostStanding(host=world.host.uid, name=world.host.name, state="silent", since=base.now())
    gone = standing.HostStanding(host=OTHER, name="gone", state="never")
    told = standing.Standing(leader="host2", term=3, since=base.now(), hosts=(one, gone))
    await world.kept.store.apply(puts={standing.KEY: told.model_dump_json().encode()})
    found = (await client.get("/failovers/standing")).json()
    assert found["leader"] == "host2"
    assert [(host["name"], host["state"]) for host in found["hosts"]] == [(world.host.name, "silent")]
    assert {proof["kind"] for proof in found["hosts"][0]["proofs"]} == {"power", "time", "word", "person"}


async def test_a_start_that_takes_the_room_kept_for_a_host_that_dies_is_refused_and_done_anyway(client, world):
    other = await enter_other(world, memory_bytes=6 << 30)
    await create(client, memory="5G", start=True)
    await create(client, "late", memory="4G")
    await own(world, "web1", world.host.uid)
    await own(world, "late", other.uid)
    assert (await client.get("/cluster/policy")).json() == {"survive": 0}
    assert (await client.patch("/cluster/policy", json={"survive": 1})).json() == {"survive": 1}
    assert (await client.get("/plan/world")).json()["survive"] == 1
    refused = problem(await client.post(f"{VMS}/late/start"), 409, "vm-start-breaks-survival")
    assert "web1 could not start again if" in refused["title"]
    assert "3G are missing" in refused["title"]
    assert (await client.post(f"{VMS}/late/start", json={"anyway": True})).status_code == 202
    await client.patch("/cluster/policy", json={"survive": 3})
    assert (await client.get("/cluster/policy")).json() == {"survive": 1}


async def test_a_shutdown_tells_how_far_it_is_and_ends_by_a_start(client, world):
    assert (await client.get("/cluster/standstill")).json()["phase"] == "works"
    assert (await client.post("/cluster/start", json={})).json()["phase"] == "works"
    problem(await client.post("/cluster/shutdown", json={}), 409, "cluster-none")
    await create(client, "db", start=True)
    await create(client, "web1", start=True, autostart={"after": ["db"]})
    for name in ("db", "web1"):
        await own(world, name, world.host.uid)
        await world.set_status(name, state=vm.State.RUNNING)
    machines = (await world.kept.list(vm.VM)).items
    made = planner.begin(machines, by="root", now=base.now() - datetime.timedelta(seconds=600))
    found = planner.step(made, {one.uid: one for one in machines}, {}, now=base.now())
    assert found is not None
    await world.kept.store.apply(puts={standstill.KEY: found.model_dump_json().encode()})
    told = (await client.get("/cluster/standstill")).json()
    assert (told["phase"], told["ran"], told["left"], told["stuck"]) == ("stopping", 2, ["web1"], ["web1"])
    told = (await client.post("/cluster/start", json={})).json()
    assert (told["phase"], told["left"]) == ("starting", [])
    assert (await client.post("/cluster/start", json={})).json()["since"] == told["since"]


async def test_a_vm_says_what_it_survives(client, world):
    await create(client, start=True)
    await own(world, "web1", world.host.uid)
    losses = (await client.get(f"{VMS}/web1/survives")).json()["losses"]
    assert {one["loss"]: one["answer"] for one in losses} == {
        "disk": "no",
        "host": "no",
        "site": "no",
        "slip": "partly",
    }
    assert losses[1]["said"]["text"].startswith("no other host could have it: no other host may have it")
    await enter_other(world)
    (_, of_host, *_) = (await client.get(f"{VMS}/web1/survives")).json()["losses"]
    assert (of_host["answer"], of_host["shown"]) == ("partly", None)
