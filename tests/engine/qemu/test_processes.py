import asyncio
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from bocage import errors
from bocage.engine.qemu import processes


@pytest.fixture
def child():
    started = subprocess.Popen(["sleep", "60"])
    yield started
    started.kill()
    started.wait()


def test_a_process_is_alive_until_it_has_ended(child):
    identity = processes.identify(child.pid)
    assert processes.alive(identity)
    child.kill()
    child.wait()
    assert not processes.alive(identity)


def test_a_zombie_is_not_alive(child):
    identity = processes.identify(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not processes.alive(identity)
    with pytest.raises(processes.Gone):
        processes.identify(child.pid)


_FIRST_THREAD_ENDS = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
ctypes.CDLL(None).syscall(60, 0)  # exit(2): this thread alone
"""


def test_a_process_whose_first_thread_is_a_zombie_lives_while_another_does():
    """As a killed QEMU does whose disk thread waits for a dead array: it may still write."""
    child = subprocess.Popen([sys.executable, "-c", _FIRST_THREAD_ENDS])
    try:
        identity = processes.identify(child.pid)
        state = pathlib.Path(f"/proc/{child.pid}/stat")
        deadline = time.monotonic() + 30
        while ") Z " not in state.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert processes.alive(identity)
    finally:
        child.kill()
        child.wait()
    assert not processes.alive(identity)


def test_another_process_with_the_same_pid_is_not_taken_for_ours(child):
    identity = processes.identify(child.pid)
    earlier = processes.Identity(identity.pid, identity.start_time - 1, identity.boot)
    assert not processes.alive(earlier)
    with pytest.raises(processes.Gone):
        processes.open_pidfd(earlier)
    with pytest.raises(ProcessLookupError):
        processes.send(earlier, signal.SIGKILL)
    assert child.poll() is None


def test_a_pid_that_is_really_used_again_is_told_apart():
    first = subprocess.Popen(["sleep", "60"])
    identity = processes.identify(first.pid)
    first.kill()
    first.wait()
    _let_a_tick_pass(identity)
    for _ in range(2_000):  # the kernel hands out the next pid as the one after the last
        try:
            with open("/proc/sys/kernel/ns_last_pid", "w") as file:
                file.write(str(identity.pid - 1))
        except OSError:
            pytest.skip("only root with checkpoint/restore in its kernel can choose the next pid")
        second = subprocess.Popen(["sleep", "60"])
        try:
            if second.pid == identity.pid:
                assert not processes.alive(identity)
                with pytest.raises(processes.Gone):
                    processes.send(identity, signal.SIGKILL)
                assert second.poll() is None
                return
        finally:
            second.kill()
            second.wait()
    pytest.fail("the pid did not come back")


def _let_a_tick_pass(identity):
    """The kernel tells start times in ticks of 10 ms; no pid comes back so soon unless it is forced to."""
    tick = identity.start_time
    while tick == identity.start_time:
        other = subprocess.Popen(["sleep", "60"])
        tick = processes.identify(other.pid).start_time
        other.kill()
        other.wait()


def test_an_identity_of_another_boot_is_gone(child):
    identity = processes.identify(child.pid)
    before = processes.Identity(identity.pid, identity.start_time, "another boot")
    assert not processes.alive(before)


def test_an_identity_survives_being_written_down(child):
    identity = processes.identify(child.pid)
    assert processes.Identity.parse(str(identity)) == identity


async def test_several_can_wait_for_one_end(child):
    pidfd = processes.open_pidfd(processes.identify(child.pid))
    waits = [asyncio.create_task(processes.wait_exit(pidfd, within=5)) for _ in range(3)]
    await asyncio.sleep(0)
    child.kill()
    await asyncio.gather(*waits)
    os.close(pidfd)


async def test_a_wait_ends_at_its_bound(child):
    pidfd = processes.open_pidfd(processes.identify(child.pid))
    with pytest.raises(errors.TimedOut):
        await processes.wait_exit(pidfd, within=0.02)
    os.close(pidfd)


def test_processes_are_found_by_a_path_in_their_arguments(ground):
    marker = ground / "run" / "vm1"
    wanted = subprocess.Popen(["sh", "-c", "sleep 60; true", f"unix:{marker}/qmp,server=on"])
    longer = subprocess.Popen(["sh", "-c", "sleep 60; true", f"{marker}0/qmp"])
    try:
        found = processes.find(marker)
        assert [one.identity.pid for one in found] == [wanted.pid]
        assert found[0].arguments[0] == "sh"
        assert processes.alive(found[0].identity)
        everything = processes.scan()
        assert {longer.pid, wanted.pid} <= {one.identity.pid for one in everything}
        assert processes.find(f"{marker}0", among=everything)[0].identity.pid == longer.pid
    finally:
        for process in (wanted, longer):
            process.kill()
            process.wait()
        for left in processes.find(ground):
            processes.send(left.identity, signal.SIGKILL)


def test_this_process_does_not_find_itself():
    assert os.getpid() not in {found.identity.pid for found in processes.scan()}


def test_a_name_with_parentheses_and_spaces_does_not_confuse(ground):
    program = ground / "a) Z 1 (b"
    program.symlink_to("/bin/sleep")
    process = subprocess.Popen([program, "60"])
    try:
        assert processes.alive(processes.identify(process.pid))
    finally:
        process.kill()
        process.wait()
