"""From the short request to the whole VM."""

import dataclasses
from typing import Any

import pytest

from bocage import errors
from bocage.model import base, device_requests, ground, requests, vm
from bocage.planner import definition, equipment, hardware, parts, references

DIGEST = "ab" * 32
HOST = ground.Host(
    metadata=base.Metadata(name="here"),
    spec=ground.HostSpec(),
    status=ground.HostStatus(machines={"q35": "pc-q35-7.2", "pc": "pc-i440fx-7.2"}, cpu_model="Haswell"),
)


def _storage(name: str, **status: object) -> ground.Storage:
    return ground.Storage.model_validate(
        {"metadata": {"name": name}, "spec": {"host": HOST.uid, "path": f"/srv/{name}"}, "status": status}
    )


LOCAL, OTHER = _storage("local"), _storage("other")


def _image(name: str, **spec: object) -> ground.Image:
    given = {"sha256": DIGEST, "format": "qcow2", "virtual_size": "2G", "storage": LOCAL.uid, **spec}
    return ground.Image.model_validate({"metadata": {"name": name, "project": "default"}, "spec": given})


TINY, ODD = _image("tiny"), _image("odd", virtual_size="1000B")
WINDOWS, DRIVERS = _image("windows", format="iso"), _image("drivers", format="iso")
NETWORK = ground.Network(metadata=base.Metadata(name="default", project="default"), spec=ground.NetworkSpec())
DATA = ground.Volume(
    metadata=base.Metadata(name="data", project="default"),
    spec=ground.VolumeSpec.model_validate({"storage": LOCAL.uid, "size": "1G"}),
)
FACTS = parts.Facts(
    host=HOST,
    storage={"local": LOCAL, "other": OTHER, "gone": _storage("gone", state="unavailable")},
    images={image.name: image for image in (TINY, ODD, WINDOWS, DRIVERS)},
    networks={"default": NETWORK},
    volumes={"data": DATA},
)


def define(facts: parts.Facts = FACTS, **request: object) -> definition.Definition:
    asked = requests.VMCreate.model_validate({"name": "web1", **request})
    return definition.define(asked, facts, project="default")


def test_from_an_image_comes_a_linked_disk_of_its_size_that_is_booted_first():
    made = define(image="tiny", cds=["drivers"])
    [volume] = made.volumes
    assert volume.spec.model_dump(include={"image", "linked", "size", "vm", "storage", "name"}) == {
        "image": DIGEST,
        "linked": True,
        "size": "2G",
        "vm": made.vm.uid,
        "storage": LOCAL.uid,
        "name": "disk0",
    }
    assert made.vm.spec.boot.order == ("disk0", "cd0")


def test_without_an_image_there_is_a_blank_disk_and_the_first_cd_is_booted():
    made = define(cds=["windows", "drivers"], disk="80G")
    assert made.vm.spec.boot.order == ("cd0", "disk0")
    assert [cd.image for cd in made.vm.spec.cds] == [WINDOWS.uid, DRIVERS.uid]
    assert made.volumes[0].spec.image is None
    assert str(made.volumes[0].spec.size) == "80G"
    assert str(define().volumes[0].spec.size) == "20G"


def test_the_system_disk_can_be_said_in_full():
    made = define(machine="pc", disk={"size": "4G", "bus": "ide", "format": "raw", "serial": "QM00001"})
    [disk], [volume] = made.vm.spec.disks, made.volumes
    assert (disk.bus, disk.unit, disk.serial, disk.address) == (vm.Bus.IDE, 0, "QM00001", None)
    assert (volume.spec.size, volume.spec.format) == (4 << 30, ground.VolumeFormat.RAW)


def test_a_raw_system_disk_is_a_full_copy_of_its_image():
    [volume] = define(image="tiny", disk={"size": "4G", "format": "raw"}).volumes
    assert (volume.spec.image, volume.spec.linked) == (DIGEST, False)
    with pytest.raises(ValueError, match="thin"):
        define(image="tiny", disk={"size": "4G", "preallocated": True})


def test_the_system_disk_can_be_a_volume_that_is_there_but_not_with_an_image_too():
    made = define(disk={"volume": "data"})
    assert [disk.volume for disk in made.vm.spec.disks] == [DATA.uid]
    with pytest.raises(ValueError, match="not both"):
        define(image="tiny", disk={"volume": "data"})


def test_the_system_disk_is_grown_from_the_image_and_never_cut():
    assert str(define(image="tiny", disk="4G").volumes[0].spec.size) == "4G"
    with pytest.raises(parts.DiskTooSmall) as refused:
        define(image="tiny", disk="1G")
    assert refused.value.needed == 2 << 30


def test_an_image_of_an_odd_size_gets_a_disk_of_whole_sectors():
    assert define(image="odd").volumes[0].spec.size == 1024


def test_a_disk_is_a_full_copy_when_asked_or_when_the_image_lies_elsewhere():
    assert not define(image="tiny", full=True).volumes[0].spec.linked
    elsewhere = define(image="tiny", storage="other")
    assert not elsewhere.volumes[0].spec.linked
    assert elsewhere.volumes[0].spec.storage == elsewhere.vm.spec.storage == OTHER.uid


def test_every_device_has_a_place_a_name_and_a_serial_of_its_own():
    request: dict[str, Any] = {
        "image": "tiny",
        "disks": [{"size": "1G"}, {"size": "1G", "bus": "scsi"}, {"size": "1G", "bus": "sata"}, {"volume": "data"}],
        "cds": ["drivers"],
        "nics": [{}, {"model": "e1000"}, {"model": "virtio"}],
    }
    made = define(**request)
    spec = made.vm.spec
    assert [disk.name for disk in spec.disks] == ["disk0", "disk1", "disk2", "disk3", "disk4"]
    assert [nic.name for nic in spec.nics] == ["nic0", "nic1", "nic2"]
    addresses = [*(disk.address for disk in spec.disks if disk.address), *(nic.address for nic in spec.nics)]
    assert len(set(addresses)) == len(addresses) == 6
    assert len({disk.serial for disk in spec.disks}) == 5
    assert len({nic.mac for nic in spec.nics}) == 3
    assert len(made.volumes) == 4
    assert spec.disks[4].volume == DATA.uid
    hardware.check(spec)


def test_the_hardware_is_the_hosts_newest_unless_something_else_was_asked():
    spec = define(image="tiny").vm.spec
    assert (spec.hardware.machine, spec.hardware.cpu_model) == ("pc-q35-7.2", "Haswell")
    old = define(image="tiny", machine="pc", cpu_model="qemu32").vm.spec
    assert (old.hardware.machine, old.hardware.cpu_model) == ("pc-i440fx-7.2", "qemu32")
    assert old.hardware.root_ports == 0
    with pytest.raises(parts.FirmwareMissing):
        define(image="tiny", firmware="uefi")


def test_an_identity_that_is_given_is_kept_and_a_fresh_one_made_else():
    uuid = base.new_uid()
    kept = define(image="tiny", smbios={"uuid": uuid.upper(), "serial": "ABC", "oem_strings": ["a"]}).vm.spec
    assert kept.hardware.smbios.uuid == uuid
    assert (kept.hardware.smbios.serial, kept.hardware.smbios.oem_strings) == ("ABC", ("a",))
    assert define(image="tiny").vm.spec.hardware.smbios.uuid != define(image="tiny").vm.spec.hardware.smbios.uuid


def test_what_another_vm_has_is_refused():
    mac, uuid = "52:54:00:00:00:01", base.new_uid()
    facts = dataclasses.replace(FACTS, macs={mac: "other"}, smbios_uuids={uuid: "other"}, users={DATA.uid: "other"})
    with pytest.raises(parts.MacTaken):
        define(facts, image="tiny", nics=[{"mac": mac}])
    with pytest.raises(parts.IdentityTaken):
        define(facts, image="tiny", smbios={"uuid": uuid})
    with pytest.raises(parts.VolumeInUse) as refused:
        define(facts, image="tiny", disks=[{"volume": "data"}])
    assert refused.value.by == "other"


def test_a_mac_address_that_is_taken_is_passed_over():
    asked = requests.VMCreate(name="web1", image="tiny")
    uid = base.new_uid()
    first = definition.define(asked, FACTS, project="default", uid=uid).vm.spec.nics[0].mac
    taken = dataclasses.replace(FACTS, macs={first: "other"})
    assert definition.define(asked, taken, project="default", uid=uid).vm.spec.nics[0].mac != first


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ({"image": "nope"}, parts.NoSuch),
        ({"image": "tiny", "storage": "nope"}, parts.NoSuch),
        ({"image": "tiny", "storage": "gone"}, parts.StorageUnavailable),
        ({"image": "tiny", "nics": [{"network": "nope"}]}, parts.NoSuch),
        ({"image": "windows"}, parts.NotBootable),
        ({"cds": ["tiny"]}, parts.NotACd),
        ({"image": "tiny", "memory": "8M"}, errors.InvalidFields),
        ({"image": "tiny", "memory": "16777217B"}, errors.InvalidFields),
        ({"image": "tiny", "boot": ["disk9"]}, errors.InvalidFields),
        ({"image": "tiny", "disks": [{"size": "1G", "bus": "ide"}]}, hardware.NoBus),
        ({"image": "tiny", "disks": [{"size": "1G", "bus": "sata"}] * 7}, hardware.NoUnit),
        ({"image": "tiny", "disks": [{"size": "1G"}] * 16}, hardware.NoAddress),
    ],
)
def test_what_cannot_be_is_refused_by_its_type(request_, error):
    with pytest.raises(error):
        define(**request_)


def test_a_host_that_does_not_know_its_qemu_makes_no_vm():
    blank = HOST.model_copy(update={"status": ground.HostStatus()})
    with pytest.raises(parts.HostNotReady):
        define(dataclasses.replace(FACTS, host=blank), image="tiny")


def test_the_volumes_of_vms_of_one_name_do_not_bear_one_name():
    assert define(image="tiny").volumes[0].name != define(image="tiny").volumes[0].name
    long = define(image="tiny", name="a" * 63).volumes[0].name
    assert len(long) <= 63


def test_a_password_goes_in_as_its_hash_alone():
    asked = requests.VMCreate.model_validate({"name": "a", "image": "tiny", "seed": {"password": "hunter2"}})
    made = definition.define(asked, FACTS, project="default", password_hash="$6$hash")
    assert made.vm.spec.seed
    assert made.vm.spec.seed.password_hash == "$6$hash"
    assert made.vm.spec.seed.hostname == "a"
    assert "hunter2" not in made.vm.model_dump_json()


def test_a_disk_that_is_added_moves_none_that_is_there():
    machine = define(image="tiny", cds=["drivers"]).vm
    more = equipment.attach(machine, device_requests.DiskRequest.model_validate({"size": "1G"}), FACTS, storage=LOCAL)
    assert more.vm.spec.disks[0] == machine.spec.disks[0]
    assert more.vm.spec.nics == machine.spec.nics
    assert more.vm.spec.disks[1].name == "disk1"
    assert [volume.spec.name for volume in more.volumes] == ["disk1"]
    kept = equipment.attach(machine, device_requests.DiskRequest(volume="data"), FACTS, storage=LOCAL)
    assert kept.volumes == ()


def test_a_change_leaves_alone_what_it_does_not_name():
    machine = define(image="tiny", title="the web").vm
    patch = requests.VMPatch.model_validate({"memory": "1G", "tags": ["a"], "notes": None})
    changed = definition.change(machine, patch)
    assert str(changed.spec.memory) == "1G"
    assert (changed.metadata.title, changed.metadata.tags) == ("the web", ("a",))
    assert changed.spec.model_copy(update={"memory": machine.spec.memory}) == machine.spec
    assert definition.change(machine, requests.VMPatch()) == machine
    with pytest.raises(errors.InvalidFields) as refused:
        definition.change(machine, requests.VMPatch.model_validate({"memory": "1000000B"}))
    assert refused.value.faults[0]["path"] == "memory"


def _document(machine: vm.VM, **spec: object) -> requests.Document:
    return requests.Document(
        metadata=machine.metadata.model_dump(mode="json"), spec={**machine.spec.model_dump(mode="json"), **spec}
    )


def test_a_document_that_was_not_edited_is_the_vm_it_came_from():
    machine = define(image="tiny", cds=["drivers"], seed={"user": "admin"}).vm
    assert definition.replace(machine, _document(machine)) == machine


def test_a_document_cannot_change_who_it_is():
    machine = define(image="tiny").vm
    document = _document(machine, storage=OTHER.uid)
    document.metadata.update(uid=base.new_uid(), name="other", generation=99, created="2020-01-01T00:00:00Z")
    with pytest.raises(errors.InvalidFields) as refused:
        definition.replace(machine, document)
    assert [fault["path"] for fault in refused.value.faults] == ["metadata.uid", "metadata.name", "spec.storage"]
    document = _document(machine)
    document.metadata.update(generation=99, created="2020-01-01T00:00:00Z", title="new")
    replaced = definition.replace(machine, document)
    assert replaced.metadata == machine.metadata.model_copy(update={"title": "new"})


def test_a_document_with_a_device_where_it_cannot_be_is_refused():
    machine = define(image="tiny").vm
    document = _document(machine)
    document.spec["disks"][0]["address"] = "pcie.0/1f.0"
    with pytest.raises(hardware.Error):
        definition.replace(machine, document)


def test_a_clone_shares_no_identity_and_says_what_is_copied():
    made = define(image="tiny", disks=[{"size": "1G"}], nics=[{"publish": [{"host_port": 2222, "guest_port": 22}]}])
    volumes = {volume.uid: volume for volume in made.volumes}
    copy, copies = definition.clone(made.vm, volumes, name="web2", start=True)
    one, two = made.vm.spec, copy.vm.spec
    assert copy.vm.uid != made.vm.uid
    assert one.hardware.smbios.uuid != two.hardware.smbios.uuid
    assert one.hardware.smbios.serial != two.hardware.smbios.serial
    assert not {nic.mac for nic in one.nics} & {nic.mac for nic in two.nics}
    assert not {disk.serial for disk in one.disks} & {disk.serial for disk in two.disks}
    assert sorted(copies.values()) == sorted(volumes)
    assert two.nics[0].publish == ()
    assert two.power is vm.Power.RUNNING
    assert [volume.spec.source for volume in copy.volumes] == [volume.uid for volume in made.volumes]
    assert all(volume.spec.vm == copy.vm.uid and not volume.spec.linked for volume in copy.volumes)
    assert [disk.address for disk in one.disks] == [disk.address for disk in two.disks]


def test_what_a_disk_was_made_of_and_rests_on_is_not_its_copys():
    machine = define(image="tiny").vm
    (disk,) = machine.spec.disks
    spec = ground.VolumeSpec(
        storage=OTHER.uid, size="1G", preallocated=True, image="ab" * 32, linked=True, vm=machine.uid, name="disk0",
        source=base.new_uid(), source_file="disk0.qcow2", layers={"disk0-0a1b2c3d.qcow2": "disk0.qcow2"},
        flattening=True, merging="disk0-0a1b2c3d.qcow2",
    )  # fmt: skip
    of = {disk.volume: DATA.model_copy(update={"spec": spec})}
    (copy,) = definition.clone(machine, of, name="b", uid=OTHER.uid)[0].volumes
    assert copy.spec == ground.VolumeSpec(
        storage=machine.spec.storage, size="1G", preallocated=True, vm=OTHER.uid, source=disk.volume
    )


def test_a_clone_takes_no_mac_address_that_another_has():
    machine = define(image="tiny").vm
    volumes = {disk.volume: DATA for disk in machine.spec.disks}
    uid = base.new_uid()
    first, _ = definition.clone(machine, volumes, name="b", uid=uid)
    second, _ = definition.clone(machine, volumes, name="b", uid=uid, macs={first.vm.spec.nics[0].mac})
    assert first.vm.spec.nics[0].mac != second.vm.spec.nics[0].mac


def test_what_is_in_a_cd_drive_is_changed_and_taken_out():
    machine = define(image="tiny", cds=["drivers"]).vm
    assert equipment.change_cd(machine, "cd0", WINDOWS).spec.cds[0].image == WINDOWS.uid
    assert equipment.change_cd(machine, "cd0", None).spec.cds[0].image is None
    with pytest.raises(parts.NoSuchDevice):
        equipment.change_cd(machine, "cd1", None)
    with pytest.raises(parts.NotACd):
        equipment.change_cd(machine, "cd0", TINY)


def test_references_of_a_document_are_checked_all_at_once():
    machine = define(image="tiny", cds=["drivers"]).vm
    spec = machine.spec
    known = references.Known(
        volumes={disk.volume for disk in spec.disks},
        images={DRIVERS.uid},
        networks={NETWORK.uid},
        macs={},
        users={},
        smbios_uuids={},
    )
    references.check(spec, known)
    nothing = references.Known(
        volumes=set(),
        images=set(),
        networks=set(),
        macs={spec.nics[0].mac: "other"},
        users={},
        smbios_uuids={spec.hardware.smbios.uuid: "other"},
    )
    with pytest.raises(errors.InvalidFields) as refused:
        references.check(spec, nothing)
    assert [fault["path"] for fault in refused.value.faults] == [
        "spec.disks.0.volume",
        "spec.cds.0.image",
        "spec.nics.0.network",
        "spec.nics.0.mac",
        "spec.hardware.smbios.uuid",
    ]


def test_what_is_ones_own_is_not_anothers():
    assert references.of_others({"a": "one", "b": "two"}, ["a"]) == {"b": "two"}


def test_what_a_network_cannot_give_is_refused_for_a_new_nic_and_for_one_that_is_there():
    with pytest.raises(parts.NoFences):
        define(image="tiny", nics=[{"network": "default", "spoofing": "allow"}])
    with pytest.raises(parts.NoVlans):
        define(image="tiny", nics=[{"network": "default", "vlan": 10}])
    with pytest.raises(parts.NoSuchGroup):
        define(image="tiny", nics=[{"network": "default", "firewall": ["web"]}])
    machine = define(image="tiny").vm
    with pytest.raises(parts.NoFences):
        equipment.change_nic(machine, "nic0", device_requests.NicPatch(allowed=("10.0.0.0/8",)), FACTS)
    with pytest.raises(parts.NoSuchGroup):
        equipment.change_nic(machine, "nic0", device_requests.NicPatch(firewall=("web",)), FACTS)
