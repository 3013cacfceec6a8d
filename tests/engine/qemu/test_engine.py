"""Starting, finding again, ending: on real QEMUs without a guest."""

import asyncio
import dataclasses
import os
import pathlib
import shutil
import signal

import pytest

from bocage import errors
from bocage.engine import base, block
from bocage.engine.qemu import ending, engine, orderly, paths, processes, remains, starting
from bocage.engine.qemu import machine as machines
from bocage.engine.qemu import record as records
from bocage.network import user
from tests.engine.qemu.vms import Vms, until


def left_over(vms: Vms, plan: base.Plan) -> list[object]:
    """What a VM that is gone should not have left."""
    at = paths.Paths(plan.directory, plan.runtime)
    sockets = list(at.io.iterdir()) if at.io.is_dir() else []
    groups = sorted(vms.place.names(vms.home)) if vms.place else []
    return [*processes.find(plan.runtime), *sockets, *groups]


def proc(pid: int, name: str) -> str:
    return pathlib.Path(f"/proc/{pid}/{name}").read_text()


def write(path: str | pathlib.Path, number: int) -> None:
    pathlib.Path(path).write_text(str(number))


async def test_a_vm_runs_when_its_start_returns(vms):
    plan = vms.plan("virtio")
    machine = await vms.start(plan)
    assert machine.run is base.Run.RUNNING
    assert await machine.look() is base.Run.RUNNING
    assert proc(machine.pid, "comm").strip() == "vm:web1"
    assert machine.version.count(".") == 2
    assert machine.started_generation == 7


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a process another uid")
async def test_a_vm_is_kept_apart_as_its_status_says(vms):
    machine = await vms.start(vms.plan("virtio"))
    status = proc(machine.pid, "status")
    uid = vms.plan().process_uid - 1
    assert f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}\n" in status
    assert "Seccomp:\t2\n" in status
    assert "NoNewPrivs:\t1\n" in status
    assert "CapEff:\t0000000000000000\n" in status
    assert machine.isolation.uid == uid
    assert {"sandbox", "own-uid", "no-new-privileges"} <= set(machine.isolation.parts)
    outside = os.readlink("/proc/self/ns/mnt") != os.readlink(f"/proc/{machine.pid}/ns/mnt")
    assert outside is ("mount-namespace" in machine.isolation.parts)


async def test_a_vms_process_cannot_reach_a_file_of_another_vm(vms):
    other = vms.plan("virtio", name="other")
    machine = await vms.start(vms.plan("virtio"))
    if "mount-namespace" not in machine.isolation.parts:
        pytest.skip("this machine makes no mount namespace")
    seen = pathlib.Path(f"/proc/{machine.pid}/root")
    assert (seen / str(vms.root)[1:] / "v1/vms/uid/disk0.qcow2").exists()
    assert not (seen / str(other.chains["disk0"][0].path)[1:]).exists()
    assert not (seen / "etc/shadow").exists()
    assert not (seen / "proc/1").exists()


async def test_a_vm_can_be_started_to_stand_still(vms):
    machine = await vms.start(vms.plan(), paused=True)
    assert machine.run is base.Run.PAUSED
    await machine.resume()
    assert await machine.look() is base.Run.RUNNING
    await machine.pause()
    assert machine.run is base.Run.PAUSED


async def test_what_happens_is_told(vms):
    machine = await vms.start(vms.plan())
    await machine.pause()
    await machine.resume()
    await machine.reset()
    await until(lambda: any(one.what == "reset" for one in vms.happened))
    runs = [one.fields["run"] for one in vms.happened if one.what == "run-changed"]
    assert runs[:3] == [base.Run.RUNNING, base.Run.PAUSED, base.Run.RUNNING]


async def test_pulling_the_plug_is_orderly_and_leaves_nothing(vms):
    plan = vms.plan("virtio")
    machine = await vms.start(plan)
    await machine.quit()
    ended = await machine.ended()
    assert ended.orderly
    assert isinstance(ended.reason, orderly.Quit)
    assert not left_over(vms, plan)


@pytest.mark.fault
async def test_a_killed_process_is_told_as_such_and_leaves_nothing(vms):
    plan = vms.plan()
    machine = await vms.start(plan)
    os.kill(machine.pid, signal.SIGSEGV)
    ended = await asyncio.wait_for(machine.ended(), 10)
    assert not ended.orderly
    assert isinstance(ended.reason, ending.Killed)
    assert ended.reason.signal == "SIGSEGV"
    assert not left_over(vms, plan)
    with pytest.raises(base.NotRunning):
        await machine.pause()


@pytest.mark.fault
async def test_somebody_who_ends_qemu_with_a_signal_is_not_the_guest(vms):
    machine = await vms.start(vms.plan())
    os.kill(machine.pid, signal.SIGTERM)
    ended = await asyncio.wait_for(machine.ended(), 10)
    assert not ended.orderly
    assert isinstance(ended.reason, orderly.Terminated)
    assert "terminating on signal 15" in "\n".join(ended.last_lines)


@pytest.mark.fault
async def test_a_stopped_process_answers_nothing_and_dies_all_the_same(vms):
    machine = await vms.start(vms.plan())
    os.kill(machine.pid, signal.SIGSTOP)
    assert await machine.look() is base.Run.UNKNOWN
    await machine.kill()
    assert not (await machine.ended()).orderly


async def test_another_daemon_finds_the_process_and_knows_it(vms):
    plan = vms.plan("virtio")
    first = await vms.start(plan)
    await first.detach()
    again = await vms.find(plan)
    assert again
    assert (again.pid, again.run, again.started_generation) == (first.pid, base.Run.RUNNING, 7)
    assert (again.isolation, again.version) == (first.isolation, first.version)
    assert again.accelerator == first.accelerator == "tcg"
    await again.quit()
    assert (await again.ended()).orderly


@pytest.mark.fault
async def test_a_process_whose_record_is_lost_or_damaged_is_found_by_its_command_line(vms):
    plan = vms.plan("named-with-commas")
    first = await vms.start(plan)
    await first.detach()
    (plan.runtime / "process.json").write_text('{"uid": "')
    (plan.directory / "process.json").unlink()
    again = await vms.find(plan)
    assert again
    assert (again.pid, again.accelerator) == (first.pid, "tcg")
    await again.quit()
    assert isinstance((await again.ended()).reason, orderly.Quit)
    assert not left_over(vms, plan)


@pytest.mark.fault
async def test_a_process_that_hangs_is_found_and_known_again_when_it_answers(vms):
    plan = vms.plan()
    first = await vms.start(plan)
    await first.detach()
    os.kill(first.pid, signal.SIGSTOP)
    again = await vms.find(plan)
    assert again
    assert again.run is base.Run.UNKNOWN
    assert again.version == first.version
    with pytest.raises(errors.TimedOut):
        await again.link.execute("query-status", within=0.1)
    os.kill(first.pid, signal.SIGCONT)
    await until(lambda: again.run is base.Run.RUNNING, within=30)


@pytest.mark.fault
async def test_a_daemon_that_died_in_the_middle_of_a_start_leaves_nothing_that_the_next_one_keeps(vms, monkeypatch):
    plan = vms.plan("virtio")

    async def dies(*_: object, **__: object) -> None:
        raise asyncio.CancelledError

    held: list[machines.QemuMachine] = []

    async def keeps(self: machines.QemuMachine) -> None:
        held.append(self)

    monkeypatch.setattr(engine, "_run", dies)
    monkeypatch.setattr(machines.QemuMachine, "kill", keeps)
    monkeypatch.setattr(remains, "clear", lambda *_: asyncio.sleep(0))
    monkeypatch.setattr(starting, "_forget", lambda _: None)
    with pytest.raises(asyncio.CancelledError):
        await vms.start(plan)
    monkeypatch.undo()
    await held[0].detach()
    assert processes.alive(held[0]._record.identity)
    assert await vms.find(plan) is None
    assert not left_over(vms, plan)


@pytest.mark.fault
async def test_a_pid_that_another_program_has_by_now_is_left_alone(vms):
    plan = vms.plan()
    machine = await vms.start(plan)
    await machine.quit()
    await machine.ended()
    record = records.read(plan.runtime / "process.json")
    assert record
    stranger = await asyncio.create_subprocess_exec("sleep", "60")
    try:
        wrong = processes.Identity(stranger.pid, record.identity.start_time)
        records.write(plan.runtime / "process.json", dataclasses.replace(record, identity=wrong))
        assert await vms.find(plan) is None
        assert stranger.returncode is None
    finally:
        stranger.kill()
        await stranger.wait()


async def test_a_later_daemon_learns_how_it_ended(vms):
    plan = vms.plan()
    machine = await vms.start(plan)
    assert await vms.engine.post_mortem(plan.runtime) is None
    await machine.detach()
    pidfd = os.pidfd_open(machine.pid)
    os.kill(machine.pid, signal.SIGTERM)
    await processes.wait_exit(pidfd, within=10)
    os.close(pidfd)
    assert await vms.find(plan) is None
    ended = await vms.engine.post_mortem(plan.runtime)
    assert ended
    assert isinstance(ended.reason, orderly.Terminated)


async def test_a_start_that_qemu_refuses_says_its_words_and_leaves_nothing(vms):
    plan = vms.plan("virtio")
    plan.chains["disk0"][0].path.write_bytes(b"this is no qcow2 image" * 100)
    with pytest.raises(base.StartFailed, match="not in qcow2 format"):
        await vms.start(plan)
    assert not left_over(vms, plan)
    assert not (plan.runtime / "process.json").exists()


async def test_a_start_without_its_disk_is_a_failed_start(vms):
    plan = vms.plan("virtio")
    plan.chains["disk0"][0].path.unlink()
    with pytest.raises(base.StartFailed):
        await vms.start(plan)
    assert not left_over(vms, plan)


async def test_a_second_process_is_never_started_beside_one_that_runs(vms):
    plan = vms.plan("virtio")
    machine = await vms.start(plan)
    with pytest.raises(engine.AlreadyRunning):
        await vms.start(plan)
    assert await machine.look() is base.Run.RUNNING


@pytest.mark.fault
async def test_memory_that_ran_out_while_no_daemon_was_there_is_told_to_the_next(vms):
    plan = vms.plan("virtio")
    first = await vms.start(plan)
    await first.detach()
    group = machines.group_of(vms.place, plan.cgroup)
    if not group or "memory" not in group.legacy:
        pytest.skip("this machine counts no memory in v1 groups")
    pidfd = os.pidfd_open(first.pid)
    write(f"/proc/{first.pid}/oom_score_adj", 1000)  # whoever asks for more, it is chosen
    write(group.legacy["memory"] / "memory.limit_in_bytes", (group.memory_bytes() or 0) + (16 << 20))
    hog = await asyncio.create_subprocess_exec(
        *("sh", "-c", 'for group; do echo 0 >"$group"; done; exec tail /dev/zero', "hog"), *map(str, group.members)
    )
    await processes.wait_exit(pidfd, within=20)
    os.close(pidfd)
    other = engine.QemuEngine(place=vms.place)
    assert await vms.find(plan, other) is None
    ended = await other.post_mortem(plan.runtime)
    assert ended
    assert isinstance(ended.reason, ending.OutOfMemory)
    await hog.wait()


async def test_a_cancelled_start_leaves_nothing(vms):
    plan = vms.plan("virtio")
    starting = asyncio.create_task(vms.start(plan))
    at = paths.Paths(plan.directory, plan.runtime)
    await until(at.record.exists)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not left_over(vms, plan)


async def test_a_vm_starts_again_over_what_its_last_process_left(vms):
    plan = vms.plan("uefi")
    first = await vms.start(plan)
    os.kill(first.pid, signal.SIGKILL)
    await first.ended()
    variables = (plan.directory / "firmware-vars.fd").stat().st_ino
    second = await vms.start(plan)
    assert second.pid != first.pid
    assert (plan.directory / "firmware-vars.fd").stat().st_ino == variables


async def test_what_the_process_may_write_holds_nothing_that_is_believed(vms):
    plan = vms.plan()
    machine = await vms.start(plan)
    owner = plan.runtime.stat()
    assert owner.st_uid == os.geteuid()
    assert owner.st_mode & 0o022 == 0
    assert (plan.runtime / "process.json").stat().st_uid == os.geteuid()
    assert (plan.runtime / "io").stat().st_uid == (plan.process_uid or os.geteuid())
    await machine.quit()


async def with_passt(plan: base.Plan, *more: str) -> base.Plan:
    command = user.passt_command(await user.plan())
    return dataclasses.replace(plan, nics={"nic0": base.Passt((*command, *more))})


@pytest.mark.skipif(not shutil.which("passt"), reason="passt is not installed")
@pytest.mark.parametrize("way", ["quit", "kill"])
async def test_passt_runs_beside_its_vm_and_ends_with_it(vms, way):
    plan = await with_passt(vms.plan("virtio"))
    machine = await vms.start(plan)
    helpers = [one for one in processes.find(plan.runtime / "io") if "passt" in one.arguments[0]]
    assert len(helpers) == 1
    if vms.place:
        group = machines.group_of(vms.place, plan.cgroup)
        assert group
        assert {machine.pid, helpers[0].identity.pid} <= set(group.procs())
    await getattr(machine, way)()
    await machine.ended()
    assert not left_over(vms, plan)


@pytest.mark.skipif(not shutil.which("passt"), reason="passt is not installed")
async def test_passt_that_will_not_start_is_a_failed_start_with_its_words(vms):
    plan = await with_passt(vms.plan("virtio"), "--interface", "no-such")
    with pytest.raises(base.StartFailed, match="no-such"):
        await vms.start(plan)
    assert not left_over(vms, plan)


@pytest.mark.fault
async def test_a_guest_that_panics_stands_still_and_is_said_to(vms):
    plan = vms.plan("sata")
    # mov dx, 0x505; mov al, 1; out dx, al; hlt: what a driver of the panic port does.
    sector = bytes.fromhex("ba0505 b001 ee f4 ebfd").ljust(510, b"\0") + b"\x55\xaa"
    disk = vms.root / "panics.raw"
    disk.write_bytes(sector + bytes(1 << 20))
    machine = await vms.start(dataclasses.replace(plan, chains={**plan.chains, "disk0": (block.File(disk, "raw"),)}))
    await until(lambda: machine.run is base.Run.PANICKED)
    assert await machine.look() is base.Run.PANICKED
    await machine.reset()
    await machine.resume()


@pytest.mark.fault
async def test_whatever_a_process_left_where_it_may_write_does_not_hide_its_end(vms):
    plan = vms.plan()
    machine = await vms.start(plan)
    odd = plan.runtime / "io" / "directory" / "below"
    odd.mkdir(parents=True)
    (plan.runtime / "io" / "link").symlink_to(plan.directory)
    os.kill(machine.pid, signal.SIGKILL)
    assert isinstance((await asyncio.wait_for(machine.ended(), 10)).reason, ending.Killed)
    assert not left_over(vms, plan)
    assert (plan.directory / "serial.log").exists()


async def test_the_cd_in_a_sata_drive_is_changed_while_the_vm_runs(vms):
    plan = vms.plan("install")
    machine = await vms.start(plan)

    async def inserted() -> str | None:
        for one in await machine.link.execute("query-block"):
            if one.get("qdev", "").endswith("cd0"):
                return one.get("inserted", {}).get("file")
        raise AssertionError

    assert await inserted() == str(plan.cds["cd0"])
    await machine.disks.change_cd("cd0", None)
    assert await inserted() is None
    other = vms.root / "other.iso"
    other.write_bytes(bytes(1 << 20))
    await machine.disks.change_cd("cd0", other)
    assert "/dev/fdset/" in (await inserted() or "")
    await machine.disks.change_cd("cd0", None)
    assert await machine.link.execute("query-fdsets") == []
    with pytest.raises(FileNotFoundError):
        await machine.disks.change_cd("cd0", vms.root / "none.iso")


async def test_keys_are_known_by_name_and_a_wrong_one_is_refused(vms):
    machine = await vms.start(vms.plan())
    await machine.send_keys(["ctrl", "alt", "delete"])
    with pytest.raises(errors.Invalid, match="no key of such a name"):
        await machine.send_keys(["any"])


async def test_the_screen_is_a_png(vms, tmp_path):
    machine = await vms.start(vms.plan())
    await machine.screenshot(tmp_path / "screen.png")
    assert (tmp_path / "screen.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert not [path for path in (machine._paths.io).iterdir() if "screen" in path.name]


async def test_a_guest_without_an_agent_is_not_waited_for(vms):
    machine = await vms.start(vms.plan())
    async with asyncio.timeout(2):
        assert await machine.ask_agent_to_shut_down() is False
        assert await machine.guest_addresses() == {}
