import pathlib
import subprocess
import sys

import pytest

from tests import fake_api
from tests.cli.conftest import Bocage
from tests.fake_api import FakeApi, problem

VM = "/projects/default/vms/web1"


@pytest.mark.parametrize(
    ("status", "code"),
    [(422, 2), (400, 2), (404, 3), (409, 4), (412, 4), (403, 5), (401, 5), (500, 1), (503, 1), (504, 1), (507, 1)],
)
def test_the_exit_code_tells_the_family_of_the_problem(api: FakeApi, bocage: Bocage, status: int, code: int):
    api.on("GET", VM, problem(status, "some-problem", "it is so", "do this"))
    ended = bocage("vm", "show", "web1", "--json")
    assert ended.code == code
    assert ended.err == "bocage: it is so\n  do this\n"
    assert ended.out == ""


def test_a_daemon_that_is_not_there_is_exit_code_6_with_the_command_that_starts_it(
    bocage: Bocage, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
):
    monkeypatch.setenv("BOCAGE_URL", f"unix://{tmp_path}/none.sock")
    for line in (["vm", "list"], ["doctor"], ["image", "build", "tiny"]):
        ended = bocage(*line)
        assert ended.code == 6
        assert "bocage daemon start" in ended.err
        assert "Traceback" not in ended.err


def test_the_home_says_where_the_daemon_is(bocage: Bocage, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path):
    monkeypatch.delenv("BOCAGE_URL", raising=False)
    monkeypatch.setenv("BOCAGE_HOME", str(tmp_path))
    ended = bocage("vm", "list")
    assert ended.code == 6
    assert "api.sock" in ended.err


def test_a_fault_in_the_query_is_told_by_the_option(api: FakeApi, bocage: Bocage):
    faults = [{"path": "?state", "wrong": "'foo' is no state", "right": "running, stopped"}]
    api.on("GET", "/projects/default/vms", problem(422, "invalid-fields", "?state: 'foo' is no state", faults=faults))
    assert bocage("vm", "list", "--state", "foo").err == "bocage: --state: 'foo' is no state (running, stopped)\n"


def test_faults_are_listed_once_each_with_path_and_what_would_be_right(api: FakeApi, bocage: Bocage):
    faults = [
        {"path": "memory", "wrong": "'512': a size has a unit, such as 512M", "right": "a unit, such as 512M"},
        {"path": "cpus.cores", "wrong": "0 is too small", "right": "≥ 1"},
    ]
    sentence = "memory: '512': a size has a unit, such as 512M"
    api.on("POST", "/projects/default/vms", problem(422, "invalid-fields", sentence, faults=faults))
    ended = bocage("vm", "create", "web1", "--image", "tiny", "--memory", "512", "--cpus", "0")
    assert ended.code == 2
    assert ended.err == ("bocage: memory: '512': a size has a unit, such as 512M\n  cpus.cores: 0 is too small (≥ 1)\n")


def test_a_name_that_could_be_none_is_refused_before_anything_is_sent(api: FakeApi, bocage: Bocage):
    for name in ("Web1", "../etc", "a/b", "", "a" * 64, "-a", "web1.example"):
        ended = bocage("vm", "show", "--", name)
        assert ended.code == 2
        assert "is not a name" in ended.err
    assert api.asked == []


def test_what_answers_in_place_of_the_api_is_told(api: FakeApi, bocage: Bocage):
    api.on("GET", VM, fake_api.Reply(b"<html>502 Bad Gateway</html>", 502))
    ended = bocage("vm", "show", "web1")
    assert ended.code == 1
    assert "is not Bocage" in ended.err


def test_an_answer_that_makes_no_sense_gives_a_sentence_and_no_traceback(api: FakeApi, bocage: Bocage):
    api.on("GET", "/projects/default/vms", fake_api.Reply(["nonsense"]))
    ended = bocage("vm", "list")
    assert ended.code == 1
    assert ended.err.startswith("bocage: something went wrong inside the command line")
    assert "Traceback" not in ended.err


def test_bocage_debug_shows_where(api: FakeApi, bocage: Bocage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BOCAGE_DEBUG", "1")
    ended = bocage("vm", "show", "web1")
    assert ended.code == 3
    assert "Traceback" in ended.err


def test_a_url_that_is_none_is_a_wrong_value(bocage: Bocage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BOCAGE_URL", "ftp://host")
    ended = bocage("vm", "list")
    assert ended.code == 2
    assert "BOCAGE_URL" in ended.err


@pytest.mark.parametrize(
    ("closed", "out"), [(">&-", b""), ("<&-", b"said\n"), ("2>&-", b"said\n"), ("<&- >&- 2>&-", b"")]
)
def test_a_closed_standard_stream_is_no_fault_and_no_connection_takes_its_number(api: FakeApi, closed: str, out: bytes):
    api.on("GET", f"{VM}/log", fake_api.Reply(b"said\n"))
    ended = subprocess.run(
        ["sh", "-c", f'"$0" -m bocage vm log web1 {closed}', sys.executable],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, out, b"")
