"""The board: fixed at creation, only added to."""

import re

import pytest

from bocage.model import base
from bocage.model import vm as model
from bocage.planner import hardware

MACHINES = {"q35": "pc-q35-7.2", "pc": "pc-i440fx-7.2"}
MODELS = tuple(model.NicModel)


def board(alias: hardware.Alias = "q35") -> model.Hardware:
    smbios = model.Smbios(uuid=base.new_uid(), serial="s")
    return hardware.lay_out(alias=alias, machines=MACHINES, cpu_model="Westmere", smbios=smbios)


def spec(of: model.Hardware, disks: tuple[model.Disk, ...] = (), cds: tuple[model.Cd, ...] = ()) -> model.VMSpec:
    return model.VMSpec(storage=base.new_uid(), hardware=of, disks=disks, cds=cds)


def disk(name: str, bus: model.Bus, address: str | None = None, unit: int | None = None) -> model.Disk:
    uid = base.new_uid()
    return model.Disk(name=name, volume=uid, bus=bus, serial=hardware.serial(uid), address=address, unit=unit)


@pytest.mark.parametrize("alias", MACHINES)
def test_every_device_of_the_board_has_a_place_of_its_own_that_no_other_device_can_get(alias):
    of = board(alias)
    onboard = list(of.devices.values())
    assert set(of.devices) == {"video", "agent", "balloon", "rng", "scsi", "usb"}
    assert len(set(onboard)) == len(onboard)
    for nic in MODELS:
        assert not set(hardware.places(of, nic)) & set(onboard)


def test_root_ports_never_reach_the_boards_own_devices_even_when_there_are_32():
    ports = {hardware.port_address(index).split(".")[1] for index in range(32)}
    assert not ports & {address.split(".")[1] for address in board().devices.values()}


def test_a_root_port_is_one_of_eight_functions_of_its_slot():
    assert [hardware.port_address(i) for i in (0, 7, 8, 15)] == [
        "pcie.0/02.0",
        "pcie.0/02.7",
        "pcie.0/03.0",
        "pcie.0/03.7",
    ]


def test_a_device_gets_the_first_free_place_and_a_gap_is_used_again():
    of = board()
    assert hardware.next_address(of, ()) == "rp0/00.0"
    assert hardware.next_address(of, {"rp0/00.0", "rp2/00.0"}) == "rp1/00.0"
    assert hardware.next_address(board("pc"), {"pci.0/07.0"}) == "pci.0/08.0"


@pytest.mark.parametrize("nic", MODELS)
def test_a_conventional_card_is_on_the_root_bus_and_an_express_one_behind_a_port(nic):
    conventional = nic in ("e1000", "rtl8139", "pcnet", "tulip", "ne2k")
    assert hardware.next_address(board(), (), nic).startswith("pcie.0/" if conventional else "rp0/")
    assert hardware.next_address(board("pc"), (), nic).startswith("pci.0/")


def test_a_full_board_says_so():
    of = board()
    used: set[str] = set()
    for _ in range(of.root_ports):
        used.add(hardware.next_address(of, used))
    with pytest.raises(hardware.NoAddress) as refused:
        hardware.next_address(of, used)
    assert refused.value.count == 16


@pytest.mark.parametrize(
    ("alias", "bus", "count"),
    [("q35", model.Bus.SATA, 6), ("pc", model.Bus.IDE, 4), ("q35", model.Bus.SCSI, 255), ("pc", model.Bus.SCSI, 255)],
)
def test_a_bus_has_its_units_and_no_more(alias, bus, count):
    used: set[int] = set()
    for _ in range(count):
        used.add(hardware.next_unit(board(alias), bus, used))
    assert used == set(range(count))
    with pytest.raises(hardware.NoUnit):
        hardware.next_unit(board(alias), bus, used)


@pytest.mark.parametrize(("alias", "bus"), [("q35", model.Bus.IDE), ("pc", model.Bus.SATA)])
def test_a_bus_that_the_board_lacks_is_refused(alias, bus):
    with pytest.raises(hardware.NoBus):
        hardware.next_unit(board(alias), bus, ())
    with pytest.raises(hardware.NoBus):
        hardware.check(spec(board(alias), cds=(model.Cd(name="cd0", bus=bus, unit=0),)))


def test_an_unknown_kind_of_machine_is_refused_with_what_there_is():
    smbios = model.Smbios(uuid=base.new_uid(), serial="s")
    with pytest.raises(hardware.NoMachine) as refused:
        hardware.lay_out(alias="pc", machines={"q35": "pc-q35-7.2"}, cpu_model="qemu64", smbios=smbios)
    assert refused.value.known == ["q35"]


def test_a_spec_made_by_asking_for_the_next_place_each_time_fits():
    of = board()
    taken = spec(of)
    for _ in range(5):
        address = hardware.next_address(of, hardware.used_addresses(taken))
        name = hardware.next_name("disk", [one.name for one in taken.disks])
        taken = spec(of, (*taken.disks, disk(name, model.Bus.VIRTIO, address)))
    for bus in (model.Bus.SCSI, model.Bus.SATA):
        unit = hardware.next_unit(of, bus, hardware.used_units(taken, bus))
        name = hardware.next_name("disk", [one.name for one in taken.disks])
        taken = spec(of, (*taken.disks, disk(name, bus, unit=unit)))
    hardware.check(taken)
    assert [one.name for one in taken.disks] == [f"disk{n}" for n in range(7)]


@pytest.mark.parametrize(
    "wrong",
    [
        disk("d", model.Bus.VIRTIO, "rp16/00.0"),
        disk("d", model.Bus.VIRTIO, "pcie.0/0b.0"),
        disk("d", model.Bus.VIRTIO),
        disk("d", model.Bus.SATA, unit=6),
        disk("d", model.Bus.SCSI),
        disk("d", model.Bus.SCSI, unit=hardware.SEED_UNIT),
    ],
)
def test_a_device_where_there_is_no_place_is_refused(wrong):
    with pytest.raises(hardware.Misplaced):
        hardware.check(spec(board(), (wrong,)))


def test_two_devices_at_one_place_are_refused():
    with pytest.raises(hardware.Occupied):
        hardware.check(spec(board(), tuple(disk(n, model.Bus.VIRTIO, "rp1/00.0") for n in ("a", "b"))))
    cd = model.Cd(name="cd0", unit=0)
    with pytest.raises(hardware.Occupied):
        hardware.check(spec(board(), (disk("a", model.Bus.SATA, unit=0),), (cd,)))


def test_a_mac_address_is_stable_unique_and_a_unicast_one_that_nobody_was_sold():
    uid = base.new_uid()
    first = hardware.mac(uid, "nic0")
    assert first == hardware.mac(uid, "nic0")
    assert re.fullmatch(r"52:54(:[0-9a-f]{2}){4}", first)
    assert int(first[:2], 16) & 3 == 2
    assert len({first, hardware.mac(uid, "nic0", {first}), hardware.mac(uid, "nic1")}) == 3


def test_a_disk_serial_is_as_long_as_virtio_can_tell():
    uid = base.new_uid()
    assert len(hardware.serial(uid)) == 20
    assert uid.replace("-", "").endswith(hardware.serial(uid))


def test_an_address_is_taken_apart_into_bus_slot_and_function():
    assert hardware.split("pcie.0/1e.7") == ("pcie.0", 0x1E, 7)
