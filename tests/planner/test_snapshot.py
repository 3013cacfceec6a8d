"""The world that a planner is given, from what the store has."""

import datetime

from bocage.model import base, ground, sample, standing
from bocage.model import vm as model
from bocage.planner import placement, snapshot
from tests.planner import things

NETWORK = "5f0c9f1e-6f0a-4c53-9c1e-0d1f5a3f7c14"
OTHER = base.new_uid()
ARRAY, IMAGE, DISK = base.new_uid(), base.new_uid(), base.new_uid()
NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def network() -> ground.Network:
    about = {"uid": NETWORK, "name": "lan", "project": "default"}
    return ground.Network.model_validate({"metadata": about, "spec": {}, "status": {}})


def test_hosts_and_vms_are_as_the_store_has_them():
    here = things.host(
        spec={"memory_overcommit": 2.0, "memory_for_vms": "6G"},
        status={"cpus": 4, "memory_bytes": 8 << 30, "cpu_models": ["qemu64"], "seen": NOW.isoformat()},
    )
    nic = {"name": "nic0", "network": NETWORK, "mac": "52:54:00:00:00:01", "address": "pcie.0/03.0"}
    running = things.machine(
        power="running",
        memory="1G",
        cpus=2,
        nics=[nic],
        status=model.VMStatus(host=things.HOST, state=model.State.RUNNING),
    )
    use = {running.uid: sample.Use(now={"cpu": 0.25})}
    of = snapshot.world([here], [things.storage()], [network()], [running], uses=use, now=NOW)
    host, vm = of.hosts[0], of.vms[0]
    assert (host.name, host.state, str(host.memory), str(host.memory_own)) == ("host1", "ready", "8G", "2G")
    assert (host.storages, host.networks, host.power) == (("local",), ("lan",), 4.0)
    assert (vm.host, vm.running, str(vm.memory), vm.vcpus, vm.load.cpu) == ("host1", True, "1G", 2, 0.25)
    assert (vm.storages, vm.networks, vm.hardware.cpu_model) == (("local",), ("lan",), "qemu64")


def test_a_host_without_a_sign_is_silent_once_somebody_looks_at_the_time():
    here = things.host(status={"seen": (NOW - datetime.timedelta(seconds=90)).isoformat(), "memory_bytes": 1 << 30})
    assert snapshot.world([here], [], now=NOW).hosts[0].state == "silent"
    assert snapshot.world([here], []).hosts[0].state == "ready"


def test_in_a_cluster_its_beats_say_whether_a_host_is_silent():
    about = {"leader": "host1", "term": 1, "since": NOW}
    for seen, state, shown in ((90, "beats", "ready"), (1, "silent", "silent"), (1, "proven-dead", "silent")):
        when = (NOW - datetime.timedelta(seconds=seen)).isoformat()
        here = things.host(status={"seen": when, "memory_bytes": 1 << 30})
        told = {**about, "hosts": [{"host": here.uid, "name": here.name, "state": state}]}
        stands = standing.Standing.model_validate(told)
        assert snapshot.world([here], [], now=NOW, stands=stands).hosts[0].state == shown


def test_a_model_that_no_host_runs_whole_refuses_none():
    here, there = things.host(status={"cpu_models": ["Conroe-v1"], "memory_bytes": 8 << 30}), things.storage()
    asked = snapshot.asked(things.machine(), [here], [there], [])
    assert asked.hardware.cpu_model == ""
    assert placement.place(asked, snapshot.world([here], [there])).host == "host1"


def test_a_vm_whose_storage_is_another_hosts_is_refused_by_this_one():
    elsewhere = things.storage(host=OTHER)
    asked = snapshot.asked(things.machine(), [things.host()], [elsewhere], [])
    placed = placement.place(asked, snapshot.world([things.host()], [elsewhere]))
    assert "host-lacks-storage" in [reason.type for reason in placed.verdicts[0].reasons]


def test_what_is_in_the_trash_takes_nothing():
    gone = things.machine(metadata={"deleted": NOW.isoformat()}, status=model.VMStatus(host=things.HOST))
    assert snapshot.world([things.host()], [things.storage()], vms=[gone]).vms == ()
    assert snapshot.asked(gone, [things.host()], [things.storage()], []).name == "web"


def test_wishes_come_along_and_groups_of_projects_are_theirs_alone():
    wishes = {"apart": ["web"], "together": ["shop"], "host_tags": ["ssd"]}
    of = snapshot.world([things.host()], [things.storage()], vms=[things.machine(placement=wishes)])
    assert (of.vms[0].apart, of.vms[0].together, of.vms[0].host_tags) == (("web",), ("shop",), ("ssd",))
    other = things.machine(metadata={"project": "other"}, placement=wishes)
    assert snapshot.world([things.host()], [things.storage()], vms=[other]).vms[0].apart == ("other/web",)


def test_what_a_vm_has_on_other_storages_must_be_reached_as_well():
    here, there = things.host(), things.host(metadata={"uid": OTHER, "name": "host2"})
    array = ground.Storage.model_validate(
        {
            "metadata": {"uid": ARRAY, "name": "array"},
            "spec": {"kind": "shared", "path": "/array"},
            "status": {"state": "ready", "hosts": {uid: {"state": "ready"} for uid in (here.uid, there.uid)}},
        }
    )
    storages = [array, things.storage()]
    disk = {"name": "disk0", "volume": DISK, "serial": "d0", "address": "pcie.0/04.0"}
    machine = things.machine(storage=ARRAY, disks=[disk])
    assert snapshot.asked(machine, [here, there], storages, []).storages == ("array",)
    world = snapshot.world([here, there], storages)
    assert [one.storages for one in world.hosts] == [("array", "local"), ("array",)]
    image = ground.Image.model_validate(
        {
            "metadata": {"uid": IMAGE, "name": "tiny", "project": "default"},
            "spec": {"sha256": "ab" * 32, "format": "raw", "virtual_size": "1M", "storage": things.STORAGE},
        }
    )
    for state, expected in (("pending", ("array", "local")), ("ready", ("array",))):
        volume = ground.Volume.model_validate(
            {
                "metadata": {"uid": DISK, "name": "disk0", "project": "default"},
                "spec": {"storage": ARRAY, "size": "1M", "image": "ab" * 32},
                "status": {"state": state},
            }
        )
        asked = snapshot.asked(machine, [here, there], storages, [], beside=[image, volume])
        assert asked.storages == expected
