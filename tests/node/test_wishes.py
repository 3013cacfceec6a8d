"""What people ask for and take back, what fails, and what contradicts: no guest has to boot for that."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import signal
import threading

import pytest

from bocage import files
from bocage.engine.qemu import growing
from bocage.model import base, ground, vm, work
from bocage.node.life import actor, goals, launching
from bocage.node.place import directory
from bocage.planner import lifecycle
from bocage.storage import volumes
from bocage.store import contract, resources, sqlite
from tests.node.house import BLANK, BOUND, House

pytestmark = pytest.mark.fault


def problem(task: work.Task) -> str | None:
    return task.status.problem.type if task.status.problem else None


async def asked(house: House, action: str, which: vm.VM, **params: object) -> work.Task:
    """A task with its wish, written and not waited for."""
    asking = asyncio.create_task(house.ask(action, which, **params))
    try:
        tasks = await house.until(
            lambda: newest(house, action, which), lambda found: found is not None and not found.status.state.ended
        )
        assert tasks is not None
        return tasks
    finally:
        asking.cancel()
        await asyncio.wait([asking])


async def newest(house: House, action: str, which: vm.VM) -> work.Task | None:
    tasks = (await house.resources.list(work.Task)).items
    mine = [
        one for one in tasks if one.spec.action == action and one.spec.subject and one.spec.subject.uid == which.uid
    ]
    return mine[-1] if mine else None


async def cancel(house: House, task: work.Task) -> work.Task:
    await house.resources.change(work.Task, "default", task.uid, lambda one: resources.with_spec(one, cancel=True))
    return await house.ended(task.uid)


async def define(house: House, name: str = "box", **request: object) -> tuple[vm.VM, work.Task]:
    """A VM that is asked for, and the task that makes it, not waited for."""
    creating = asyncio.create_task(house.create(name, **{**BLANK, **request}))
    try:
        found = await house.until(
            lambda: house.resources.list(vm.VM), lambda listing: any(one.name == name for one in listing.items)
        )
        made = next(one for one in found.items if one.name == name)
        task = await newest(house, "vm.create", made)
        assert task is not None
        return made, task
    finally:
        creating.cancel()
        await asyncio.wait([creating])


async def test_memory_that_is_saved_survives_a_start_that_fails(house: House):
    made = await house.create(start=True, **BLANK)
    await house.ask("vm.save", made)
    disk = next(house.place(made).disks.iterdir())
    disk.rename(disk.with_name("aside"))
    ended = await house.ask("vm.start", made)
    assert problem(ended) == "volume-file-missing"
    kept = await house.read(made)
    assert (kept.status.state, kept.spec.power) == (vm.State.SAVED, vm.Power.SAVED)
    assert house.place(made).saved.exists()
    disk.with_name("aside").rename(disk)
    assert (await house.ask("vm.start", made)).status.state is work.TaskState.DONE
    assert "vm-restored" in await house.events()
    assert not house.place(made).saved.exists()


async def test_memory_that_cannot_be_read_is_kept_until_somebody_throws_it_away(house: House):
    made = await house.create(start=True, **BLANK)
    await house.ask("vm.save", made)
    house.place(made).saved.write_bytes(b"no memory at all")
    assert problem(await house.ask("vm.start", made)) == "vm-load-failed"
    assert (await house.read(made)).status.state is vm.State.SAVED
    assert house.place(made).saved.exists()
    assert (await house.ask("vm.kill", made)).status.state is work.TaskState.DONE
    assert (await house.read(made)).status.state is vm.State.STOPPED
    assert not house.place(made).saved.exists()


async def test_a_saved_vm_comes_back_from_the_trash_with_its_memory(house: House):
    made = await house.create(start=True, **BLANK)
    await house.ask("vm.save", made)
    await house.ask("vm.delete", made)
    await house.undelete(made)
    await house.becomes(made, vm.State.SAVED)
    assert house.place(made).saved.exists()


async def test_a_disk_that_cannot_be_had_fails_the_creation_says_why_and_starts_nothing_later(house: House):
    made, task = await define(house, disks=[{"size": "60T", "preallocated": True}], start=True)
    ended = await house.ended(task.uid)
    assert (problem(ended), ended.status.http_status) == ("storage-would-not-fit", 507)
    left = await house.until(lambda: house.read(made), lambda one: one.status.problem is not None)
    assert (left.status.ready, left.spec.power) == (False, vm.Power.STOPPED)
    failed = [one for one in (await house.volumes()).values() if one.status.state == "failed"]
    assert [one.status.problem.type for one in failed if one.status.problem] == ["storage-would-not-fit"]
    assert problem(await house.ask("vm.disk-grow", made, disk="disk0", size="2M")) == "storage-would-not-fit"
    assert (await house.ask("vm.delete", made, purge=True)).status.state is work.TaskState.DONE
    assert list((house.homes.local_storage / "vms").iterdir()) == []
    assert await house.volumes() == {}


@pytest.fixture
def slow_disks(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Disks that are made only when the event is set: a stand-in for hours of copying."""
    let = asyncio.Event()
    create = volumes.create

    async def slow(*arguments: object, **options: object) -> None:
        await let.wait()
        await create(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(volumes, "create", slow)
    return let


async def test_a_cancelled_creation_leaves_nothing_and_its_name_is_free(house: House, slow_disks: asyncio.Event):
    made, task = await define(house, start=True)
    await house.until(lambda: asyncio.to_thread(house.place(made).path.exists), bool)
    assert (await cancel(house, task)).status.state is work.TaskState.CANCELLED
    with pytest.raises(resources.Missing):
        await house.read(made)
    assert await house.volumes() == {}
    assert list((house.homes.local_storage / "vms").iterdir()) == []
    slow_disks.set()
    assert (await house.create(**BLANK)).status.ready


async def test_what_is_deleted_while_it_is_made_goes_at_once(house: House, slow_disks: asyncio.Event):
    made, task = await define(house)
    await house.until(lambda: asyncio.to_thread(house.place(made).path.exists), bool)
    assert (await house.ask("vm.delete", made, purge=True)).status.state is work.TaskState.DONE
    assert (await house.ended(task.uid)).status.state is not work.TaskState.DONE
    assert list((house.homes.local_storage / "vms").iterdir()) == []


async def test_a_stop_that_is_cancelled_leaves_it_running(house: House):
    made = await house.create(start=True, **BLANK)
    pid = (await house.read(made)).status.pid
    task = await asked(house, "vm.stop", made)
    await house.becomes(made, vm.State.STOPPING)
    assert (await cancel(house, task)).status.state is work.TaskState.CANCELLED
    now = await house.becomes(made, vm.State.RUNNING)
    assert (now.spec.power, now.status.pid) == (vm.Power.RUNNING, pid)


@pytest.mark.parametrize("paused", [False, True])
async def test_a_save_that_is_cancelled_at_its_very_end_leaves_it_as_it_was_and_nothing_of_its_memory(
    house: House, monkeypatch: pytest.MonkeyPatch, paused: bool
):
    made = await house.create(start=True, **BLANK)
    if paused:
        await house.ask("vm.pause", made)
    place, begun, goes_on, rename = house.place(made), threading.Event(), threading.Event(), files.rename_durably

    def slow(source: pathlib.Path, destination: pathlib.Path) -> None:
        if destination == place.saved:
            begun.set()
            goes_on.wait(BOUND)
        rename(source, destination)

    monkeypatch.setattr(files, "rename_durably", slow)
    task = await asked(house, "vm.save", made)
    assert await asyncio.to_thread(begun.wait, BOUND)
    cancelling = asyncio.create_task(cancel(house, task))
    live = house.node.crew.of(made.uid)
    assert live is not None
    while task.uid not in live._cancelled or live.standing.woken.is_set():  # until it has heard of that
        await asyncio.sleep(0.01)
    await asyncio.sleep(0)
    goes_on.set()
    assert (await cancelling).status.state is work.TaskState.CANCELLED
    if paused:
        await house.becomes(made, vm.State.PAUSED)
        await house.ask("vm.resume", made)
    now = await house.becomes(made, vm.State.RUNNING)
    assert (now.spec.power, now.status.pid) == (vm.Power.RUNNING, made.status.pid)
    assert not place.saved.exists()
    assert not place.saved_definition.exists()


async def test_memory_whose_removal_may_not_last_is_removed_durably_at_the_next_try(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    place, synced = directory.Directory(tmp_path), list[pathlib.Path]()

    def broken(_: pathlib.Path) -> None:
        raise OSError(5, "Input/output error")

    place.saved.touch()
    place.saved_definition.touch()
    monkeypatch.setattr(files, "sync_directory", broken)
    with pytest.raises(OSError, match="Input/output error"):
        launching.forget_saved(place)
    monkeypatch.setattr(files, "sync_directory", synced.append)
    launching.forget_saved(place)
    assert synced == [tmp_path]
    launching.forget_saved(place)
    assert synced == [tmp_path]  # no start pays for what is not there


async def test_a_stop_overtaken_by_a_start_ends_and_the_start_is_done_when_the_guest_stayed(house: House):
    made = await house.create(start=True, stop={"within": 2.0}, **BLANK)
    task = await asked(house, "vm.stop", made)
    await house.becomes(made, vm.State.STOPPING)
    assert (await house.ask("vm.start", made)).status.state is work.TaskState.DONE
    assert problem(await house.ended(task.uid)) == "task-superseded"
    assert (await house.read(made)).status.state is vm.State.RUNNING


async def test_a_task_that_nobody_wanted_any_more_when_the_daemon_came_back_is_not_done(house: House):
    made = await house.create(**BLANK)
    await house.close()
    store = await sqlite.open(house.homes.database)
    kept = resources.Resources(store)
    task = work.task("vm.disk-grow", subject=made.ref, host=house.node.ground.uid, disk="disk0", size="2M")
    await kept.create(task)
    await kept.change(work.Task, "default", task.uid, lambda one: resources.with_spec(one, cancel=True))
    await store.close()
    again = await House(house.homes).open()
    try:
        assert (await again.ended(task.uid)).status.state is work.TaskState.CANCELLED
        assert [one.spec.size for one in (await again.volumes()).values()] == [1 << 20]
    finally:
        await again.close()


async def test_jobs_that_a_daemons_end_breaks_off_are_carried_on_by_the_next(house: House, slow_disks: asyncio.Event):
    storage = await house.resources.find(ground.Storage, None, "local")
    made = [volume(f"data{number}", storage) for number in range(6)]  # more than are made at once
    tasks = [work.task("volume.create", subject=one.ref, host=house.node.ground.uid) for one in made]
    for one, task in zip(made, tasks, strict=True):
        await house.resources.create(one, task)
    await house.until(
        lambda: house.resources.get(work.Task, "default", tasks[0].uid), lambda one: bool(one.status.started)
    )
    assert (await cancel(house, tasks[-1])).status.state is work.TaskState.CANCELLED  # it only waited for its turn
    await house.close()
    slow_disks.set()
    again = await House(house.homes).open()
    try:
        for task in tasks[:-1]:
            assert (await again.ended(task.uid)).status.state is work.TaskState.DONE
    finally:
        await again.close()


def volume(name: str, storage: ground.Storage) -> ground.Volume:
    spec = {"storage": storage.uid, "size": "1M"}
    return ground.Volume.model_validate({"metadata": {"name": name, "project": "default"}, "spec": spec})


async def test_a_volume_that_cannot_be_made_is_not_there_afterwards(house: House):
    storage = await house.resources.find(ground.Storage, None, "local")
    spec = {"storage": storage.uid, "size": "60T", "preallocated": True}
    one = ground.Volume.model_validate({"metadata": {"name": "huge", "project": "default"}, "spec": spec})
    await house.resources.create(one)
    assert problem(await house.ask("volume.create", one)) == "storage-would-not-fit"
    assert await house.volumes() == {}


async def test_how_a_task_ended_is_written_once_the_store_can_be_written_again(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    made = await house.create(**BLANK)
    apply = sqlite.SqliteStore.apply
    refused = 0

    async def full(self: sqlite.SqliteStore, **options: object) -> int:
        nonlocal refused
        puts = options.get("puts") or {}
        if refused < 3 and any("/task/" in key and b'"done"' in value for key, value in puts.items()):  # type: ignore[attr-defined]
            refused += 1
            raise contract.Failed(reason="database or disk is full")
        return await apply(self, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(sqlite.SqliteStore, "apply", full)
    assert (await house.ask("vm.disk-grow", made, disk="disk0", size="2M")).status.state is work.TaskState.DONE
    assert refused == 3


async def test_nobody_waits_for_ever_for_a_monitor_that_hangs(house: House, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(goals, "SILENCE", 1.0)
    made = await house.create(start=True, **BLANK)
    pid = (await house.read(made)).status.pid
    assert pid
    os.kill(pid, signal.SIGSTOP)
    try:
        assert problem(await house.ask("vm.pause", made)) == "timed-out"
        hung = await house.becomes(made, vm.State.UNKNOWN)
        assert hung.spec.power is vm.Power.RUNNING  # as it is: nothing happens to it later
    finally:
        os.kill(pid, signal.SIGCONT)
    await house.becomes(made, vm.State.RUNNING)


async def test_the_plug_is_pulled_while_a_change_waits_for_the_guest(house: House, monkeypatch: pytest.MonkeyPatch):
    made = await house.create(start=True, **BLANK)
    begun = asyncio.Event()

    async def hangs(*_: object) -> int:
        begun.set()
        return await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(growing.Growing, "plug_cpus", hangs)
    two = vm.Cpus(cores=2)
    await house.resources.change(
        vm.VM, "default", made.uid, lambda one: resources.bumped(one, resources.with_spec(one, cpus=two))
    )
    await asyncio.wait_for(begun.wait(), BOUND)
    assert (await house.ask("vm.kill", made)).status.state is work.TaskState.DONE


async def test_a_vm_that_no_host_takes_leaves_nobody_waiting(house: House, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(actor, "_OWNERLESS", 0.5)
    foreign = ground.Storage(
        metadata=base.Metadata(name="far"), spec=ground.StorageSpec(host=base.new_uid(), path="/far/away")
    )
    await house.resources.create(foreign)
    made = (await house.create(**BLANK)).spec
    orphan = vm.VM(
        metadata=base.Metadata(name="orphan", project="default"),
        spec=made.model_copy(update={"storage": foreign.uid, "disks": (), "boot": vm.Boot()}),
    )
    await house.resources.create(orphan)
    assert problem(await house.ask("vm.start", orphan)) == "task-without-host"


async def test_a_vm_that_is_gone_ends_what_was_asked_of_it(house: House):
    made = await house.create(**BLANK)
    await house.ask("vm.delete", made, purge=True)
    gone = base.Ref(kind="vm", uid=made.uid, project="default", name="box")
    assert problem(await house.ask("vm.reset", gone)) == "vm-gone"
    assert (await house.ask("vm.delete", gone)).status.state is work.TaskState.DONE


async def test_what_lies_in_the_trash_is_purged_at_a_word(house: House):
    made = await house.create(**BLANK)
    await house.ask("vm.delete", made)
    assert (house.homes.local_storage / "trash" / made.uid).exists()
    await house.ask("vm.delete", made, purge=True)
    assert not (house.homes.local_storage / "trash" / made.uid).exists()
    with pytest.raises(resources.Missing):
        await house.read(made)


async def killed(house: House, made: vm.VM) -> None:
    pid = (await house.becomes(made, vm.State.RUNNING)).status.pid
    assert pid
    os.kill(pid, signal.SIGKILL)


async def test_without_a_restart_policy_it_stays_down_and_says_how_it_ended(house: House):
    made = await house.create(start=True, restart={"policy": "never"}, **BLANK)
    await killed(house, made)
    down = await house.becomes(made, vm.State.CRASHED)
    assert down.status.reason is not None
    assert "SIGKILL" in down.status.reason.text
    assert (down.spec.power, down.status.next_try, down.status.pid) == (vm.Power.RUNNING, None, None)


async def test_restarts_are_counted_backed_off_and_given_up_until_a_person_starts_it(house: House):
    made = await house.create(start=True, restart={"policy": "on-crash", "limit": 2, "delay": 0.5}, **BLANK)
    for count in (1, 2):
        await killed(house, made)
        waiting = await house.until(lambda: house.read(made), lambda one: one.status.next_try is not None)
        assert (waiting.status.state, waiting.status.restarts) == (vm.State.CRASHED, count - 1)
        again = await house.becomes(made, vm.State.RUNNING)
        assert (again.status.restarts, again.status.next_try) == (count, None)
    await killed(house, made)
    down = await house.becomes(made, vm.State.CRASHED)
    assert (down.status.restarts, down.status.next_try) == (2, None)
    assert (await house.ask("vm.start", made)).status.state is work.TaskState.DONE
    started = (await house.read(made)).status
    assert (started.restarts, started.last_end and started.last_end.reason.type) == (0, "vm-crashed")
    await house.ask("vm.kill", made)
    assert (await house.read(made)).status.last_end is None


async def test_a_steady_run_starts_the_count_anew(house: House, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lifecycle, "STEADY", 1.0)
    made = await house.create(start=True, restart={"policy": "on-crash", "delay": 0}, **BLANK)
    await killed(house, made)
    await house.until(lambda: house.read(made), lambda one: one.status.restarts == 1)
    steady = await house.until(lambda: house.read(made), lambda one: one.status.restarts == 0)
    assert steady.status.state is vm.State.RUNNING


async def test_a_back_off_goes_on_where_it_was_when_the_daemon_comes_back(house: House):
    made = await house.create(start=True, restart={"policy": "on-crash", "limit": 1, "delay": 0}, **BLANK)
    await killed(house, made)
    await house.until(lambda: house.read(made), lambda one: one.status.restarts == 1)
    await killed(house, made)
    await house.becomes(made, vm.State.CRASHED)
    await house.close()
    again = await House(house.homes).open()
    try:
        ended = await again.ask("vm.reboot", made)
        assert problem(ended) == "vm-not-running"
        assert (await again.read(made)).status.state is vm.State.CRASHED  # the limit holds over restarts of the daemon
    finally:
        await again.close()


async def test_what_should_always_run_runs_again_after_an_orderly_end(house: House):
    made = await house.create(start=True, restart={"policy": "always", "delay": 0}, **BLANK)
    before = (await house.read(made)).status.pid
    one = house.node.crew.of(made.uid)
    assert one is not None
    assert one.standing.machine is not None
    with contextlib.suppress(Exception):
        await one.standing.machine.quit()
    again = await house.until(
        lambda: house.read(made), lambda now: now.status.state is vm.State.RUNNING and now.status.pid != before
    )
    assert again.spec.power is vm.Power.RUNNING


async def test_the_trash_is_emptied_after_its_time_by_whoever_lives_the_vm(house: House):
    made = await house.create(**BLANK)
    await house.ask("vm.delete", made)
    one = house.node.crew.of(made.uid)
    assert one is not None
    one.expire()
    await house.until(lambda: house.resources.list(vm.VM, trash=True), lambda listing: listing.items == [])
    assert list((house.homes.local_storage / "trash").iterdir()) == []
