"""VMs that go off because their host is about to go down, and come back with it."""

from __future__ import annotations

import asyncio
import time

import pytest

from bocage.model import base, ground, standstill, vm, work
from tests.node.house import BLANK, House
from tests.node.test_boot import rebooted

AT_ONCE = {"within": 1, "then": "leave"}  # nothing boots on these VMs, so their plug is pulled at the bound


async def host(house: House) -> ground.Host:
    return await house.resources.get(ground.Host, None, house.node.ground.uid)


async def ask(house: House, action: str) -> work.Task:
    ended = await house.ask(action, await host(house))
    assert ended.status.state is work.TaskState.DONE, ended.status
    return ended


async def both(house: House) -> tuple[vm.VM, vm.VM]:
    """One that others stand on, so it starts first, and one that stands on it."""
    first = await house.create("first", start=True, autostart={"order": 10}, stop=AT_ONCE, **BLANK)
    last = await house.create("last", start=True, autostart={"order": 20}, stop=AT_ONCE, **BLANK)
    return first, last


async def gone(house: House) -> list[str]:
    told = [one.spec.said for one in await house.all_events()]
    return [said.params["name"] for said in told if said.type in ("vm-killed", "vm-stopped")]


async def test_the_last_to_start_go_off_first_and_all_should_run_all_the_same(house: House):
    machines = await both(house)
    task = await ask(house, "host.stop-vms")
    assert await gone(house) == ["last", "first"]
    assert [line.said.params["order"] for line in task.status.log] == [20, 10]
    for one in machines:
        now = await house.read(one)
        assert (now.status.state, now.spec.power) == (vm.State.STOPPED, vm.Power.RUNNING)


async def test_none_starts_meanwhile_and_whoever_asks_is_told_why(house: House):
    first, _ = await both(house)
    await ask(house, "host.stop-vms")
    refused = await house.ask("vm.start", first)
    assert refused.status.problem is not None
    assert refused.status.problem.type == "vm-host-goes-down"
    reason = (await house.read(first)).status.reason
    assert reason is not None
    assert reason.type == "vm-host-stops-vms"


async def test_they_are_back_when_they_may_start_and_what_a_person_stopped_is_not(house: House):
    machines = await both(house)
    stopped = await house.create("stopped", **BLANK)
    await ask(house, "host.stop-vms")
    await ask(house, "host.start-vms")
    for one in machines:
        assert (await house.becomes(one, vm.State.RUNNING)).status.last_end is None
    assert (await house.read(stopped)).status.state is vm.State.STOPPED
    assert (await host(house)).status.leaving is None


@pytest.mark.fault
async def test_with_the_machines_next_start_they_are_back(house: House):
    machines = await both(house)
    await ask(house, "host.stop-vms")
    # The next run of the machine has another boot id: here the known one is made to be of another run.
    uid = house.node.ground.uid
    leaving = ground.Leaving(boot_id="another-boot", order=0)
    await house.resources.change_status(
        ground.Host, None, uid, lambda one: one.status.model_copy(update={"leaving": leaving})
    )
    async with rebooted(house) as again:
        for one in machines:
            await again.becomes(one, vm.State.RUNNING)
        assert (await host(again)).status.leaving is None


@pytest.mark.fault
async def test_a_daemon_that_ends_in_the_middle_goes_on_with_it(house: House):
    slow = {"within": 4, "then": "leave"}
    late = await house.create("late", start=True, autostart={"order": 20}, stop=slow, **BLANK)
    early = await house.create("early", start=True, autostart={"order": 10}, stop=AT_ONCE, **BLANK)
    task = work.task("host.stop-vms", subject=(await host(house)).ref, host=house.node.ground.uid)
    await house.resources.create(task)
    await house.until(lambda: host(house), lambda one: one.status.leaving is not None)
    await house.close()
    again = await House(house.homes).open()
    try:
        assert (await again.ended(task.uid)).status.state is work.TaskState.DONE
        for one in (late, early):
            now = await again.read(one)
            assert (now.status.state, now.spec.power) == (vm.State.STOPPED, vm.Power.RUNNING)
    finally:
        await again.close()


async def test_it_does_not_wait_for_other_work(house: House):
    await both(house)
    for _ in range(4):
        await house.node._slots.acquire()  # four long jobs
    begun = time.monotonic()
    async with asyncio.timeout(60):
        await ask(house, "host.stop-vms")
    assert time.monotonic() > begun
    for _ in range(4):
        house.node._slots.release()


async def stand_still(house: House, made: standstill.Standstill | None) -> None:
    """Be the leader of a cluster that is shut down, or that works."""
    store = house.resources.store
    if made is None:
        await store.apply(deletes=[standstill.KEY])
    else:
        await store.apply(puts={standstill.KEY: made.model_dump_json().encode()})


async def test_a_cluster_that_is_shut_down_asks_its_guests_and_pulls_the_plug_where_that_was_asked(house: House):
    one = await house.create("one", start=True, stop=AT_ONCE, **BLANK)
    shut = standstill.Standstill(
        asked_by="root", since=base.now(), begun=base.now(), within=1, stages=((one.uid,),), up_to=0
    )
    await stand_still(house, shut)
    await house.until(house.events, lambda told: told.count("vm-would-not-stop") >= 2)
    assert (await house.read(one)).status.pid is not None
    await stand_still(house, shut.model_copy(update={"kill": True}))
    assert (await house.becomes(one, vm.State.STOPPED)).spec.power is vm.Power.RUNNING
    refused = (await house.ask("vm.start", one)).status.problem
    assert refused is not None
    assert refused.type == "vm-cluster-stands"
    async with rebooted(house) as again:
        waiting = await again.until(lambda: again.read(one), lambda now: now.status.reason is not None)
        assert waiting.status.reason is not None
        assert waiting.status.reason.type == "vm-waits-for-cluster"
        await stand_still(again, None)
        await again.becomes(one, vm.State.RUNNING)
