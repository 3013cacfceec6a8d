"""The command line on a real daemon with real guests, as the README shows it."""

import contextlib
import json
import os
import pathlib
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from bocage import home as homes
from tests.cli.test_daemon import free_port

pytestmark = pytest.mark.guest

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def bocage(tiny_image: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """The command as its own process, in a home with a daemon and the image `tiny`."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOCAGE_HOME", str(home))
        runtime = homes.Home.from_environment().runtime
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("BOCAGE_")},
        "BOCAGE_HOME": str(home),
        "BOCAGE_LISTEN": f"127.0.0.1:{free_port()}",
        "COLUMNS": "80",
    }

    def run(*arguments: str, code: int = 0, stdin: str = "") -> subprocess.CompletedProcess[str]:
        ended = subprocess.run(
            [sys.executable, "-m", "bocage", *arguments],
            env=environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert ended.returncode == code, (arguments, ended.stdout, ended.stderr)
        return ended

    run.environment = environment  # type: ignore[attr-defined]
    try:
        run("daemon", "start")
        run("image", "add", str(tiny_image), "--name", "tiny")
        yield run
        for vm in json.loads(run("vm", "list", "--json").stdout)["items"]:
            run("vm", "delete", vm["metadata"]["name"], "--force", "--purge")
    finally:
        run("daemon", "stop")
        shutil.rmtree(runtime, ignore_errors=True)


def test_the_main_job(bocage: Run):
    line = "vm create web1 --image tiny --cpus 2 --memory 192M --disk 64M --start"
    assert "web1 is made and running" in bocage(*line.split()).stdout
    said = bocage("vm", "console", "web1", "--expect", "^tiny: ready", "--timeout", "120").stdout
    assert " cpus=2 " in said
    assert " disks=vda:67108864 " in said
    memory = re.search(r"memory_kib=(\d+)", said)
    assert memory
    assert 0.9 * 192 * 1024 < int(memory[1]) <= 192 * 1024

    row = bocage("vm", "list").stdout.splitlines()[1].split()
    assert row[:4] == ["web1", "running", "2", "192M"]
    assert "tiny: ready" in bocage("vm", "log", "web1").stdout
    shown = bocage("vm", "show", "web1").stdout
    assert "64M" in shown
    assert all(len(line) <= 80 or line.startswith("directory ") for line in shown.splitlines())  # a path stays whole
    assert "-smp 2" in bocage("vm", "command", "web1").stdout
    assert bocage("why", "web1").stdout.startswith("web1 is running")

    assert (
        bocage("vm", "console", "web1", "--send", "echo $((6*7))", "--expect", "^42$", "--timeout", "30").stdout
        == "42\n"
    )
    refused = bocage("vm", "console", "web1", "--send", "true", "--expect", "never", "--timeout", "1", code=1)
    assert refused.stdout == ""

    bocage("vm", "pause", "web1")
    assert bocage("vm", "list").stdout.splitlines()[1].split()[1] == "paused"
    bocage("vm", "resume", "web1")
    bocage("vm", "delete", "web1", code=4)
    bocage("vm", "stop", "web1", "--within", "120")
    assert bocage("vm", "list").stdout.splitlines()[1].split()[1] == "stopped"
    bocage("vm", "delete", "web1")
    assert bocage("vm", "list", "-q").stdout == ""
    assert bocage("vm", "list", "--trash", "-q").stdout == "web1\n"
    bocage("vm", "undelete", "web1")
    bocage("vm", "delete", "web1", "--purge")
    assert bocage("vm", "list", "--trash", "-q").stdout == ""


def test_wrong_values_are_refused_by_the_api_in_the_same_words_and_change_nothing(bocage: Run):
    for line, code, said in (
        ("vm create bad --image tiny --memory 512", 2, "512M"),
        ("vm create Bad_Name --image tiny", 2, "lower-case letters"),
        ("vm create bad --image tiny --cpus 0", 2, "cpus.cores"),
        ("vm create bad --image none", 3, "none"),
        ("vm create bad --image tiny --network none1", 3, "none1"),
        ("vm create bad --image tiny --storage none", 3, "none"),
        ("vm start nobody", 3, "nobody"),
        ("image add /etc/hostname --format qcow2 --name bad", 2, "qcow2"),
        ("vm disk attach nobody --size 1", 2, "512M"),
    ):
        refused = bocage(*line.split(), code=code)
        assert said in refused.stderr
        assert refused.stdout == ""
    assert bocage("vm", "list", "-q").stdout == ""


def test_a_vm_is_carried_away_and_taken_in_again(bocage: Run, tmp_path: pathlib.Path):
    bocage("vm", "create", "far", "--image", "tiny", "--memory", "128M", "--network", "none")
    bocage("vm", "export", "far", str(tmp_path / "far.tar.zst"))
    bocage("vm", "export", "far", str(tmp_path / "far"))
    subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=tmp_path / "far", check=True)
    before = json.loads(bocage("vm", "show", "far", "--json").stdout)
    for source in ("far.tar.zst", "far"):
        bocage("vm", "delete", "far", "--purge")
        bocage("vm", "import", str(tmp_path / source))
        after = json.loads(bocage("vm", "show", "far", "--json").stdout)
        assert after["metadata"]["uid"] == before["metadata"]["uid"]
        assert after["spec"]["hardware"] == before["spec"]["hardware"]
    bocage("vm", "start", "far")
    assert "cpus=1" in bocage("vm", "console", "far", "--expect", "^tiny: ready", "--timeout", "120").stdout
    bocage("vm", "kill", "far")


def test_the_console_is_a_terminal_until_the_escape_key_or_the_end_of_the_vm(bocage: Run):
    bocage("vm", "create", "term", "--image", "tiny", "--memory", "128M", "--network", "none", "--start")
    bocage("vm", "console", "term", "--expect", "^tiny: ready", "--timeout", "120")
    with _attached(bocage, "term") as (child, terminal):
        _read_until(terminal, b"Ctrl-] leaves it")
        os.write(terminal, b"echo $((7*6)) \x03\rfor i in a b; do echo got-$i; done\r")
        assert b"got-a" in _read_until(terminal, b"got-b")
        refused = bocage("vm", "console", "term", code=4)
        assert "--take-over" in refused.stderr
        os.write(terminal, b"\x1d")
        _read_until(terminal, b"Left the console of term")
        assert child.wait(20) == 0
    assert json.loads(bocage("vm", "show", "term", "--json").stdout)["status"]["state"] == "running"

    with _attached(bocage, "term") as (child, terminal):
        _read_until(terminal, b"Ctrl-] leaves it")
        bocage("vm", "kill", "term")
        _read_until(terminal, b"Left the console: term is off.")
        assert child.wait(20) == 0
    for options in ((), ("--read-only",)):
        assert "'bocage vm start term'" in bocage("vm", "console", "term", *options, code=4).stderr


def test_a_console_that_nobody_reads_any_more_ends(bocage: Run):
    bocage("vm", "create", "unread", "--image", "tiny", "--memory", "128M", "--network", "none", "--start")
    bocage("vm", "console", "unread", "--expect", "^tiny: ready", "--timeout", "120")
    with _attached(bocage, "unread", "--read-only", stdout=subprocess.PIPE) as (child, terminal):
        _read_until(terminal, b"Ctrl-] leaves it")
        assert child.stdout
        child.stdout.close()
        bocage("vm", "console", "unread", "--send", "echo more", "--expect", "^more", "--timeout", "60")
        assert child.wait(20) == 1
        assert b"Traceback" not in _read_all(terminal)
    bocage("vm", "kill", "unread")


Attached = Iterator[tuple["subprocess.Popen[bytes]", int]]


@contextlib.contextmanager
def _attached(bocage: Run, *arguments: str, stdout: int | None = None) -> Attached:
    """A console in a terminal of its own."""
    terminal, other = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "bocage", "vm", "console", *arguments],
        stdin=other,
        stdout=other if stdout is None else stdout,
        stderr=other,
        env=bocage.environment,  # type: ignore[attr-defined]
    )
    os.close(other)
    try:
        yield child, terminal
    finally:
        child.kill()
        child.wait()
        os.close(terminal)


def _read_all(terminal: int) -> bytes:
    said = b""
    with contextlib.suppress(OSError):  # EIO: nobody holds the other end
        while piece := os.read(terminal, 65536):
            said += piece
    return said


def _read_until(terminal: int, wanted: bytes) -> bytes:
    said, bound = b"", time.monotonic() + 60
    while wanted not in said:
        ready, _, _ = select.select([terminal], [], [], max(0.0, bound - time.monotonic()))
        assert ready, said
        said += os.read(terminal, 65536)
    return said
