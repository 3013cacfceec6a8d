import json
import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest

from bocage.cli import waiting
from tests import fake_api
from tests.cli.conftest import Bocage
from tests.fake_api import TASK_UID, FakeApi, listed, problem, task

START = "/projects/default/vms/web1/start"
TASK = f"/tasks/{TASK_UID}"


def test_a_command_waits_for_the_end_of_its_task(api: FakeApi, bocage: Bocage):
    api.on("POST", START, fake_api.Reply(task(), 202))
    api.on("GET", TASK, task(state="running"), task(state="done"))
    ended = bocage("vm", "start", "web1")
    assert (ended.code, ended.out, ended.err) == (0, "web1 is running\n", "")
    assert len(api.asked_for("GET", TASK)) == 2
    assert "wait=" in api.asked[1].path


def test_with_no_wait_it_says_which_task_it_is(api: FakeApi, bocage: Bocage):
    api.on("POST", START, fake_api.Reply(task(), 202))
    ended = bocage("vm", "start", "web1", "--no-wait")
    assert ended.code == 0
    assert f"bocage task wait {TASK_UID}" in ended.out
    assert api.asked_for("GET") == []


def test_json_prints_the_task_as_it_ended(api: FakeApi, bocage: Bocage):
    api.on("POST", START, fake_api.Reply(task(), 202))
    api.on("GET", TASK, task(state="done"))
    assert json.loads(bocage("vm", "start", "web1", "--json").out)["status"]["state"] == "done"
    assert json.loads(bocage("vm", "start", "web1", "--json", "--no-wait").out)["status"]["state"] == "pending"


def test_a_failed_task_says_why_and_its_status_makes_the_exit_code(api: FakeApi, bocage: Bocage):
    why = {"type": "storage-full", "params": {}, "text": "storage local is full", "hint": "make room"}
    api.on("POST", START, fake_api.Reply(task(), 202))
    for status, code in ((507, 1), (409, 4), (404, 3), (422, 2), (403, 5), (None, 1)):
        api.on("GET", TASK, task(state="failed", problem=why, http_status=status))
        ended = bocage("vm", "start", "web1")
        assert (ended.code, ended.out) == (code, "")
        assert ended.err == "bocage: storage local is full\n  make room\n"


def test_a_cancelled_task_is_a_failure(api: FakeApi, bocage: Bocage):
    api.on("POST", START, fake_api.Reply(task(), 202))
    api.on("GET", TASK, task(state="cancelled"))
    ended = bocage("vm", "start", "web1")
    assert ended.code == 1
    assert "vm.start web1 was cancelled" in ended.err


def test_the_list_shows_what_is_being_done_and_with_all_what_was(api: FakeApi, bocage: Bocage):
    api.on("GET", "/tasks", listed(task("vm.stop", "done"), task("vm.start", "running")))
    assert "vm.start" in bocage("task", "list").out
    assert "vm.stop" not in bocage("task", "list").out
    assert "vm.stop" in bocage("task", "list", "--all").out
    api.on("GET", "/tasks", listed())
    assert bocage("task", "list").out == ""


def test_a_task_is_named_by_a_part_of_its_uid(api: FakeApi, bocage: Bocage):
    api.on("GET", "/tasks", listed(task()))
    api.on("GET", TASK, task(state="done"))
    for given in (TASK_UID, TASK_UID[:8], TASK_UID[-6:]):
        assert bocage("task", "show", given).out.splitlines()[0].split() == ["task", TASK_UID]
    assert bocage("task", "show", "ffff").code == 3


def test_wait_ends_as_the_task_does_and_at_its_own_bound(api: FakeApi, bocage: Bocage):
    api.on("GET", TASK, task(state="done"))
    assert bocage("task", "wait", TASK_UID).out == "vm.start web1: done\n"
    api.on("GET", TASK, task(state="running"))
    ended = bocage("task", "wait", TASK_UID, "--timeout", "0.05")
    assert ended.code == 1
    assert "goes on" in ended.err


def test_cancel_asks_and_waits_for_the_end(api: FakeApi, bocage: Bocage):
    api.on("POST", f"{TASK}/cancel", task(state="running"))
    api.on("GET", TASK, task(state="cancelled"))
    assert bocage("task", "cancel", TASK_UID).out == "vm.start web1: cancelled\n"
    api.on("POST", f"{TASK}/cancel", problem(409, "task-ended", "it has ended"))
    assert bocage("task", "cancel", TASK_UID).code == 4


def test_on_a_terminal_a_bar_shows_the_step(api: FakeApi):
    step = {"type": "x", "params": {}, "text": "copying the disk"}
    moving = task(state="running", step=step, progress={"done": 1 << 20, "total": 4 << 20, "unit": "bytes"})
    api.on("POST", START, fake_api.Reply(task(), 202))
    api.on("GET", TASK, *[task(state="running")] * 2, *[moving] * 2000)

    def done(asked: fake_api.Asked) -> fake_api.Reply:
        return fake_api.Reply(task(state="done"))

    shown = on_terminal([sys.executable, "-m", "bocage", "vm", "start", "web1"], until=b"1M/4M")
    api.on("GET", TASK, done)
    assert b"copying the disk" in shown.before
    rest = shown.finish()
    assert shown.child.returncode == 0
    assert b"web1 is running" in rest


def test_ctrl_c_leaves_the_task_going_on_and_says_so(api: FakeApi):
    api.on("POST", START, fake_api.Reply(task(), 202))
    api.on("GET", TASK, task(state="running"))
    shown = on_terminal([sys.executable, "-m", "bocage", "vm", "start", "web1"], until=b"vm.start web1")
    os.write(shown.terminal, b"\x03")
    rest = shown.finish()
    assert shown.child.returncode == 130
    assert f"bocage task cancel {TASK_UID}".encode() in rest
    assert b"Traceback" not in rest
    assert api.asked_for("POST", TASK) == []


def test_ctrl_c_counts_though_python_dropped_the_interrupt(monkeypatch: pytest.MonkeyPatch):
    dropped: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", dropped.append)

    class Pressed:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):
                pass  # it is raised in here, where nobody hears of it

    with waiting._interruptible() as look:
        look(task())
        Pressed()
        assert len(dropped) == 1
        with pytest.raises(KeyboardInterrupt):
            look(task())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class OnTerminal:
    """A command on a terminal of 80 columns, read until it says something."""

    def __init__(self, command: list[str], until: bytes) -> None:
        self.terminal, other = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
        self.child = subprocess.Popen(
            command, stdin=other, stdout=other, stderr=other, env=environment, start_new_session=True, preexec_fn=_own
        )
        os.close(other)
        self.before = self._read(until)

    def finish(self) -> bytes:
        rest = self._read(None)
        self.child.wait(20)
        os.close(self.terminal)
        return rest

    def _read(self, until: bytes | None) -> bytes:
        said, deadline = b"", time.monotonic() + 120
        while until is None or until not in said:
            assert time.monotonic() < deadline, said[:2000]
            ready, _, _ = select.select([self.terminal], [], [], 30)
            assert ready, said
            try:
                piece = os.read(self.terminal, 65536)
            except OSError:
                break
            if not piece:
                break
            said += piece
        return said


def _own() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def on_terminal(command: list[str], *, until: bytes) -> OnTerminal:
    return OnTerminal(command, until)
