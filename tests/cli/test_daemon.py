"""`bocage daemon` with a real daemon, in a home of its own."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Iterator

import pytest

import bocage as package
from bocage import home
from bocage.cli import background
from bocage.client import rest, streams
from tests.cli.conftest import Bocage, Ended


@pytest.fixture
def at(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[home.Home]:
    monkeypatch.setenv("BOCAGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BOCAGE_LISTEN", f"127.0.0.1:{free_port()}")
    monkeypatch.delenv("BOCAGE_URL", raising=False)
    found = home.Home.from_environment()
    yield found
    if running := background.find():
        background.stop(running, within=30)
    subprocess.run(["rm", "-rf", str(found.runtime)], check=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def pid_of(ended: Ended) -> int:
    return int(json.loads(ended.out)["pid"])


def test_a_daemon_is_started_found_and_stopped(at: home.Home, bocage: Bocage):
    assert bocage("daemon", "status").code == 6
    assert json.loads(bocage("daemon", "status", "--json").out)["running"] is False
    assert bocage("daemon", "stop").out == "no daemon was running\n"

    ended = bocage("daemon", "start", "--json")
    assert ended.code == 0, ended.err
    pid = pid_of(ended)
    assert os.getsid(pid) == pid
    assert pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().endswith(b"daemon\0run\0")

    again = bocage("daemon", "start")
    assert (again.code, again.out) == (0, f"the daemon runs already, pid {pid}\n")
    assert pid_of(bocage("daemon", "status", "--json")) == pid
    told = json.loads(bocage("daemon", "status", "--json").out)
    assert told["listen"] == os.environ["BOCAGE_LISTEN"]
    shown = dict(line.split(None, 1) for line in bocage("daemon", "status").out.splitlines())
    assert shown == {"state": f"running, pid {pid}", **{key: told[key] for key in ("listen", "socket", "home", "log")}}
    assert bocage("vm", "list").code == 0
    assert "bocage" in bocage("daemon", "log", "-n", "50").out
    assert len(bocage("daemon", "log", "-n", "1", "--json").out.splitlines()) == 1

    assert bocage("daemon", "stop").code == 0
    assert not pathlib.Path(f"/proc/{pid}").exists() or _is_zombie(pid)
    assert bocage("vm", "list").code == 6


def test_the_doctor_of_a_daemon_that_is_down_says_who_is_in_its_place(at: home.Home, bocage: Bocage):
    ended = bocage("doctor")
    assert (ended.code, "does not answer" in ended.err) == (6, True)
    with socket.create_server(("127.0.0.1", int(os.environ["BOCAGE_LISTEN"].rpartition(":")[2]))):
        ended = bocage("doctor")
    assert ended.code == 6
    assert f"another program listens on {os.environ['BOCAGE_LISTEN']}" in ended.err


def test_two_starts_at_once_leave_one_daemon(at: home.Home):
    command = [sys.executable, "-m", "bocage", "daemon", "start", "--json"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [json.loads(one.communicate(timeout=90)[0]) for one in both]
    assert [one.returncode for one in both] == [0, 0]
    assert answers[0]["pid"] == answers[1]["pid"]


def test_a_daemon_that_cannot_start_shows_the_last_it_said(
    at: home.Home, bocage: Bocage, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("BOCAGE_LISTEN", "nowhere:none")
    ended = bocage("daemon", "start")
    assert ended.code == 1
    assert "did not start" in ended.err
    assert "nowhere:none" in ended.err
    assert str(at.log) in ended.err
    assert background.find() is None


def test_a_fault_of_the_daemon_is_whole_in_its_log(bocage: Bocage, monkeypatch: pytest.MonkeyPatch):
    def run(at: home.Home, listen: str) -> None:
        raise ValueError("a fault")

    monkeypatch.setattr(package, "daemon", types.SimpleNamespace(run=run), raising=False)
    ended = bocage("daemon", "run")
    assert ended.code == 1
    assert "Traceback" in ended.err
    assert ended.err.count("bocage: something went wrong") == 1


def test_a_daemon_that_does_not_stop_in_time_is_told_and_left(at: home.Home, bocage: Bocage):
    pid = pid_of(bocage("daemon", "start", "--json"))
    os.kill(pid, signal.SIGSTOP)
    try:
        ended = bocage("daemon", "stop", "--within", "1")
        assert ended.code == 1
        assert f"pid {pid}" in ended.err
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_home_that_cannot_be_used_is_refused_in_words(at: home.Home, bocage: Bocage, monkeypatch: pytest.MonkeyPatch):
    at.log.mkdir(parents=True)
    ended = bocage("daemon", "start")
    assert (ended.code, f"the home {at.path} cannot be used: {at.log}" in ended.err) == (1, True), ended
    monkeypatch.setenv("BOCAGE_HOME", f"{at.path}\nx")
    assert "control characters" in bocage("daemon", "start").err


def test_a_daemon_whose_runtime_directory_was_removed_is_told_and_can_be_stopped(at: home.Home, bocage: Bocage):
    pid = pid_of(bocage("daemon", "start", "--json"))
    shutil.rmtree(at.runtime)
    for verb, code in (("status", 6), ("start", 1)):
        ended = bocage("daemon", verb)
        assert (ended.code, f"(pid {pid}) runs, but {at.runtime}" in ended.err) == (code, True), ended
        assert "'bocage daemon stop', then 'bocage daemon start'" in ended.err
    assert bocage("daemon", "stop").out == "the daemon is stopped; the VMs go on\n"
    assert not pathlib.Path(f"/proc/{pid}").exists() or _is_zombie(pid)
    assert at.database_lock.read_text() == f"{pid}\n", "whose process has ended"
    assert background.find() is None
    assert bocage("daemon", "start").code == 0


def test_who_is_named_in_the_lock_and_has_it_not_open_is_no_daemon(at: home.Home):
    at.prepare()
    at.database_lock.write_text(f"{os.getpid()}\n")
    assert background.find() is None


def test_a_stale_socket_is_no_daemon(at: home.Home, bocage: Bocage):
    at.prepare()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(at.socket))
    assert background.find() is None
    assert bocage("daemon", "status").code == 6


def test_a_daemon_without_its_socket_is_known_by_pid_and_start_time_and_nobody_else_is(at: home.Home, bocage: Bocage):
    at.prepare()
    with subprocess.Popen(["sleep", "600"]) as hanging:
        try:
            start_time = int(pathlib.Path(f"/proc/{hanging.pid}/stat").read_text().rpartition(")")[2].split()[19])
            at.pid_file.write_text(json.dumps({"pid": hanging.pid, "start_time": start_time + 1}))
            assert bocage("daemon", "stop").out == "no daemon was running\n"
            at.pid_file.write_text(json.dumps({"pid": hanging.pid, "start_time": start_time}))
            assert f"pid {hanging.pid} is there" in bocage("daemon", "status").out
            assert bocage("daemon", "stop").code == 0
            assert hanging.wait(5) == -signal.SIGTERM
        finally:
            hanging.kill()
    for damaged in ("", "[]", '{"pid": "x"}', "{}"):
        at.pid_file.write_text(damaged)
        assert background.find() is None


def test_who_listens_and_says_nothing_is_running_and_not_answering(
    at: home.Home, bocage: Bocage, monkeypatch: pytest.MonkeyPatch
):
    at.prepare()
    monkeypatch.setattr(background.answers, "__kwdefaults__", {"within": 0.2})
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(at.socket))
        mute.listen()
        ended = bocage("daemon", "status")
    assert ended.code == 6
    assert f"pid {os.getpid()} is there and does not answer" in ended.out


def test_the_log_shows_its_last_lines(tmp_path: pathlib.Path):
    log = tmp_path / "daemon.log"
    log.write_text("".join(f"line {n}\n" for n in range(1000)))
    assert background.tail(log, lines=2) == "line 998\nline 999\n"
    assert background.tail(log, lines=5, after=log.stat().st_size - 9) == "line 999\n"
    assert background.tail(log, lines=0) == ""


def test_an_upload_goes_on_over_a_restart_of_the_daemon(at: home.Home, bocage: Bocage, tmp_path: pathlib.Path):
    assert bocage("daemon", "start").code == 0
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(40 << 20)
    seen: list[int] = []
    restarts: list[threading.Thread] = []

    def restart_once(sent: int, _total: int) -> None:
        seen.append(sent)
        if sent and not restarts:
            running = background.find()
            assert running
            background.stop(running, within=30)
            restarts.append(threading.Thread(target=background.start, kwargs={"within": 60}))
            restarts[0].start()

    with rest.connect() as api:
        streams.upload(api, "some-key-1", str(image), on_progress=restart_once)
        restarts[0].join(60)
        there = api.connection.request("GET", "/uploads/some-key-1").headers
    assert int(there.get("Upload-Offset") or there["upload-offset"]) == 40 << 20
    assert seen == sorted(set(seen)), "what was there already is not sent again"


def _is_zombie(pid: int) -> bool:
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
