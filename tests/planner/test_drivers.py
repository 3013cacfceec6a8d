"""From the drivers that a system came with to virtio's, and back."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bocage.model import vm
from bocage.planner import drivers, hardware
from tests.planner import things

_OF = {"machine": "pc-q35-7.2", "cpu_model": "qemu64", "smbios": {"uuid": things.MACHINE, "serial": "1"}}
_BOARDS: dict[str, dict[str, Any]] = {
    "windows on q35": {
        **_OF,
        "disk_bus": "sata",
        "nic_model": "e1000e",
        "scsi": "none",
        "devices": {"video": "pcie.0/01.0"},
    },
    "windows on pc": {
        **_OF,
        "machine": "pc-i440fx-7.2",
        "root_ports": 0,
        "disk_bus": "ide",
        "nic_model": "rtl8139",
        "scsi": "none",
        "devices": {"video": "pci.0/02.0"},
    },
}


def windows(board: str, disks: int = 1, nics: int = 1) -> vm.VM:
    made = _BOARDS[board]
    places = hardware.places(vm.Hardware.model_validate(made), vm.NicModel(made["nic_model"]))
    return things.machine(
        hardware=made,
        disks=[
            {
                "name": f"disk{n}",
                "volume": f"5f0c9f1e-6f0a-4c53-9c1e-0d1f5a3f8{n:03d}",
                "bus": made["disk_bus"],
                "unit": n,
                "serial": f"s{n}",
            }
            for n in range(disks)
        ],
        nics=[
            {
                "name": f"nic{n}",
                "network": things.STORAGE,
                "mac": f"52:54:00:00:00:{n:02x}",
                "model": made["nic_model"],
                "address": places[n],
            }
            for n in range(nics)
        ],
        cds=[{"name": "cd0", "bus": made["disk_bus"], "unit": 3}],
        boot={"order": ["disk0", "cd0"]} if disks else {},
    )


@given(board=st.sampled_from(sorted(_BOARDS)), disks=st.integers(0, 3), nics=st.integers(0, 8))
def test_there_and_back_again_changes_nothing_but_places(board: str, disks: int, nics: int):
    before = windows(board, disks, nics)
    if not disks and not nics:
        with pytest.raises(drivers.Already):
            drivers.switch(before, "virtio")
        return
    there = before.model_copy(update={"spec": drivers.switch(before, "virtio")})
    assert {disk.bus for disk in there.spec.disks} <= {vm.Bus.VIRTIO}
    assert {nic.model for nic in there.spec.nics} <= {vm.NicModel.VIRTIO}
    assert "agent" in there.spec.hardware.devices
    with pytest.raises(drivers.Already):
        drivers.switch(there, "virtio")
    back = drivers.switch(there, "inbox")
    assert sorted((disk.name, disk.volume, disk.serial, disk.bus) for disk in back.disks) == sorted(
        (disk.name, disk.volume, disk.serial, disk.bus) for disk in before.spec.disks
    )
    assert [(nic.name, nic.mac, nic.model) for nic in back.nics] == [
        (nic.name, nic.mac, nic.model) for nic in before.spec.nics
    ]
    for spec in (there.spec, back):
        assert spec.cds == before.spec.cds
        assert spec.boot == before.spec.boot
        hardware.check(vm.VMSpec.model_validate(spec.model_dump()))


def test_a_vm_that_waits_for_its_guest_is_as_it_was_until_it_is_switched_or_called_back():
    before = windows("windows on q35")
    waits = before.model_copy(update={"spec": drivers.wait(before)})
    assert waits.spec == before.spec.model_copy(update={"virtio_when_driven": True})
    assert drivers.switch(waits, "virtio") == drivers.switch(before, "virtio")
    assert drivers.switch(waits, "inbox") == before.spec
    with pytest.raises(drivers.Already):
        drivers.wait(before.model_copy(update={"spec": drivers.switch(before, "virtio")}))


def test_a_disk_that_a_person_put_elsewhere_stays_and_isa_knows_no_virtio():
    before = windows("windows on pc")
    scsi = {**_BOARDS["windows on pc"], "scsi": "lsi", "devices": {"video": "pci.0/02.0", "scsi": "pci.0/03.0"}}
    disk = before.spec.disks[0].model_copy(update={"bus": vm.Bus.SCSI, "unit": 0})
    changed = before.spec.model_copy(update={"hardware": vm.Hardware.model_validate(scsi), "disks": (disk,)})
    assert drivers.switch(before.model_copy(update={"spec": changed}), "virtio").disks == (disk,)
    isa = things.machine(hardware={**_OF, "machine": "isapc", "root_ports": 0, "disk_bus": "ide", "devices": {}})
    with pytest.raises(drivers.NoVirtio):
        drivers.switch(isa, "virtio")
