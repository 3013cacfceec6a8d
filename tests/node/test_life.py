"""A VM's life on a real host: every verb, and what the guest itself sees."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

import pytest

from bocage.model import vm, work
from bocage.node.place import directory
from tests.node.house import House

pytestmark = pytest.mark.guest
SMALL = {"image": "tiny", "memory": "128M", "disk": "64M"}


def failed(task: work.Task) -> str | None:
    return task.status.problem.type if task.status.problem else None


async def test_the_guest_sees_exactly_what_was_given(tiny_house: House):
    made = await tiny_house.create(
        start=True,
        image="tiny",
        memory="192M",
        disk="96M",
        cpus={"sockets": 1, "cores": 2},
        disks=[{"size": "32M"}, {"size": "1G", "format": "raw"}],
        nics=[{"mac": "52:54:00:00:00:01"}, {"mac": "52:54:00:00:00:02"}],
        seed={"hostname": "heron"},
    )
    ready = await tiny_house.says(made, "^tiny: ready")
    fields = dict(part.split("=", 1) for part in ready.split()[2:])
    assert fields["cpus"] == "2"
    assert 192 * 1024 * 0.9 < int(fields["memory_kib"]) <= 192 * 1024
    assert fields["disks"] == f"vda:{96 << 20},vdb:{32 << 20},vdc:{1 << 30}"
    assert fields["macs"] == "52:54:00:00:00:01,52:54:00:00:00:02"
    assert await tiny_house.says(made, "^heron$", send="hostname") == "heron"


async def test_paused_saved_and_resumed_it_goes_on_where_it_was(tiny_house: House):
    made = await tiny_house.create(start=True, **SMALL)
    await tiny_house.says(made, "^tiny: ready")
    await tiny_house.says(made, "count 3$", send="tiny count")
    await tiny_house.ask("vm.pause", made)
    assert (await tiny_house.read(made)).status.state is vm.State.PAUSED
    await tiny_house.ask("vm.resume", made)
    await tiny_house.ask("vm.save", made)
    saved = await tiny_house.read(made)
    assert (saved.status.state, saved.status.pid) == (vm.State.SAVED, None)
    await tiny_house.ask("vm.start", made)
    line = await asyncio.wait_for(anext(aiter_lines(tiny_house, made)), 60)
    assert int(line.rsplit(" ", 1)[1]) > 3
    place = directory.Directory(tiny_house.homes.local_storage / "vms" / made.uid)
    assert not place.saved.exists()


async def aiter_lines(house: House, made: vm.VM):
    pending = b""
    async for piece in house.console(made).watch():
        *lines, pending = (pending + piece).split(b"\n")
        for line in lines:
            if b"count" in line:
                yield line.decode().strip()


async def test_an_orderly_stop_is_the_guests_own_and_start_brings_it_back(tiny_house: House):
    made = await tiny_house.create(start=True, **SMALL)
    await tiny_house.says(made, "^tiny: ready")
    stopped = await tiny_house.ask("vm.stop", made)
    assert stopped.status.state is work.TaskState.DONE
    assert (await tiny_house.read(made)).status.state is vm.State.STOPPED
    again = await tiny_house.ask("vm.start", made)
    assert again.status.state is work.TaskState.DONE
    await tiny_house.says(made, "^tiny: ready")


async def test_a_guest_that_ignores_the_power_button_is_left_running_and_said_so(tiny_house: House):
    made = await tiny_house.create(start=True, memory="128M", disk="64M")  # a blank disk: the firmware is deaf
    ended = await tiny_house.ask("vm.stop", made, within=1.5)
    assert failed(ended) == "vm-did-not-stop"
    now = await tiny_house.read(made)
    assert (now.status.state, now.spec.power) == (vm.State.RUNNING, vm.Power.RUNNING)
    pulled = await tiny_house.ask("vm.stop", made, within=1.5, kill=True)
    assert pulled.status.state is work.TaskState.DONE
    assert (await tiny_house.read(made)).status.state is vm.State.STOPPED


async def test_a_guest_that_switches_itself_off_stays_off(tiny_house: House):
    made = await tiny_house.create(start=True, **SMALL)
    await tiny_house.says(made, "^tiny: ready")
    async with tiny_house.console(made).writer() as write:
        await write(b"tiny stop\r")
        off = await tiny_house.becomes(made, vm.State.STOPPED)
    assert off.spec.power is vm.Power.STOPPED
    assert "vm-switched-off" in await tiny_house.events()


@pytest.mark.slow
async def test_reset_and_reboot_bring_the_guest_up_again(tiny_house: House):
    made = await tiny_house.create(start=True, **SMALL)
    await tiny_house.says(made, "^tiny: ready")
    console = tiny_house.console(made)
    for action in ("vm.reset", "vm.reboot"):
        ready = asyncio.create_task(next_ready(console))
        ended = await tiny_house.ask(action, made)
        assert ended.status.state is work.TaskState.DONE, ended.status
        await asyncio.wait_for(ready, 60)


async def next_ready(console) -> None:
    said = b""
    async for piece in console.watch():
        said += piece
        if b"tiny: ready" in said:
            return


async def test_deleted_it_lies_in_the_trash_and_comes_back_whole(tiny_house: House):
    made = await tiny_house.create(**SMALL)
    place = tiny_house.homes.local_storage / "vms" / made.uid
    await tiny_house.ask("vm.delete", made)
    assert not place.exists()
    assert (tiny_house.homes.local_storage / "trash" / made.uid / "vm.yaml").exists()
    assert not (tiny_house.homes.by_name / "default" / "box").is_symlink()
    ended = await tiny_house.undelete(made)
    assert ended.status.state is work.TaskState.DONE
    assert (tiny_house.homes.by_name / "default" / "box").resolve() == place
    started = await tiny_house.ask("vm.start", made)
    assert started.status.state is work.TaskState.DONE


async def test_purged_nothing_of_it_is_left(tiny_house: House):
    made = await tiny_house.create(**SMALL)
    await tiny_house.ask("vm.delete", made, purge=True)
    left = list(tiny_house.homes.local_storage.rglob(f"{made.uid}*"))
    assert left == []
    page = await tiny_house.resources.store.list("/bocage/1/")
    assert [entry.key for entry in page.entries if made.uid in entry.key and "/event/" not in entry.key] == []


@pytest.mark.fault
async def test_qemu_killed_is_told_and_started_again(tiny_house: House):
    made = await tiny_house.create(start=True, restart={"policy": "on-crash", "delay": 0}, **SMALL)
    before = (await tiny_house.read(made)).status.pid
    assert before
    os.kill(before, signal.SIGKILL)
    after = await tiny_house.until(
        lambda: tiny_house.read(made),
        lambda one: one.status.state is vm.State.RUNNING and one.status.pid != before,
    )
    assert after.status.restarts == 1
    assert after.status.last_end is not None
    assert after.status.last_end.reason.type == "vm-crashed"
    crashes = [event for event in await tiny_house.all_events() if event.spec.said.type == "vm-crashed"]
    assert "SIGKILL" in crashes[-1].spec.said.text


@pytest.mark.fault
async def test_a_qemu_that_hangs_is_shown_as_unknown_and_can_be_killed_and_holds_up_no_other(tiny_house: House):
    hung = await tiny_house.create("hung", start=True, **SMALL)
    pid = (await tiny_house.read(hung)).status.pid
    assert pid
    os.kill(pid, signal.SIGSTOP)
    try:
        stopping = asyncio.create_task(tiny_house.ask("vm.pause", hung))
        other = await tiny_house.create("other", start=True, **SMALL)
        assert other.status.state is vm.State.RUNNING
        await tiny_house.becomes(hung, vm.State.UNKNOWN)
        killed = await tiny_house.ask("vm.kill", hung)
        assert killed.status.state is work.TaskState.DONE
        assert (await tiny_house.read(hung)).status.state is vm.State.STOPPED
        assert (await stopping).status.state in (work.TaskState.FAILED, work.TaskState.CANCELLED)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.fault
async def test_a_daemon_that_comes_back_finds_its_vms_running_untouched(tiny_house: House):
    made = await tiny_house.create(start=True, **SMALL)
    await tiny_house.says(made, "^tiny: ready")
    await tiny_house.says(made, "count 2$", send="tiny count")
    pid = (await tiny_house.read(made)).status.pid
    await tiny_house.close()
    again = await House(tiny_house.homes).open()
    try:
        found = await again.becomes(made, vm.State.RUNNING)
        assert found.status.pid == pid
        line = await asyncio.wait_for(anext(aiter_lines(again, made)), 60)
        assert int(line.rsplit(" ", 1)[1]) > 2
        await again.until(again.events, lambda events: events.count("vms-found") == 1)
    finally:
        await again.close()


@pytest.mark.fault
async def test_a_vm_whose_qemu_died_while_the_daemon_was_away_is_told_and_mended(tiny_house: House):
    made = await tiny_house.create(start=True, restart={"policy": "on-crash", "delay": 0}, **SMALL)
    pid = (await tiny_house.read(made)).status.pid
    assert pid
    await tiny_house.close()
    os.kill(pid, signal.SIGKILL)
    again = await House(tiny_house.homes).open()
    try:
        back = await again.until(
            lambda: again.read(made), lambda one: one.status.state is vm.State.RUNNING and one.status.pid != pid
        )
        assert back.status.restarts == 1
        assert "vm-crashed" in await again.events()
    finally:
        await again.close()


@pytest.mark.fault
async def test_the_database_lost_every_vm_is_adopted_running_ones_untouched(tiny_house: House):
    running = await tiny_house.create("running", start=True, **SMALL)
    stopped = await tiny_house.create("stopped", **SMALL)
    pid = (await tiny_house.read(running)).status.pid
    await tiny_house.close()
    for path in tiny_house.homes.path.glob("bocage.db*"):
        path.unlink()
    again = await House(tiny_house.homes).open()
    try:
        assert (await again.resources.list(vm.VM)).items == []
        ended = await again.adopt_local()
        assert ended.status.state is work.TaskState.DONE, ended.status
        assert sorted(ended.status.result["adopted"]) == ["running", "stopped"]
        found = await again.becomes(running, vm.State.RUNNING)
        assert found.status.pid == pid
        assert (await again.read(stopped)).status.state is vm.State.STOPPED
        started = await again.ask("vm.start", stopped)
        assert started.status.state is work.TaskState.DONE, started.status
    finally:
        await again.close()
