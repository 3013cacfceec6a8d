"""Snapshots, schedules and templates over the API: what is asked for, and what is refused before anything is done."""

from __future__ import annotations

import datetime

from bocage.model import base, snapshot, vm
from bocage.model.units import Size
from tests.api.conftest import VMS, create, problem

SNAPSHOTS = f"{VMS}/web1/snapshots"


async def ready(world, name: str, *, days: int = 0, **spec: object) -> snapshot.Snapshot:
    """Be the node: a snapshot that is there whole."""
    machine = await world.kept.find(vm.VM, "default", "web1")
    [disk, *_] = machine.spec.disks
    held = snapshot.SnapshotDisk(disk=disk.name, volume=disk.volume, file="disk0.qcow2", size=Size(20 << 20))
    made = snapshot.Snapshot(
        metadata=base.Metadata(name=name, project="default"),
        spec=snapshot.SnapshotSpec.model_validate({"vm": machine.uid, "machine": machine.spec, **spec}),
        status=snapshot.SnapshotStatus(state="ready", taken=base.now() - datetime.timedelta(days), disks=(held,)),
    )
    await world.kept.create(made)
    return made


async def test_one_is_asked_for_under_a_name_that_its_vm_has_once(client, world):
    await create(client)
    answer = await client.post(SNAPSHOTS, json={"name": "before", "title": "Before it", "memory": True})
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/api/v1{SNAPSHOTS}/before"
    [task] = await world.tasks("vm.snapshot-create")
    made = (await client.get(f"{SNAPSHOTS}/before")).json()
    assert task.spec.params == {"snapshot": made["metadata"]["uid"], "name": "before"}
    assert (made["spec"]["memory"], made["status"]["state"]) == (True, "pending")
    assert made["metadata"]["title"] == "Before it"
    problem(await client.post(SNAPSHOTS, json={"name": "before"}), 409, "snapshot-name-taken")
    await client.post(VMS, json={"name": "web2", "image": "tiny"})
    assert (await client.post(f"{VMS}/web2/snapshots", json={"name": "before"})).status_code == 202
    listed = (await client.get(SNAPSHOTS)).json()["items"]
    assert [one["metadata"]["name"] for one in listed] == ["before"]
    problem(await client.get(f"{VMS}/web2/snapshots/other"), 404, "snapshot-not-found")


async def test_what_is_not_whole_is_not_gone_back_to_and_what_runs_is_not_thrown_away_unasked(client, world):
    await create(client)
    await client.post(SNAPSHOTS, json={"name": "half"})
    problem(await client.post(f"{SNAPSHOTS}/half/revert"), 409, "snapshot-not-there-yet")
    made = await ready(world, "before")
    for state in (vm.State.RUNNING, vm.State.SAVED):
        await world.set_status("web1", state=state)
        problem(await client.post(f"{SNAPSHOTS}/before/revert"), 409, "snapshot-revert-would-lose")
    assert await world.tasks("vm.snapshot-revert") == []
    await client.post(f"{VMS}/web1/start")
    assert (await client.post(f"{SNAPSHOTS}/before/revert", json={"force": True, "start": True})).status_code == 202
    [task] = await world.tasks("vm.snapshot-revert")
    assert task.spec.params == {"snapshot": made.uid, "name": "before", "start": True}
    assert (await world.kept.find(vm.VM, "default", "web1")).spec.power is vm.Power.STOPPED


async def test_a_copy_of_a_snapshot_has_its_own_identity_and_is_made_of_the_snapshots_file(client, world):
    await create(client)
    made = await ready(world, "before")
    answer = await client.post(f"{SNAPSHOTS}/{made.uid}/clone", json={"name": "copy", "start": True})
    assert answer.status_code == 202
    machine, copy = [await world.kept.find(vm.VM, "default", name) for name in ("web1", "copy")]
    assert copy.spec.hardware.smbios.uuid != machine.spec.hardware.smbios.uuid
    assert copy.spec.hardware.generation_id not in (None, machine.spec.hardware.generation_id)
    assert copy.spec.nics[0].mac != machine.spec.nics[0].mac
    volumes = (await client.get("/projects/default/volumes")).json()["items"]
    [volume] = [one for one in volumes if one["metadata"]["uid"] == copy.spec.disks[0].volume]
    assert volume["spec"]["source"] == machine.spec.disks[0].volume
    assert volume["spec"]["source_file"] == "disk0.qcow2"
    assert not volume["spec"]["linked"]


async def test_a_schedule_is_set_shown_before_it_counts_and_taken_away(client, world):
    await create(client)
    problem(await client.get(f"{VMS}/web1/schedule"), 409, "vm-has-no-schedule")
    asked = {"keep": "yearly=1", "zone": "Europe/Paris"}
    for name, days in (("old", 800), ("new", 0)):
        await ready(world, name, days=days, scheduled=True)
    await ready(world, "by-hand")
    plan = (await client.get(f"{VMS}/web1/schedule", params=asked)).json()
    assert (plan["zone"], plan["take"], plan["memory"]) == ("Europe/Paris", False, False)
    with_memory = (await client.get(f"{VMS}/web1/schedule", params={**asked, "memory": True})).json()
    assert with_memory == {**plan, "memory": True}
    assert ([one["name"] for one in plan["keep"]], plan["drop"]) == (["new"], ["old"])
    assert await world.tasks("vm.snapshot-delete") == []
    problem(await client.get(f"{VMS}/web1/schedule", params={"keep": "often"}), 422, "invalid-fields")
    answer = await client.patch(f"{VMS}/web1", json={"snapshots": {"keep": {"hourly": 24, "daily": 7}}})
    assert answer.json()["spec"]["snapshots"]["keep"] == {"hourly": 24, "daily": 7}
    assert (await client.get(f"{VMS}/web1/schedule")).json()["drop"] == []
    answer = await client.patch(f"{VMS}/web1", json={"snapshots": {"keep": {"hourly": 24}, "memory": True}})
    assert (await client.get(f"{VMS}/web1/schedule")).json()["memory"] is True
    assert (await client.get(f"{VMS}/web1/schedule", params={"memory": False})).json()["memory"] is False
    problem(await client.patch(f"{VMS}/web1", json={"snapshots": {"keep": {"hourly": 0}}}), 422, "invalid-fields")
    assert (await client.patch(f"{VMS}/web1", json={"snapshots": "off"})).json()["spec"]["snapshots"] is None


async def test_a_template_is_made_of_what_is_at_rest_and_what_it_has_cannot_be_asked_for_beside_it(client, world):
    await create(client)
    await world.set_status("web1", state=vm.State.RUNNING)
    problem(await client.post("/projects/default/templates", json={"name": "web", "vm": "web1"}), 409, "vm-not-down")
    made = await ready(world, "sealed")
    asked = {"name": "web", "vm": "web1", "snapshot": "sealed"}
    assert (await client.post("/projects/default/templates", json=asked)).status_code == 202
    [task] = await world.tasks("template.create")
    assert (task.spec.subject.name, task.spec.params["snapshot"]) == ("web", made.uid)
    problem(await client.post(VMS, json={"name": "web2", "template": "web"}), 404, "not-found")
