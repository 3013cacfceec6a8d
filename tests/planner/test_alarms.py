from __future__ import annotations

import datetime

import pytest

from bocage.model import base, ground, vm, work
from bocage.node import notes
from bocage.planner import alarms
from tests.planner import things

NOW = datetime.datetime(2026, 5, 1, tzinfo=datetime.UTC)


def ago(seconds: float) -> datetime.datetime:
    return NOW - datetime.timedelta(seconds=seconds)


def raised(**fields: object) -> dict[str, base.Severity]:
    world = alarms.World(now=NOW, host=things.host(), **fields)  # type: ignore[arg-type]
    return {one.condition.type: one.severity for one in alarms.conditions(world)}


def storage(**status: object) -> ground.Storage:
    return things.storage(status=ground.StorageStatus.model_validate({"state": "ready", **status}))


@pytest.mark.parametrize(
    ("free", "expected"),
    [
        (50, {}),
        (19, {"alarm-storage-full": base.Severity.WARNING}),
        (4, {"alarm-storage-full": base.Severity.ERROR}),
    ],
)
def test_a_storage_is_told_of_from_four_fifths_on_and_gravely_near_its_end(free: int, expected: dict[str, object]):
    assert raised(storages=(storage(total_bytes=100, free_bytes=free),)) == expected


def test_a_storage_that_is_away_is_told_of_and_directories_that_nobody_knows():
    away = things.storage(status=ground.StorageStatus(state="unavailable"))
    assert raised(storages=(away,), unknown={away.uid: 3}) == {
        "alarm-storage-unavailable": base.Severity.ERROR,
        "alarm-unknown-directories": base.Severity.WARNING,
    }


@pytest.mark.parametrize(
    ("mirror", "expected"),
    [
        (ground.Mirror(disks=2, working=2), {}),
        (ground.Mirror(disks=2, working=1), {"alarm-mirror-lacks-disk": base.Severity.ERROR}),
        (ground.Mirror(disks=2, working=1, rebuilt_percent=7), {"alarm-mirror-rebuilds": base.Severity.WARNING}),
    ],
)
def test_a_mirror_that_one_disk_holds_alone_is_told_of(mirror: ground.Mirror, expected: dict[str, object]):
    assert raised(storages=(storage(total_bytes=100, free_bytes=90, mirror=mirror),)) == expected


def machine(power: vm.Power = vm.Power.RUNNING, **status: object) -> vm.VM:
    return things.machine(power=power, status=vm.VMStatus.model_validate({"since": ago(60), **status}))


def test_a_vm_that_crashes_again_and_again_is_told_of_and_no_more_once_it_runs_steadily():
    assert raised(vms=(machine(state="running", restarts=3),)) == {"alarm-crash-loop": base.Severity.ERROR}
    assert raised(vms=(machine(state="running", restarts=0),)) == {}


def test_a_vm_that_should_run_and_is_left_down_is_told_of():
    down = machine(state="crashed", restarts=1)
    assert raised(vms=(down,)) == {"alarm-stays-down": base.Severity.ERROR}
    assert raised(vms=(machine(vm.Power.STOPPED, state="crashed"),)) == {}


def test_what_passes_by_itself_is_no_alarm():
    assert raised(vms=(machine(state="crashed", next_try=NOW),)) == {}
    assert raised(vms=(machine(state="crashed", since=ago(1)),)) == {}
    waits = base.Saying.of(notes.WaitsForTurn(name="web"))
    assert raised(vms=(machine(state="stopped", reason=waits),)) == {}


def test_a_vm_that_waits_for_its_storage_is_told_of_by_what_helps():
    full = base.Saying.of(notes.StorageFull(name="web"))
    failed = base.Saying.of(notes.StorageFailed(name="web"))
    assert raised(vms=(machine(state="paused", reason=full),)) == {"alarm-waits-for-storage": base.Severity.ERROR}
    assert raised(vms=(machine(state="paused", reason=failed),)) == {"alarm-writes-fail": base.Severity.ERROR}
    assert raised(vms=(machine(state="unknown"),)) == {"alarm-monitor-silent": base.Severity.ERROR}
    lost = base.Saying.of(notes.OutOfReach(name="web", pid=7))
    assert raised(vms=(machine(state="unknown", reason=lost),)) == {"alarm-out-of-reach": base.Severity.ERROR}


def task(state: str, *, action: str = "vm.start", status: int = 503, ended: float = 60.0) -> work.Task:
    problem = base.Saying.of(alarms.QemuMissing(reason="x")) if state == "failed" else None
    asked = work.task(action, subject=things.machine().ref)
    return asked.model_copy(
        update={
            "status": work.TaskStatus(
                state=work.TaskState(state), ended=ago(ended), problem=problem, http_status=status if problem else None
            )
        }
    )


def test_a_task_that_the_machine_failed_at_is_told_of_but_not_a_question_that_made_no_sense():
    assert raised(tasks=(task("failed"),)) == {"alarm-task-failed": base.Severity.WARNING}
    assert raised(tasks=(task("failed", status=409),)) == {}


def test_a_failed_task_is_over_when_the_same_was_done_since_or_its_subject_is_gone_or_a_day_went_by():
    assert raised(tasks=(task("failed"), task("done"))) == {}
    assert raised(tasks=(task("done"), task("failed"))) != {}
    assert raised(tasks=(task("failed"), task("done", action="vm.delete"))) == {}
    assert raised(tasks=(task("failed", ended=90_000),)) == {}


def test_a_script_that_fails_all_day_is_one_alarm():
    world = alarms.World(now=NOW, host=things.host(), tasks=tuple(task("failed") for _ in range(50)))
    assert len(alarms.conditions(world)) == 1


def test_a_flatten_that_found_no_room_is_told_of_until_it_has_ended():
    lines = (work.LogLine(time=NOW, said=base.Saying(type=alarms.FLATTEN_WAITS, params={})),)

    def flatten(state: str) -> work.Task:
        one = task(state, action="vm.flatten")
        return one.model_copy(update={"status": one.status.model_copy(update={"log": lines})})

    assert raised(tasks=(flatten("running"),)) == {"alarm-flatten-waits-for-room": base.Severity.WARNING}
    assert raised(tasks=(flatten("done"), task("running", action="vm.flatten"))) == {}


def test_a_vm_that_runs_without_its_dongle_is_told_of():
    waits, has = vm.UsbStatus(name="usb0"), vm.UsbStatus(name="usb1", node="/dev/bus/usb/001/004")
    running = machine(state=vm.State.RUNNING, usb=(waits, has))
    assert raised(vms=(running,)) == {"alarm-usb-missing": base.Severity.WARNING}
    assert raised(vms=(machine(state=vm.State.RUNNING, usb=(has,)),)) == {}


def test_a_clock_that_jumped_and_a_missing_qemu_are_told_of():
    assert raised(clock_moved=-86_400.0) == {"alarm-clock-moved": base.Severity.WARNING}
    assert raised(clock_moved=3.0) == {}
    broken = things.host(status=ground.HostStatus(problem=base.Saying.of(alarms.QemuMissing(reason="x"))))
    world = alarms.World(now=NOW, host=broken)
    assert [one.condition.type for one in alarms.conditions(world)] == ["alarm-qemu-missing"]


def test_an_alarm_has_the_same_uid_whenever_it_is_looked_at_and_says_nothing_new_when_only_bytes_drift():
    def once(free: int) -> alarms.Raised:
        full = things.storage(status=ground.StorageStatus(state="ready", total_bytes=1000, free_bytes=free))
        return alarms.conditions(alarms.World(now=NOW, host=things.host(), storages=(full,)))[0]

    assert once(100).uid == once(60).uid
    assert once(105).condition.same(once(101).condition.params)
    assert not once(100).condition.same(once(50).condition.params)
