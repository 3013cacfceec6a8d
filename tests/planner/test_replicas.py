"""What a VM may not have that keeps a replica, and where that lies."""

import pytest

from bocage.model import board, ground, share, vm
from bocage.planner import replicas
from tests.planner import things

THERE = "5f0c9f1e-6f0a-4c53-9c1e-0d1f5a3f7c99"
KEPT = vm.Replica(host=THERE, storage="7f0c9f1e-6f0a-4c53-9c1e-0d1f5a3f7c90")
OTHER = ground.Host.model_validate({"metadata": {"uid": THERE, "name": "host2"}, "spec": {}})
DISK = {"name": "disk0", "volume": "6e0c9f1e-6f0a-4c53-9c1e-0d1f5a3f7c91", "serial": "1"}


def with_spec(machine: vm.VM, **fields: object) -> vm.VM:
    return machine.model_copy(update={"spec": machine.spec.model_copy(update=fields)})


def with_hardware(**fields: object) -> vm.VM:
    machine = things.machine(disks=[DISK])
    return with_spec(machine, hardware=machine.spec.hardware.model_copy(update=fields))


def storage(name: str, created: int, **spec: object) -> ground.Storage:
    about = {"name": name, "created": f"2026-01-0{created}T03:00:00Z"}
    return ground.Storage.model_validate({"metadata": about, "spec": {"path": f"/{name}", **spec}})


def volume(**spec: object) -> ground.Volume:
    whole = {"storage": things.STORAGE, "size": "1M", "vm": things.MACHINE, **spec}
    return ground.Volume.model_validate({"metadata": {"name": "box-disk0", "project": "default"}, "spec": whole})


def test_it_gets_no_disk_and_nothing_that_its_replica_would_lack():
    machine = things.machine(disks=[DISK])
    kept = with_spec(machine, replica=KEPT)
    more = with_spec(kept, disks=())
    tpm = with_spec(kept, hardware=kept.spec.hardware.model_copy(update={"tpm": board.Tpm.CRB}))
    assert kept.spec.disks
    with pytest.raises(replicas.NotMeanwhile):
        replicas.check_change(kept, more)
    with pytest.raises(replicas.Carries):
        replicas.check_change(kept, tpm)
    replicas.check_change(kept, with_spec(kept, notes="web"))
    replicas.check_change(kept, with_spec(more, replica=None))
    replicas.check_change(machine, kept)


@pytest.mark.parametrize(
    ("machine", "thing"),
    [
        (with_hardware(firmware=vm.Firmware.UEFI), "UEFI firmware with variables of its own"),
        (with_hardware(tpm=board.Tpm.CRB), "a TPM"),
        (things.machine(cds=[{"name": "cd0", "image": THERE, "unit": 0}]), "an image in cd0"),
        (things.machine(usb=[{"name": "scales", "id": "0403:6001", "unit": 1}]), "scales, a device of its host"),
        (
            things.machine(ports=[{"name": "till", "number": 2, "to": "device", "device": "/dev/ttyS0"}]),
            "till, a port of its host",
        ),
        (things.machine(disks=[{**DISK, "limits": {"iops": 100}}]), "a limit on disk0"),
        (with_spec(things.machine(), share=share.Share(disks=share.Io(iops=100))), "a limit on its disks"),
        (things.machine(disks=[{**DISK, "cache": "unsafe"}]), "disk0 with cache unsafe"),
    ],
)
def test_what_a_replica_does_not_carry_is_named(machine: vm.VM, thing: str) -> None:
    assert [(one.name, one.thing) for one in replicas.obstacles(machine, [volume()])] == [("web", thing)]


def test_snapshots_and_disks_elsewhere_are_not_carried_either():
    plain = things.machine(disks=[DISK], cds=[{"name": "cd0", "unit": 0}])
    assert list(replicas.obstacles(plain, [volume()])) == []
    layered = volume(layers={"disk0.qcow2": "before.qcow2"})
    away = volume(storage=KEPT.storage)
    assert [one.thing for one in replicas.obstacles(plain, [layered, away])] == [
        "snapshots on disk0",
        "disk0 on another storage",
    ]


def test_it_lies_on_another_host_on_a_storage_of_that_ones_own():
    mine = things.storage()
    later, first = storage("later", 2, host=THERE), storage("first", 1, host=THERE)
    last, array = storage("last", 3, host=THERE), storage("array", 1, kind="shared")
    machine = things.machine(status=vm.VMStatus(host=things.HOST))

    def chosen(host: ground.Host, named: str | None, machine: vm.VM = machine) -> str:
        found = replicas.chosen(machine, host, named, [mine, later, first, last, array], mode="continuous")
        assert (found.host, found.mode) == (THERE, "continuous")
        return found.storage

    assert chosen(OTHER, None) == first.uid
    assert chosen(OTHER, "later") == later.uid
    with pytest.raises(replicas.NotItself):
        chosen(things.host(), None)
    for named in ("array", "local"):
        with pytest.raises(replicas.NotItsStorage):
            chosen(OTHER, named)
    with pytest.raises(replicas.LiesCentrally):
        chosen(OTHER, None, things.machine(storage=array.uid))
