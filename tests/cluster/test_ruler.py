"""The leader's work with everything but QEMU: three hosts over one store, their BMCs, a clock that the test turns."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from bocage.model import failover, ground, policy, standstill, vm
from bocage.model.failover import State
from bocage.planner import standstill as planner
from bocage.store import resources
from tests.cluster.ground import PROFILE, World


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.close()


async def test_a_silent_hosts_vms_are_given_to_others_and_the_record_tells_it_all(world):
    await world.build(3)
    leader, victim, _ = world.hosts
    await world.run(3)
    assert world.leader() is leader
    web, off = await world.machine("web", victim), await world.machine("off", victim, power="stopped")
    stays = await world.machine("stays", leader)
    victim.alive = False
    await world.run(4)
    assert world.power.orders == [victim.uid]
    assert {await world.owner(web), await world.owner(off)} <= {"host1", "host3"}
    assert await world.owner(stays) == "host1"
    (record,) = await world.failovers()
    assert record.name == "host2-2"
    assert record.status.state is State.MOVING
    assert record.status.proof == "power"
    await world.runs(web)
    await world.run(1)
    (record,) = await world.failovers()
    assert record.status.state is State.DONE
    said = [step.said.type for step in record.status.steps]
    assert said == [
        "failover-epoch-raised",
        "failover-power-ordered",
        "failover-power-read",
        "failover-power-read",
        "failover-proven-power",
        "failover-ended",
    ]
    assert (record.status.steps[0].time - record.status.silent_since).total_seconds() > PROFILE.silence
    by_name = {one.vm.name: one for one in record.status.vms}
    assert by_name["web"].started
    assert by_name["web"].to
    assert by_name["off"].to
    assert by_name["off"].started is None
    assert set(await world.alarms()) == {"alarm-host-dead"}


async def test_the_next_leader_ends_what_a_leader_that_died_had_begun(world):
    await world.build(4)
    first, victim, *_ = world.hosts
    web = await world.machine("web", victim)
    await world.run(3)
    assert world.leader() is first
    world.power.dead.add(victim.uid)
    victim.alive = False
    await world.run(3)
    assert await world.owner(web) == "host2"
    first.alive = False
    world.power.dead.clear()
    await world.run(5)
    assert world.leader() not in (None, first)
    assert await world.owner(web) in ("host3", "host4")
    record = next(one for one in await world.failovers() if one.spec.host == victim.uid)
    said = [step.said.type for step in record.status.steps]
    assert said.count("failover-epoch-raised") == 1
    assert "failover-bmc-failed" in said
    assert said.index("failover-led-by") < said.index("failover-proven-power")


async def test_a_bmc_that_answers_nonsense_for_a_while_is_asked_again(world):
    await world.build(3)
    leader, victim, _ = world.hosts
    await world.run(3)
    assert world.leader() is leader
    web = await world.machine("web", victim)
    world.power.mad[victim.uid] = 3
    victim.alive = False
    await world.run(8)
    assert world.power.mad[victim.uid] == 0
    assert await world.owner(web) in ("host1", "host3")


async def test_an_order_that_comes_when_its_host_is_proven_dead_or_another_leads_is_not_given(world):
    await world.build(3)
    leader, victim, _ = world.hosts
    await world.run(3)
    assert world.leader() is leader
    await world.machine("web", victim)
    world.power.meanwhile.append(leader.ruler.ruling.fences.clear)
    victim.alive = False
    await world.run(6)
    assert world.power.orders == []
    world.power.meanwhile.clear()
    await world.run(6)
    assert world.power.orders == [victim.uid]


async def test_without_a_proof_it_waits_and_asks_and_a_persons_word_is_one(world):
    await world.build(3, bmc=False)
    _, victim, _ = world.hosts
    web = await world.machine("web", victim)
    await world.run(3)
    victim.alive = False
    await world.run(30)
    assert await world.owner(web) == "host2"
    assert set(await world.alarms()) == {"alarm-host-silent", "alarm-failover-waits"}
    (record,) = await world.failovers()
    assert record.status.waits.type == "alarm-failover-waits"
    word = failover.Confirmed(by="unix:0", when=world.wall())
    await world.kept.change(failover.Failover, None, record.uid, lambda one: resources.with_spec(one, confirmed=word))
    await world.run(1)
    assert await world.owner(web) in ("host1", "host3")
    (record,) = await world.failovers()
    assert record.status.proof == "person"
    assert record.status.waits is None
    assert "failover-confirmed" in [step.said.type for step in record.status.steps]


async def test_when_most_are_silent_nobody_is_fenced_and_an_alarm_explains(world):
    await world.build(5)
    _, *others = world.hosts
    machines = [await world.machine(f"vm{number}", host) for number, host in enumerate(others)]
    await world.run(3)
    for host in others[:3]:
        host.connected = False
    await world.run(20)
    assert await world.failovers() == []
    assert world.power.orders == []
    assert set(await world.alarms()) == {"alarm-most-hosts-silent"}
    for host in others:
        host.connected = True
    await world.run(3)
    assert await world.alarms() == {}
    assert [await world.owner(one) for one in machines] == [host.name for host in others]


async def test_a_daemon_that_only_restarts_is_not_fenced(world):
    await world.build(3)
    _, host, _ = world.hosts
    await world.run(3)
    host.daemon = False
    await world.run(10)
    await host.end()
    await host.begin()
    host.daemon = True
    await world.run(3)
    assert await world.failovers() == []
    assert await world.alarms() == {}


async def test_a_leader_whose_daemon_is_gone_is_succeeded_and_not_fenced(world):
    await world.build(3)
    leader, _, _ = world.hosts
    await world.run(3)
    leader.daemon = False
    await world.run(5)
    assert world.leader() not in (None, leader)
    assert await world.failovers() == []


async def test_a_host_that_comes_back_before_the_proof_keeps_what_it_has(world):
    await world.build(3, bmc=False)
    _, host, _ = world.hosts
    web = await world.machine("web", host)
    await world.run(3)
    host.alive = False
    await world.run(5)
    host.alive = True
    await host.live(2)
    await world.run(3)
    assert await world.owner(web) == "host2"
    (record,) = await world.failovers()
    assert record.status.state is State.RETURNED
    assert await world.alarms() == {}


async def test_a_vm_that_no_host_can_take_waits_with_its_reason_and_goes_when_one_can(world):
    await world.build(3)
    _, victim, other = world.hosts
    small, large = await world.machine("small", victim), await world.machine("large", victim, memory="32G")
    await world.run(3)
    victim.alive = False
    await world.run(5)
    assert await world.owner(small) in ("host1", "host3")
    assert await world.owner(large) is None
    assert "alarm-vm-without-host" in await world.alarms()
    (record,) = await world.failovers()
    told = {one.vm.name: one.problem for one in record.status.vms}
    assert told["small"] is None
    assert told["large"].type == "survive-no-room"
    await world.kept.change_status(
        ground.Host, None, other.uid, lambda one: one.status.model_copy(update={"memory_bytes": 64 << 30})
    )
    await world.run(3)
    assert await world.owner(large) == "host3"
    assert "alarm-vm-without-host" not in await world.alarms()


async def test_one_on_local_disks_waits_for_its_own_host(world):
    await world.build(3)
    _, victim, _ = world.hosts
    alone, web = (
        await world.machine("alone", victim, storage=await world.local(victim)),
        await world.machine("web", victim),
    )
    await world.run(3)
    victim.alive = False
    await world.run(3)
    await world.runs(web)
    await world.run(1)
    assert await world.owner(alone) == "host2"
    (record,) = await world.failovers()
    assert record.status.state is State.DONE
    told = {one.vm.name: one.problem.type if one.problem else None for one in record.status.vms}
    assert told == {"alone": "survive-unreached", "web": None}
    assert set(await world.alarms()) == {"alarm-host-dead", "alarm-vm-without-host"}
    victim.alive = True
    await victim.live(2)
    await world.run(3)
    assert await world.owner(alone) == "host2"
    assert await world.alarms() == {}


async def test_a_host_that_has_nothing_others_could_have_keeps_its_power(world):
    await world.build(4)
    _, victim, *_ = world.hosts
    await world.machine("alone", victim, storage=await world.local(victim))
    await world.run(3)
    victim.alive = False
    await world.run(5)
    assert world.power.orders == []
    (record,) = await world.failovers()
    assert record.status.state is State.DONE
    assert record.status.proof is None
    assert set(await world.alarms()) == {"alarm-host-silent", "alarm-vm-without-host"}


async def test_a_leader_that_comes_later_leaves_a_host_alone_that_is_on_its_way_back(world):
    await world.build(4)
    first, victim, *_ = world.hosts
    await world.machine("web", victim)
    await world.run(3)
    victim.alive = False
    await world.run(3)
    assert world.power.orders == [victim.uid]
    world.power.off_.clear()  # somebody has switched it on
    first.daemon = False
    await world.run(5)
    assert world.leader() not in (None, first)
    assert world.power.orders == [victim.uid]


async def test_a_leader_that_comes_later_tells_nobody_anew_what_is_over(world):
    await world.build(4)
    first, victim, *_ = world.hosts
    web = await world.machine("web", victim)
    await world.run(3)
    victim.alive = False
    await world.run(3)
    await world.runs(web)
    await world.run(1)
    (before,), alarm = await world.failovers(), (await world.alarms())["alarm-host-dead"]
    first.daemon = False
    await world.run(5)
    assert world.leader() not in (None, first)
    (after,) = await world.failovers()
    assert after.status == before.status
    assert (await world.alarms())["alarm-host-dead"] == alarm


async def test_what_would_have_no_room_if_a_host_died_is_an_alarm_while_room_is_to_be_kept(world):
    await world.build(2)
    await world.run(3)
    first, second = world.hosts
    await world.machine("web", first, memory="6G")
    await world.machine("mail", second, memory="4G")
    await world.run(1)
    assert await world.alarms() == {}
    await world.store.apply(puts={policy.KEY: policy.Policy(survive=1).model_dump_json().encode()})
    await world.run(1)
    (alarm,) = (await world.alarms()).values()
    assert alarm.spec.said.text.startswith("if host1 died, there would not be room for web")
    await world.store.apply(puts={policy.KEY: policy.Policy().model_dump_json().encode()})
    await world.run(1)
    assert await world.alarms() == {}


async def state(world, machine, state: str) -> None:
    """Its host says so."""
    await world.kept.change_status(
        vm.VM, "default", machine.uid, lambda one: one.status.model_copy(update={"state": vm.State(state)})
    )


async def stands(world) -> standstill.Standstill:
    entry = await world.store.get(standstill.KEY)
    found = standstill.read(entry.value if entry else None)
    assert found is not None
    return found


async def test_a_cluster_that_is_shut_down_fences_nobody_and_starts_when_every_host_is_back(world):
    await world.build(3)
    await world.run(3)
    first, second, third = world.hosts
    db = await world.machine("db", second)
    web = await world.machine("web", third, autostart={"after": [db.uid]})
    asked = planner.begin([await world.read(db), await world.read(web)], by="root", now=world.wall())
    await world.store.apply(puts={standstill.KEY: asked.model_dump_json().encode()})
    await world.run(1)
    found = await stands(world)
    assert (found.holds(web.uid), found.holds(db.uid)) == (True, False)
    await state(world, web, "stopped")
    await world.run(1)
    assert (await stands(world)).holds(db.uid)
    await state(world, db, "stopped")
    first.daemon = False  # the leader's dies, and another one goes on
    first.alive = False
    await world.run(6)
    assert (await stands(world)).phase == "down"
    second.alive = False
    await world.run(6)
    assert world.power.orders == []
    assert await world.failovers() == []
    assert (await world.owner(db), await world.owner(web)) == ("host2", "host3")
    for host in world.hosts:
        host.alive = host.daemon = True
        await world.kept.change_status(
            ground.Host, None, host.uid, lambda one: one.status.model_copy(update={"boot_id": "another"})
        )
    await world.run(3)
    found = await stands(world)
    assert (found.phase, found.holds(db.uid), found.holds(web.uid)) == ("starting", False, True)
    for one in (db, web):
        await state(world, one, "running")
        await world.run(2)
    assert await world.store.get(standstill.KEY) is None
    second.alive = False
    await world.run(6)
    assert world.power.orders == [second.uid]


async def test_a_host_that_comes_back_before_all_runs_elsewhere_is_told_what_it_lost(world):
    await world.build(3)
    await world.run(3)
    _, victim, _ = world.hosts
    web = await world.machine("web", victim)
    victim.alive = False
    await world.run(4)
    assert await world.owner(web) in ("host1", "host3")
    victim.alive = True
    await victim.live(2)
    await world.run(1)
    (record,) = await world.failovers()
    told = next(step.said for step in record.status.steps if step.said.type == "failover-returned-without")
    assert told.text == "host2 is back; it was told, before it may run anything, that web went to others"
    assert record.status.state is State.MOVING
    assert await world.owner(web) in ("host1", "host3")
