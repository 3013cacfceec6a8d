import io
import json
import pathlib
import stat
from typing import Any

import pytest

from bocage.cli import documents, failure
from bocage.cli.vm import change
from bocage.model import requests
from tests import fake_api
from tests.cli.conftest import Bocage
from tests.fake_api import FakeApi, problem, task, vm

WEB1 = "/projects/default/vms/web1"


@pytest.fixture
def editor(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    """Sets EDITOR to a script; it gets the file as `$1` and the number of its call as `$N`."""

    def become(script: str) -> pathlib.Path:
        path = tmp_path / "editor"
        count = tmp_path / "count"
        path.write_text(
            f"#!/bin/sh\nN=$(($(cat {count} 2>/dev/null || echo 0) + 1)); echo $N >{count}\n"
            f'cp "$1" {tmp_path}/seen.$N\n{script}\n'
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("EDITOR", str(path))
        monkeypatch.delenv("VISUAL", raising=False)
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        return tmp_path

    return become


def test_a_vm_as_yaml_comes_back_as_it_was():
    machine = vm("web1")
    machine["metadata"]["notes"] = "first line\nsecond: line\n"
    machine["spec"]["nics"] = [{"mac": "52:54:00:12:34:56", "serial": "012", "flag": "no", "size": "1_000"}]
    text = documents.write(documents.editable(machine))
    [found] = documents.read(text, where="here")
    assert found["spec"] == machine["spec"]
    assert found["metadata"]["notes"] == machine["metadata"]["notes"]
    assert "uid" not in found["metadata"]


def test_a_mac_address_and_a_no_are_text_without_quotes():
    [found] = documents.read("mac: 52:54:00:12:34:56\nanswer: no\ndate: 2026-01-02\nn: 12\nx: 1.5\nt: true\n", where="")
    assert found == {"mac": "52:54:00:12:34:56", "answer": "no", "date": "2026-01-02", "n": 12, "x": 1.5, "t": True}


@pytest.mark.parametrize(
    "text", ["a: [1", "- a\n- b", "just text", "a: b: c", "!!python/object:os.system {}", "[" * 5000]
)
def test_what_is_no_document_is_refused_with_where(text: str):
    with pytest.raises(documents.NotYaml) as caught:
        documents.read(text, where="web1.yaml")
    assert failure.code(caught.value) == failure.USAGE
    assert str(caught.value).startswith("web1.yaml is no YAML document")


def test_an_edit_is_sent_with_the_etag_of_what_was_edited(api: FakeApi, bocage: Bocage, editor):
    api.on("GET", WEB1, vm("web1", state="stopped"))
    api.on("PUT", WEB1, vm("web1", state="stopped"))
    editor("sed -i 's/memory: 512M/memory: 1G/' \"$1\"")
    ended = bocage("vm", "edit", "web1")
    assert (ended.code, ended.out) == (0, "web1 is changed\n")
    sent = api.asked_for("PUT")[0]
    assert sent.document["spec"]["memory"] == "1G"
    assert sent.document["kind"] == "VM"
    assert sent.headers["If-Match"] == '"42"'


def test_an_edit_that_changes_nothing_sends_nothing(api: FakeApi, bocage: Bocage, editor):
    api.on("GET", WEB1, vm("web1"))
    for script in ("true", ": >$1"):
        editor(script)
        ended = bocage("vm", "edit", "web1")
        assert ended.code == 0
        assert "nothing was changed" in ended.err
    assert api.asked_for("PUT") == []


def test_an_edit_that_does_not_hold_opens_the_editor_again_with_the_reason(
    api: FakeApi, bocage: Bocage, editor, monkeypatch: pytest.MonkeyPatch
):
    faults = [{"path": "spec.memory", "wrong": "a size has a unit", "right": "512M"}]
    api.on("GET", WEB1, vm("web1", state="stopped"))
    api.on(
        "PUT",
        WEB1,
        problem(422, "invalid-fields", "spec.memory: a size has a unit", faults=faults),
        vm("web1", state="stopped"),
    )
    at_a_terminal(monkeypatch, "\n")
    place = editor(
        "case $N in\n"
        "1) sed -i 's/memory: 512M/memory: 512/' \"$1\";;\n"
        "*) sed -i 's/memory: 512$/memory: 1G/' \"$1\";;\n"
        "esac"
    )
    ended = bocage("vm", "edit", "web1")
    assert ended.code == 0
    seen = (place / "seen.2").read_text()
    assert seen.startswith("#! spec.memory: a size has a unit (512M)\n# web1")
    assert "memory: 512\n" in seen
    assert [one.document["spec"]["memory"] for one in api.asked_for("PUT")] == [512, "1G"]
    assert list(place.glob("bocage-*")) == []


@pytest.mark.parametrize("answers", ["n\n", "", "\nn\n"])
def test_an_edit_that_is_given_up_says_why_and_keeps_what_was_written(
    api: FakeApi, bocage: Bocage, editor, monkeypatch: pytest.MonkeyPatch, answers: str
):
    faults = [{"path": "spec.memory", "wrong": "'lots' is no size", "right": "512M"}]
    api.on("GET", WEB1, vm("web1"))
    api.on("PUT", WEB1, problem(422, "invalid-fields", "spec.memory: 'lots' is no size", faults=faults))
    at_a_terminal(monkeypatch, answers)
    place = editor("[ $N = 1 ] && sed -i 's/memory: 512M/memory: lots/' \"$1\" || true")
    ended = bocage("vm", "edit", "web1")
    assert ended.code == 2
    assert "spec.memory: 'lots' is no size (512M)" in ended.err
    [kept] = place.glob("bocage-*")
    assert str(kept) in ended.err
    assert "memory: lots" in kept.read_text()
    assert len(api.asked_for("PUT")) == 1, "what was left as it was is not sent again"


def test_where_nobody_can_be_asked_a_refused_edit_is_kept_at_once(api: FakeApi, bocage: Bocage, editor):
    api.on("GET", WEB1, vm("web1"))
    place = editor("sed -i 's/memory: 512M/memory: [/' \"$1\"")
    ended = bocage("vm", "edit", "web1")
    assert ended.code == 2
    assert "is no YAML document: line " in ended.err
    assert "Edit again" not in ended.err
    assert len(list(place.glob("bocage-*"))) == 1


def test_an_edit_that_somebody_else_overtook_is_kept_and_not_tried_again(
    api: FakeApi, bocage: Bocage, editor, monkeypatch: pytest.MonkeyPatch
):
    api.on("GET", WEB1, vm("web1"))
    api.on("PUT", WEB1, problem(412, "changed-meanwhile", "somebody changed it meanwhile"))
    at_a_terminal(monkeypatch, "y\n")
    place = editor("sed -i 's/memory: 512M/memory: 1G/' \"$1\"")
    ended = bocage("vm", "edit", "web1")
    assert ended.code == 4
    assert "somebody changed it meanwhile" in ended.err
    assert len(list(place.glob("bocage-*"))) == 1
    assert len(api.asked_for("PUT")) == 1


def test_an_editor_that_is_not_there_is_told(api: FakeApi, bocage: Bocage, monkeypatch: pytest.MonkeyPatch):
    api.on("GET", WEB1, vm("web1"))
    monkeypatch.setenv("EDITOR", "/no/such/editor")
    monkeypatch.delenv("VISUAL", raising=False)
    ended = bocage("vm", "edit", "web1")
    assert ended.code == 1
    assert "/no/such/editor" in ended.err


def test_a_file_replaces_a_vm_that_is_there(api: FakeApi, bocage: Bocage, tmp_path: pathlib.Path):
    api.on("GET", WEB1, vm("web1", state="stopped"))
    changed = vm("web1", state="stopped")
    changed["metadata"]["revision"] += 1
    api.on("PUT", WEB1, changed)
    document = documents.editable(vm("web1"))
    file = tmp_path / "web1.yaml"
    # as it lies in the VM's directory, with what is there for an adoption
    file.write_text(documents.write({**document, "volumes": [], "networks": [], "names": {}, "owner": None}))
    assert bocage("vm", "apply", "-f", str(file)).out == "web1 is changed\n"
    assert api.asked_for("PUT")[0].headers["If-Match"] == '"42"'
    assert api.asked_for("PUT")[0].document == document
    api.on("PUT", WEB1, vm("web1", state="stopped"))
    assert bocage("vm", "apply", "-f", str(file)).out == "web1 is as the file says\n"


def test_a_file_makes_new_vms_from_short_requests(api: FakeApi, bocage: Bocage, tmp_path: pathlib.Path):
    for name in ("a", "b"):
        api.on(
            "GET", f"/projects/default/vms/{name}", fake_api.problem(404, "not-found", f"there is no vm named {name}")
        )
    api.on("POST", "/projects/default/vms", fake_api.Reply(task("vm.create", "done"), 202))
    file = tmp_path / "two.yaml"
    file.write_text("name: a\nimage: tiny\nmemory: 1G\n---\nname: b\nimage: tiny\n")
    assert bocage("vm", "apply", "-f", str(file)).out == "a is made\nb is made\n"
    assert [one.document["name"] for one in api.asked_for("POST")] == ["a", "b"]


def test_a_short_request_changes_what_can_change_of_a_vm_that_is_there(
    api: FakeApi, bocage: Bocage, tmp_path: pathlib.Path
):
    api.on("GET", WEB1, vm("web1", state="stopped"))
    changed = vm("web1", state="stopped")
    changed["metadata"]["revision"] += 1
    api.on("PATCH", WEB1, changed)
    file = tmp_path / "web1.yaml"
    asked = {
        "memory": "1G",
        "cpus": 2,
        "max_cpus": 4,
        "cpu_model": "baseline",
        "max_memory": "4G",
        "board": {"video": "cirrus"},
        "ports": [{"name": "scales", "number": 2, "to": "file"}],
        "memroy": "2G",  # the host knows no such field and says so
    }
    made_from = {"name": "web1", "image": "tiny", "nics": []}
    file.write_text(json.dumps({**made_from, **asked, "boot": ["cd0", "disk0"], "snapshots": None}))
    said = bocage("vm", "apply", "-f", str(file))
    assert said.out == "web1 is changed\n"
    assert said.err == "not compared, since a VM is made with it once: image, nics\n"
    boot = {**vm("web1")["spec"]["boot"], "order": ["cd0", "disk0"]}
    assert api.asked_for("PATCH")[0].document == {**asked, "boot": boot, "snapshots": "off"}
    api.on("PATCH", WEB1, vm("web1", state="stopped"))
    assert bocage("vm", "apply", "-f", str(file)).out == "web1 is as the file says\n"
    assert api.asked_for("POST") == []


def test_each_field_of_a_new_vm_is_changed_or_named_when_it_is_there():
    """Else a file would say what the VM is not, and 'is as the file says' would be a lie."""
    new, changed = set(requests.VMCreate.model_fields), set(requests.VMPatch.model_fields)
    assert new - changed - {"name"} == change.OF_ITS_MAKING


@pytest.mark.parametrize("line", [["vm", "apply"], ["vm", "apply", "web1", "-f", "x.yaml"]])
def test_apply_takes_a_name_or_a_file(bocage: Bocage, line: list[str]):
    assert bocage(*line).code == 2


def test_the_hand_edit_of_a_vm_is_taken(api: FakeApi, bocage: Bocage):
    api.on("POST", f"{WEB1}/apply", vm("web1", state="stopped"))
    assert bocage("vm", "apply", "web1").code == 0


def test_diff_shows_both_kinds_of_difference(api: FakeApi, bocage: Bocage):
    pending = [{"path": "memory", "running": "512M", "wanted": "1G"}]
    edited = [{"path": "spec.cpus.cores", "is": 2, "edited": 4}]
    api.on("GET", f"{WEB1}/diff", {"pending": pending, "edited": edited})
    ended = bocage("vm", "diff", "web1")
    assert ended.out == "memory: runs with 512M, wanted is 1G\nspec.cpus.cores: is 2, vm.yaml says 4\n"
    assert "bocage vm reboot web1" in ended.err
    assert json.loads(bocage("vm", "diff", "web1", "--json").out) == {"pending": pending, "edited": edited}


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def at_a_terminal(monkeypatch: pytest.MonkeyPatch, answers: str) -> None:
    monkeypatch.setattr("sys.stdin", _Terminal(answers))
    monkeypatch.setattr("bocage.cli.output.interactive", lambda: True)


URL, SUM = "https://example.org/virtio-win-0.1.iso", "ab" * 32


def with_a_drive() -> dict[str, Any]:
    erp = vm("web1", state="stopped")
    erp["spec"]["cds"] = [{"name": "cd0", "bus": "sata", "unit": 0, "image": None}]
    erp["spec"]["disks"] = [{"name": "disk0", "bus": "sata", "volume": "x", "serial": "y"}]
    return erp


def test_a_driver_cd_is_put_in_with_a_disk_to_install_it_for_and_the_guest_is_waited_for(api: FakeApi, bocage: Bocage):
    api.on("GET", WEB1, with_a_drive())
    api.on("GET", "/projects/default/images", {"items": [], "revision": 1, "next": None})
    for method, path in (
        ("POST", "/projects/default/images"),
        ("PUT", f"{WEB1}/cds/cd0"),
        ("POST", f"{WEB1}/disks"),
    ):
        api.on(method, path, fake_api.Reply(task("vm.any", "done"), 202))
    api.on("PATCH", WEB1, with_a_drive())
    line = ("vm", "set", "web1", "--drivers", "virtio", "--driver-cd", URL)
    assert "--sha256" in bocage(*line).err
    assert "nobody is there to agree" in bocage(*line, "--sha256", SUM).err
    assert not api.asked_for("POST")
    said = bocage(*line, "--sha256", SUM, "--yes")
    assert said.code == 0, said.err
    assert [one.document for one in api.asked_for("POST")] == [
        {"name": "virtio-win-0-1", "url": URL, "sha256": SUM, "file_name": "virtio-win-0.1.iso"},
        {"size": "16M", "bus": "virtio"},
    ]
    assert api.asked_for("PUT")[0].document == {"image": "virtio-win-0-1"}
    assert api.asked_for("PATCH")[0].document == {"drivers": "virtio-when-driven"}
    assert bocage("vm", "set", "web1", "--drivers", "virtio", "--driver-cd", "virtio-win", "--now").code == 0
    assert api.asked_for("PATCH")[1].document == {"drivers": "virtio"}
    assert bocage("vm", "set", "web1", "--driver-cd", "virtio-win").code == 2
    assert bocage("vm", "set", "web1", "--drivers", "virtio", "--now").code == 2
    assert bocage(*line[:-1], "virtio-win", "--sha256", "a" * 64).code == 2  # nobody would compare it
