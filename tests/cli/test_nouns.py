import hashlib
import json
import pathlib
import urllib.parse
from collections.abc import Callable

import pytest

from bocage import cli
from bocage.cli import image
from tests import fake_api
from tests.cli.conftest import Bocage
from tests.fake_api import FakeApi, Reply, listed, metadata, problem, task, vm

IMAGES = "/projects/default/images"
DONE = Reply(task("image.add", "done"), 202)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("/srv/Windows Server 2019.ISO", "windows-server-2019"),
        ("debian-12-genericcloud-amd64.qcow2", "debian-12-genericcloud-amd64"),
        ("https://example.org/a/b/tiny.raw?x=1#y", "tiny"),
        ("x" * 80 + ".img", "x" * 63),
        ("a.vmdk", "a"),
    ],
)
def test_an_image_is_called_after_its_file(source: str, name: str):
    assert image.name_for(source) == name


def test_a_file_on_this_machine_is_named_by_its_path(api: FakeApi, bocage: Bocage, tmp_path: pathlib.Path):
    (tmp_path / "disk.qcow2").write_bytes(b"QFI\xfb")
    api.on("POST", IMAGES, DONE)
    ended = bocage("image", "add", str(tmp_path / "disk.qcow2"), "--format", "qcow2", "--sha256", "AB" * 32)
    assert (ended.code, ended.out) == (0, "image disk is there\n")
    assert api.asked[0].document == {
        "name": "disk",
        "path": str(tmp_path / "disk.qcow2"),
        "file_name": "disk.qcow2",
        "format": "qcow2",
        "sha256": "ab" * 32,
    }


def test_a_url_is_left_to_the_daemon(api: FakeApi, bocage: Bocage):
    api.on("POST", IMAGES, DONE)
    bocage("image", "add", "https://example.org/deb.qcow2", "--name", "debian")
    assert api.asked[0].document == {
        "name": "debian",
        "url": "https://example.org/deb.qcow2",
        "file_name": "deb.qcow2",
    }


def test_a_file_that_is_not_there_is_told_before_anything_is_sent(api: FakeApi, bocage: Bocage, tmp_path: pathlib.Path):
    for path in (tmp_path / "none.iso", tmp_path):
        assert bocage("image", "add", str(path)).code == 2
    assert api.asked == []


def test_building_names_the_image_after_what_is_built(api: FakeApi, bocage: Bocage):
    api.on("POST", f"{IMAGES}/build", DONE)
    bocage("image", "build", "tiny")
    bocage("image", "build", "debian", "--release", "trixie", "--name", "d13")
    assert [one.document for one in api.asked] == [
        {"what": "tiny", "name": "tiny"},
        {"what": "debian", "name": "d13", "release": "trixie"},
    ]


def test_an_image_in_use_is_a_conflict(api: FakeApi, bocage: Bocage):
    api.on("DELETE", f"{IMAGES}/tiny", problem(409, "image-in-use", "web1 stands on tiny"))
    assert bocage("image", "delete", "tiny").code == 4


def test_images_are_listed_within_80_columns(api: FakeApi, bocage: Bocage):
    spec = {
        "sha256": "0" * 64,
        "format": "qcow2",
        "virtual_size": "4G",
        "storage": "S",
        "origin": "https://" + "x" * 99,
    }
    status = {"state": "ready", "size_bytes": 3 << 20}
    api.on("GET", IMAGES, listed({"metadata": metadata("debian"), "spec": spec, "status": status}))
    ended = bocage("image", "list")
    assert ended.out.splitlines()[1].split()[:4] == ["debian", "qcow2", "4G", "3M"]
    assert max(map(len, ended.out.splitlines())) <= 80


def test_a_network_and_a_storage_send_only_what_was_said(api: FakeApi, bocage: Bocage, tmp_path: pathlib.Path):
    api.on("POST", "/projects/default/networks", DONE)
    api.on("POST", "/storage", DONE)
    api.on("POST", "/projects/default/volumes", DONE)
    bocage("network", "create", "lan", "--kind", "nat", "--no-dhcp")
    bocage("storage", "create", "fast", "--path", str(tmp_path), "--reserve", "10")
    bocage("volume", "create", "data", "--size", "20G")
    assert [one.document for one in api.asked] == [
        {"name": "lan", "kind": "nat", "dhcp": False},
        {"name": "fast", "path": str(tmp_path), "reserve_percent": 10},
        {"name": "data", "size": "20G"},
    ]


def test_the_only_host_needs_no_name(api: FakeApi, bocage: Bocage):
    reason = {"type": "x", "params": {}, "text": "no /dev/kvm"}
    status = {"cpus": 2, "memory_bytes": 1 << 30, "accelerator": "tcg", "accelerator_reason": reason, "qemu": "7.2"}
    host = {"metadata": metadata("vm1"), "spec": {}, "status": status}
    api.on("GET", "/hosts", listed(host))
    ended = bocage("host", "show")
    assert "tcg" in ended.out
    assert "no /dev/kvm" in ended.out
    api.on("GET", "/hosts", listed(host, host))
    assert bocage("host", "show").code == 2


def test_a_token_stands_alone_on_standard_output(api: FakeApi, bocage: Bocage):
    api.on("POST", "/tokens", Reply({"token": "bcg_secret", "resource": {}}, 201))
    ended = bocage("token", "create", "laptop", "--days", "90")
    assert ended.out == "bcg_secret\n"
    assert api.asked[0].document == {"name": "laptop", "days": 90}


def test_the_doctor_says_what_to_do_and_fails_when_something_is_amiss(api: FakeApi, bocage: Bocage):
    fine = {"level": "ok", "type": "a", "params": {}, "text": "clock: right", "hint": ""}
    amiss = {"level": "error", "type": "b", "params": {}, "text": "qemu is not installed", "hint": "apt install qemu"}
    api.on("GET", "/doctor", {"checks": [fine, amiss]})
    ended = bocage("doctor")
    assert ended.code == 1
    assert ended.out == "ok  clock: right\n!!  qemu is not installed → apt install qemu\n"
    api.on("GET", "/doctor", {"checks": [fine, {**amiss, "level": "warning"}]})
    assert bocage("doctor", "--json").code == 0


def test_alarms_come_with_their_next_step_until_they_are_acknowledged(api: FakeApi, bocage: Bocage):
    said = {"type": "x", "params": {}, "text": "storage local is nearly full", "hint": "make room"}
    spec = {"said": said, "severity": "warning", "subject": None, "raised": "2026-01-02T03:04:05Z"}
    alarm = {"metadata": metadata("a"), "spec": spec, "status": {"acknowledged": None}}
    api.on("GET", "/alarms", listed(alarm))
    ended = bocage("alarm", "list")
    assert "storage local is nearly full" in ended.out
    assert "make room" in ended.out
    api.on("GET", "/alarms", listed({**alarm, "status": {"acknowledged": "2026-01-02T03:04:05Z"}}))
    assert bocage("alarm", "list").out == ""
    alarm["status"] = {"acknowledged": "2026-01-02T03:04:05Z", "acknowledged_by": "unix:0"}
    api.on("GET", "/alarms", listed(alarm))
    assert "acknowledged by root" in bocage("alarm", "list", "--all").out
    api.on("POST", f"/alarms/{fake_api.VM_UID}/acknowledge", alarm)
    assert bocage("alarm", "ack", fake_api.VM_UID[:8]).code == 0


def test_all_alarms_are_acknowledged_at_once_but_those_that_were(api: FakeApi, bocage: Bocage):
    seen = {"metadata": metadata("a", "a"), "status": {"acknowledged": "2026-01-02T03:04:05Z"}}
    some = [{"metadata": metadata("b", uid), "status": {"acknowledged": None}} for uid in ("b", "c")]
    api.on("GET", "/alarms", listed(seen, *some))
    api.answer_any("POST", "/alarms/", Reply(some[0]))
    ended = bocage("alarm", "ack", "--all")
    assert ended.err == ""
    assert ended.out == "2 alarms are acknowledged; they go by themselves when the cause is gone\n"
    assert [one.path for one in api.asked_for("POST")] == ["/alarms/b/acknowledge", "/alarms/c/acknowledge"]
    api.on("GET", "/alarms", listed(seen))
    assert bocage("alarm", "ack", "--all").out == ""
    assert bocage("alarm", "ack").code == 2
    assert bocage("alarm", "ack", "B", "--all").code == 2


def test_a_storage_is_changed_after_it_was_made(api: FakeApi, bocage: Bocage):
    api.on("PATCH", "/storage/local", {"metadata": metadata("local")})
    ended = bocage("storage", "set", "local", "--no-overcommit", "--reserve", "10", "--title", "")
    assert (ended.code, ended.out) == (0, "storage local is changed\n")
    assert api.asked[0].document == {"overcommit": False, "reserve_percent": 10, "title": ""}
    assert bocage("storage", "set", "local").code == 2


def test_events_are_listed_and_followed_from_where_the_list_ends(api: FakeApi, bocage: Bocage):
    event = {
        "metadata": metadata("e"),
        "spec": {
            "time": "2026-01-02T03:04:05Z",
            "said": {"type": "x", "params": {}, "text": "web1 was started"},
            "severity": "info",
        },
    }
    api.on("GET", "/events", listed(event))
    assert bocage("events").out.rstrip().endswith("web1 was started")
    body = f"id: 8\nevent: event\ndata: {json.dumps(event)}\n\n".encode()
    api.on("GET", "/events/stream", Reply(body), problem(410, "compacted", "these are forgotten"))
    ended = bocage("events", "--follow")
    assert ended.out.count("web1 was started") == 2
    assert "since=7" in api.asked_for("GET", "/events/stream")[0].path
    assert ended.code == 3


def test_adopt_sends_whole_paths(api: FakeApi, bocage: Bocage, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    api.on("POST", "/adopt", Reply(task("adopt", "done", result={}), 202))
    monkeypatch.chdir(tmp_path)
    assert bocage("adopt", "vm1", "--new-identity").code == 0
    assert api.asked[0].document == {"directories": [str(tmp_path / "vm1")], "new_identity": True}
    assert bocage("adopt").code == 2


def test_adopt_tells_what_was_not_taken_in_and_what_helps(api: FakeApi, bocage: Bocage):
    refused = [{"path": "/vms/b", "type": "adopt-mac-taken", "text": "its MAC is taken", "hint": "give it new ones"}]
    api.on("POST", "/adopt", Reply(task("adopt", "done", result={"adopted": ["a"], "refused": refused}), 202))
    found = bocage("adopt", "--storage", "local", "--network", "lab=cell", "--network", "old=new")
    assert api.asked[0].document == {"storage": "local", "networks": {"lab": "cell", "old": "new"}, "directories": []}
    assert (found.code, found.out) == (4, "taken in\n  a\n")
    assert found.err == "bocage: /vms/b was not taken in: its MAC is taken\n  give it new ones\n"
    for wrong in ("lab", "lab=", "=cell", "a=b=c"):
        assert bocage("adopt", "--storage", "local", "--network", wrong).code == 2
    assert bocage("adopt", "--storage", "local", "--network", "a=b", "--network", "a=c").code == 2


def test_version_speaks_for_the_command_also_without_a_daemon(api: FakeApi, bocage: Bocage):
    api.on("GET", "/version", {"version": "9.9", "api": 1})
    found = json.loads(bocage("version", "--json").out)
    assert found["daemon"] == {"version": "9.9", "api": 1}
    assert bocage("--version").out == bocage("version").out
    assert found["client"]["version"]
    own = found["client"]["python"]
    api.on("GET", "/version", {"version": "9.9", "api": 1, "python": own, "kernel": "6.1-far", "qemu": "7.2.22"})
    shown = bocage("version").out
    assert shown.count("python") == 1
    assert "9.9, API 1" in shown
    assert "6.1-far" in shown
    assert "7.2.22" in shown


def test_export_writes_an_archive_only_when_it_is_whole(api: FakeApi, bocage: Bocage, tmp_path: pathlib.Path):
    content = b"archive" * 1000
    api.on("GET", "/projects/default/vms/web1/export", Reply(content))
    assert bocage("vm", "export", "web1", str(tmp_path / "web1.tar.zst")).code == 0
    assert (tmp_path / "web1.tar.zst").read_bytes() == content
    assert "chain=false" in api.asked[0].path
    assert bocage("vm", "export", "web1", "-").out == content.decode()
    assert bocage("vm", "export", "web1", "-", "--json").code == 2
    told = json.loads(bocage("vm", "export", "web1", str(tmp_path / "other.tar.zst"), "--json").out)
    assert (told["vm"], told["size"]) == ("web1", len(content))
    (tmp_path / "other.tar.zst").unlink()
    api.on("GET", "/projects/default/vms/web1/export", problem(409, "running", "web1 is running"))
    assert bocage("vm", "export", "web1", str(tmp_path / "again.zst")).code == 4
    assert [path.name for path in tmp_path.iterdir() if "zst" in path.name] == ["web1.tar.zst"]


def exporting(content: bytes, *cuts: int | None) -> Callable[[fake_api.Asked], Reply]:
    """An export that breaks off after so many bytes each time; a rest is given to who has what comes before."""
    left = list(cuts)

    def answer(asked: fake_api.Asked) -> Reply:
        query = dict(urllib.parse.parse_qsl(asked.path.partition("?")[2]))
        offset = int(query.get("offset", 0))
        if offset and query["sha256"] != hashlib.sha256(content[:offset]).hexdigest():
            return problem(409, "export-differs", "web1 is not what it was")
        return Reply(content[offset:], cut=left.pop(0) if left else None)

    return answer


@pytest.mark.parametrize("to", ["web1.tar.zst", "-"])
def test_an_export_goes_on_where_the_connection_broke(api: FakeApi, bocage: Bocage, tmp_path: pathlib.Path, to: str):
    content = b"".join(str(number).encode() for number in range(50_000))
    api.on("GET", "/projects/default/vms/web1/export", exporting(content, 100_000, 0, 70_000))
    ended = bocage("vm", "export", "web1", to if to == "-" else str(tmp_path / to))
    assert ended.code == 0
    assert (ended.out.encode() if to == "-" else (tmp_path / to).read_bytes()) == content
    assert len(api.asked) == 4


def test_an_archive_that_was_left_half_is_gone_on_with_or_begun_anew_when_the_vm_is_another(
    api: FakeApi, bocage: Bocage, tmp_path: pathlib.Path
):
    content = b"".join(str(number).encode() for number in range(50_000))
    api.on("GET", "/projects/default/vms/web1/export", exporting(content))
    half, whole = tmp_path / ".web1.tar.zst.part", tmp_path / "web1.tar.zst"
    for there, asked in ((content[:90_000], 1), (b"of another" * 1000, 2), (content, 1)):
        half.write_bytes(there)
        whole.unlink(missing_ok=True)
        api.asked.clear()
        assert bocage("vm", "export", "web1", str(whole)).code == 0
        assert (whole.read_bytes(), len(api.asked), half.exists()) == (content, asked, False)


def test_import_sends_the_archive_and_asks_for_its_vm(api: FakeApi, bocage: Bocage, tmp_path: pathlib.Path):
    content = bytes(range(256)) * 9000
    (tmp_path / "web1.tar.zst").write_bytes(content)
    sent = {}

    def take(asked: fake_api.Asked) -> Reply:
        sent[asked.path.rpartition("/")[2]] = hashlib.sha256(asked.body).hexdigest()
        return Reply(None, 204)

    api.answer_any("PUT", "/projects/default/imports/", take)
    api.on("POST", "/projects/default/vms/import", Reply(task("vm.import", "done"), 202))
    line = ["vm", "import", str(tmp_path / "web1.tar.zst"), "--name", "web2", "--new-identity"]
    assert bocage(*line).out == "web2 is taken in\n"
    asked = api.asked[-1].document
    assert sent == {asked.pop("upload"): hashlib.sha256(content).hexdigest()}
    assert asked == {"name": "web2", "new_identity": True}
    assert not api.asked_for("DELETE")
    assert bocage("vm", "import", str(tmp_path / "none")).code == 2
    ended = task("vm.import", "done", result={"vm": "web1", "uid": fake_api.VM_UID})
    api.on("POST", "/projects/default/vms/import", Reply(ended, 202))
    assert bocage("vm", "import", str(tmp_path / "web1.tar.zst")).out == "web1 is taken in\n"


def test_an_import_that_is_refused_leaves_nothing_of_what_it_sent(api: FakeApi, bocage: Bocage, tmp_path: pathlib.Path):
    (tmp_path / "web1.tar.zst").write_bytes(b"what was exported")
    for verb, start in (("PUT", "/projects/default/imports/"), ("DELETE", "/uploads/")):
        api.answer_any(verb, start, Reply(None, 204))
    api.on("POST", "/projects/default/vms/import", Reply(task("vm.import", "failed"), 202))
    assert bocage("vm", "import", str(tmp_path / "web1.tar.zst"), "--storage", "fast").code == 1
    (sent,), (forgotten,) = api.asked_for("PUT"), api.asked_for("DELETE")
    assert sent.path.rpartition("/")[2] == forgotten.path.rpartition("/")[2]
    assert sent.path.endswith("?storage=fast")


def test_completion_offers_the_names_that_there_are(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    api.on("GET", "/projects/default/vms", listed(fake_api.vm("web1"), fake_api.vm("web2"), fake_api.vm("db")))
    monkeypatch.setenv("_BOCAGE_COMPLETE", "complete_bash")
    for words, position, offered in (
        ("bocage vm start w", "3", ["web1", "web2"]),
        ("bocage vm star", "2", ["start"]),
        ("bocage why d", "2", ["db"]),
    ):
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", position)
        with pytest.raises(SystemExit):
            cli.main([])
        assert capfd.readouterr().out.split() == offered


def test_a_volume_names_its_vm_also_in_the_trash_and_its_image(api: FakeApi, bocage: Bocage):
    deleted = fake_api.vm("old")
    deleted["metadata"]["deleted"] = "2026-01-02T03:04:05Z"
    spec = {"size": "4G", "format": "qcow2", "linked": True, "image": "ab" * 32, "vm": fake_api.VM_UID, "storage": "S"}
    volume = {"metadata": metadata("v", "V"), "spec": spec, "status": {"state": "ready", "allocated_bytes": 0}}
    tiny = {"metadata": metadata("tiny", "I"), "spec": {"sha256": "ab" * 32}}
    api.on("GET", "/projects/default/volumes", listed(volume))
    api.on("GET", "/projects/default/volumes/v", volume)
    api.on("GET", "/projects/default/vms", listed(deleted))
    api.on("GET", "/projects/default/images", listed(tiny))
    api.on("GET", "/storage", listed())
    assert "old (trash)" in bocage("volume", "list").out
    shown = bocage("volume", "show", "v").out
    assert "tiny (linked)" in shown
    assert "old (trash)" in shown


@pytest.mark.parametrize(
    ("noun", "path"),
    [
        ("image", f"{IMAGES}/x"),
        ("volume", "/projects/default/volumes/x"),
        ("network", "/projects/default/networks/x"),
        ("host", "/hosts/x"),
        ("storage", "/storage/x"),
        ("template", "/projects/default/templates/x"),
    ],
)
def test_what_is_said_of_a_thing_is_sent_as_it_was_given(api: FakeApi, bocage: Bocage, noun: str, path: str):
    api.on("PATCH", path, {"metadata": metadata("x")})
    ended = bocage(noun, "set", "x", "--title", "What it is", "--notes", "", "--tag", "a", "--tag", "b")
    assert (ended.code, ended.out) == (0, f"{noun} x is changed\n")
    assert api.asked[0].document == {"title": "What it is", "notes": "", "tags": ["a", "b"]}
    assert bocage(noun, "set", "x").code == 2


def test_usb_devices_are_listed_with_what_they_say_of_themselves(api: FakeApi, bocage: Bocage):
    dongle = {"id": "0529:0001", "serial": "", "port": "1-2.3", "maker": "AKS", "model": "HASP"}
    till = {"kind": "vm", "uid": "u1", "project": "default", "name": "till"}
    given, stick = {**dongle, "port": "1-3", "vm": till}, {**dongle, "port": "1-4", "vm": None, "in_use": True}
    shops = {**dongle, "port": "1-5", "vm": {**till, "project": "shop"}}
    api.on("GET", "/hosts/host1/usb", {"devices": [dongle, given, stick, shops]}, {"devices": []})
    listed = bocage("host", "usb", "host1")
    assert listed.out.splitlines()[1].split() == ["0529:0001", "1-2.3", "-", "AKS", "HASP", "-"]
    assert [line.rpartition("  ")[2] for line in listed.out.splitlines()[2:]] == ["till", "the host", "shop/till"]
    assert "nothing is plugged" in bocage("host", "usb", "host1").err


def test_a_usb_device_is_taken_from_a_vm_by_its_name_or_by_what_it_is(api: FakeApi, bocage: Bocage):
    for device, sent in (("usb0", "usb0"), ("0403:600A", "0403:600a")):
        api.on("DELETE", f"/projects/default/vms/till/usb/{sent}", vm("till", state="stopped"))
        ended = bocage("vm", "usb", "detach", "till", device)
        assert (ended.code, ended.out) == (0, f"till no longer has {device}\n")
    assert "is not a name" in bocage("vm", "usb", "detach", "till", "../disks/disk0").err
