"""What of a changed share a running machine is told."""

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from bocage.model import base, requests, share, snapshot
from bocage.model import vm as model
from bocage.model.units import MiB, Size
from bocage.planner import adaptation, definition, reverting, shares
from tests.planner.test_adaptation import built, spec

_UID = base.new_uid()
_SIZES = some.none() | some.integers(1 << 20, 1 << 30).map(Size)
ios = some.builds(share.Io, iops=some.none() | some.integers(1, 9999), rate=_SIZES)
rates = some.builds(share.NetRate, inward=_SIZES, outward=_SIZES)
cpus = some.builds(
    share.Cpu,
    weight=some.integers(1, 10_000),
    cap=some.none() | some.floats(0.05, 64),
    pin=some.sampled_from([None, "0", "0-1", "1,3"]),
)
all_shares = some.builds(
    share.Share,
    cpu=cpus,
    memory_overhead=some.none() | some.integers(64, 4096).map(lambda count: Size(count * MiB)),
    disks=ios,
    nics=rates,
)


def disk(number: int, limits: share.Io) -> model.Disk:
    return model.Disk(name=f"disk{number}", volume=base.new_uid(), serial=f"s{number}", limits=limits)


def nic(number: int, rate: share.NetRate | None) -> model.Nic:
    return model.Nic(
        name=f"nic{number}",
        network=_UID,
        mac=f"52:54:00:00:00:{number:02x}",
        address=f"rp{number + 3}/00.0",
        rate=rate,
    )


@some.composite
def pairs(draw: some.DrawFn) -> tuple[model.VMSpec, model.VMSpec]:
    """A machine, and what is wanted of it: the same devices, and perhaps others beside."""
    base_, count = spec(), draw(some.integers(0, 3))
    disks = [disk(number, share.Io()) for number in range(count)]
    cards = [nic(number, None) for number in range(count)]

    def held() -> model.VMSpec:
        return base_.model_copy(
            update={
                "share": draw(all_shares),
                "disks": tuple(one.model_copy(update={"limits": draw(ios)}) for one in disks),
                "nics": tuple(one.model_copy(update={"rate": draw(some.none() | rates)}) for one in cards),
            }
        )

    return held(), held()


@settings(deadline=None)
@given(pairs())
def test_what_it_is_told_makes_it_what_is_wanted_and_then_there_is_nothing_left(pair):
    now, wanted = pair
    for one in shares.changes(now, wanted):
        now = now.model_copy(update=shares.held(now, one))
    assert now == wanted
    assert list(shares.changes(now, wanted)) == []


@settings(deadline=None)
@given(pairs())
def test_from_its_start_on_it_is_told_all_that_bounds_it_and_once_more_when_nobody_was_there_to_see(pair):
    _, wanted = pair
    bare = shares.without(wanted)
    assert not shares.is_bounded(bare)
    assert shares.with_share_of(bare, wanted) == wanted
    first = [one.path for one in shares.changes(bare, wanted)]
    again = [one.path for one in shares.changes(wanted, wanted, again=True)]
    assert set(first) == set(again)
    assert bool(first) == shares.is_bounded(wanted)


@settings(deadline=None)
@given(pairs())
def test_what_it_is_held_to_is_all_that_differs(pair):
    now, wanted = pair
    for one in adaptation.changes(built(now), wanted):
        assert isinstance(one, shares.Hold)


def test_memory_has_room_for_the_guest_while_it_grows_and_while_it_shrinks():
    small = spec().model_copy(update={"share": share.Share(memory_overhead=Size(256 * MiB))})
    large = small.model_copy(update={"memory": Size(512 * MiB)})
    for now, wanted in ((small, large), (large, small)):
        [one] = shares.changes(now, wanted)
        assert isinstance(one, shares.HoldMemory)
        assert one.overhead is not None
        assert shares.ceiling(one.guest, one.overhead, small.memory) == 768 * MiB
    assert shares.ceiling(small.memory, 64 * MiB, large.memory) == 576 * MiB  # its guest may restart


def test_a_nic_on_another_network_is_told_its_rate_anew():
    rate = share.Share(nics=share.NetRate(inward=Size(4096)))
    now = spec().model_copy(update={"nics": (nic(0, None),), "share": rate})
    moved = now.model_copy(update={"nics": (now.nics[0].model_copy(update={"network": base.new_uid()}),)})
    kinds = [type(one) for one in adaptation.changes(built(now), moved)]
    assert kinds == [adaptation.RewireNic, shares.HoldNic]


def test_a_patch_changes_what_it_names_and_null_gives_back_what_is_usual():
    made = model.VM(metadata=base.Metadata(uid=base.new_uid(), name="box", project="default"), spec=spec())
    first = requests.VMPatch.model_validate({"share": {"cpu": {"weight": 300, "cap": 0.5}, "disks": {"iops": 500}}})
    then = requests.VMPatch.model_validate({"share": {"cpu": {"cap": None}, "nics": {"inward": "10M"}}})
    changed = definition.change(definition.change(made, first), then)
    assert changed.spec.share == share.Share(
        cpu=share.Cpu(weight=300), disks=share.Io(iops=500), nics=share.NetRate(inward=Size(10 * MiB))
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"cpu": {"pin": "3-1"}},
        {"cpu": {"cap": 0.01}},
        {"disks": {"burst_iops": 5}},
        {"disks": {"iops": 10, "burst_iops": 5}},
        {"memory_overhead": "1M"},
        {"nics": {"inward": "1B"}},
    ],
)
def test_what_cannot_be_held_is_refused(wrong):
    with pytest.raises(pydantic.ValidationError):
        share.Share.model_validate(wrong)


def test_lists_of_cpus_are_read():
    assert share.cpu_set("0-2,5") == {0, 1, 2, 5}


def test_going_back_to_a_snapshot_leaves_its_share_as_it_is_today():
    here = reverting.Here(images=(), networks=(_UID,))
    limited = disk(0, share.Io(iops=5)).model_copy(update={"address": "rp1/00.0"})
    then = spec().model_copy(update={"disks": (limited,), "nics": (nic(0, share.NetRate(inward=Size(4096))),)})
    moment = snapshot.Snapshot(
        metadata=base.Metadata(name="then", project="default"),
        spec=snapshot.SnapshotSpec(vm=base.new_uid(), machine=then),
        status=snapshot.SnapshotStatus(
            disks=(snapshot.SnapshotDisk(disk="disk0", volume=limited.volume, file="disk0.qcow2", size=Size(MiB)),)
        ),
    )
    now = shares.without(then).model_copy(update={"share": share.Share(cpu=share.Cpu(weight=7))})
    made = model.VM(metadata=base.Metadata(uid=base.new_uid(), name="box", project="default"), spec=now)
    back = reverting.spec(made, moment, here, generation_id=base.new_uid())
    assert (back.share, back.disks[0].limits, back.nics[0].rate) == (now.share, share.Io(), None)
