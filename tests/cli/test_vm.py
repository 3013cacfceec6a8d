import json
from typing import Any

import pytest

from bocage.cli.vm import wishes
from tests import fake_api
from tests.cli.conftest import Bocage
from tests.fake_api import FakeApi, listed, problem, task, vm

VMS = "/projects/default/vms"


def test_the_list_shows_state_size_and_addresses(api: FakeApi, bocage: Bocage):
    nics = [{"name": "nic0", "mac": "x", "addresses": ["fd00::5", "fe80::1", "10.80.1.5"]}]
    api.on("GET", VMS, listed(vm("web2", state="stopped"), vm("web1", nics=nics)))
    api.on("GET", "/alarms", listed())
    api.on("GET", "/hosts", listed())
    ended = bocage("vm", "list")
    head, first, second = ended.out.splitlines()
    assert head.split() == ["NAME", "STATE", "CPUS", "MEMORY", "ADDRESSES", "SINCE"]
    assert first.split()[:6] == ["web1", "running", "2", "512M", "10.80.1.5", "+1"]
    assert second.split()[:5] == ["web2", "stopped", "2", "512M", "-"]


def test_where_there_are_several_hosts_the_list_says_which_has_a_vm(api: FakeApi, bocage: Bocage):
    hosts = [{"metadata": {"uid": uid, "name": name}} for uid, name in (("u1", "host1"), ("u2", "host2"))]
    api.on("GET", VMS, listed(vm("web1", host="u2"), vm("web2", state="stopped")))
    api.on("GET", "/alarms", listed())
    api.on("GET", "/hosts", listed(*hosts))
    head, first, second = bocage("vm", "list").out.splitlines()
    assert head.split()[:3] == ["NAME", "STATE", "HOST"]
    assert first.split()[:3] == ["web1", "running", "host2"]
    assert second.split()[:3] == ["web2", "stopped", "-"]


def test_the_list_fits_80_columns_whatever_names_and_addresses_there_are(api: FakeApi, bocage: Bocage):
    nics = [{"name": "nic0", "mac": "x", "addresses": [f"fd00:0:0:0:{n}::1" for n in range(9)]}]
    api.on("GET", VMS, listed(vm("a" * 63, nics=nics), vm("b")))
    api.on("GET", "/alarms", listed())
    api.on("GET", "/hosts", listed())
    ended = bocage("vm", "list")
    assert max(map(len, ended.out.splitlines())) <= 80


def test_an_empty_list_says_what_to_do_and_leaves_standard_output_empty(api: FakeApi, bocage: Bocage):
    api.on("GET", VMS, listed())
    ended = bocage("vm", "list")
    assert (ended.code, ended.out) == (0, "")
    assert "bocage vm create" in ended.err
    assert "no VM is like that" in bocage("vm", "list", "--tag", "prod").err


def test_the_trash_holds_only_what_was_deleted(api: FakeApi, bocage: Bocage):
    deleted = vm("old", state="stopped")
    deleted["metadata"]["deleted"] = "2026-01-02T03:04:05Z"
    api.on("GET", VMS, listed(vm("web1"), deleted))
    assert bocage("vm", "list", "--trash", "-q").out == "old\n"
    assert "trash=true" in api.asked[0].path


def test_the_trash_says_since_when_and_until_when(api: FakeApi, bocage: Bocage):
    deleted = vm("old", state="stopped")
    deleted["metadata"] |= {"deleted": "2026-01-02T03:04:05Z", "goes": "2026-01-09T03:04:05Z"}
    api.on("GET", VMS, listed(deleted))
    head, row = bocage("vm", "list", "--trash").out.splitlines()
    assert head.split() == ["NAME", "CPUS", "MEMORY", "DELETED", "GOES", "FOR", "GOOD"]
    assert row.split()[0] == "old"
    assert api.asked_for("GET", "/alarms") == []


def test_a_vm_in_trouble_is_marked_and_why_is_named(api: FakeApi, bocage: Bocage):
    trouble = {"type": "x", "params": {}, "text": "there is no room"}
    held, crashed = vm("held", state="paused"), vm("crashed", state="crashed")
    alarmed, fine = vm("noisy"), vm("fine", state="paused")
    alarmed["metadata"]["uid"], fine["spec"]["power"] = "A", "paused"
    alarm: dict[str, Any] = {"spec": {"subject": {"kind": "vm", "uid": "A"}}, "status": {"acknowledged": None}}
    seen = {"spec": {"subject": {"uid": fake_api.VM_UID}}, "status": {"acknowledged": "2026-01-02T03:04:05Z"}}
    api.on("GET", VMS, listed(vm("broken", state="stopped", problem=trouble), held, crashed, alarmed, fine))
    api.on("GET", "/alarms", listed(alarm, seen))
    api.on("GET", "/hosts", listed())
    ended = bocage("vm", "list")
    marked = {line.split()[0] for line in ended.out.splitlines() if "!" in line}
    assert marked == {"broken", "held", "crashed", "noisy"}
    assert "! is not as it should be: 'bocage why broken' says why (and 3 more)" in ended.err


def test_json_is_what_the_api_answered_all_pages_in_one(api: FakeApi, bocage: Bocage):
    api.on("GET", VMS, listed(vm("a"), after="CURSOR"), listed(vm("b")))
    ended = bocage("vm", "list", "--json", "--state", "running")
    found = json.loads(ended.out)
    assert [one["metadata"]["name"] for one in found["items"]] == ["a", "b"]
    assert found["after"] is None
    assert "state=running" in api.asked[0].path
    assert "after=CURSOR" in api.asked[1].path


def test_the_project_is_in_the_path(api: FakeApi, bocage: Bocage, monkeypatch: pytest.MonkeyPatch):
    api.on("GET", "/projects/shop/vms", listed(vm("a")))
    assert bocage("vm", "list", "--project", "shop", "-q").out == "a\n"
    monkeypatch.setenv("BOCAGE_PROJECT", "shop")
    assert bocage("vm", "list", "-q").out == "a\n"


def test_one_vm_is_shown_with_its_disks_and_cards(api: FakeApi, bocage: Bocage):
    machine = vm("web1", state="stopped", problem={"type": "x", "params": {}, "text": "the disk is full"})
    machine["spec"]["disks"] = [{"name": "disk0", "volume": "V", "bus": "virtio", "serial": "S1"}]
    machine["spec"]["cds"] = [{"name": "cd0", "image": None, "bus": "sata"}]
    publish = [{"host_address": "127.0.0.1", "host_port": 2222, "guest_port": 22, "protocol": "tcp"}]
    machine["spec"]["nics"] = [{"name": "nic0", "network": "N", "model": "virtio", "mac": "52:54:00:00:00:01"}]
    machine["spec"]["nics"][0]["publish"] = publish
    machine["spec"]["usb"] = [{"name": "usb0", "id": "0529:0001", "serial": "A1", "port": None, "unit": 3}]
    machine["status"]["usb"] = [{"name": "usb0", "node": "", "reason": None}]
    volume = {
        "metadata": fake_api.metadata("v", "V"),
        "spec": {"size": "4G", "format": "qcow2", "linked": True},
        "status": {"allocated_bytes": 1 << 20},
    }
    network: dict[str, Any] = {"metadata": fake_api.metadata("default", "N"), "spec": {}, "status": {}}
    api.on("GET", f"{VMS}/web1", machine)
    api.on("GET", "/projects/default/volumes", listed(volume))
    api.on("GET", "/projects/default/networks", listed(network))
    api.on("GET", "/projects/default/images", listed())
    api.on("GET", "/hosts", listed())
    ended = bocage("vm", "show", "web1")
    assert ended.code == 0
    assert "the disk is full" in ended.out
    assert "0529:0001" in ended.out
    assert "waits for it" in ended.out
    assert "stopped" in ended.out
    assert "should be running" in ended.out
    assert "4G (1M taken)" in ended.out
    assert "127.0.0.1:2222 → 22\n" in ended.out
    assert "pending" not in ended.out, "nothing waits on a VM that is stopped"
    assert "empty" in ended.out
    assert max(map(len, ended.out.splitlines())) <= 80


def test_create_sends_what_was_asked_and_leaves_the_rest_to_the_api(api: FakeApi, bocage: Bocage):
    api.on("POST", VMS, fake_api.Reply(task("vm.create", "done"), 202))
    line = "vm create web1 --image tiny --cpus 2 --memory 512M --disk 4G --network default --start"
    ended = bocage(*line.split())
    assert ended.code == 0
    assert api.asked[0].document == {
        "name": "web1",
        "image": "tiny",
        "cpus": {"cores": 2},
        "memory": "512M",
        "disk": "4G",
        "nics": [{"network": "default"}],
        "start": True,
    }
    assert api.asked[0].headers["Idempotency-Key"]
    assert bocage("vm", "create", "web2", "--image", "tiny").code == 0
    assert api.asked[1].document == {"name": "web2", "image": "tiny"}


def test_a_vm_that_is_made_and_does_not_start_is_told_to_be_there(api: FakeApi, bocage: Bocage):
    why = {"type": "x", "params": {}, "text": "port 2222 is taken", "hint": "publish another one"}
    api.on("POST", VMS, fake_api.Reply(task("vm.create", "failed", problem=why, http_status=409), 202))
    api.on("GET", f"{VMS}/web1", vm("web1", state="stopped", ready=True))
    ended = bocage("vm", "create", "web1", "--image", "tiny", "--start")
    assert ended.code == 1
    assert "web1 is made, but did not start: port 2222 is taken" in ended.err
    assert "publish another one, then 'bocage vm start web1'" in ended.err
    api.on("GET", f"{VMS}/web1", vm("web1", state="stopped", ready=False))
    ended = bocage("vm", "create", "web1", "--image", "tiny", "--start")
    assert (ended.code, "is made" in ended.err) == (4, False)


def test_a_warning_of_a_task_is_told_beside_the_answer(api: FakeApi, bocage: Bocage):
    made = task("vm.create", "done")
    made["spec"]["warnings"] = [{"type": "x", "params": {}, "text": "a start may be refused", "hint": "smaller disks"}]
    api.on("POST", VMS, fake_api.Reply(made, 202))
    ended = bocage("vm", "create", "web1", "--image", "tiny")
    assert (ended.code, ended.out) == (0, "web1 is made; 'bocage vm start web1' starts it\n")
    assert ended.err == "note: a start may be refused\n  → smaller disks\n"


def test_create_for_an_installation_from_cds(api: FakeApi, bocage: Bocage):
    api.on("POST", VMS, fake_api.Reply(task("vm.create", "done"), 202))
    bocage(
        *[
            "vm",
            "create",
            "win",
            "--cd",
            "windows",
            "--cd",
            "drivers",
            "--disk",
            "80G",
            "--disk",
            "size=10G,bus=sata",
            "--memory",
            "4G",
        ]
    )
    sent = api.asked[0].document
    assert sent["cds"] == ["windows", "drivers"]
    assert (sent["disk"], sent["disks"]) == ("80G", [{"size": "10G", "bus": "sata"}])


def test_create_with_a_seed_ports_and_a_board(api: FakeApi, bocage: Bocage):
    api.on("POST", VMS, fake_api.Reply(task("vm.create", "done"), 202))
    key = "ssh-ed25519 AAAA me"
    line = "vm create d --image debian --user ann --password secret --hostname dd --publish 2222:22 --firmware uefi"
    more = (
        "--machine pc --boot cd0,disk0 --address 10.0.0.5/24 --restart always --autostart --protected --tag a --tag b"
    )
    bocage(*line.split(), *more.split(), "--ssh-key", key)
    sent = api.asked[0].document
    assert sent["seed"] == {
        "user": "ann",
        "password": "secret",
        "hostname": "dd",
        "ssh_keys": [key],
        "network": [{"nic": "nic0", "address": "10.0.0.5/24"}],
    }
    assert sent["nics"] == [{"network": "default", "publish": [{"host_port": 2222, "guest_port": 22}]}]
    assert (sent["firmware"], sent["machine"], sent["boot"]) == ("uefi", "pc", ["cd0", "disk0"])
    assert (sent["restart"], sent["autostart"]) == ({"policy": "always"}, {"enabled": True})
    assert (sent["protected"], sent["tags"]) == (True, ["a", "b"])


def test_no_network_is_an_empty_list_of_cards(api: FakeApi, bocage: Bocage):
    api.on("POST", VMS, fake_api.Reply(task("vm.create", "done"), 202))
    bocage("vm", "create", "a", "--image", "tiny", "--network", "none")
    assert api.asked[0].document["nics"] == []


@pytest.mark.parametrize("verb", ["kill", "reboot", "reset", "pause", "resume", "save"])
def test_each_verb_asks_for_its_task(api: FakeApi, bocage: Bocage, verb: str):
    api.on("POST", f"{VMS}/web1/{verb}", fake_api.Reply(task(f"vm.{verb}", "done"), 202))
    ended = bocage("vm", verb, "web1")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("web1 ")


def test_start_and_stop_send_their_options(api: FakeApi, bocage: Bocage):
    api.on("POST", f"{VMS}/web1/start", fake_api.Reply(task("vm.start", "done"), 202))
    api.on("POST", f"{VMS}/web1/stop", fake_api.Reply(task("vm.stop", "done"), 202))
    bocage("vm", "start", "web1", "--boot", "cd0", "--paused")
    bocage("vm", "stop", "web1", "--within", "30", "--kill")
    bocage("vm", "stop", "web1")
    assert [one.document for one in api.asked] == [
        {"boot": "cd0", "paused": True},
        {"within": 30.0, "kill": True},
        {},
    ]


def test_several_vms_are_all_tried_and_the_exit_code_is_that_of_the_first_failure(api: FakeApi, bocage: Bocage):
    api.on("POST", f"{VMS}/a/kill", problem(404, "not-found", "there is no vm named a"))
    api.on("POST", f"{VMS}/b/kill", fake_api.Reply(task("vm.kill", "done"), 202))
    api.on("POST", f"{VMS}/c/kill", problem(409, "vm-in-trash", "c is in the trash"))
    ended = bocage("vm", "kill", "a", "b", "c")
    assert ended.code == 3
    assert ended.out == "b is off\n"
    assert "there is no vm named a" in ended.err
    assert "c is in the trash" in ended.err, "each is told, not only the first"


def test_delete_says_whether_it_can_be_had_back(api: FakeApi, bocage: Bocage):
    api.on("DELETE", f"{VMS}/web1", fake_api.Reply(task("vm.delete", "done"), 202))
    assert "undelete" in bocage("vm", "delete", "web1").out
    assert bocage("vm", "delete", "web1", "--purge", "--force").out == "web1 is gone\n"
    assert api.asked[1].path.endswith("?force=true&purge=true")


def test_set_sends_only_what_changes_and_whole_parts_with_the_etag(api: FakeApi, bocage: Bocage):
    api.on("GET", f"{VMS}/web1", vm("web1", state="stopped"))
    api.on("PATCH", f"{VMS}/web1", vm("web1", state="stopped"))
    assert bocage("vm", "set", "web1", "--memory", "1G", "--title", "T").code == 0
    assert api.asked[-1].document == {"memory": "1G", "title": "T"}
    assert "If-Match" not in api.asked[-1].headers
    assert bocage("vm", "set", "web1", "--restart", "never", "--no-autostart").code == 0
    assert api.asked[-1].document == {
        "restart": {"policy": "never", "limit": 5, "delay": 1.0},
        "autostart": {"enabled": False, "order": 100, "delay": 0.0},
    }
    assert api.asked[-1].headers["If-Match"] == '"42"'


def test_wishes_of_placement_are_sent_whole_and_shown(api: FakeApi, bocage: Bocage):
    there = vm("web1", state="stopped")
    there["spec"]["placement"] = {"apart": ["web"], "together": [], "host_tags": ["ssd"]}
    api.on("GET", f"{VMS}/web1", there)
    api.on("PATCH", f"{VMS}/web1", there)
    bocage("vm", "set", "web1", "--apart", "web,shop", "--host-tag", "none")
    sent = api.asked[-1].document["placement"]
    assert sent == {"apart": ["web", "shop"], "together": [], "host_tags": []}
    assert wishes.described(there["spec"]) == "apart from others of web; on hosts with ssd"
    api.on("POST", VMS, fake_api.Reply(task("vm.create", "done"), 202))
    bocage("vm", "create", "web2", "--image", "tiny", "--together", "shop")
    assert api.asked[-1].document["placement"] == {"together": ["shop"]}


def test_set_says_what_waits_for_a_cold_start(api: FakeApi, bocage: Bocage):
    waits = {"text": "it takes effect at the next cold start", "hint": "'bocage vm reboot web1'"}
    outcomes = [
        {"path": "cpus", "how": "done", "saying": {"text": "the guest has 4 vCPUs", "hint": ""}},
        {"path": "memory", "how": "pending", "saying": waits},
    ]
    api.on("PATCH", f"{VMS}/web1", vm("web1", observed_generation=0))
    now = vm("web1", observed_generation=99, outcomes=outcomes)
    api.on("GET", f"{VMS}/{fake_api.VM_UID}", vm("web1", observed_generation=0), now)  # its host takes a moment
    ended = bocage("vm", "set", "web1", "--memory", "1G", "--cpus", "4")
    assert ended.out == "web1 is changed\ncpus: the guest has 4 vCPUs\n"
    assert ended.err.splitlines() == [
        "memory: it takes effect at the next cold start",
        "  → 'bocage vm reboot web1'",
    ]


def test_set_of_one_that_is_off_waits_for_nobody(api: FakeApi, bocage: Bocage):
    api.on("PATCH", f"{VMS}/web1", vm("web1", state="stopped", observed_generation=0))
    assert bocage("vm", "set", "web1", "--memory", "1G").out == "web1 is changed\n"


def test_set_without_a_change_is_a_usage_error(api: FakeApi, bocage: Bocage):
    assert bocage("vm", "set", "web1").code == 2
    assert api.asked == []


def test_expect_prints_the_line_and_ends_with_1_at_the_time_out(api: FakeApi, bocage: Bocage):
    api.on(
        "POST",
        f"{VMS}/web1/expect",
        {"line": "tiny: ready cpus=2"},
        problem(504, "console-not-said", "the console of web1 said nothing like 'x' within 3 s"),
    )
    ended = bocage("vm", "console", "web1", "--send", "tiny ready", "--expect", "^tiny: ready", "--timeout", "5")
    assert (ended.code, ended.out) == (0, "tiny: ready cpus=2\n")
    assert api.asked[0].document == {"send": "tiny ready", "pattern": "^tiny: ready", "timeout": 5.0}
    ended = bocage("vm", "console", "web1", "--expect", "x", "--timeout", "3")
    assert (ended.code, ended.out) == (1, "")
    assert "said nothing like" in ended.err


def test_disks_and_cds_are_changed_by_their_names(api: FakeApi, bocage: Bocage):
    done = fake_api.Reply(task("vm.disk-attach", "done"), 202)
    done.body["spec"]["params"] = {"disk": "disk1"}
    machine = vm("web1")
    machine["spec"]["disks"] = [{"name": "disk1", "volume": "V", "bus": "scsi", "serial": "S1"}]
    api.on("GET", f"{VMS}/web1", machine)
    for method, path in (
        ("POST", "disks"),
        ("DELETE", "disks/disk1"),
        ("POST", "disks/disk1/grow"),
        ("PUT", "cds/cd0"),
    ):
        api.on(method, f"{VMS}/web1/{path}", done)
    ended = bocage("vm", "disk", "attach", "web1", "--size", "20G", "--bus", "scsi")
    assert (ended.code, ended.out) == (0, "web1 has disk1 (scsi, serial S1)\n")
    assert bocage("vm", "disk", "grow", "web1", "disk1", "40G").code == 0
    assert bocage("vm", "disk", "detach", "web1", "disk1").code == 0
    assert bocage("vm", "cd", "insert", "web1", "debian-iso").code == 0
    assert bocage("vm", "cd", "eject", "web1").code == 0
    sent = [json.loads(one.body) for one in api.asked if one.body]
    assert sent == [{"size": "20G", "bus": "scsi"}, {"size": "40G"}, {"image": "debian-iso"}, {"image": None}]


def test_an_old_system_gets_one_disk_on_its_own_bus_and_cds_by_their_files(api: FakeApi, bocage: Bocage):
    api.on("POST", VMS, fake_api.Reply(task("vm.create", "done"), 202))
    line = "vm create nt4 --machine pc --disk size=4G,bus=ide --cd /srv/iso/NT4_Server.iso --cd drivers"
    assert bocage(*line.split()).code == 0
    sent = api.asked_for("POST", VMS)[0].document
    assert (sent["disk"], sent.get("disks")) == ({"size": "4G", "bus": "ide"}, None)
    assert sent["cds"] == ["nt4-server", "drivers"]


def test_a_disk_is_new_or_a_volume_and_not_both(api: FakeApi, bocage: Bocage):
    assert bocage("vm", "disk", "attach", "web1").code == 2
    assert bocage("vm", "disk", "attach", "web1", "--size", "1G", "--volume", "v").code == 2
    assert api.asked == []


def test_keys_are_pressed_group_by_group(api: FakeApi, bocage: Bocage):
    api.on("POST", f"{VMS}/web1/keys", fake_api.Reply(None, 204))
    assert bocage("vm", "sendkey", "web1", "Ctrl+Alt+Del", "enter").code == 0
    assert [one.document["keys"] for one in api.asked] == [["ctrl", "alt", "delete"], ["ret"]]
    pressed = bocage("vm", "sendkey", "web1", "enter", "a", "--json")
    assert json.loads(pressed.out) == {"pressed": [["ret"], ["a"]]}


def test_why_is_a_chain_of_causes_each_with_what_helps(api: FakeApi, bocage: Bocage):
    chain = [
        {"type": "a", "params": {}, "text": "web1 is stopped", "hint": ""},
        {"type": "b", "params": {}, "text": "the disk is full", "hint": "make room"},
    ]
    api.on("GET", f"{VMS}/web1/why", {"chain": chain})
    assert bocage("why", "web1").out == "web1 is stopped\nbecause the disk is full\n  → make room\n"
    assert json.loads(bocage("why", "web1", "--json").out) == {"chain": chain}


LOG = "\x1b[2J\x1b[1;31mtiny: ready\x1b[0m\r\n10%\r100%\n\x1b]0;title\x07ümlaut\x9b31m\nlogin: \x1b[?2004h"


def test_the_log_is_passed_on_byte_by_byte(api: FakeApi, bocage: Bocage):
    api.on("GET", f"{VMS}/web1/log", fake_api.Reply(LOG.encode()))
    assert bocage("vm", "log", "web1").out == LOG
    assert "source=serial" in api.asked[0].path
    assert bocage("vm", "log", "web1", "--qemu", "--follow").out == LOG
    assert "source=qemu&follow=true" in api.asked[1].path


@pytest.mark.parametrize("more", [(), ("--qemu",), ("--follow",)])
def test_the_log_can_be_read_without_what_would_control_a_terminal(api: FakeApi, bocage: Bocage, more: tuple[str, ...]):
    api.on("GET", f"{VMS}/web1/log", fake_api.Reply(LOG.encode()))
    assert bocage("vm", "log", "web1", "--plain", *more).out == "tiny: ready\n100%\nümlaut31m\nlogin: \n"


def test_the_log_is_plain_on_a_terminal_unless_that_is_not_wanted(
    api: FakeApi, bocage: Bocage, monkeypatch: pytest.MonkeyPatch
):
    api.on("GET", f"{VMS}/web1/log", fake_api.Reply(b"\x1b[1mbold\r\n"))
    monkeypatch.setattr("bocage.cli.output.on_terminal", lambda: True)
    assert bocage("vm", "log", "web1").out == "bold\n"
    assert bocage("vm", "log", "web1", "--raw").out == "\x1b[1mbold\r\n"


def test_the_log_is_a_document_for_each_line(api: FakeApi, bocage: Bocage):
    api.on("GET", f"{VMS}/web1/log", fake_api.Reply(LOG.encode()))
    said = bocage("vm", "log", "web1", "--json").out.splitlines()
    assert [json.loads(one) for one in said] == [
        {"line": line} for line in ("tiny: ready", "100%", "ümlaut31m", "login: ")
    ]


def test_a_screenshot_is_written_to_its_file(api: FakeApi, bocage: Bocage, tmp_path):
    api.on("GET", f"{VMS}/web1/screenshot", fake_api.Reply(b"\x89PNG"))
    assert bocage("vm", "screenshot", "web1", str(tmp_path / "out.png")).code == 0
    assert (tmp_path / "out.png").read_bytes() == b"\x89PNG"
    assert bocage("vm", "screenshot", "web1", str(tmp_path / "no" / "out.png")).code == 2
    told = bocage("vm", "screenshot", "web1", str(tmp_path / "out.png"), "--json")
    assert json.loads(told.out) == {"file": str(tmp_path / "out.png"), "size": 4}
    assert bocage("vm", "screenshot", "web1", "-", "--json").code == 2
