"""The units as systemd reads them; what systemd does by them is tested on a whole machine (tests/server)."""

from __future__ import annotations

import pathlib
import shutil
import socket
import subprocess

import pytest

from bocage import systemd

ANALYZE = shutil.which("systemd-analyze")


def directives(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


@pytest.mark.skipif(not ANALYZE, reason="systemd-analyze is not installed")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: pathlib.Path):
    systemd.write(systemd.units(["/bin/true"], environment={"BOCAGE_HOME": "/srv/a b%c"}), tmp_path)
    paths = [str(path) for path in tmp_path.iterdir()]
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *paths]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.skipif(not ANALYZE, reason="systemd-analyze is not installed")
def test_that_check_finds_a_key_that_systemd_does_not_know(tmp_path: pathlib.Path):
    texts = systemd.units(["/bin/true"])
    texts[systemd.SERVICE] = texts[systemd.SERVICE].replace("KillMode=", "KillMod=")
    systemd.write(texts, tmp_path)
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(tmp_path / systemd.SERVICE)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "KillMod" in found.stderr


def test_ending_the_daemon_ends_no_other_process_and_stops_no_vm():
    units = systemd.units(["/usr/bin/bocage"])
    assert directives(units[systemd.SERVICE])["KillMode"] == ["process"]
    # With any of these, a stop or restart of the daemon would be one of the VMs.
    vms = directives(units[systemd.VMS])
    assert not {"Requires", "BindsTo", "PartOf", "Requisite"} & set(vms)


def test_vms_are_stopped_while_the_daemon_and_what_they_stand_on_are_there():
    after = directives(systemd.units(["/usr/bin/bocage"])[systemd.VMS])["After"][0].split()
    assert {systemd.SERVICE, "network-online.target", "remote-fs.target", "local-fs.target"} <= set(after)


def test_the_home_is_read_back_from_the_unit(tmp_path: pathlib.Path):
    for home in ("/srv/plain", '/srv/a "b" %c\\d'):
        systemd.write(systemd.units(["/usr/bin/bocage"], environment={"BOCAGE_HOME": home}), tmp_path)
        assert systemd.home_of(tmp_path / systemd.SERVICE) == pathlib.Path(home)
    systemd.write(systemd.units(["/usr/bin/bocage"]), tmp_path)
    assert systemd.home_of(tmp_path / systemd.SERVICE) == pathlib.Path("/var/lib/bocage")


def test_a_command_with_blanks_stays_one_word():
    texts = systemd.units(["/opt/my tools/100%/bocage"])
    assert directives(texts[systemd.SERVICE])["ExecStart"] == ['"/opt/my tools/100%%/bocage" daemon run']


@pytest.mark.parametrize("abstract", [False, True])
def test_readiness_is_told_once_and_by_nobody_else(
    abstract: bool, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    address = f"@bocage-test-{tmp_path.name}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + address[1:] if abstract else address)
        listening.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        systemd.notify("READY=1")
        assert listening.recv(100) == b"READY=1"
        systemd.notify("READY=1")
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):
            listening.recv(100)
