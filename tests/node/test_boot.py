"""What starts with its host: the machine's start is simulated by another boot id in the stored status."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import cast

import pytest

from bocage import home
from bocage.engine import base
from bocage.model import ground, vm, work
from bocage.node.rounds import answering
from bocage.store import resources
from tests.node.conftest import clear
from tests.node.house import BLANK, House
from tests.planner import things

pytestmark = pytest.mark.fault


@contextlib.asynccontextmanager
async def rebooted(house: House) -> AsyncIterator[House]:
    """The daemon after its machine was started anew: its processes and its runtime directory are gone."""
    await house.close()
    await lose_everything_that_runs(house.homes)
    again = House(house.homes)
    again.last_boot = "another-boot"
    await again.open()
    try:
        yield again
    finally:
        await again.close()


async def lose_everything_that_runs(homes: home.Home) -> None:
    await asyncio.to_thread(clear, home.Home(homes.path / "nowhere", homes.runtime))


async def boot_id(house: House) -> str:
    return (await house.resources.get(ground.Host, None, house.node.ground.uid)).status.boot_id


async def test_those_start_that_ran_or_should_with_the_host_and_no_others(house: House):
    ran = await house.create("ran", start=True, **BLANK)
    wanted = await house.create("wanted", autostart={"enabled": True}, **BLANK)
    stopped = await house.create("stopped", **BLANK)
    async with rebooted(house) as again:
        for one in (ran, wanted):
            await again.becomes(one, vm.State.RUNNING)
        assert (await again.read(stopped)).status.state is vm.State.STOPPED
        assert "vm-host-restarted" in await again.events()
        assert "vm-crashed" not in await again.events()
        await again.until(lambda: boot_id(again), lambda now: now == again.node.ground.boot_id)


async def test_lower_orders_run_before_higher_ones_begin(house: House):
    for name, order in (("third", 30), ("first", 10), ("second", 20)):
        await house.create(name, autostart={"enabled": True, "order": order}, **BLANK)
    async with rebooted(house) as again:
        events = await again.until(again.all_events, lambda found: started(found).count("third") == 1)
        assert started(events) == ["first", "second", "third"]


def started(events: list[work.Event]) -> list[str]:
    return [event.spec.said.params["name"] for event in events if event.spec.said.type == "vm-started"]


async def test_a_vm_that_waits_for_its_turn_says_so_and_starts_at_once_when_a_person_wants_it(house: House):
    late = await house.create("late", autostart={"enabled": True, "delay": 3000}, **BLANK)
    async with rebooted(house) as again:
        waiting = await again.until(lambda: again.read(late), lambda one: one.status.reason is not None)
        assert waiting.status.reason is not None
        assert waiting.status.reason.type == "vm-waits-for-turn"
        assert (await again.ask("vm.start", late)).status.state is work.TaskState.DONE


async def test_one_that_does_not_come_up_holds_up_the_others_no_longer_than_it_fails(house: House):
    broken = await house.create("broken", autostart={"enabled": True, "order": 1}, **BLANK)
    after = await house.create("after", autostart={"enabled": True, "order": 2}, **BLANK)
    for disk in house.place(broken).disks.iterdir():
        disk.unlink()
    async with rebooted(house) as again:
        await again.becomes(after, vm.State.RUNNING)
        assert (await again.becomes(broken, vm.State.CRASHED)).status.problem is not None


async def test_a_daemon_killed_before_it_looked_at_its_vms_does_not_forget_that_the_host_was_started(house: House):
    wanted = await house.create("wanted", autostart={"enabled": True}, **BLANK)
    await house.close()
    await lose_everything_that_runs(house.homes)
    dying = House(house.homes)
    dying.last_boot = "another-boot"
    await dying.introduce()  # and then it is killed
    again = await House(house.homes).open()
    try:
        await again.becomes(wanted, vm.State.RUNNING)
    finally:
        await again.close()


async def test_a_second_start_of_the_daemon_switches_nothing_on_that_a_person_stopped(house: House):
    wanted = await house.create("wanted", autostart={"enabled": True}, **BLANK)
    async with rebooted(house) as again:
        await again.becomes(wanted, vm.State.RUNNING)
        await again.until(lambda: boot_id(again), lambda now: now == again.node.ground.boot_id)
        await again.ask("vm.kill", wanted)
    later = await House(house.homes).open()
    try:
        assert (await later.ask("vm.disk-grow", wanted, disk="disk0", size="2M")).status.state is work.TaskState.DONE
        assert (await later.read(wanted)).status.state is vm.State.STOPPED
    finally:
        await later.close()


async def wished(house: House, which: vm.VM) -> None:
    """It should run, and no person has asked for that start."""
    await house.resources.change(
        vm.VM, "default", which.uid, lambda one: resources.with_spec(one, power=vm.Power.RUNNING)
    )


async def answers(house: House, which: vm.VM, *, does: bool) -> None:
    await house.resources.change_status(
        vm.VM, "default", which.uid, lambda one: one.status.model_copy(update={"answers": does})
    )


async def test_one_waits_for_those_that_it_comes_after_and_at_last_starts_without_them(house: House):
    leader = await house.create("db", start=True, autostart={"answers": 5432}, **BLANK)
    follower = await house.create("web", autostart={"after": [leader.uid], "within": 3000}, **BLANK)
    await wished(house, follower)
    waiting = await house.until(lambda: house.read(follower), lambda one: one.status.reason is not None)
    assert waiting.status.reason is not None
    assert waiting.status.reason.text == "web starts when db run and answer, and in 50 min at the latest"
    await answers(house, leader, does=True)
    await house.becomes(follower, vm.State.RUNNING)
    await house.ask("vm.kill", follower)
    await answers(house, leader, does=False)
    await house.resources.change(
        vm.VM,
        "default",
        follower.uid,
        lambda one: resources.with_spec(one, autostart=one.spec.autostart.model_copy(update={"within": 0.5})),
    )
    await wished(house, follower)
    await house.becomes(follower, vm.State.RUNNING)
    assert "vm-starts-without" in await house.events()


async def test_a_guest_answers_at_its_port_on_a_bridge_and_nothing_before_it_answers_for_it(house: House):
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        made = things.machine(autostart={"answers": port})
        running = cast("base.Machine", None)
        for backend, does in (("br0", True), ("passt", False)):
            nic = vm.NicStatus(name="nic0", mac="52:54:00:00:00:01", addresses=("127.0.0.1",), backend=backend)
            seen = made.model_copy(update={"status": vm.VMStatus(nics=(nic,))})
            assert await answering._answers(seen, running) is does
    nic = nic.model_copy(update={"backend": "br0"})
    assert not await answering._answers(made.model_copy(update={"status": vm.VMStatus(nics=(nic,))}), running)
