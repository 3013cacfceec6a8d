"""script/up and script/down: from a machine to a running VM, again, interrupted, side by side, as an ordinary user."""

from __future__ import annotations

import json
import os
import pathlib
import pty
import re
import select
import signal
import socket
import subprocess
import time
from typing import Any

import pytest

from tests.script.conftest import NOBODY, Checkout, Ended

pytestmark = [pytest.mark.guest, pytest.mark.slow]


def looked_up(checkout: Checkout, *arguments: str) -> dict[str, Any]:
    said = checkout.run("bocage", *arguments, "--json")
    assert said.code == 0, said.err
    found: dict[str, Any] = json.loads(said.out)
    return found


def pid(checkout: Checkout, name: str = "hello") -> int:
    found: int = looked_up(checkout, "vm", "show", name)["status"]["pid"]
    return found


def as_it_is(checkout: Checkout) -> tuple[Any, ...]:
    """The VM, without what is found out of its guest in the course of time: its addresses."""
    vm = looked_up(checkout, "vm", "show", "hello")
    about, status = vm["metadata"], vm["status"]
    return about["uid"], about["generation"], vm["spec"], status["state"], status["pid"], status["since"]


def up(checkout: Checkout) -> Ended:
    said = checkout.run("up")
    assert said.code == 0, said.err
    return said


def test_a_machine_gets_a_running_vm_and_a_second_run_changes_nothing(fresh: Checkout) -> None:
    first = up(fresh)
    ready = next(line for line in first.out.splitlines() if line.startswith("tiny: ready "))
    assert "cpus=1 " in ready
    assert re.search(r"vCPUs +1 +1\n", first.out)
    assert re.search(r"memory +262144 +2[56]\d{4} ", first.out)
    before = as_it_is(fresh), looked_up(fresh, "events")

    second = up(fresh)
    assert (as_it_is(fresh), looked_up(fresh, "events")) == before
    assert ready in second.out
    assert " s  ok" not in second.out  # there was nothing to do


def test_down_leaves_the_vms_running_and_up_finds_them(used: Checkout) -> None:
    up(used)
    before = pid(used)
    assert used.run("down").code == 0
    assert used.run("bocage", "daemon", "status").code == 6
    assert os.path.exists(f"/proc/{before}")
    up(used)
    assert pid(used) == before


def test_down_with_vms_stops_them_in_order_and_up_starts_those_again_alone(used: Checkout) -> None:
    up(used)
    assert used.run("bocage", "vm", "create", "off", "--image", "tiny").code == 0
    before = pid(used)
    down = used.run("down", "--vms")
    assert down.code == 0, down.err
    assert not os.path.exists(f"/proc/{before}")
    log = (used.home / "by-name/default/hello/serial.log").read_bytes()
    assert b"tiny: stopping" in log[log.rindex(b"tiny: ready") :]  # the guest was asked

    up(used)
    states = {vm["metadata"]["name"]: vm["status"]["state"] for vm in looked_up(used, "vm", "list")["items"]}
    assert states == {"hello": "running", "off": "stopped"}
    assert used.run("bocage", "vm", "delete", "--purge", "off").code == 0


def test_down_with_vms_asks_the_guests_though_the_daemon_is_down(used: Checkout) -> None:
    up(used)
    before = pid(used)
    assert used.run("down").code == 0
    down = used.run("down", "--vms")
    assert down.code == 0, down.err
    assert not os.path.exists(f"/proc/{before}")
    assert used.run("bocage", "daemon", "status").code == 6


def test_a_guest_that_does_not_stop_keeps_the_daemon_up(used: Checkout) -> None:
    up(used)
    deaf = used.run("bocage", "vm", "create", "deaf", "--disk", "8M", "--memory", "64M", "--network", "none")
    assert deaf.code == 0, deaf.err  # nothing is on its disk that could hear
    try:
        assert used.run("bocage", "vm", "set", "deaf", "--stop-within", "1").code == 0
        assert used.run("bocage", "vm", "start", "deaf").code == 0
        down = used.run("down", "--vms")
        assert down.code == 1
        assert "'bocage vm kill NAME' pulls the plug" in down.err
        assert looked_up(used, "vm", "show", "deaf")["status"]["state"] == "running"
    finally:
        assert used.run("bocage", "daemon", "start").code == 0
        assert used.run("bocage", "vm", "delete", "--force", "--purge", "deaf").code == 0


def test_a_vm_that_a_person_stopped_stays_stopped(used: Checkout) -> None:
    up(used)
    assert used.run("bocage", "vm", "stop", "hello").code == 0
    again = up(used)
    assert "hello is stopped, as somebody asked" in again.out
    assert looked_up(used, "vm", "show", "hello")["status"]["state"] == "stopped"
    assert used.run("bocage", "vm", "start", "hello").code == 0


def test_a_guest_that_sees_less_than_was_asked_for_is_told(used: Checkout) -> None:
    up(used)
    assert used.run("bocage", "vm", "set", "hello", "--memory", "512M").code == 0  # waits for a cold start
    differs = used.run("up")
    assert differs.code == 1
    assert "not what was asked for" in differs.out
    assert used.run("bocage", "vm", "set", "hello", "--memory", "256M").code == 0
    up(used)


def test_two_homes_run_side_by_side(used: Checkout, tiny_image: pathlib.Path) -> None:
    other = used.beside("other")
    try:
        assert other.run("bocage", "daemon", "start").code == 0
        assert other.run("bocage", "image", "add", str(tiny_image), "--name", "tiny").code == 0
        up(used)
        up(other)
        ours, theirs = pid(used), pid(other)
        assert ours != theirs
        assert other.run("down", "--vms").code == 0
        assert os.path.exists(f"/proc/{ours}")
        assert not os.path.exists(f"/proc/{theirs}")
    finally:
        other.end()


def test_a_port_that_is_taken_is_told_and_another_one_helps(used: Checkout) -> None:
    assert used.run("down").code == 0
    host, _, port = used.listen.partition(":")
    with socket.socket() as taken:
        taken.bind((host, int(port)))
        taken.listen()
        refused = used.run("up")
    assert refused.code != 0
    assert f"{used.listen} cannot be listened on" in refused.err
    assert "set BOCAGE_LISTEN" in refused.err
    up(used)


def test_an_ordinary_user_gets_a_vm_too(visitor: Checkout) -> None:
    up(visitor)
    assert os.stat(f"/proc/{pid(visitor)}").st_uid == NOBODY
    assert visitor.run("down", "--vms").code == 0
    up(visitor)


def on_a_terminal(checkout: Checkout, *, until: bytes, within: float = 120) -> tuple[int, int]:
    """script/up on a terminal of its own, until it has said so; its process and the terminal."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(checkout.path)
        program = str(checkout.path / "script/up")
        os.execve("/bin/bash", ["bash", program], checkout.environment)
    seen, bound = b"", time.monotonic() + within
    while until not in seen:
        assert select.select([terminal], [], [], max(0.0, bound - time.monotonic()))[0], seen
        seen += os.read(terminal, 4096)
    return process, terminal


def ended(process: int, terminal: int, *, within: float = 120) -> Ended:
    """What else it said on the terminal, and its exit code."""
    seen, bound = b"", time.monotonic() + within
    while time.monotonic() < bound and select.select([terminal], [], [], max(0.0, bound - time.monotonic()))[0]:
        try:
            piece = os.read(terminal, 4096)
        except OSError:
            break
        if not piece:
            break
        seen += piece
    os.close(terminal)
    _, status = os.waitpid(process, 0)
    return Ended(os.waitstatus_to_exitcode(status), seen.decode(), "")


def test_a_terminal_sees_each_step_with_its_time_while_it_goes_on(fresh: Checkout) -> None:
    process, terminal = on_a_terminal(fresh, until=b"from this machine to a running VM")
    said = ended(process, terminal)
    assert said.code == 0
    assert re.search(r"\r  image 'tiny'.* 0\.\d s\r  image 'tiny'", said.out), "no progress was shown"
    assert re.search(r"\r  the guest itself +\d+\.\d s  ok", said.out)
    assert max(len(line) for line in re.split(r"[\r\n]+", said.out) if "/" not in line) <= 80


@pytest.mark.parametrize("moment", ["daemon", "image 'tiny'", "the guest itself"])
def test_ctrl_c_ends_it_at_once_and_the_next_run_goes_on(fresh: Checkout, moment: str) -> None:
    process, terminal = on_a_terminal(fresh, until=moment.encode())
    os.write(terminal, b"\x03")
    said = ended(process, terminal, within=20)
    assert said.code == 130
    assert "the next run goes on from here" in said.out
    again = fresh.run("up")
    assert again.code == 0, again.err
    assert "tiny: ready " in again.out
    assert [vm["metadata"]["name"] for vm in looked_up(fresh, "vm", "list")["items"]] == ["hello"]


def lines(path: pathlib.Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def stand_in(checkout: Checkout, name: str, body: str) -> None:
    """A program that goes before the machine's own of that name."""
    program = checkout.path / "bin" / name
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/bash\n{body}\n")
    program.chmod(0o755)


def test_root_has_missing_packages_installed(bare: Checkout) -> None:
    if os.getuid() != 0:
        pytest.skip("only root installs packages")
    with (bare.path / "script/packages").open("a") as packages:
        packages.write("made-up /nonexistent/a\nother-made-up /nonexistent/b test\n")
    stand_in(bare, "apt-get", f'echo "$*" >>{bare.path}/asked; [ "$1" = update ] || exit 5')
    assert bare.run("up").code == 5  # as far as the stand-in goes
    assert lines(bare.path / "asked") == ["update -q", "install -q -y --no-install-recommends made-up"]


def test_an_ordinary_user_is_told_the_one_line_for_root_and_nothing_is_done(visitor: Checkout) -> None:
    with (visitor.path / "script/packages").open("a") as packages:
        packages.write("made-up /nonexistent/a|/nonexistent/b\nfor-root /nonexistent/c root\nother /nonexistent/d\n")
    up = visitor.run("up", within=30)
    assert up.code == 1
    assert "\n    apt-get install --no-install-recommends made-up other\n" in up.err
    assert not (visitor.home / "bocage.db").exists()


def test_an_environment_that_does_not_fit_is_made_anew(bare: Checkout) -> None:
    stand_in(
        bare,
        "python3",
        f'case "$*" in "-m venv "*) echo "$*" >>{bare.path}/asked; exit 7 ;; esac; exec /usr/bin/python3 "$@"',
    )
    command = bare.path / ".venv/bin/bocage"
    command.write_text(command.read_text().replace(str(bare.path), "/where/it/was/before"))
    assert bare.run("up", within=60).code == 7
    assert lines(bare.path / "asked") == [f"-m venv --clear {bare.path}/.venv"]


def test_a_wrong_option_of_down_stops_nothing(bare: Checkout) -> None:
    wrong = bare.run("down", "--vm")
    assert (wrong.code, wrong.err) == (2, "usage: script/down [--vms]\n")


def test_a_failed_step_shows_what_the_command_said(bare: Checkout) -> None:
    lib = bare.path / "script/lib.sh"
    script = f'. {lib}; step "trying" sh -c "echo its words; exit 9"'
    failed = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=20, check=False)
    assert failed.returncode == 9
    assert re.fullmatch(r"  trying +0\.\d s  FAILED\n", failed.stdout)
    assert failed.stderr == "\nits words\n"


def test_a_terminated_step_takes_along_all_that_it_started(bare: Checkout) -> None:
    lib = bare.path / "script/lib.sh"
    running = bare.path / "running"
    script = f'. {lib}; step "long" sh -c "sleep 1000 & echo \\$! >{running}; wait"'
    with subprocess.Popen(["bash", "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        bound = time.monotonic() + 20
        while not (lines(running)) and time.monotonic() < bound:
            time.sleep(0.02)
        child = int(lines(running)[0])
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 130
    state = pathlib.Path(f"/proc/{child}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"
