import asyncio
import contextlib
import os
import random
import signal
import subprocess
import time

import pytest
import uvloop

from bocage import errors, words
from bocage.engine.qemu import boundedlog, cgroup, ending, isolation, launch, processes
from tests.engine.qemu import running

ENCLOSED = pytest.mark.parametrize("mounts", [True, False], ids=["bubblewrap", "shell"])


async def ended(ground, process):
    await processes.wait_exit(process.pidfd, within=10)
    return await ending.ended_how(ground / "status", log=ground / "log")


@ENCLOSED
async def test_the_pid_is_the_programs_own_and_not_its_keepers(start, mounts):
    process = await start("sleep", "60", mounts=mounts)
    assert await running.eventually(lambda: _command(process.identity.pid) == ["sleep", "60"])
    assert processes.alive(process.identity)


@ENCLOSED
async def test_it_has_a_session_of_its_own_and_only_the_log_and_nothing_to_read(start, ground, mounts):
    process = await start("sleep", "60", mounts=mounts)
    pid = process.identity.pid
    await running.eventually(lambda: _command(pid) == ["sleep", "60"])
    assert os.getsid(pid) != os.getsid(0)
    opened = {"0": "/dev/null", "1": str(ground / "log"), "2": str(ground / "log")}
    await running.eventually(lambda: _opened(pid) == opened)  # once it has loaded its libraries


@ENCLOSED
async def test_no_privilege_can_be_gained(start, mounts):
    process = await start("sleep", "60", mounts=mounts)
    status = (await asyncio.to_thread(open, f"/proc/{process.identity.pid}/status")).read()
    assert "NoNewPrivs:\t1" in status


@ENCLOSED
async def test_output_and_complaints_are_appended_to_the_log(start, ground, mounts):
    (ground / "log").write_text("before\n")
    process = await start("sh", "-c", "echo out; echo complaint >&2; exit 3", mounts=mounts)
    how = await ended(ground, process)
    assert how.exit_code == 3
    assert how.last_lines == ("out", "complaint")
    assert (ground / "log").read_text() == "before\nout\ncomplaint\n"


@ENCLOSED
@pytest.mark.fault
@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT])
async def test_a_signal_that_ends_it_is_told(start, ground, mounts, number):
    process = await start("sleep", "60", mounts=mounts)
    signal.pidfd_send_signal(process.pidfd, number)
    how = await ended(ground, process)
    assert words.say(how.reason) == f"QEMU was killed by signal {number.name}"


@ENCLOSED
async def test_no_zombie_is_left_while_we_live(start, ground, mounts):
    process = await start("sleep", "60", mounts=mounts)
    keeper = int(_field(process.identity.pid, "PPid"))
    processes.send(process.identity, signal.SIGKILL)
    await processes.wait_exit(process.pidfd, within=10)
    await running.eventually(lambda: not os.path.exists(f"/proc/{keeper}"))


async def test_nothing_runs_before_it_is_known(ground):
    seen = []

    async def before(process):
        seen.append((processes.alive(process.identity), (ground / "vm" / "ran").exists()))

    process = await launch.start(running.order(ground, "touch", "ran"), before=before)
    await processes.wait_exit(process.pidfd, within=10)
    os.close(process.pidfd)
    assert seen == [(True, False)]
    assert (ground / "vm" / "ran").exists()


@ENCLOSED
async def test_nothing_runs_when_it_may_not_be_known(ground, mounts):
    kept = []

    async def before(process):
        kept.append(process.identity)
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError):
        await launch.start(running.order(ground, "touch", "ran", mounts=mounts), before=before)
    assert not (ground / "vm" / "ran").exists()
    assert not processes.alive(kept[0])
    assert processes.find(ground) == []


@ENCLOSED
async def test_a_cancelled_start_leaves_nothing(ground, mounts):
    reached = asyncio.Event()

    async def before(_):
        reached.set()
        await asyncio.Event().wait()

    order = running.order(ground, "touch", str(ground / "vm" / "ran"), mounts=mounts)
    starting = asyncio.create_task(launch.start(order, before=before))
    await reached.wait()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert processes.find(ground) == []
    assert not (ground / "vm" / "ran").exists()


async def test_a_start_that_hangs_ends_at_its_bound(ground):
    async def before(_):
        await asyncio.Event().wait()

    with pytest.raises(errors.TimedOut):
        await launch.start(running.order(ground, "true"), before=before, within=0.2)
    assert processes.find(ground) == []


@pytest.mark.fault
async def test_a_start_into_a_frozen_group_ends_at_its_bound_and_nothing_of_it_runs_later(ground, monkeypatch):
    monkeypatch.setattr(launch, "_END_BOUND", 0.1)
    group = _group()
    group.freeze()
    if not group.frozen():
        await group.remove()
        pytest.skip("no cgroup can be frozen here")
    with pytest.raises(errors.TimedOut):
        await launch.start(running.order(ground, "touch", "ran", group=group), within=0.2)
    group.thaw()
    await running.eventually(lambda: not processes.find(ground))
    await group.remove()
    assert not (ground / "vm" / "ran").exists()


async def test_what_confines_it_says_why_it_could_not(ground):
    view = isolation.View(read_only=[ground / "not there"])
    with pytest.raises(launch.Failed) as caught:
        await launch.start(running.order(ground, "true", mounts=True, view=view))
    assert "not there" in caught.value.said


async def test_a_group_that_takes_nobody_is_a_failure_and_not_a_start_outside_of_it(ground):
    nowhere = cgroup.Directories("none", ground / "group", {})
    with pytest.raises(FileNotFoundError):
        await launch.start(running.order(ground, "touch", "ran", group=nowhere))
    assert processes.find(ground) == []
    assert not (ground / "vm" / "ran").exists()


@ENCLOSED
async def test_a_program_that_is_missing_ends_with_words_in_the_log(start, ground, mounts):
    how = await ended(ground, await start("no-such-program", mounts=mounts))
    assert how.exit_code == 127
    assert "no-such-program" in " ".join(how.last_lines)


async def test_a_link_in_place_of_the_log_is_not_followed(ground):
    target = ground / "target"
    target.write_text("")
    (ground / "log").symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        await launch.start(running.order(ground, "echo", "words"))
    assert target.read_text() == ""


@ENCLOSED
@pytest.mark.fault
async def test_it_outlives_the_one_who_started_it_and_its_end_is_told_all_the_same(ground, mounts):
    order = running.order(ground, "sh", "-c", "while [ ! -e go ]; do sleep 0.02; done; exit 7", mounts=mounts)
    reading, writing = os.pipe()

    async def work():
        process = await launch.start(order)
        os.write(writing, str(process.identity).encode())
        await asyncio.Event().wait()

    daemon = running.in_child(work)
    identity = processes.Identity.parse((await asyncio.to_thread(os.read, reading, 100)).decode())
    running.kill(daemon)
    assert processes.alive(identity)
    pidfd = processes.open_pidfd(identity)
    (ground / "vm" / "go").touch()
    await processes.wait_exit(pidfd, within=10)
    assert (await ending.ended_how(ground / "status")).exit_code == 7
    for descriptor in (pidfd, reading, writing):
        os.close(descriptor)


@ENCLOSED
@pytest.mark.fault
async def test_a_keeper_that_is_killed_takes_nothing_with_it(start, ground, mounts):
    process = await start("sleep", "60", mounts=mounts)
    os.kill(int(_field(process.identity.pid, "PPid")), signal.SIGKILL)
    await running.eventually(lambda: _field(process.identity.pid, "PPid") in ("1", str(os.getpid())))
    assert processes.alive(process.identity)
    signal.pidfd_send_signal(process.pidfd, signal.SIGTERM)
    assert isinstance((await ended(ground, process)).reason, ending.EndUnknown)


@ENCLOSED
@pytest.mark.fault
async def test_a_starter_killed_at_any_moment_leaves_nothing_that_cannot_be_found(ground, mounts):
    seed = time.time_ns()
    print("seed", seed)
    moments = [0.0, *(random.Random(seed).uniform(0, 0.03) for _ in range(10)), None]
    program = ("tail", "-f", f"{ground}/vm/tailed")
    (ground / "vm").mkdir()
    (ground / "vm" / "tailed").touch()
    ran = []
    for moment in moments:
        group = _group()
        daemon = running.in_child(_starter(running.order(ground, *program, mounts=mounts, group=group)))
        if moment is None:
            await running.eventually(lambda: _programs(ground))
        else:
            time.sleep(moment)  # noqa: ASYNC251 - the moment is the point
        running.kill(daemon)
        # Either the program runs, and is found in its group and by its arguments, or nothing is left.
        await running.eventually(lambda: _settled(ground))
        ran.append(bool(programs := _programs(ground)))
        assert set(programs) <= set(group.procs() or programs)
        group.kill()
        await group.remove()
        await running.eventually(lambda: not processes.find(ground))
    assert ran[-1]


def _starter(order):
    async def work():
        await launch.start(order)
        await asyncio.Event().wait()

    return work


def _programs(ground):
    return [one.identity.pid for one in processes.find(ground) if one.arguments[0] == "tail"]


def _settled(ground):
    """Whether everything has either become the program or gone."""
    left = [one for one in processes.find(ground) if one.arguments[0] not in ("bwrap", "tail")]
    return all(one.arguments[:2] == ("sh", "-c") and "exit-code" in one.arguments[2] for one in left)


def _group():
    place = cgroup.place() or cgroup.Place(None, {})  # without any, the scan alone must do
    group = place.group(f"test-{os.getpid()}", "vm")
    group.make()
    return group


def _command(pid):
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            return file.read().rstrip("\0").split("\0")
    except OSError:
        return []


def _opened(pid):
    try:
        return {number: os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")}
    except OSError:
        return {}


def _field(pid, name):
    with open(f"/proc/{pid}/status") as file:
        return next(line.split()[1] for line in file if line.startswith(f"{name}:"))


async def test_an_ordinary_user_can_start_one_too(ground):
    order = running.order(ground, "sh", "-c", "id -u; exit 5", mounts=True)
    os.chown(ground, running.USER, running.USER)

    async def work():
        process = await launch.start(order)
        await processes.wait_exit(process.pidfd, within=10)
        return await ending.ended_how(ground / "status", log=ground / "log")

    how = running.result(running.in_child(work, user=running.USER))
    assert how.exit_code == 5
    assert how.last_lines == (str(running.USER),)


async def test_it_works_on_the_loop_of_the_daemon_too(ground):
    async def work():
        process = await launch.start(running.order(ground, "sh", "-c", "echo words; exit 3", mounts=True))
        async with contextlib.aclosing(boundedlog.follow(ground / "log", 0)) as pieces:
            said = await anext(pieces)
        await processes.wait_exit(process.pidfd, within=10)
        how = await ending.ended_how(ground / "status")
        os.close(process.pidfd)
        await running.eventually(lambda: not processes.find(ground))
        return said.data, how.exit_code

    def run():
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(work())

    assert await asyncio.to_thread(run) == (b"words\n", 3)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.mkdir()], ids=["pipe", "directory"])
async def test_only_a_regular_file_is_taken_for_the_log(ground, make):
    make(ground / "log")
    with pytest.raises(OSError, match=r"not a regular file|No such device|Is a directory"):
        await asyncio.wait_for(launch.start(running.order(ground, "true")), 5)


def test_starting_behind_all_hedges_costs_little(ground):
    """No absolute time: against the same program started by nothing but the standard library."""

    async def launched():
        process = await launch.start(running.order(ground, "true", mounts=True))
        await processes.wait_exit(process.pidfd, within=10)
        os.close(process.pidfd)

    def best(work):
        spans = []
        for _ in range(7):
            began = time.perf_counter()
            work()
            spans.append(time.perf_counter() - began)
        return min(spans)

    bare = best(lambda: subprocess.run(["qemu-system-x86_64", "-version"], check=True, stdout=subprocess.DEVNULL))
    assert best(lambda: asyncio.run(launched())) < bare
