"""What a VM survives: from what it lies on, what proves its host's death, and what was kept of it."""

import datetime

import pytest

from bocage.model import base, ground, snapshot, vm
from bocage.model.failover import Failover
from bocage.planner import failing, proofs, surviving
from tests.planner import things

WHEN = datetime.datetime(2026, 1, 31, 3, 0, tzinfo=datetime.UTC)
SHARED = ground.Storage.model_validate({"metadata": {"name": "array"}, "spec": {"kind": "shared", "path": "/array"}})
LOCAL = ground.Storage.model_validate({"metadata": {"name": "local"}, "spec": {"host": things.HOST, "path": "/local"}})
HOMES = failing.Homes(where={"web": "host2"})


def mirrored(working: int) -> ground.Storage:
    status = ground.StorageStatus(mirror=ground.Mirror(disks=2, working=working))
    return LOCAL.model_copy(update={"status": status})


def host(*, bmc: bool) -> ground.Host:
    address = "https://10.0.0.9"
    spec = {"bmc": {"kind": "redfish", "address": address}} if bmc else {}
    seen = {"smbios_uuid": things.HOST, "bmc": {"address": address, "uuid": things.HOST, "own": True, "seen": WHEN}}
    about = {"uid": things.HOST, "name": "host1"}
    return ground.Host.model_validate({"metadata": about, "spec": spec, "status": seen if bmc else {}})


def told(**fields: object) -> dict[str, tuple[str, str, object]]:
    power = str(fields.pop("power", "running"))
    machine = things.machine(name="web", power=power, status=vm.VMStatus(host=things.HOST))
    facts = {"storages": [SHARED], "hosts": [host(bmc=True)], "homes": HOMES, **fields}
    found = surviving.losses(surviving.Facts(machine=machine, **facts))  # type: ignore[arg-type]
    assert [one.loss for one in found] == ["disk", "host", "site", "slip"]
    return {one.loss: (one.answer, one.said.type, one.shown) for one in found}


@pytest.mark.parametrize(
    ("storages", "answer", "said"),
    [
        ([LOCAL], "no", "survives-disk-one"),
        ([mirrored(2)], "yes", "survives-disk-mirrored"),
        ([mirrored(1)], "no", "survives-disk-mirror-broken"),
        ([SHARED], "partly", "survives-disk-array"),
        ([SHARED, LOCAL], "no", "survives-disk-one"),
        ([SHARED, mirrored(2)], "partly", "survives-disk-array"),
    ],
)
def test_the_weakest_of_its_storages_says_whether_it_survives_its_disk(storages, answer, said):
    assert told(storages=storages)["disk"][:2] == (answer, said)


def test_it_survives_its_host_where_its_death_is_proven_and_another_has_room():
    assert told()["host"] == ("yes", "survives-host-starts", None)
    assert told(power="paused")["host"][:2] == ("yes", "survives-host-starts")
    assert told(power="stopped")["host"][:2] == ("yes", "survives-host-off")
    assert told(hosts=[host(bmc=False)])["host"][:2] == ("partly", "survives-host-person")
    assert told(hosts=[host(bmc=False)], by_time=True)["host"][:2] == ("yes", "survives-host-starts")
    full = failing.Homes(nowhere={"web": proofs.NoRoomLeft(needed=2 << 30, missing=1 << 30)})
    assert told(homes=full)["host"][:2] == ("no", "survives-host-no")


def test_the_date_on_which_that_was_last_shown_is_that_of_its_newest_start_elsewhere():
    def moved(number: int, *, uid: str = things.MACHINE, started: bool = True) -> Failover:
        one = {"vm": {"kind": "vm", "uid": uid, "name": "web", "project": "default"}, "runs": True}
        when = {"started": WHEN + datetime.timedelta(days=number)} if started else {}
        spec = {"host": things.HOST, "host_name": "host1", "epoch": number}
        about = {"name": f"host1-{number}"}
        return Failover.model_validate({"metadata": about, "spec": spec, "status": {"vms": [{**one, **when}]}})

    other = base.new_uid()
    found = told(failovers=[moved(2), moved(1), moved(3, uid=other), moved(4, started=False)])
    assert found["host"][2] == WHEN + datetime.timedelta(days=2)


def test_snapshots_lead_back_from_a_slip():
    assert told()["slip"][:2] == ("partly", "survives-slip-trash")
    machine = things.machine()
    kept = snapshot.Snapshot(
        metadata=base.Metadata(name="before", project="default"),
        spec=snapshot.SnapshotSpec(vm=machine.uid, machine=machine.spec),
        status=snapshot.SnapshotStatus(state="ready", taken=WHEN),
    )
    assert told(snapshots=[kept])["slip"][:2] == ("yes", "survives-slip-snapshots")
    pending = kept.model_copy(update={"status": snapshot.SnapshotStatus(taken=WHEN)})
    assert told(snapshots=[pending])["slip"][0] == "partly"
