import os
import pathlib

import pytest

from bocage import words
from bocage.engine.qemu import ending, isolation, launch, processes, qmp
from tests.engine.qemu import running

OWN = isolation.Owner(running.USER, running.USER)
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a process another uid")


async def said(ground, process):
    await processes.wait_exit(process.pidfd, within=10)
    return await ending.ended_how(ground / "status", log=ground / "log")


async def test_this_machine_lets_us_make_namespaces():
    assert await isolation.mounts_refused() is None
    assert await isolation.network_refused() is None


async def test_without_the_machines_network_there_is_a_loopback_alone(start, ground):
    script = "ip -o link | cut -d: -f2; ip route | wc -l"
    how = await said(ground, await start("sh", "-c", script, mounts=True, network=False))
    assert [line.strip() for line in how.last_lines] == ["lo", "0"]


@root_only
async def test_it_runs_as_its_own_uid_without_any_capability(start, ground):
    process = await start("sleep", "60", owner=isolation.Owner(running.USER, running.USER, (654_321,)), mounts=True)
    status = await running.eventually(lambda: _status(process.identity.pid, running.USER))
    assert status["Groups"] == "654321"
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}


@root_only
async def test_it_sees_the_system_and_its_own_directory_and_nothing_else(start, ground):
    neighbour = ground / "neighbour"
    neighbour.mkdir()
    (neighbour / "disk").write_text("secret")
    (neighbour / "disk").chmod(0o666)
    script = f"""
        for path in {neighbour}/disk {ground}/log /root /home /proc /sys /run /etc/shadow /etc/passwd /var; do
            ls $path/* >/dev/null 2>&1 && echo "sees $path"
        done
        cat {neighbour}/disk; echo x >{neighbour}/disk; echo x >{ground}/new
        for path in / /usr /etc /dev /lib; do echo x >$path/new && echo "writes $path"; done
        [ -e /dev/kvm ] && echo "has kvm"
        echo x >own && cat own
    """
    how = await said(ground, await start("sh", "-c", script, owner=OWN, mounts=True))
    log = (ground / "log").read_text()
    assert "secret" not in log
    assert not [line for line in log.splitlines() if line.startswith(("sees", "writes", "has"))]
    assert how.exit_code == 0
    assert how.last_lines[-1] == "x"
    assert (neighbour / "disk").read_text() == "secret"
    assert (ground / "vm" / "own").stat().st_uid == running.USER


async def test_what_is_given_read_only_can_be_read_and_not_written(start, ground):
    image = ground / "images" / "base"
    image.parent.mkdir()
    image.write_text("image\n")
    view = isolation.View(read_only=[image], read_write=[ground / "vm"], devices=["/dev/zero"])
    script = f"cat {image}; for path in {image} /new /images/new; do echo x >>$path && echo wrote $path; done; true"
    how = await said(ground, await start("sh", "-c", script, mounts=True, view=view))
    assert how.last_lines[0] == "image"
    assert not [line for line in how.last_lines if line.startswith("wrote")]
    assert how.exit_code == 0
    assert image.read_text() == "image\n"


@root_only
async def test_without_a_mount_namespace_the_uid_alone_keeps_the_neighbours_files_shut(start, ground):
    neighbour = ground / "neighbour"
    neighbour.mkdir(mode=0o700)
    (neighbour / "disk").write_text("secret")
    how = await said(ground, await start("cat", str(neighbour / "disk"), owner=OWN))
    assert how.exit_code == 1
    assert "secret" not in (ground / "log").read_text()


async def test_two_machines_of_an_ordinary_user_cannot_reach_into_each_other(ground):
    """They share a uid: the other's files must not be reached through its process either."""
    os.chown(ground, running.USER, running.USER)
    (ground / "vm").mkdir()
    (ground / "other").mkdir()
    (ground / "other" / "disk").write_text("secret")
    for path in (ground / "vm", ground / "other", ground / "other" / "disk"):
        os.chown(path, running.USER, running.USER)
    script = f"cat {ground}/other/disk; cat /proc/*/root{ground}/other/disk; unshare -U true && echo gained; exit 1"
    order = running.order(ground, "sh", "-c", script, mounts=True)

    async def work():
        process = await launch.start(order)
        await processes.wait_exit(process.pidfd, within=10)
        return await ending.ended_how(ground / "status")

    assert running.result(running.in_child(work, user=running.USER)).exit_code == 1
    assert not {"secret", "gained"} & set((ground / "log").read_text().split())


@root_only
async def test_qemu_runs_behind_all_hedges(start, ground):
    argv = running.qemu(
        ground,
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        *("-vnc", f"unix:{ground}/vm/vnc", "-device", "virtio-gpu-pci", "-netdev", "user,id=n"),
        *("-device", "virtio-net-pci,netdev=n", "-device", "qemu-xhci"),
    )
    process = await start(*argv, owner=OWN, mounts=True)
    async with await qmp.connect(ground / "vm" / "qmp", within=20) as monitor:
        await monitor.execute("cont")
        assert (await monitor.execute("query-status"))["status"] == "running"
        descriptor = os.open(ground, os.O_RDONLY)
        assert await monitor.add_descriptor(descriptor) >= 0
        os.close(descriptor)
        status = _status(process.identity.pid, running.USER)
        assert (status["Seccomp"], status["NoNewPrivs"], status["CapEff"]) == ("2", "1", "0" * 16)
        await monitor.execute("quit")
    assert (await said(ground, process)).exit_code == 0


async def test_an_ordinary_users_qemu_runs_in_a_mount_namespace(ground):
    order = running.order(ground, *running.qemu(ground, "-sandbox", "on,spawn=deny"), mounts=True)
    for path in (ground, ground / "vm"):
        os.chown(path, running.USER, running.USER)

    async def work():
        refused = await isolation.mounts_refused()
        process = await launch.start(order)
        async with await qmp.connect(ground / "vm" / "qmp", within=20) as monitor:
            status = _status(process.identity.pid, running.USER)
            apart = os.readlink(f"/proc/{process.identity.pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt")
            await monitor.execute("quit")
        await processes.wait_exit(process.pidfd, within=10)
        return refused, status["Seccomp"], status["CapBnd"], apart, await ending.ended_how(ground / "status")

    refused, seccomp, capabilities, apart, how = running.result(running.in_child(work, user=running.USER))
    assert (refused, seccomp, capabilities, apart, how.exit_code) == (None, "2", "0" * 16, True, 0)


def test_what_applies_is_stated_and_what_does_not_has_its_reason():
    sandboxed = ["qemu", "-sandbox", "on,spawn=deny"]
    full = isolation.state(argv=sandboxed, owner=OWN, mounts=None, network=None, cgroup=True)
    assert full.level == "full"
    assert [part.name for part in full.parts] == ["sandbox", "uid", "mounts", "network", "cgroup"]

    refused = isolation.NoNamespace(said="Operation not permitted")
    partial = isolation.state(argv=sandboxed, owner=None, mounts=refused, network=refused, cgroup=False)
    assert partial.level == "partial"
    assert [part.applies for part in partial.parts] == [True, False, False, False, False]
    assert "Operation not permitted" in words.say(partial.parts[2].reason or words.Unknown(name="", said=""))

    none = isolation.state(argv=["qemu", "-sandbox", "off"], owner=None, mounts=refused, network=refused, cgroup=False)
    assert none.level == "none"
    assert all(part.reason and words.say(part.reason) for part in none.parts)


def test_nothing_ties_the_programs_life_to_its_keeper():
    argv = isolation.enclosed(["true"], view=isolation.View(), cwd="/", owner=OWN, mounts=True)
    assert "--die-with-parent" not in argv
    assert "--unshare-pid" not in argv


def _status(pid, uid):
    """The fields of a process's status once it has this uid and is past the gate."""
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    fields = {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}
    return fields if fields["Uid"].split()[0] == str(uid) else None
