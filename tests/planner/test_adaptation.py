"""What a running machine can take of a changed definition."""

import dataclasses
import functools

import pytest
from hypothesis import given
from hypothesis import strategies as some

from bocage.model import base
from bocage.model import board as boards
from bocage.model import memory as memories
from bocage.model import vm as model
from bocage.model.units import MiB, Size
from bocage.planner import adaptation, growth, hardware
from bocage.planner.adaptation import Built, First

MACHINES = {"q35": "pc-q35-7.2", "pc": "pc-i440fx-7.2"}


def spec(cpus=1, memory=128 * MiB, max_cpus=8, max_memory=Size(1024 * MiB), **fitted) -> model.VMSpec:
    smbios = model.Smbios(uuid=base.new_uid(), serial="s")
    board = hardware.lay_out(
        alias="q35",
        machines=MACHINES,
        cpu_model="Westmere",
        smbios=smbios,
        fittings=boards.Fittings(**fitted),
        max_cpus=max_cpus,
        max_memory=max_memory,
    )
    return model.VMSpec(storage=_STORAGE, cpus=model.Cpus.model_validate(cpus), memory=Size(memory), hardware=board)


_STORAGE = base.new_uid()


def built(of: model.VMSpec) -> Built:
    return Built(of, First.of(of))


def paths(now: model.VMSpec, **changed: object) -> list[str]:
    return [one.path for one in adaptation.changes(built(now), now.model_copy(update=changed))]


def test_within_its_room_a_machine_takes_vcpus_and_memory():
    assert paths(spec(), cpus=model.Cpus(cores=8), memory=Size(1024 * MiB)) == ["cpus", "memory"]
    assert paths(spec()) == []


def test_beyond_its_room_it_takes_nothing():
    assert paths(spec(), cpus=model.Cpus(cores=9), memory=Size(1025 * MiB)) == []
    assert paths(spec(max_cpus=None, max_memory=None), cpus=model.Cpus(cores=2), memory=Size(256 * MiB)) == []


def test_vcpus_are_never_taken_away_and_no_shape_is_changed_by_stealth():
    assert paths(spec(cpus=4), cpus=model.Cpus(cores=2)) == []
    assert paths(spec(cpus=2), cpus=model.Cpus(cores=2, threads=2)) == []
    assert paths(spec(cpus=2), cpus=model.Cpus(sockets=2, cores=2)) == []
    two = spec(cpus={"sockets": 2, "cores": 2})
    assert paths(two, cpus=model.Cpus(sockets=3, cores=2)) == ["cpus"]
    assert paths(two, cpus=model.Cpus(sockets=2, cores=3)) == []


def test_memory_comes_back_as_far_as_what_it_began_with():
    began = spec()
    grown = Built(began.model_copy(update={"memory": Size(512 * MiB)}), First.of(began))
    [back] = adaptation.changes(grown, began)
    assert back == adaptation.ResizeMemory(began.memory, 0)
    [less] = adaptation.changes(grown, began.model_copy(update={"memory": Size(64 * MiB)}))
    assert less == adaptation.ResizeMemory(Size(64 * MiB), 0, balloon=True)
    assert not list(adaptation.changes(grown, began.model_copy(update={"memory": Size(129 * MiB)})))  # half a block


def test_below_what_it_began_with_only_a_balloon_gives_memory_and_takes_it_again():
    began = spec(max_memory=None)
    given = began.model_copy(update={"memory": Size(64 * MiB)})
    assert list(adaptation.changes(built(began), given)) == [adaptation.ResizeMemory(Size(64 * MiB), 0, balloon=True)]
    less = Built(given, First.of(began))
    assert list(adaptation.changes(less, began)) == [adaptation.ResizeMemory(began.memory, 0, balloon=True)]
    roomy = Built(spec(memory=64 * MiB), First.of(began))
    more = spec(memory=256 * MiB)
    assert list(adaptation.changes(roomy, more)) == [adaptation.ResizeMemory(Size(256 * MiB), 128 * MiB, balloon=True)]
    board = began.hardware.model_copy(update={"devices": {}})
    bare = began.model_copy(update={"hardware": board})
    assert paths(bare, memory=Size(64 * MiB)) == []


def test_memory_that_began_dynamic_becomes_fixed_and_dynamic_again_and_fixed_memory_waits():
    half = memories.DynamicMemory(startup=Size(64 * MiB), minimum=Size(32 * MiB))
    plain = spec()
    dynamic = plain.model_copy(update={"dynamic_memory": half})
    assert not list(adaptation.changes(built(plain), dynamic))
    lower = dynamic.model_copy(update={"memory": Size(64 * MiB)})
    assert not list(adaptation.changes(built(plain), lower)), "all of it waits"
    [fixed] = adaptation.changes(built(dynamic), plain)
    assert fixed == adaptation.ResizeMemory(plain.memory, 0, balloon=True, path="dynamic_memory")
    [again] = adaptation.changes(Built(plain, First.of(dynamic)), dynamic)
    assert again == adaptation.ResizeMemory(plain.memory, 0, dynamic=half, path="dynamic_memory")
    heavier = half.model_copy(update={"weight": 300, "startup": Size(200 * MiB)})
    beyond = dynamic.model_copy(update={"dynamic_memory": heavier, "memory": Size(2048 * MiB)})
    [most] = adaptation.changes(built(dynamic), beyond)
    near = heavier.model_copy(update={"startup": plain.memory})
    assert most == adaptation.ResizeMemory(plain.memory, 0, dynamic=near, path="dynamic_memory")


memories_or_none = some.none() | some.integers(1, 64).flatmap(
    lambda least: some.integers(least, 128).map(
        lambda startup: memories.DynamicMemory(startup=Size(startup * 16 * MiB), minimum=Size(least * 16 * MiB))
    )
)


@given(memories_or_none, memories_or_none, some.integers(1, 256), some.integers(1, 256), some.booleans())
def test_what_a_machine_is_noted_to_be_can_be_read_again_and_is_not_asked_for_twice(was, wanted, had, size, dimm):
    now = spec(memory=had * 16 * MiB, max_memory=Size(4096 * MiB), added_memory="dimm" if dimm else "virtio-mem")
    now = now.model_copy(update={"dynamic_memory": memories.within(was, now.memory)})
    then = now.model_copy(update={"memory": Size(size * 16 * MiB)})
    then = then.model_copy(update={"dynamic_memory": memories.within(wanted, then.memory)})
    for change in adaptation.changes(built(now), then):
        assert isinstance(change, adaptation.ResizeMemory)
        noted = now.model_copy(update={"memory": change.memory, "dynamic_memory": change.dynamic})
        assert model.VMSpec.model_validate(noted.model_dump()) == noted
        first = First.of(now)
        more = dataclasses.replace(first, dimms=(change.added,)) if change.dimm else first
        assert not list(adaptation.changes(Built(noted, more), then))


def test_where_memory_comes_as_dimms_it_comes_in_whole_ones_and_goes_by_the_balloon_alone():
    began = spec(added_memory="dimm")
    assert "memory" not in began.hardware.devices
    resize, mib = adaptation.ResizeMemory, (lambda size: Size(size * MiB))
    asked = [began.model_copy(update={"memory": mib(size)}) for size in (384, 200, 1152, 64)]
    found = [list(adaptation.changes(built(began), one)) for one in asked]
    assert found == [[resize(mib(384), 256 * MiB, dimm=True)], [], [], [resize(mib(64), 0, balloon=True)]]
    more = dataclasses.replace(First.of(began), dimms=(256 * MiB,))
    grown = Built(began.model_copy(update={"memory": mib(384)}), more)
    assert list(adaptation.changes(grown, began)) == [resize(mib(128), 0, balloon=True)]
    low = Built(began, more)
    assert list(adaptation.changes(low, asked[0])) == [resize(mib(384), 0, balloon=True)]
    assert list(adaptation.changes(low, began.model_copy(update={"memory": mib(512)}))) == [
        resize(mib(512), 128 * MiB, balloon=True, dimm=True)
    ]
    full = dataclasses.replace(more, dimms=(1,) * more.slots)
    assert not list(adaptation.changes(Built(began, full), asked[0]))
    older = dataclasses.replace(First.of(began), slots=0)  # started before there were slots, or without room
    assert not list(adaptation.changes(Built(began, older), asked[0]))
    assert First.of(spec(added_memory="dimm", max_memory=Size(128 * MiB))).slots == 0


@given(some.integers(1, 12), some.integers(1, 12), some.integers(1, 12), some.integers(1, 8))
def test_what_was_taken_is_not_asked_for_again(now, wanted, most, sockets):
    first = spec(cpus={"sockets": sockets, "cores": now}, max_cpus=most * sockets)
    then = first.model_copy(update={"cpus": model.Cpus(sockets=sockets, cores=wanted)})
    for change in adaptation.changes(built(first), then):
        assert isinstance(change, adaptation.PlugCpus)
        after = dataclasses.replace(built(first), spec=first.model_copy(update={"cpus": change.cpus}))
        assert not list(adaptation.changes(after, then))
        board = first.cpus.board(first.hardware.max_cpus)
        assert change.cpus.count <= board.count
        assert change.cpus.board(first.hardware.max_cpus).count == board.count  # the same machine, more of it used


@given(some.integers(1, 8), some.integers(1, 8), some.integers(1, 8), some.integers(1, 4))
def test_vcpus_that_came_later_go_again_under_kvm_alone_and_the_board_stays(began, now, wanted, sockets):
    first = spec(cpus={"sockets": sockets, "cores": began}, max_cpus=8 * sockets)
    runs, then = (
        first.model_copy(update={"cpus": model.Cpus(sockets=sockets, cores=cores)}) for cores in (now, wanted)
    )
    grown = Built(runs, First.of(first))
    less = wanted < now
    assert not less or not list(adaptation.changes(grown, then))
    found = list(adaptation.changes(grown, then, kvm=True))
    most = runs.hardware.max_cpus
    if less and wanted >= began and then.cpus.board(most) == runs.cpus.board(most):
        assert found == [adaptation.UnplugCpus(then.cpus)]
        assert not list(adaptation.changes(dataclasses.replace(grown, spec=then), then, kvm=True))
    elif less:
        assert not found


def test_vcpus_that_it_began_with_stay_under_kvm_too():
    first = spec(cpus={"cores": 2}, max_cpus=4)
    grown = Built(first.model_copy(update={"cpus": model.Cpus(cores=4)}), First.of(first))
    for cores, path in ((3, ["cpus"]), (2, ["cpus"]), (1, [])):
        then = first.model_copy(update={"cpus": model.Cpus(cores=cores)})
        assert [one.path for one in adaptation.changes(grown, then, kvm=True)] == path
        assert not list(adaptation.changes(grown, then))


@given(some.integers(1, 64), some.integers(1, 64), some.integers(1, 8), some.integers(1, 255))
def test_a_board_holds_its_vcpus_whatever_room_it_was_given(sockets, cores, threads, most):
    if sockets * cores * threads > 64:
        return
    cpus = model.Cpus(sockets=sockets, cores=cores, threads=threads)
    board = cpus.board(most)
    assert board.count >= cpus.count
    assert board.threads == threads
    assert board.last_apic_id < 255


def test_another_card_under_the_name_of_one_takes_its_place():
    now = spec()
    place = hardware.next_address(now.hardware, ())
    nic = model.Nic(name="nic0", network=base.new_uid(), mac="52:54:00:00:00:01", address=place)
    other = nic.model_copy(update={"mac": "52:54:00:00:00:02"})
    begun = now.model_copy(update={"nics": (nic,)})
    tried = list(adaptation.changes(built(begun), begun.model_copy(update={"nics": (other,)})))
    assert tried == [adaptation.UnplugNic(nic), adaptation.PlugNic(other)]


def test_nothing_comes_or_goes_on_an_isa_board():
    smbios = model.Smbios(uuid=base.new_uid(), serial="s")
    board = hardware.lay_out(alias="isapc", machines={"isapc": "isapc"}, cpu_model="486", smbios=smbios)
    nic = model.Nic(name="nic0", network=base.new_uid(), model="ne2k", mac="52:54:00:00:00:01", address="isa.0/00.0")
    now = model.VMSpec(storage=_STORAGE, hardware=board, nics=(nic,))
    assert paths(now, nics=()) == []
    assert paths(now, nics=(nic.model_copy(update={"connected": False}),)) == ["nics[nic0]"]


def test_a_board_without_pci_has_no_room_for_memory():
    smbios = model.Smbios(uuid=base.new_uid(), serial="s")
    lay_out = functools.partial(
        hardware.lay_out, alias="isapc", machines={"isapc": "isapc"}, cpu_model="486", smbios=smbios
    )
    with pytest.raises(hardware.NoBus):
        lay_out(max_memory=Size(64 * MiB))
    board = lay_out()
    now = model.VMSpec(storage=_STORAGE, hardware=board, memory=Size(32 * MiB))
    with pytest.raises(hardware.NoBus):
        growth.with_room(now, board, max_cpus=None, max_memory=Size(64 * MiB))


def test_a_small_machine_keeps_all_of_its_memory():
    assert growth.room_for(model.Cpus(cores=1), Size(512 * MiB), host_cpus=8, host_memory=1 << 36) == (4, None)
    assert growth.room_for(model.Cpus(cores=4), Size(1024 * MiB), host_cpus=8, host_memory=3 << 30) == (8, 3 << 30)


def test_disks_come_and_go_where_the_bus_lets_them_and_one_that_goes_makes_place():
    now = spec()
    first, second = hardware.places(now.hardware, model.NicModel.VIRTIO)[:2]
    disk = model.Disk(name="disk0", volume=base.new_uid(), serial="0", address=first)
    other = model.Disk(name="disk1", volume=base.new_uid(), serial="1", address=first)
    elsewhere = other.model_copy(update={"address": second})
    begun = now.model_copy(update={"disks": (disk,)})

    def tried(*disks: model.Disk) -> list[adaptation.Change]:
        return list(adaptation.changes(built(begun), begun.model_copy(update={"disks": disks})))

    assert tried(disk, elsewhere) == [adaptation.PlugDisk(elsewhere)]
    assert tried(disk, other) == []  # its place is taken
    assert tried(other) == [adaptation.UnplugDisk(disk), adaptation.PlugDisk(other)]
    assert tried(disk.model_copy(update={"serial": "2"})) == []
    scsi = model.Disk(name="disk1", volume=base.new_uid(), serial="1", bus=model.Bus.SCSI, unit=0)
    sata = scsi.model_copy(update={"bus": model.Bus.SATA})
    assert tried(disk, scsi) == [adaptation.PlugDisk(scsi)]
    assert tried(disk, sata) == []


@pytest.mark.parametrize(
    ("shape", "count", "found"),
    [
        ({"cores": 4}, 3, {"cores": 3}),
        ({"cores": 4}, 4, {"cores": 4}),
        ({"cores": 2, "threads": 2}, 3, {"cores": 2, "threads": 2}),  # of a core one thread is there
        ({"cores": 2, "threads": 2}, 2, {"cores": 1, "threads": 2}),
        ({"sockets": 3, "cores": 2}, 4, {"sockets": 2, "cores": 2}),
        ({"sockets": 2, "cores": 2}, 5, {"sockets": 3, "cores": 2}),
    ],
)
def test_what_is_found_is_a_machine_of_the_same_board(shape, count, found):
    now = built(spec(cpus=shape))
    seen = now.as_found(count, ())
    assert seen.spec.cpus == model.Cpus.model_validate(found)
    assert seen.spec.cpus.board(8) == now.spec.cpus.board(8)


def test_a_dimm_that_is_found_is_memory_where_no_balloon_may_hold_it():
    began = built(spec(added_memory="dimm"))
    board = began.spec.hardware
    without = board.model_copy(update={"devices": {"agent": board.devices["agent"]}})
    bare = Built(began.spec.model_copy(update={"hardware": without}), began.first)
    assert bare.as_found(1, (256 * MiB,)).spec.memory == 384 * MiB
    assert began.as_found(1, (256 * MiB,)).spec.memory == 128 * MiB  # its balloon is asked next
    assert began.as_found(1, ()) == began
