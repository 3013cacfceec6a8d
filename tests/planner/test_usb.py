"""Which of a host's USB devices a VM gets."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from bocage import errors
from bocage.model import base, board, device_requests, ground
from bocage.model import vm as model
from bocage.planner import adaptation, definition, equipment, fitting, hardware, parts, usb
from bocage.planner.adaptation import Built, First

DONGLE = "0529:0001"
_ids, _ports, _serials = (
    some.sampled_from([DONGLE, "0403:6001"]),
    some.integers(1, 5),
    some.sampled_from(["", "A1", "B2"]),
)


@some.composite
def presents(draw: some.DrawFn) -> list[ground.HostUsb]:
    """Each port with at most one device, each with a node of its own."""
    ports = draw(some.lists(_ports, unique=True))
    return [
        ground.HostUsb(id=draw(_ids), serial=draw(_serials), port=f"1-{port}", node=f"/dev/bus/usb/001/{n:03}")
        for n, port in enumerate(ports)
    ]


@some.composite
def wishes(draw: some.DrawFn) -> list[board.UsbDevice]:
    def one(number: int) -> board.UsbDevice:
        id_ = draw(some.none() | _ids)
        serial = draw(some.none() | some.sampled_from(["A1", "B2"])) if id_ else None
        port = draw((some.none() if id_ else some.nothing()) | _ports.map(lambda port: f"1-{port}"))
        return board.UsbDevice(name=f"usb{number}", id=id_, serial=serial, port=port, unit=number + 1)

    return [one(number) for number in range(draw(some.integers(0, 4)))]


def fits(one: board.UsbDevice, present: ground.HostUsb) -> bool:
    said = ((one.id, present.id), (one.serial, present.serial), (one.port, present.port))
    return all(wanted in (None, there) for wanted, there in said)


@given(wishes(), presents(), some.data())
def test_each_gets_what_it_asked_for_nobody_gets_anothers_and_who_has_one_keeps_it(
    wanted: list[board.UsbDevice], present: list[ground.HostUsb], data: some.DataObject
):
    nodes = [one.node for one in present]
    taken = data.draw(some.sets(some.sampled_from(nodes))) if nodes else set()
    chosen = usb.choose(wanted, present, {}, taken)
    there, asked = {one.node: one for one in present}, {one.name: one for one in wanted}
    assert len(set(chosen.values())) == len(chosen)
    assert not taken & set(chosen.values())
    assert all(fits(asked[name], there[node]) for name, node in chosen.items())
    left = [one for node, one in there.items() if node not in {*taken, *chosen.values()}]
    assert not any(fits(one, free) for one in wanted if one.name not in chosen for free in left)
    assert usb.choose(wanted, list(reversed(present)), chosen, taken) == chosen


def test_one_that_names_a_serial_gets_it_before_one_that_takes_any():
    present = [ground.HostUsb(id=DONGLE, serial=serial, port=f"1-{n}", node=f"n{n}") for n, serial in enumerate("AB")]
    any_, this = (
        board.UsbDevice(name="any", id=DONGLE, unit=1),
        board.UsbDevice(name="a", id=DONGLE, serial="A", unit=2),
    )
    assert usb.choose([any_, this], present, {}, ()) == {"a": "n0", "any": "n1"}


def test_what_the_host_itself_uses_is_nobodys():
    stick = ground.HostUsb(id=DONGLE, port="1-1", node="n0", in_use=True)
    assert usb.choose([board.UsbDevice(name="usb0", id=DONGLE, unit=1)], [stick], {}, ()) == {}


def test_of_two_that_want_the_same_the_one_that_has_it_keeps_it_wherever_the_others_is_plugged_in():
    first, second = (board.UsbDevice(name=f"usb{n}", id=DONGLE, unit=n + 1) for n in range(2))
    used, back = (ground.HostUsb(id=DONGLE, port=f"1-{n}", node=f"n{n}") for n in range(2))
    assert usb.choose([first, second], [used, back], {"usb1": "n0"}, ()) == {"usb0": "n1", "usb1": "n0"}
    assert usb.choose([first, second], [used], {"usb1": "n0"}, ()) == {"usb1": "n0"}


def machine(alias: hardware.Alias = "q35", **fittings: object) -> model.VM:
    smbios = model.Smbios(uuid=base.new_uid(), serial="s")
    machines = {"q35": "pc-q35-7.2", "pc": "pc-i440fx-7.2", "isapc": "isapc"}
    fitted = board.Fittings.model_validate(fittings)
    made = hardware.lay_out(alias=alias, machines=machines, cpu_model="qemu64", smbios=smbios, fittings=fitted)
    spec = model.VMSpec(storage=base.new_uid(), hardware=made)
    return model.VM(metadata=base.Metadata(name="till", project="default"), spec=spec)


def attached(of: model.VM, *ids: str) -> model.VM:
    for one in ids:
        of = equipment.attach_usb(of, device_requests.UsbRequest(id=one))
    return of


def test_a_device_gets_a_port_of_the_guest_that_pointer_and_keyboard_leave_free():
    made = attached(machine(), DONGLE, "0403:6001")
    assert [(one.name, one.unit) for one in made.spec.usb] == [("usb0", 3), ("usb1", 4)]
    with pytest.raises(fitting.NoUsbPort):
        attached(made, "0403:6015")
    again = attached(equipment.detach_usb(made, "usb0"), "0403:6015")
    assert [(one.name, one.unit) for one in again.spec.usb] == [("usb1", 4), ("usb0", 3)]
    assert [one.unit for one in attached(machine("pc", pointer="ps2"), DONGLE).spec.usb] == [1]
    with pytest.raises(fitting.NoUsbPort):
        attached(machine("pc"), DONGLE)
    with pytest.raises(fitting.NoUsbController):
        attached(machine("pc", usb="none", pointer="ps2"), DONGLE)


def test_it_is_taken_away_by_its_name_or_by_what_it_is_when_that_is_one_alone():
    made = attached(machine(), DONGLE, "0403:6001")
    assert [one.id for one in equipment.detach_usb(made, DONGLE).spec.usb] == ["0403:6001"]
    with pytest.raises(parts.NoSuchDevice):
        equipment.detach_usb(attached(machine(), DONGLE, DONGLE), DONGLE)
    with pytest.raises(parts.NoSuchDevice):
        equipment.detach_usb(made, "nic0")


@pytest.mark.parametrize("request_", [{}, {"serial": "A1", "port": "1-2"}, {"id": "529:1"}, {"port": "usb1"}], ids=str)
def test_what_finds_no_device_is_refused(request_: dict[str, str]):
    with pytest.raises((errors.InvalidFields, ValueError)):
        equipment.attach_usb(machine(), device_requests.UsbRequest.model_validate(request_))


def test_a_running_machine_takes_and_gives_devices_and_a_copy_has_none():
    before, after = attached(machine(), DONGLE), attached(machine(), "0403:6001")
    now = Built(before.spec, First.of(before.spec))
    wanted = before.spec.model_copy(update={"usb": after.spec.usb})
    assert [(type(one).__name__, one.path) for one in adaptation.changes(now, wanted)] == [
        ("UnplugUsb", "usb[usb0]"),
        ("PlugUsb", "usb[usb0]"),
    ]
    assert list(adaptation.changes(now, before.spec)) == []
    assert adaptation.bare(before.spec).usb == ()
    copy, _ = definition.clone(before, {}, name="till2")
    assert copy.vm.spec.usb == ()
