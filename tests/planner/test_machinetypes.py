"""Machine types that QEMU drops: told a year ahead, and left behind on request."""

import datetime

import pytest

from bocage.model import base, snapshot
from bocage.model import vm as model
from bocage.planner import alarms, machinetypes
from tests.planner import things

HOST = {
    "machines": {"q35": "pc-q35-7.2", "pc": "pc-i440fx-7.2"},
    "types": ["isapc", "pc-i440fx-2.4", "pc-i440fx-7.2", "pc-q35-6.0", "pc-q35-7.2"],
    "ending": ["pc-i440fx-2.4"],
}


def machine(board: str, **status: object) -> model.VM:
    made = things.machine(status=model.VMStatus.model_validate({"host": things.HOST, **status}))
    hardware = made.spec.hardware.model_copy(update={"machine": board})
    return made.model_copy(update={"spec": made.spec.model_copy(update={"hardware": hardware})})


def told(board: str, today: datetime.date) -> list[str]:
    now = datetime.datetime.combine(today, datetime.time(), datetime.UTC)
    world = alarms.World(now=now, host=things.host(status=HOST), vms=(machine(board),))
    return [one.condition.type for one in alarms.conditions(world)]


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("pc-q35-7.2", datetime.date(2028, 12, 1)),
        ("pc-i440fx-9.0", datetime.date(2030, 4, 1)),
        ("pc-q35-2.12", datetime.date(2025, 4, 1)),
        ("isapc", None),
    ],
)
def test_a_type_goes_six_major_versions_after_its_own(name, end):
    assert machinetypes.dropped(name) == end


def test_it_is_told_a_year_ahead_and_when_qemu_says_so_and_when_it_is_too_late():
    before = datetime.date(2027, 1, 1)
    assert told("pc-q35-7.2", before) == []
    assert told("pc-q35-7.2", datetime.date(2027, 12, 2)) == ["alarm-machine-type-ends"]
    assert told("pc-i440fx-2.4", datetime.date(2020, 1, 1)) == ["alarm-machine-type-ends"]
    assert told("pc-q35-3.0", before) == ["alarm-machine-type-gone"]
    assert told("isapc", before) == []


def test_memory_in_snapshots_is_told_of_too_once_for_each_vm():
    vm_now, then = machine("pc-q35-7.2"), machine("pc-q35-6.0").spec
    taken = tuple(
        snapshot.Snapshot(
            metadata=base.Metadata(name=name, project="default"),
            spec=snapshot.SnapshotSpec(vm=vm_now.uid, memory=memory, machine=then),
        )
        for name, memory in (("monday", True), ("tuesday", True), ("disks-only", False))
    )
    now = datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC)
    world = alarms.World(now=now, host=things.host(status=HOST), vms=(vm_now,), snapshots=taken)
    found = [one.condition for one in alarms.conditions(world)]
    assert [one.type for one in found] == ["alarm-snapshot-machine-type-ends"]
    assert found[0].params["snapshots"] == ["monday", "tuesday"]


def test_a_board_moves_to_the_newest_type_of_its_kind_with_all_its_devices():
    old = machine("pc-q35-6.0")
    new = machinetypes.upgraded(old, things.host(status=HOST))
    assert new == old.spec.hardware.model_copy(update={"machine": "pc-q35-7.2"})


def test_it_is_never_moved_back_nor_from_under_saved_memory():
    host = things.host(status=HOST)
    for board in ("pc-q35-7.2", "pc-q35-8.0"):
        with pytest.raises(machinetypes.AlreadyNewest):
            machinetypes.upgraded(machine(board), host)
    with pytest.raises(machinetypes.SavedOnOld):
        machinetypes.upgraded(machine("pc-q35-6.0", state="saved"), host)
