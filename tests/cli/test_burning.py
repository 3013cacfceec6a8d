"""A directory on a CD: what each kind of system reads from it."""

import io
import os
import pathlib
import re

import pycdlib
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bocage.cli import burning
from tests.cli.conftest import Bocage
from tests.fake_api import Asked, FakeApi, Reply

PLAIN = re.compile(r"[A-Z0-9_]{1,8}(\.[A-Z0-9_]{0,3}(;1)?)?")


def read(path: pathlib.Path, **tree: str) -> dict[str, bytes]:
    """All files of one of the CD's trees: `iso_path`, `joliet_path` or `rr_path` begins it."""
    disc = pycdlib.PyCdlib()
    disc.open(str(path))
    ((kind, root),) = tree.items()
    found: dict[str, bytes] = {}
    try:
        for at, _, files in disc.walk(**{kind: root}):
            for name in files:
                where, content = f"{at.rstrip('/')}/{name}", io.BytesIO()
                disc.get_file_from_iso_fp(content, **{kind: where})
                found[where] = content.getvalue()
    finally:
        disc.close()
    return found


def test_each_kind_of_system_finds_each_file_by_a_name_that_it_reads(tmp_path: pathlib.Path):
    top = tmp_path / "Patch Disk"
    (top / "drivers" / "Réseau").mkdir(parents=True)
    names = ["readme.txt", "README~1.TXT", "a very long name.tar.gz", "b;c*d?.x", ".hidden", "no-ending", "x" * 200]
    for number, name in enumerate(names):
        (top / name).write_bytes(b"%d" % number)
        (top / "drivers" / "Réseau" / name).write_bytes(b"inner %d" % number)
    (top / "link").symlink_to("readme.txt")
    (top / "nowhere").symlink_to("gone")
    (tmp_path / "secret").write_bytes(b"not meant for a guest")
    (top / "out").symlink_to("../secret")
    (top / "around").symlink_to(".")
    os.mkfifo(top / "pipe")
    made = tmp_path / "cd.iso"
    skipped = burning.burn(str(top), str(made))
    assert sorted(map(os.path.basename, skipped)) == ["around", "nowhere", "out", "pipe"]

    unix = read(made, rr_path="/")
    expected = {f"/{name}": b"%d" % number for number, name in enumerate(names)}
    expected |= {f"/drivers/Réseau/{name}": b"inner %d" % number for number, name in enumerate(names)}
    assert unix == expected | {"/link": b"0"}
    windows = read(made, joliet_path="/")
    assert {"/readme.txt", "/a very long name.tar.gz", "/b_c_d_.x", "/drivers/Réseau/no-ending"} <= windows.keys()
    dos = read(made, iso_path="/")
    assert {"/README.TXT;1", "/README_1.TXT;1", "/A_VERY_L.GZ;1"} <= dos.keys()
    for tree in (windows, dos):
        assert sorted(tree.values()) == sorted(unix.values())
    for where in dos:
        for part in where.strip("/").split("/"):
            assert PLAIN.fullmatch(part), where
    with made.open("rb") as file:
        file.seek(32808)
        assert file.read(32).rstrip() == b"PATCH_DISK"


@given(
    names=st.sets(st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=90), max_size=8)
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_names_of_any_kind_come_back(tmp_path: pathlib.Path, names: set[str]):
    names = {name for name in names if len(name.encode()) <= 240 and name not in (".", "..")}
    top = tmp_path / os.urandom(8).hex()
    top.mkdir()
    for name in names:
        (top / name).write_text(name)
    burning.burn(str(top), str(tmp_path / "cd.iso"))
    assert read(tmp_path / "cd.iso", rr_path="/") == {f"/{name}": name.encode() for name in names}
    assert sorted(read(tmp_path / "cd.iso", iso_path="/").values()) == sorted(name.encode() for name in names)
    assert sorted(read(tmp_path / "cd.iso", joliet_path="/").values()) == sorted(name.encode() for name in names)


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path: pathlib.Path):
    top = tmp_path / "top"
    top.mkdir()
    with (top / "huge").open("wb") as file:
        file.truncate(burning.MOST + 1)
    with pytest.raises(burning.TooMuch):
        burning.burn(str(top), str(tmp_path / "cd.iso"))
    (top / "huge").unlink()
    (top / "/".join("abcdefghij")).mkdir(parents=True)
    with pytest.raises(burning.Unfit, match="too deep"):
        burning.burn(str(top), str(tmp_path / "cd.iso"))
    assert not (tmp_path / "cd.iso").exists()


def test_it_is_burned_sent_and_put_in(api: FakeApi, bocage: Bocage, tmp_path: pathlib.Path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a").write_text("a")
    sent: list[bytes] = []

    def take(asked: Asked) -> Reply:
        sent.append(asked.body)
        return Reply(status=204)

    api.answer_any("GET", "/uploads/", Reply(headers={"Upload-Offset": "0"}))
    api.answer_any("PATCH", "/uploads/", take)
    task = {
        "metadata": {"uid": "01890a5d-ac96-774b-bcce-b302099a8057"},
        "spec": {"action": "vm.cd-change", "params": {}},
        "status": {"state": "done"},
    }
    api.on("PUT", "/projects/default/vms/web1/cds/cd0", Reply(task, 202))
    done = bocage("vm", "cd", "insert", "web1", "--from", str(tmp_path / "docs"))
    assert (done.code, done.out.splitlines()[-1].endswith("docs is in cd0 of web1")) == (0, True), done.err
    (tmp_path / "got.iso").write_bytes(b"".join(sent))
    assert read(tmp_path / "got.iso", rr_path="/") == {"/a": b"a"}
    asked = api.asked_for("PUT")[0]
    assert asked.document["upload"] in api.asked_for("PATCH")[0].path
    for line in (["web1"], ["web1", "image", "--from", "x"], ["web1", "--from", "/nonexistent"]):
        assert bocage("vm", "cd", "insert", *line).code == 2
