import asyncio
import contextlib
import errno
import os
import pathlib
import secrets
import signal

import pytest

from bocage.engine.qemu import cgroup, ending, launch, processes
from tests.engine.qemu import running

FORKING = ("sh", "-c", "while :; do sleep 60 & sleep 0.001; done")


def _kinds():
    """Each way of keeping groups that this machine has: v1, v2."""
    found = {}
    if place := cgroup.place():
        found["unified" if place.unified else "legacy"] = place
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        if " - cgroup2 " in line and os.access(top := line.split()[4], os.W_OK):
            found["unified"] = cgroup.Place(pathlib.Path(top), {})
    return found


KINDS = _kinds()
pytestmark = pytest.mark.skipif(not KINDS, reason="no cgroup may be made here")


@pytest.fixture(params=list(KINDS))
async def group(request):
    home = f"test-{secrets.token_hex(4)}"
    made = KINDS[request.param].group(home, "vm")
    made.make()
    yield made
    made.kill()
    await made.remove(within=10)
    assert not made.exists()
    assert KINDS[request.param].names(home) == set()


async def test_what_is_started_in_it_is_found_in_it_with_its_keeper(start, group):
    process = await start("sleep", "60", group=group)
    assert process.identity.pid in group.procs()
    assert len(group.procs()) == 2


async def test_making_it_twice_is_once(start, group):
    process = await start("sleep", "60", group=group)
    group.make()
    assert group.exists()
    assert process.identity.pid in group.procs()


async def test_killing_it_ends_all_that_is_in_it_also_what_forks(start, group):
    process = await start(*FORKING, group=group)
    await running.eventually(lambda: len(group.procs()) > 5)
    group.kill()
    await processes.wait_exit(process.pidfd, within=10)
    await running.eventually(lambda: group.procs() == [])


async def test_what_is_frozen_stands_still_and_can_go_on(start, group):
    process = await start("sh", "-c", "while :; do :; done", group=group)
    group.freeze()
    await running.eventually(group.frozen)
    before = _ticks(process.identity.pid)
    await asyncio.sleep(0.1)
    assert _ticks(process.identity.pid) == before
    group.thaw()
    await running.eventually(lambda: _ticks(process.identity.pid) > before)
    assert not group.frozen()


async def test_what_is_frozen_can_be_killed(start, group):
    process = await start("sleep", "60", group=group)
    group.freeze()
    await running.eventually(group.frozen)
    group.kill()
    await processes.wait_exit(process.pidfd, within=10)


async def test_a_group_with_processes_is_not_removed(start, group):
    process = await start("sleep", "60", group=group)
    with pytest.raises(cgroup.Busy) as caught:
        await group.remove(within=0.05)
    assert process.identity.pid in caught.value.pids
    assert processes.alive(process.identity)
    assert group.exists()


async def test_removing_it_twice_is_once(group):
    await group.remove()
    await group.remove()
    assert not group.exists()


async def test_nothing_is_left_after_the_last_group_of_a_home():
    for place in KINDS.values():
        home = f"test-{secrets.token_hex(4)}"
        first, second = place.group(home, "one"), place.group(home, "two")
        first.make()
        second.make()
        assert place.names(home) == {"one", "two"}
        await first.remove()
        assert place.names(home) == {"two"}
        await second.remove()
        assert all(not path.parent.parent.exists() for path in second.members)


async def test_all_vms_together_weigh_as_one_process_on_each_cpu(group):
    top = (group.legacy.get("cpu") or group.unified).parents[1]
    each, weight = (1024, top / "cpu.shares") if group.legacy else (100, top / "cpu.weight")
    if not weight.exists():
        pytest.skip("the controller of the CPU is not passed down here")
    assert int(weight.read_text()) == each * (os.cpu_count() or 1)


def test_many_made_and_removed_at_once_do_not_take_each_others_parents():
    place = next(iter(KINDS.values()))
    home = f"test-{secrets.token_hex(4)}"

    def cycles(name):
        async def work():
            group = place.group(home, name)
            for _ in range(400):
                group.make()
                await group.remove()
            return True

        return work

    children = [running.in_child(cycles(f"vm{number}")) for number in range(3)]
    assert [running.result(child) for child in children] == [True] * 3
    assert place.names(home) == set()


def test_a_name_cannot_lead_elsewhere():
    place = next(iter(KINDS.values()))
    for home, name in (("..", "vm"), ("home", "../.."), ("home", "a/b"), ("home", ""), ("/etc", "vm")):
        with pytest.raises(ValueError, match="no name of a control group"):
            place.group(home, name)


async def test_memory_is_counted_where_the_kernel_counts(start, group):
    before = group.memory_bytes()
    if before is None:
        pytest.skip("this hierarchy has no memory controller")
    await start("sh", "-c", "x=$(head -c 20000000 /dev/zero | tr '\\0' x); sleep 60", group=group)
    await running.eventually(lambda: group.memory_bytes() > before + 10_000_000)


@pytest.mark.fault
async def test_a_kill_for_lack_of_memory_is_told(start, group, ground):
    limit = next((path for path in _limits(group) if path.exists()), None)
    if limit is None:
        pytest.skip("this hierarchy has no memory controller")
    limit.write_text(str(48 << 20))
    with contextlib.suppress(OSError):  # no swap beyond it
        limit.with_name("memory.memsw.limit_in_bytes").write_text(str(48 << 20))
    process = await start("sh", "-c", "x=$(head -c 400000000 /dev/zero | tr '\\0' x); echo no", group=group)
    await processes.wait_exit(process.pidfd, within=30)
    assert group.oom_kills() >= 1
    how = await ending.ended_how(ground / "status", log=ground / "log", oom_kills=group.oom_kills())
    assert how.out_of_memory
    assert how.reason.type == "process-out-of-memory"


@pytest.mark.fault
async def test_a_daemon_that_comes_back_finds_the_group_and_ends_it(group, ground):
    order = running.order(ground, "sleep", "60", group=group)

    async def work():
        process = await launch.start(order)
        return str(process.identity)

    identity = processes.Identity.parse(running.result(running.in_child(work)))
    assert processes.alive(identity)
    assert identity.pid in group.procs()
    pidfd = processes.open_pidfd(identity)
    group.kill()
    await processes.wait_exit(pidfd, within=10)
    os.close(pidfd)


def test_an_ordinary_user_without_delegation_has_no_place():
    async def work():
        return cgroup.place()

    assert running.result(running.in_child(work, user=running.USER)) is None


def test_a_delegated_group_is_a_place_for_an_ordinary_user():
    if os.geteuid() != 0 or "unified" not in KINDS:
        pytest.skip("needs root and cgroup v2")
    top = KINDS["unified"].unified / f"test-{secrets.token_hex(4)}"
    top.mkdir()
    try:
        for path in (top, top / "cgroup.procs", top / "cgroup.subtree_control"):
            os.chown(path, running.USER, running.USER)

        async def work():
            place = cgroup.place()
            assert place
            group = place.group("home", "vm")
            group.make()
            child = await asyncio.create_subprocess_exec("sh", "-c", f"echo 0 >{group.members[0]}; exec sleep 60")
            await running.eventually(group.procs)
            group.kill()
            await child.wait()
            await group.remove()
            return place.unified, child.returncode

        assert running.result(_in_group(top, work)) == (top, -signal.SIGKILL)
    finally:
        top.rmdir()


def _in_group(top, work):
    """A child of an ordinary user inside a group; root puts it there, as a delegating manager would."""
    ready, go = os.pipe()

    async def waiting():
        await asyncio.to_thread(os.read, ready, 1)
        return await work()

    pid = running.in_child(waiting, user=running.USER)
    (top / "cgroup.procs").write_text(str(pid))
    os.write(go, b"x")
    os.close(go)
    os.close(ready)
    return pid


def _limits(group):
    return [path.with_name(name) for path in group.members for name in ("memory.limit_in_bytes", "memory.max")]


def _ticks(pid):
    with open(f"/proc/{pid}/stat") as file:
        return sum(map(int, file.read().rsplit(")", 1)[1].split()[11:13]))


def test_of_two_versions_the_newer_too_is_never_bounded_below_what_it_holds(tmp_path: pathlib.Path):
    told = {
        "memory.current": "3000",
        "memory.stat": "anon 1500\nactive_file 400\ninactive_file 600",
        "memory.max": "max",
    }
    for name, text in told.items():
        (tmp_path / name).write_text(text + "\n")
    group = cgroup.Directories("box", tmp_path, {})
    with pytest.raises(cgroup.Lacks) as refused:
        group.bound_memory(1999)
    assert isinstance(refused.value.__cause__, OSError)
    assert refused.value.__cause__.errno == errno.EBUSY
    assert (tmp_path / "memory.max").read_text() == "max\n"
    group.bound_memory(2000)
    assert (tmp_path / "memory.max").read_text() == "2000"
