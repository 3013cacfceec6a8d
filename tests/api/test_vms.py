"""VMs over the API: made, read, changed, deleted, asked to do things."""

import asyncio

import pytest

from bocage.model import base, ground, vm, work
from bocage.store import resources
from tests.api.conftest import VMS, create, problem


async def test_a_vm_is_made_with_its_volume_and_its_task_in_one_revision(client, world):
    before = await world.kept.store.revision()
    task = await create(client, memory="256M", disk="1G", start=True)

    machine = await world.kept.find(vm.VM, "default", "web1")
    volume = await world.kept.get(ground.Volume, "default", machine.spec.disks[0].volume)
    assert await world.kept.store.revision() == before + 1
    assert task["spec"]["action"] == "vm.create"
    assert task["spec"]["subject"]["uid"] == machine.uid
    assert task["spec"]["host"] == world.host.uid
    assert machine.spec.power is vm.Power.RUNNING
    assert volume.spec.vm == machine.uid
    assert volume.spec.image == world.image.spec.sha256
    assert str(volume.spec.size) == "1G"


async def test_the_answer_says_where_the_vm_is_found(client):
    answer = await client.post(VMS, json={"name": "web1", "image": "tiny"})
    found = await client.get(answer.headers["location"].removeprefix("/api/v1"))
    assert found.json()["metadata"]["name"] == "web1"


async def test_thirty_two_disks_fit_into_one_transaction(client, world):
    await create(client, disks=[{"size": "1G"}] * 15 + [{"size": "1G", "bus": "scsi"}] * 16, nics=[])
    machine = await world.kept.find(vm.VM, "default", "web1")
    assert len(machine.spec.disks) == 32
    status = ground.VolumeStatus(state="ready")
    volume = await world.kept.change_status(ground.Volume, "default", machine.spec.disks[31].volume, lambda _: status)
    assert volume.status.state == "ready"


async def test_a_name_is_given_once(client):
    await create(client)
    said = problem(await client.post(VMS, json={"name": "web1", "image": "tiny"}), 409, "name-taken")
    assert said["name"] == "web1"


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        ({"image": "nope"}, "image"),
        ({"image": "tiny", "storage": "nope"}, "storage"),
        ({"image": "tiny", "nics": [{"network": "nope"}]}, "network"),
        ({"image": "tiny", "disks": [{"volume": "nope"}]}, "volume"),
        ({"cds": ["nope"]}, "image"),
    ],
)
async def test_what_a_request_names_must_be_there_and_nothing_is_made_else(client, world, request_, kind):
    before = await world.kept.store.revision()
    named = "no-such-image" if kind == "image" else "no-such-reference"
    said = problem(await client.post(VMS, json={"name": "web1", **request_}), 404, named)
    assert (said["kind"], said["name"]) == (kind, "nope")
    assert await world.kept.store.revision() == before


async def test_a_change_to_what_is_already_so_changes_nothing(client):
    await create(client)
    made = (await client.get(f"{VMS}/web1")).json()
    for patch in ({"memory": made["spec"]["memory"]}, {"title": ""}, {}):
        answer = await client.patch(f"{VMS}/web1", json=patch)
        assert (answer.status_code, answer.json()["metadata"]) == (200, made["metadata"]), patch


async def test_two_vms_never_get_one_mac_address_even_when_asked_at_the_same_moment(client, world):
    asked = [
        client.post(VMS, json={"name": f"web{number}", "image": "tiny", "nics": [{"mac": "52:54:00:00:00:01"}]})
        for number in range(8)
    ]
    answers = await asyncio.gather(*asked)
    assert sorted(answer.status_code for answer in answers) == [202] + [409] * 7
    problem(next(answer for answer in answers if answer.status_code == 409), 409, "mac-taken")


async def test_one_volume_is_the_disk_of_one_vm(client, world):
    await client.post("/projects/default/volumes", json={"name": "data", "size": "1G"})
    await create(client, "web1", disks=[{"volume": "data"}])
    answer = await client.post(VMS, json={"name": "web2", "image": "tiny", "disks": [{"volume": "data"}]})
    assert problem(answer, 409, "volume-in-use")["by"] == "web1"
    problem(await client.delete("/projects/default/volumes/data"), 409, "volume-in-use")


async def test_a_volume_that_is_taken_out_of_a_vm_is_nobody_elses_until_that_lets_go_of_it(client, world):
    await create(client, "web1", disks=[{"size": "1G"}])
    await create(client, "web2")
    machine = await world.kept.find(vm.VM, "default", "web1")
    last = machine.spec.disks[-1]
    volume = await world.kept.get(ground.Volume, "default", last.volume)
    await world.kept.change(
        vm.VM, "default", machine.uid, lambda one: resources.with_spec(one, disks=machine.spec.disks[:-1])
    )
    taken = await client.post(f"{VMS}/web2/disks", json={"volume": volume.name})
    assert problem(taken, 409, "volume-kept")["vm"] == "web1"
    problem(await client.delete(f"/projects/default/volumes/{volume.name}"), 409, "volume-kept")
    problem(await client.post(f"/projects/default/volumes/{volume.name}/grow", json={"size": "2G"}), 409, "volume-kept")
    other = (await client.get(f"{VMS}/web2")).json()
    del other["status"]
    other["spec"]["disks"].append({**last.model_dump(mode="json"), "bus": "sata", "address": None, "unit": 5})
    said = problem(await client.put(f"{VMS}/web2", json=other), 422, "invalid-fields")
    assert {fault["path"] for fault in said["faults"]} == {"spec.disks.1.volume"}
    new = await client.post(f"{VMS}/web1/disks", json={"size": "1G"})
    assert new.json()["spec"]["params"]["disk"] == "disk2", "the files of disk1 are still there"
    assert (await client.post(f"{VMS}/web1/disks", json={"volume": volume.name})).status_code == 202


async def test_a_password_is_kept_only_as_its_hash(client, world):
    await create(client, seed={"user": "admin", "password": "hunter2"})
    machine = await world.kept.find(vm.VM, "default", "web1")
    assert machine.spec.seed
    assert machine.spec.seed.password_hash
    assert machine.spec.seed.password_hash.startswith("$6$")
    page = await world.kept.store.list("/")
    assert not any(b"hunter2" in entry.value for entry in page.entries)


async def test_a_change_needs_no_etag_but_minds_the_one_that_is_given(client):
    await create(client)
    etag = (await client.get(f"{VMS}/web1")).headers["etag"]
    changed = await client.patch(f"{VMS}/web1", json={"memory": "1G"}, headers={"if-match": etag})
    assert changed.json()["spec"]["memory"] == "1G"
    assert changed.headers["etag"] != etag
    problem(
        await client.patch(f"{VMS}/web1", json={"memory": "2G"}, headers={"if-match": etag}), 412, "changed-meanwhile"
    )
    assert (await client.patch(f"{VMS}/web1", json={"memory": "2G"})).status_code == 200
    problem(await client.patch(f"{VMS}/web1", json={}, headers={"if-match": "yes"}), 422, "etag-malformed")
    problem(await client.delete(f"{VMS}/web1", headers={"if-match": etag}), 412, "changed-meanwhile")
    etag = (await client.get(f"{VMS}/web1")).headers["etag"]
    assert (await client.delete(f"{VMS}/web1", headers={"if-match": etag})).status_code == 202


async def test_a_status_write_is_never_a_users_conflict(client, world):
    await create(client)
    etag = (await client.get(f"{VMS}/web1")).headers["etag"]
    await world.set_status("web1", state=vm.State.RUNNING)
    answer = await client.patch(f"{VMS}/web1", json={"title": "the web"}, headers={"if-match": etag})
    assert answer.status_code == 200
    assert answer.json()["metadata"]["generation"] == 1  # no change of the spec


async def test_a_whole_document_goes_round(client):
    await create(client)
    document = (await client.get(f"{VMS}/web1")).json()
    sent = {"metadata": document["metadata"], "spec": {**document["spec"], "memory": "768M"}}
    answer = await client.put(f"{VMS}/web1", json=sent)
    assert answer.status_code == 200, answer.text
    assert answer.json()["spec"]["memory"] == "768M"
    problem(await client.put(f"{VMS}/web1", json=sent), 412, "changed-meanwhile")


async def test_a_whole_document_without_its_revision_is_refused(client):
    await create(client)
    document = (await client.get(f"{VMS}/web1")).json()
    del document["metadata"]["revision"]
    sent = {"metadata": document["metadata"], "spec": document["spec"]}
    problem(await client.put(f"{VMS}/web1", json=sent), 428, "etag-needed")


async def test_a_document_may_only_refer_to_what_is_there(client):
    await create(client)
    document = (await client.get(f"{VMS}/web1")).json()
    document["spec"]["nics"][0]["network"] = base.new_uid()
    document["spec"]["disks"][0]["volume"] = base.new_uid()
    sent = {"metadata": document["metadata"], "spec": document["spec"]}
    said = problem(await client.put(f"{VMS}/web1", json=sent), 422, "invalid-fields")
    assert [fault["path"] for fault in said["faults"]] == ["spec.disks.0.volume", "spec.nics.0.network"]


async def test_a_verb_writes_what_should_be_and_its_task_at_once(client, world):
    await create(client)
    before = await world.kept.store.revision()
    task = (await client.post(f"{VMS}/web1/start", json={"boot": "disk0", "paused": True})).json()
    machine = await world.kept.find(vm.VM, "default", "web1")
    assert await world.kept.store.revision() == before + 1
    assert machine.spec.power is vm.Power.PAUSED
    assert machine.spec.boot.once == "disk0"
    assert task["spec"]["action"] == "vm.start"
    problem(await client.post(f"{VMS}/web1/start", json={"boot": "cd7"}), 404, "vm-no-such-device")


@pytest.mark.parametrize(
    ("verb", "power"),
    [("stop", "stopped"), ("kill", "stopped"), ("pause", "paused"), ("save", "saved"), ("resume", "running"),
     ("reboot", "running"), ("reset", "running")],
)  # fmt: skip
async def test_each_power_verb_says_what_should_be(client, world, verb, power):
    await create(client, start=True)
    await world.set_status("web1", state=vm.State.RUNNING)
    answer = await client.post(f"{VMS}/web1/{verb}")
    assert answer.status_code == 202, answer.text
    assert answer.json()["spec"]["action"] == f"vm.{verb}"
    assert (await client.get(f"{VMS}/web1")).json()["spec"]["power"] == power


@pytest.mark.parametrize("verb", ["pause", "resume", "save", "reboot", "reset"])
async def test_what_needs_a_running_vm_is_refused_for_one_that_is_off(client, verb):
    await create(client)
    problem(await client.post(f"{VMS}/web1/{verb}"), 409, "vm-not-up")


async def test_saved_memory_is_not_thrown_away_by_an_orderly_stop(client, world):
    await create(client, start=True)
    await world.set_status("web1", state=vm.State.SAVED)
    problem(await client.post(f"{VMS}/web1/stop"), 409, "vm-has-saved-memory")
    assert (await client.post(f"{VMS}/web1/kill")).status_code == 202


async def test_a_vm_is_not_deleted_while_it_is_protected_or_runs(client, world):
    await create(client, protected=True)
    problem(await client.delete(f"{VMS}/web1"), 409, "vm-protected")
    await client.patch(f"{VMS}/web1", json={"protected": False})
    await world.set_status("web1", state=vm.State.RUNNING)
    problem(await client.delete(f"{VMS}/web1"), 409, "vm-running")
    task = (await client.delete(f"{VMS}/web1?force=true&purge=true")).json()
    assert task["spec"]["params"] == {"purge": True}


async def test_the_trash_gives_back_the_newest_of_a_name(client, world):
    await create(client)
    first = await world.kept.find(vm.VM, "default", "web1")
    await client.delete(f"{VMS}/web1")
    said = problem(await client.get(f"{VMS}/web1"), 404, "vm-not-found-but-in-trash")
    assert "bocage vm undelete web1" in said["hint"]
    assert (await client.get(f"{VMS}/web1/why")).json()["chain"][1]["type"] == "why-in-trash"
    await create(client)
    second = await world.kept.find(vm.VM, "default", "web1")
    await client.delete(f"{VMS}/web1")

    assert (await client.get(VMS)).json()["items"] == []
    assert len((await client.get(VMS, params={"trash": True})).json()["items"]) == 2
    problem(await client.post(f"{VMS}/{second.uid}/start"), 409, "vm-in-trash")
    task = (await client.post(f"{VMS}/web1/undelete")).json()
    assert task["spec"]["subject"]["uid"] == second.uid
    assert (await client.get(f"{VMS}/web1")).json()["metadata"]["uid"] == second.uid
    problem(await client.post(f"{VMS}/web1/undelete"), 409, "vm-not-in-trash")
    problem(await client.post(f"{VMS}/{first.uid}/undelete"), 409, "name-taken")
    assert (await client.delete(f"{VMS}/{first.uid}?purge=true")).status_code == 202


async def test_what_could_never_start_is_refused_when_it_is_defined(client, world):
    await world.kept.change_status(
        ground.Host, None, world.host.uid, lambda one: one.status.model_copy(update={"memory_bytes": 24 << 30})
    )
    large = {"name": "big", "image": "tiny", "memory": "4T"}
    said = problem(await client.post(VMS, json=large), 422, "invalid-fields")
    assert said["faults"][0]["path"] == "memory"
    assert "24G" in said["faults"][0]["right"]
    await create(client, memory="24G")
    problem(await client.patch(f"{VMS}/web1", json={"memory": "25G"}), 422, "invalid-fields")
    document = (await client.get(f"{VMS}/web1")).json()
    document["spec"]["memory"] = "25G"
    sent = {"api": "bocage/1", "kind": "VM", "metadata": document["metadata"], "spec": document["spec"]}
    said = problem(await client.put(f"{VMS}/web1", json=sent), 422, "invalid-fields")
    assert said["faults"][0]["path"] == "spec.memory"


async def test_a_cpu_model_is_named_computed_of_all_hosts_or_refused(client, world):
    models = ("Haswell-v4", "Westmere-v1")
    seen = world.host.status.model_copy(update={"accelerator": "tcg", "cpu_models": models, "cpu_model": models[0]})
    await world.kept.change_status(ground.Host, None, world.host.uid, lambda _: seen)
    older = seen.model_copy(update={"cpu_models": models[1:], "cpu_model": models[1]})
    there = ground.Host(metadata=base.Metadata(name="there"), spec=ground.HostSpec(), status=older)
    await world.kept.create(there)
    await create(client)

    async def model() -> str:
        return str((await client.get(f"{VMS}/web1")).json()["spec"]["hardware"]["cpu_model"])

    assert await model() == "Westmere-v1"
    await client.patch(f"{VMS}/web1", json={"cpu_model": "Haswell-v4"})
    assert await model() == "Haswell-v4"
    document = (await client.get(f"{VMS}/web1")).json()
    document["spec"]["hardware"]["cpu_model"] = "baseline"
    sent = {key: document[key] for key in ("metadata", "spec")}
    assert (await client.put(f"{VMS}/web1", json=sent)).status_code == 200
    assert await model() == "Westmere-v1"
    problem(await client.patch(f"{VMS}/web1", json={"cpu_model": "host"}), 422, "cpu-model-needs-kvm")
    document["spec"]["hardware"]["cpu_model"] = "host"
    problem(await client.put(f"{VMS}/web1", json=sent), 422, "cpu-model-needs-kvm")


async def test_a_number_of_cpus_is_taken_for_that_many_cores(client):
    await create(client, cpus=2)
    assert (await client.get(f"{VMS}/web1")).json()["spec"]["cpus"] == {"sockets": 1, "cores": 2, "threads": 1}
    assert (await client.patch(f"{VMS}/web1", json={"cpus": 4})).json()["spec"]["cpus"]["cores"] == 4
    problem(await client.patch(f"{VMS}/web1", json={"cpus": 256}), 422, "invalid-fields")


async def test_who_makes_disks_that_outgrow_their_storage_is_warned(client, world):
    status = world.storage.status.model_copy(update={"total_bytes": 100 << 30, "free_bytes": 50 << 30})
    await world.kept.change_status(ground.Storage, None, world.storage.uid, lambda _: status)
    assert (await create(client, disk="40G"))["spec"]["warnings"] == []
    [warning] = (await create(client, "web2", disk="40G"))["spec"]["warnings"]
    assert warning["type"] == "capacity-may-not-start"
    assert "bocage storage set local --overcommit" in warning["hint"]
    attached = (await client.post(f"{VMS}/web1/disks", json={"size": "1G"})).json()
    assert [one["type"] for one in attached["spec"]["warnings"]] == ["capacity-may-not-start"]
    await client.patch("/storage/local", json={"overcommit": True})
    assert (await create(client, "web3", disk="40G"))["spec"]["warnings"] == []


async def test_who_gives_uefi_to_an_image_that_boots_by_bios_is_warned(client, world):
    await world.kept.change(
        ground.Image, "default", world.image.uid, lambda one: resources.with_spec(one, origin="built:tiny")
    )
    [warning] = (await create(client, firmware="uefi"))["spec"]["warnings"]
    assert warning["text"].startswith("the image tiny boots by BIOS only")
    assert (await create(client, "web2"))["spec"]["warnings"] == []


async def test_who_makes_a_vm_that_has_nothing_to_boot_from_is_warned(client):
    [warning] = (await create(client, image=None))["spec"]["warnings"]
    assert warning["type"] == "vm-nothing-to-boot"
    assert (await create(client, "web2", image=None, cds=["windows"]))["spec"]["warnings"] == []


async def test_a_rename_changes_the_name_alone(client, world):
    await create(client)
    before = (await client.get(f"{VMS}/web1")).json()
    after = (await client.post(f"{VMS}/web1/rename", json={"name": "web2"})).json()
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["spec"] == before["spec"]
    problem(await client.get(f"{VMS}/web1"), 404, "not-found")
    assert (await client.get(f"{VMS}/web2")).headers["etag"] == f'"{after["metadata"]["revision"]}"'


async def test_a_clone_has_an_identity_of_its_own(client, world):
    await create(client, start=True)
    problem(await client.post(f"{VMS}/web1/clone", json={"name": "web2"}), 409, "vm-not-down")
    await client.post(f"{VMS}/web1/stop")
    task = (await client.post(f"{VMS}/web1/clone", json={"name": "web2", "start": True})).json()
    one, two = [await world.kept.find(vm.VM, "default", name) for name in ("web1", "web2")]
    assert one.spec.nics[0].mac != two.spec.nics[0].mac
    assert one.spec.hardware.smbios.uuid != two.spec.hardware.smbios.uuid
    assert one.spec.disks[0].serial != two.spec.disks[0].serial
    copy = await world.kept.get(ground.Volume, "default", two.spec.disks[0].volume)
    assert copy.spec.source == one.spec.disks[0].volume
    assert task["spec"]["subject"]["uid"] == two.uid


async def test_a_disk_is_added_with_a_volume_and_taken_out_by_the_node(client, world):
    await create(client)
    task = (await client.post(f"{VMS}/web1/disks", json={"size": "1G"})).json()
    machine = await world.kept.find(vm.VM, "default", "web1")
    disk = machine.spec.disks[1]
    assert task["spec"]["params"] == {"disk": disk.name, "volume": disk.volume}
    assert disk.address != machine.spec.disks[0].address
    task = (await client.delete(f"{VMS}/web1/disks/{disk.name}")).json()
    assert task["spec"]["action"] == "vm.disk-detach"
    task = (await client.post(f"{VMS}/web1/disks/disk1/grow", json={"size": "2G"})).json()
    assert task["spec"]["params"]["size"] == "2G"
    problem(await client.post(f"{VMS}/web1/disks/disk1/grow", json={"size": "1G"}), 422, "volume-only-grows")
    problem(await client.delete(f"{VMS}/web1/disks/disk9"), 404, "vm-no-such-device")


async def test_a_cd_is_changed_and_keeps_its_image_from_being_deleted(client, world):
    await create(client, "win", image=None, cds=["windows"])
    problem(await client.delete("/projects/default/images/windows"), 409, "image-in-use")
    task = (await client.put(f"{VMS}/win/cds/cd0", json={"image": None})).json()
    assert task["spec"]["params"] == {"cd": "cd0", "image": None}
    assert (await client.delete("/projects/default/images/windows")).status_code == 202
    problem(await client.put(f"{VMS}/win/cds/cd0", json={"image": "tiny"}), 422, "image-is-no-cd")
    problem(await client.put(f"{VMS}/win/cds/cd0", json={}), 422, "invalid-fields")
    both = {"image": "windows", "upload": "upload-1"}
    problem(await client.put(f"{VMS}/win/cds/cd0", json=both), 422, "invalid-fields")
    burned = (await client.put(f"{VMS}/win/cds/cd0", json={"upload": "upload-1"})).json()
    assert burned["spec"]["params"]["upload"] == "upload-1"
    assert (await client.get(f"{VMS}/win")).json()["spec"]["cds"][0]["image"] is None, "the node enters it"
    problem(await client.put(f"{VMS}/win/cds/cd9", json={"upload": "upload-1"}), 404, "vm-no-such-device")


async def test_a_vm_is_moved_while_it_runs_or_not(client, world):
    await create(client, start=True)
    problem(await client.post(f"{VMS}/web1/move", json={"storage": "nowhere"}), 404, "no-such-reference")
    task = (await client.post(f"{VMS}/web1/move", json={"storage": "local"})).json()
    assert task["spec"]["params"] == {"storage": world.storage.uid}


async def test_why_tells_a_chain_of_sentences(client, world):
    await create(client)
    chain = (await client.get(f"{VMS}/web1/why")).json()["chain"]
    assert chain[0]["text"] == "web1 is stopped"
    assert any(link["type"] == "why-being-done" for link in chain)


async def test_sentences_are_in_the_readers_language_where_there_is_one(client):
    answer = await client.get(f"{VMS}/nope", headers={"accept-language": "fr-FR, en;q=0.5"})
    problem(answer, 404, "not-found")


async def test_only_the_project_that_is_there_is_found(client):
    problem(await client.get("/projects/other/vms"), 404, "no-such-project")


async def test_the_asker_is_named_in_the_task(client, world):
    await create(client)
    [task] = await world.tasks("vm.create")
    assert task.spec.asked_by == "unix:0"
    assert task.status.state is work.TaskState.PENDING


async def test_a_rescue_is_of_a_vm_that_is_off_and_then_nothing_else_is_started(client, world):
    await create(client)
    made = await world.kept.find(vm.VM, "default", "web1")
    await world.own(made)
    rescuing = f"{VMS}/web1/rescue"
    problem(await client.post(rescuing), 404, "no-rescue-image")
    problem(await client.post(rescuing, json={"image": "tiny"}), 422, "rescue-is-no-cd")
    problem(await client.post(rescuing, json={"end": True}), 409, "vm-not-in-rescue")
    await world.set_status("web1", ready=True, state=vm.State.SAVED)
    problem(await client.post(rescuing, json={"image": "windows"}), 409, "rescue-beside-saved-memory")
    await world.set_status("web1", state=vm.State.RUNNING)
    problem(await client.post(rescuing, json={"image": "windows"}), 409, "vm-not-down")
    await world.set_status("web1", state=vm.State.STOPPED)
    task = (await client.post(rescuing, json={"image": "windows"})).json()
    assert task["spec"]["action"] == "vm.start"
    spec = (await client.get(f"{VMS}/web1")).json()["spec"]
    assert (spec["power"], spec["rescue"]) == ("running", world.cd.uid)
    problem(await client.post(rescuing, json={"image": "windows"}), 409, "vm-in-rescue")
    said = problem(await client.post(f"{VMS}/web1/start"), 409, "vm-in-rescue")
    assert "bocage vm rescue web1 --end" in said["hint"]
    await world.set_status("web1", state=vm.State.RUNNING)
    problem(await client.post(f"{VMS}/web1/save"), 409, "vm-in-rescue")
    problem(await client.delete("/projects/default/images/windows"), 409, "image-in-use")
    task = (await client.post(rescuing, json={"end": True})).json()
    assert (task["spec"]["action"], task["spec"]["params"]) == ("vm.stop", {"within": 30.0, "kill": True})
    assert (await client.get(f"{VMS}/web1")).json()["spec"]["rescue"] == world.cd.uid, "until it is off"


async def test_drivers_are_switched_by_a_patch_and_not_twice(client, world):
    await create(client, board={"disk_bus": "sata", "nic_model": "e1000e"}, disks=[{"size": "1G"}])
    spec = (await client.patch(f"{VMS}/web1", json={"drivers": "virtio"})).json()["spec"]
    assert {disk["bus"] for disk in spec["disks"]} == {"virtio"}
    assert [nic["model"] for nic in spec["nics"]] == ["virtio"]
    problem(await client.patch(f"{VMS}/web1", json={"drivers": "virtio"}), 409, "drivers-already")
    spec = (await client.patch(f"{VMS}/web1", json={"drivers": "inbox"})).json()["spec"]
    assert {disk["bus"] for disk in spec["disks"]} == {"sata"}
    assert [nic["model"] for nic in spec["nics"]] == ["e1000e"]
    problem(await client.patch(f"{VMS}/web1", json={"drivers": "vmware"}), 422, "invalid-fields")


async def test_a_new_vm_has_the_usb_devices_that_it_is_asked_for_with(client, world):
    await create(client, usb=[{"id": "0529:0001"}, {"port": "1-2.3"}])
    devices = (await client.get(f"{VMS}/web1")).json()["spec"]["usb"]
    assert [(one["name"], one["id"], one["port"]) for one in devices] == [
        ("usb0", "0529:0001", None),
        ("usb1", None, "1-2.3"),
    ]
    wrong = {"name": "web2", "usb": [{"id": "0529:0001"}, {"port": "usb1"}]}
    said = problem(await client.post(VMS, json=wrong), 422, "invalid-fields")
    assert [one["path"] for one in said["faults"]] == ["usb.1.port"]


async def test_usb_devices_are_given_and_taken_by_their_own_calls_and_in_the_document_alike(client, world):
    await create(client)
    spec = (await client.post(f"{VMS}/web1/usb", json={"id": "0529:0001", "serial": "A1"})).json()["spec"]
    assert spec["usb"] == [{"name": "usb0", "id": "0529:0001", "serial": "A1", "port": None, "unit": 3}]
    problem(await client.post(f"{VMS}/web1/usb", json={"serial": "A1", "port": "1-2"}), 422, "invalid-fields")
    problem(await client.post(f"{VMS}/web1/usb", json={"id": "529:1"}), 422, "invalid-fields")
    document = (await client.get(f"{VMS}/web1")).json()
    document["spec"]["usb"].append({"name": "scales", "port": "1-2.3", "unit": 4})
    answer = await client.put(f"{VMS}/web1", json={key: document[key] for key in ("metadata", "spec")})
    assert [one["name"] for one in answer.json()["spec"]["usb"]] == ["usb0", "scales"]
    problem(await client.post(f"{VMS}/web1/usb", json={"id": "0403:6001"}), 409, "board-without-free-usb-port")
    assert [one["name"] for one in (await client.delete(f"{VMS}/web1/usb/0529:0001")).json()["spec"]["usb"]] == [
        "scales"
    ]
    problem(await client.delete(f"{VMS}/web1/usb/usb0"), 404, "vm-no-such-device")


async def test_what_a_vm_starts_after_is_named_and_kept_by_uid_and_rings_are_refused(client, world):
    db = (await create(client, "db"))["spec"]["subject"]["uid"]
    await create(client, "app", autostart={"after": ["db"]})
    app = (await client.get(f"{VMS}/app")).json()
    assert app["spec"]["autostart"]["after"] == [db]
    lost = {"name": "late", "image": "tiny", "autostart": {"after": ["no"]}}
    problem(await client.post(VMS, json=lost), 404, "not-found")
    ring = problem(await client.patch(f"{VMS}/db", json={"autostart": {"after": ["app"]}}), 409, "vm-waits-for-itself")
    assert ring["title"] == "db would wait for itself: db, app, db"
