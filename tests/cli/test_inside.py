"""`bocage vm exec`, `cp`, `passwd`: exit codes that scripts count on, files as they are, passwords nowhere."""

import base64
import io
import json
import os
import pathlib
import sys

import pytest

from tests.cli.conftest import Bocage
from tests.fake_api import Asked, FakeApi, Reply, problem

VM = "/projects/default/vms/web1"


def lines(*documents: dict[str, object]) -> Reply:
    return Reply(b"".join(json.dumps(one).encode() + b"\n" for one in documents))


def b64(text: bytes) -> str:
    return base64.b64encode(text).decode()


def end(code: int | None = 0, signal: int | None = None, *cut: str) -> dict[str, object]:
    return {"exit_code": code, "signal": signal, "cut": cut}


def feed(monkeypatch: pytest.MonkeyPatch, given: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))


@pytest.mark.parametrize(
    ("ended", "code"), [(end(0), 0), (end(3), 3), (end(None, 9), 137), (end(0xC0000005), 5), (end(256), 1)]
)
def test_the_exit_code_is_the_programs_own(api: FakeApi, bocage: Bocage, ended: dict[str, object], code: int):
    api.on("POST", f"{VM}/exec", lines({"stdout": b64(b"out\n")}, {"stderr": b64(b"err\n")}, ended))
    done = bocage("vm", "exec", "web1", "--", "ls", "-l", "--json")
    assert (done.code, done.out, done.err) == (code, "out\n", "err\n")
    assert api.asked[-1].document == {"command": ["ls", "-l", "--json"], "stdin": "", "timeout": 60.0}


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (problem(504, "guest-command-runs-on", "it runs on"), 124),
        (problem(409, "guest-agent-refused", "no", command="guest-exec"), 127),
        (problem(409, "guest-agent-lacks", "no", command="guest-exec"), 125),
        (problem(503, "guest-agent-absent", "none"), 125),
        (problem(404, "not-found", "there is none"), 125),
        (Reply(b'{"stdout": "AAAA"}\n'), 125),
    ],
)
def test_what_goes_wrong_beside_it_has_codes_of_its_own(api: FakeApi, bocage: Bocage, answer: Reply, code: int):
    api.on("POST", f"{VM}/exec", answer)
    assert bocage("vm", "exec", "web1", "--", "true").code == code
    assert len(api.asked) == 1, "it is never asked for twice"


def test_a_connection_that_breaks_does_not_run_it_again(api: FakeApi, bocage: Bocage):
    api.on("POST", f"{VM}/exec", Reply(hang_up=True))
    assert bocage("vm", "exec", "web1", "--", "true").code == 125
    assert len(api.asked) == 1


def test_standard_input_is_given_when_it_is_asked_for(api: FakeApi, bocage: Bocage, monkeypatch: pytest.MonkeyPatch):
    api.on("POST", f"{VM}/exec", lines(end()))
    feed(monkeypatch, b"echo hi\n")
    assert bocage("vm", "exec", "web1", "-i", "--timeout", "5", "--", "sh").code == 0
    assert api.asked[-1].document == {"command": ["sh"], "stdin": b64(b"echo hi\n"), "timeout": 5.0}
    feed(monkeypatch, b"x" * (600 << 10))
    done = bocage("vm", "exec", "web1", "-i", "--", "sh")
    assert (done.code, "vm cp" in done.err) == (125, True)


def test_what_was_cut_is_said_and_json_has_it_all(api: FakeApi, bocage: Bocage):
    api.on("POST", f"{VM}/exec", lines({"stdout": b64(b"a")}, {"stdout": b64(b"b")}, end(4, None, "stdout")))
    done = bocage("vm", "exec", "--json", "web1", "--", "yes")
    assert done.code == 4
    assert json.loads(done.out) == {**end(4), "cut": ["stdout"], "stdout": "ab", "stderr": ""}
    assert "more than 16M on stdout" in done.err


def test_a_file_goes_in_with_its_mode_and_comes_out_whole(api: FakeApi, bocage: Bocage, tmp_path: pathlib.Path):
    kept: dict[str, bytes] = {}

    def take(asked: Asked) -> Reply:
        kept[asked.path] = asked.body
        return Reply({"size": len(asked.body), "mode": "0640"})

    api.on("PUT", f"{VM}/file", take)
    file = tmp_path / "a.conf"
    file.write_bytes(b"hello")
    file.chmod(0o640)
    done = bocage("vm", "cp", str(file), "web1:/etc/")
    assert (done.code, done.out) == (0, "web1:/etc/a.conf (5)\n") or done.out.startswith("web1:/etc/a.conf")
    assert len(kept) == 1
    assert "path=%2Fetc%2Fa.conf&mode=640" in next(iter(kept))
    api.on("GET", f"{VM}/file", Reply(b"hello", headers={"Bocage-Size": "5"}))
    assert bocage("vm", "cp", "web1:/etc/a.conf", f"{tmp_path}/b").code == 0
    assert (tmp_path / "b").read_bytes() == b"hello"
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o600, "nobody knows yet who may read it"
    assert bocage("vm", "cp", "web1:/etc/a.conf", "-").out == "hello"
    assert bocage("vm", "cp", "web1:/etc/a.conf", "/dev/null").code == 0
    assert pathlib.Path("/dev/null").is_char_device()
    api.on("GET", f"{VM}/file", Reply(b"hel", headers={"Bocage-Size": "5"}))
    assert bocage("vm", "cp", "web1:/etc/c", str(tmp_path)).code == 1
    assert sorted(os.listdir(tmp_path)) == ["a.conf", "api.sock", "b"], "what is not whole leaves nothing"


def test_one_of_the_two_is_in_a_guest(bocage: Bocage, api: FakeApi):
    for line in (("a", "b"), ("web1:/a", "web2:/b"), ("web1:a", "b")):
        assert bocage("vm", "cp", *line).code == 2
    assert bocage("vm", "cp", "/nonexistent/x", "web1:/x").code == 2
    assert api.asked == []


def test_a_password_is_read_and_never_shown(api: FakeApi, bocage: Bocage, monkeypatch: pytest.MonkeyPatch):
    api.on("POST", f"{VM}/password", Reply(status=204))
    feed(monkeypatch, "tr0ub4dor ü\n".encode())
    done = bocage("vm", "passwd", "web1", "root")
    assert (done.code, "tr0ub4dor" in done.out + done.err) == (0, False)
    assert api.asked[-1].document == {"user": "root", "password": "tr0ub4dor ü"}
    feed(monkeypatch, b"\n")
    assert bocage("vm", "passwd", "web1", "root").code == 2
