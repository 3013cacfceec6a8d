"""Snapshots of real VMs: what a guest wrote before is there again, what it wrote afterwards is not."""

from __future__ import annotations

import asyncio
import os
import pathlib
import subprocess
from typing import Any

import pytest

from bocage.engine.qemu import link
from bocage.model import ground, snapshot, vm, work
from bocage.node.place import directory
from bocage.planner import layers
from bocage.storage import qcow2
from bocage.store import resources
from tests.node.house import BLANK, House
from tests.node.test_wishes import problem

SMALL: dict[str, Any] = {"image": "tiny", "memory": "128M", "disk": "64M", "nics": []}
TWO: dict[str, Any] = {**SMALL, "disks": [{"size": "16M"}, {"size": "16M", "bus": "scsi", "format": "raw"}]}


def done(task: work.Task) -> work.Task:
    assert task.status.state is work.TaskState.DONE, task.status.problem
    return task


async def booted(house: House, **request: Any) -> vm.VM:
    made = await house.create(start=True, **{**SMALL, **request})
    await house.says(made, "^tiny: ready")
    return made


async def back(house: House, made: vm.VM, name: str) -> None:
    """It went back, and was booted from there."""
    done(await house.go_back(made, name, start=True))
    await house.becomes(made, vm.State.RUNNING)
    await house.says(made, "^tiny: ready")


async def writes(house: House, made: vm.VM, word: str, *disks: str, at: int = 0) -> None:
    """The guest puts a word on each of its disks and says when it is durable."""
    put = "; ".join(
        f"echo {word} | dd of=/dev/{disk} bs=512 seek={at} conv=notrunc,sync,fsync 2>/dev/null" for disk in disks
    )
    await house.says(made, f"^put-{word}", send=f"{put}; echo put-{word}")


async def reads(house: House, made: vm.VM, disk: str, *, at: int = 0) -> str:
    """What the guest finds there, up to the first line's end."""
    ask = f"echo =$(dd if=/dev/{disk} bs=512 skip={at} count=1 2>/dev/null | head -n 1 | tr -d '\\0')="
    return (await house.says(made, "^=.*=", send=ask)).strip("=\r")


async def counts(house: House, made: vm.VM) -> None:
    """The guest writes a number after the other to its second disk, each to its own sector, durably."""
    deed = "n=$((n+1)); echo $n | dd of=/dev/vdb seek=$n conv=notrunc,sync,fsync 2>/dev/null; echo $n >/tmp/n"
    job = f"(n=0; while :; do {deed}; done) & echo $! >/tmp/pid"
    await house.says(made, "^counts", send=f"mkdir -p /tmp; {job}; echo counts")
    await house.says(made, "^some-1", send="until [ $(cat /tmp/n) -gt 5 ]; do sleep 0.1; done; echo some-$((1))")


async def counted(house: House, made: vm.VM) -> None:
    """Every number that the guest knows to be durable is on its disk, and none that it does not know of."""
    found = "$(dd if=/dev/vdb skip=$i count=1 2>/dev/null | head -n 1 | tr -d '\\0')"
    stop = "sleep 1; kill $(cat /tmp/pid); wait; echo 3 >/proc/sys/vm/drop_caches"
    await house.says(made, "^stopped", send=f"{stop}; echo stopped")
    await house.says(made, "^later-=a*=", send=f"i=$(($(cat /tmp/n)+2)); echo later-={found}=")
    every = f"for i in $(seq 1 $(cat /tmp/n)); do [ {found} = $i ] || echo bad-$i; done; echo checked-$((1))"
    assert await house.says(made, "^(bad|checked)-", send=every) == "checked-1"


async def volumes_of(house: House, made: vm.VM) -> list[ground.Volume]:
    return await house.node.preparation.disks.of(await house.read(made))


async def files_of(house: House, made: vm.VM) -> set[str]:
    return {path.name for path in house.place(made).disks.iterdir()}


async def whole(house: House, made: vm.VM) -> None:
    """Every layer that is recorded is there, opens and is without fault; no other is there; `vm.yaml` says the same."""
    named: set[str] = set()
    for volume in await volumes_of(house, made):
        named |= set(layers.every(volume.spec))
        for name in layers.every(volume.spec):
            await house.node.preparation.disks.chain(volume, "disk", top=name)
            if name.endswith(".qcow2"):
                health = await qcow2.check(house.place(made).disks / name)
                assert health == qcow2.Health(leaks=False, corruptions=False), name
    assert await files_of(house, made) == named
    held = house.place(made).read()
    assert {one.uid: one.spec for one in held.volumes} == {one.uid: one.spec for one in await volumes_of(house, made)}
    assert [one.status for one in held.snapshots] == [one.status for one in (await house.kept(made)).values()]


async def qmp(house: House, made: vm.VM) -> link.Link:
    found = house.node.crew.of(made.uid)
    assert found is not None
    machine = found.standing.machine
    assert machine is not None
    answered: link.Link = machine.link  # type: ignore[attr-defined]
    return answered


@pytest.mark.guest
async def test_a_running_guest_finds_again_on_all_disks_what_it_had_written_before(tiny_house: House):
    made = await booted(tiny_house, **TWO)
    await writes(tiny_house, made, "heron", "vdb", "sda")
    done(await tiny_house.keep(made, "before"))
    one = (await tiny_house.kept(made))["before"]
    assert (one.status.state, one.status.consistency) == ("ready", snapshot.Consistency.CRASH)
    assert one.status.reason is not None
    assert one.status.reason.type == "guest-agent-absent"
    await writes(tiny_house, made, "egret", "vdb", "sda")
    assert await reads(tiny_house, made, "vdb") == await reads(tiny_house, made, "sda") == "egret"
    assert (await tiny_house.read(made)).status.snapshot == one.uid
    await back(tiny_house, made, "before")
    assert await reads(tiny_house, made, "vdb") == "heron"
    assert await reads(tiny_house, made, "sda") == "heron"
    done(await tiny_house.ask("vm.kill", made))
    await whole(tiny_house, made)
    assert "vm-went-back" in await tiny_house.events()


@pytest.mark.guest
async def test_memory_goes_on_at_the_very_moment_and_its_disks_with_it(tiny_house: House):
    made = await booted(tiny_house, **TWO)
    await counts(tiny_house, made)
    await tiny_house.says(made, "^noted", send="echo heron >/tmp/note; echo noted")
    done(await tiny_house.keep(made, "now", memory=True))
    one = (await tiny_house.kept(made))["now"]
    assert one.status.consistency is snapshot.Consistency.MEMORY
    assert await tiny_house.says(made, "^heron", send="cat /tmp/note"), "it goes on"
    await tiny_house.says(made, "^changed", send="echo egret >/tmp/note; echo changed")
    before = (await tiny_house.read(made)).spec.hardware.generation_id
    done(await tiny_house.go_back(made, "now"))
    back = await tiny_house.becomes(made, vm.State.SAVED)
    assert back.spec.hardware.generation_id not in (None, before)
    for _ in range(2):  # a snapshot is there to go back to more than once
        done(await tiny_house.ask("vm.start", made))
        assert await tiny_house.says(made, "^(heron|egret)", send="cat /tmp/note") == "heron"
        told = await (await qmp(tiny_house, made)).execute("query-vm-generation-id")
        assert told["guid"] == (await tiny_house.read(made)).spec.hardware.generation_id
        await counted(tiny_house, made)
        done(await tiny_house.go_back(made, "now"))
    said = house_log(tiny_house, made)
    assert said.count("tiny: ready") == 1, "it was never booted again"
    await whole(tiny_house, made)


def house_log(house: House, made: vm.VM) -> str:
    return house.place(made).serial_log.read_text(errors="replace")


@pytest.mark.guest
async def test_a_snapshot_is_deleted_while_the_guest_writes_and_nothing_it_wrote_is_lost(tiny_house: House):
    made = await booted(tiny_house, disks=[{"size": "64M"}])
    fill_ = "dd if=/dev/zero bs=1M count=8 | tr '\\0' a >/dev/vdb; sync; echo filled"
    await tiny_house.says(made, "^filled", send=fill_)
    for name in ("one", "two", "three"):
        await writes(tiny_house, made, name, "vdb", at=len(name) * 4096)
        done(await tiny_house.keep(made, name))
    await counts(tiny_house, made)
    for name in ("two", "one", "three"):
        done(await tiny_house.forget(made, name))
    assert await tiny_house.kept(made) == {}
    await counted(tiny_house, made)
    [_, volume] = await volumes_of(tiny_house, made)
    assert len(layers.every(volume.spec)) == 2, "its first file, and the one that the guest writes"
    done(await tiny_house.ask("vm.kill", made))
    await whole(tiny_house, made)
    done(await tiny_house.ask("vm.start", made))
    await tiny_house.says(made, "^tiny: ready")
    assert await reads(tiny_house, made, "vdb", at=5 * 4096) == "three"
    assert await reads(tiny_house, made, "vdb", at=1) == "1"


@pytest.mark.guest
async def test_one_can_go_back_and_forth_in_a_tree_and_copy_from_any_place_of_it(tiny_house: House):
    made = await booted(tiny_house, disks=[{"size": "16M"}])
    await writes(tiny_house, made, "root", "vdb")
    done(await tiny_house.keep(made, "root"))
    await writes(tiny_house, made, "left", "vdb")
    done(await tiny_house.keep(made, "left"))
    await back(tiny_house, made, "root")
    await writes(tiny_house, made, "right", "vdb")
    done(await tiny_house.keep(made, "right"))
    kept = await tiny_house.kept(made)
    assert kept["left"].status.parent == kept["right"].status.parent == kept["root"].uid
    assert (await tiny_house.read(made)).status.snapshot == kept["right"].uid
    done(await tiny_house.forget(made, "root"))  # while it runs: two rest on what it was
    assert (await tiny_house.kept(made))["left"].status.parent is None
    copy, task = await tiny_house.clone_moment(made, "left", "copy")
    done(task)
    await back(tiny_house, made, "left")
    assert await reads(tiny_house, made, "vdb") == "left"
    done(await tiny_house.ask("vm.kill", made))
    done(await tiny_house.forget(made, "right"))
    done(await tiny_house.forget(made, "left"))
    assert await files_of(tiny_house, made) == {"disk0.qcow2", "disk1.qcow2"}
    await whole(tiny_house, made)
    done(await tiny_house.ask("vm.start", copy))
    await tiny_house.says(copy, "^tiny: ready")
    assert await reads(tiny_house, copy, "vdb") == "left"
    assert copy.spec.hardware.generation_id != made.spec.hardware.generation_id
    done(await tiny_house.ask("vm.kill", copy))
    _, task = await tiny_house.clone(copy, "second")  # of what it is now, not of what it was made of
    done(task)


async def test_of_a_vm_that_is_off_the_board_comes_back_too(house: House):
    made = await house.create(memory="32M", disk="1M", nics=[])
    done(await house.keep(made, "small"))
    assert (await house.kept(made))["small"].status.consistency is snapshot.Consistency.STOPPED
    await change(house, made, memory="48M", cpus=2)
    done(await house.attach(made, size="1M"))
    refused = await house.ask("vm.disk-detach", made, disk="disk0", volume=made.spec.disks[0].volume)
    assert problem(refused) == "disk-in-snapshot"
    done(await house.go_back(made, "small"))
    back = await house.read(made)
    assert (back.spec.memory, back.spec.cpus.count) == (32 << 20, 1)
    assert [disk.name for disk in back.spec.disks] == ["disk0", "disk1"], "what came since stays"
    done(await house.forget(made, "small"))
    await whole(house, made)
    done(await house.ask("vm.disk-detach", made, disk="disk0", volume=made.spec.disks[0].volume))


async def change(house: House, which: vm.VM, **fields: Any) -> None:
    await house.resources.change(vm.VM, "default", which.uid, lambda one: resources.with_spec(one, **fields))


async def test_what_cannot_be_is_refused_and_leaves_nothing(house: House):
    bare = await house.create("bare", memory="32M", disk="1M", nics=[])
    assert problem(await house.keep(bare, "memory", memory=True)) == "snapshot-no-memory"
    done(await house.ask("vm.start", bare))
    done(await house.ask("vm.pause", bare))
    assert problem(await house.keep(bare, "memory", memory=True)) == "snapshot-of-paused-memory"
    assert await house.kept(bare) == {}
    assert await files_of(house, bare) == {"disk0.qcow2"}
    done(await house.ask("vm.kill", bare))
    await whole(house, bare)


async def test_a_chain_is_never_deeper_than_it_may_be(house: House, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(layers, "MOST_DEEP", 3)
    made = await house.create(start=True, **BLANK)

    async def deep() -> int:
        [volume] = await volumes_of(house, made)
        return len(layers.chain(volume.spec)) - 1

    for name in ("one", "two", "three"):
        done(await house.keep(made, name))
    assert problem(await house.keep(made, "four")) == "snapshot-too-deep"
    assert (list(await house.kept(made)), await deep()) == (["one", "two", "three"], 3)
    done(await house.forget(made, "three"))  # of a VM that runs, which takes a file more for as long as it takes
    assert await deep() == 3
    done(await house.forget(made, "one"))
    assert await deep() == 2
    done(await house.keep(made, "four"))
    assert problem(await house.keep(made, "five")) == "snapshot-too-deep"
    done(await house.ask("vm.kill", made))
    assert await deep() == 3
    await whole(house, made)


async def test_saved_memory_is_part_of_a_snapshot_when_that_is_asked_for(house: House):
    made = await house.create(start=True, memory="32M", disk="1M", nics=[])
    done(await house.ask("vm.save", made))
    done(await house.keep(made, "with", memory=True))
    done(await house.keep(made, "without"))
    kept = await house.kept(made)
    assert kept["with"].status.consistency is snapshot.Consistency.MEMORY
    assert kept["without"].status.reason is not None
    assert kept["without"].status.reason.type == "snapshot-memory-left-out"
    done(await house.go_back(made, "without"))
    assert not house.place(made).saved.exists()
    done(await house.go_back(made, "with", start=True))
    await house.becomes(made, vm.State.RUNNING)
    assert "vm-restored" in await house.events()


async def test_snapshots_move_with_the_vm_and_are_adopted_with_it(house: House, tmp_path: pathlib.Path):
    made = await house.create(memory="32M", disk="1M", nics=[])
    for name in ("one", "two"):
        await fill(house, made, name)
        done(await house.keep(made, name))
    await fill(house, made, "now")
    second = await house.storage("second")
    done(await house.ask("vm.move", made, storage=second.uid))
    there = directory.Directory(pathlib.Path(second.spec.path) / "vms" / made.uid)
    assert len(list(there.disks.iterdir())) == 3
    local = await house.resources.find(ground.Storage, None, "local")
    done(await house.ask("vm.move", await house.read(made), storage=local.uid))
    generation = (await house.read(made)).spec.hardware.generation_id
    await forget_all(house, made)
    done(await house.adopt_local())
    assert (await house.read(made)).spec.hardware.generation_id == generation, "it is the same machine"
    assert list(await house.kept(made)) == ["one", "two"]
    assert (await house.read(made)).status.snapshot == (await house.kept(made))["two"].uid
    assert await holds(house, made) == "now"
    done(await house.go_back(made, "one"))
    assert await holds(house, made) == "one"
    await whole(house, made)
    archive = tmp_path / "box.tar.zst"
    await house.export(made, archive)
    done(await house.bring(archive, name="copy", new_identity=True))
    copy = next(one for one in (await house.resources.list(vm.VM)).items if one.name == "copy")
    assert await files_of(house, copy) == {"disk0.qcow2"}, "an archive holds the VM as it is now"
    assert await holds(house, copy) == "one"
    assert copy.spec.hardware.generation_id not in (None, (await house.read(made)).spec.hardware.generation_id)


async def fill(house: House, made: vm.VM, word: str) -> None:
    [volume] = await volumes_of(house, made)
    path = await house.node.preparation.disks.path(volume)
    pattern = f"write -P {sum(word.encode()) % 251} 0 64k"
    await asyncio.to_thread(
        subprocess.run, ["qemu-io", "-f", "qcow2", "-c", pattern, str(path)], check=True, capture_output=True
    )


async def holds(house: House, made: vm.VM) -> str:
    """Which of the words was written last."""
    [volume] = await volumes_of(house, made)
    chain = await house.node.preparation.disks.layers(volume, "disk0")
    for word in ("one", "two", "now"):
        pattern = f"read -P {sum(word.encode()) % 251} 0 64k"
        ran = await asyncio.to_thread(
            subprocess.run, ["qemu-io", "-r", "-f", "qcow2", "-c", pattern, str(chain[0].path)], capture_output=True
        )
        if b"verification failed" not in ran.stdout and ran.returncode == 0:
            return word
    return ""


async def forget_all(house: House, made: vm.VM) -> None:
    """Lose what the store knows of a VM; its directory stays."""
    machine, transaction = await house.read(made), resources.Transaction()
    for one in (await house.kept(made)).values():
        transaction.delete(one)
    for volume in await volumes_of(house, made):
        transaction.delete(volume)
    transaction.delete(machine)
    await house.resources.commit(transaction)


AGENT = r"""
exec 3<>$(ls /dev/vport*p1 | head -n 1)
echo >/tmp/open
while :; do while read -r line <&3; do case "$line" in
*sync*) id=${line##*: }; printf '\377{"return": %s}\n' "${id%%\}*}" >&3;;
*fsfreeze-freeze*) echo freeze >>/tmp/asked; ANSWER;;
*fsfreeze-thaw*) echo thaw >>/tmp/asked; printf '{"return": 1}\n' >&3;;
*set-time*) t=${line##*: }; t=${t%%\}*}; date -s @${t%?????????} >/dev/null; printf '{"return": {}}\n' >&3;;
*) printf '{"return": {}}\n' >&3;;
esac; done; sleep 0.1; done
"""
"""What a guest's agent does, as far as snapshots ask it, in a shell."""


async def with_agent(house: House, made: vm.VM, answer: str) -> None:
    script = AGENT.replace("ANSWER", answer).strip().replace("'", "'\\''")
    for line in script.splitlines():
        await house.says(made, "^taken", send=f"mkdir -p /tmp; echo '{line}' >>/tmp/agent; echo taken")
    await house.says(made, "^agent", send="sh /tmp/agent & until [ -e /tmp/open ]; do sleep 0.1; done; echo agent")


@pytest.mark.guest
async def test_a_guest_whose_agent_answers_writes_out_what_it_holds_first_and_is_let_go_afterwards(tiny_house: House):
    made = await booted(tiny_house)
    await with_agent(tiny_house, made, r"""printf '{"return": 2}\n' >&3""")
    done(await tiny_house.keep(made, "asked"))
    one = (await tiny_house.kept(made))["asked"]
    assert (one.status.consistency, one.status.reason) == (snapshot.Consistency.FILESYSTEM, None)
    assert await tiny_house.says(made, "^said-", send="echo said-$(cat /tmp/asked)") == "said-freeze thaw"


@pytest.mark.guest
@pytest.mark.parametrize("answer", ["true", "cat /dev/zero >&3"], ids=["silent", "flooding"])
async def test_one_whose_agent_does_not_is_kept_as_after_a_crash_and_that_is_said(tiny_house: House, answer: str):
    made = await booted(tiny_house)
    await with_agent(tiny_house, made, answer)
    done(await tiny_house.keep(made, "unasked"))
    one = (await tiny_house.kept(made))["unasked"]
    assert one.status.consistency is snapshot.Consistency.CRASH
    assert one.status.reason is not None
    assert one.status.reason.type == "guest-agent-absent"
    assert "freeze" in await tiny_house.says(made, "^said-", send="echo said-$(cat /tmp/asked)")


MANY = 200 if os.environ.get("BOCAGE_TEST_EVERY") else 40


@pytest.mark.slow
async def test_many_snapshots_of_a_running_vm_are_there_and_can_go_and_be_gone_back_to(house: House):
    made = await house.create(start=True, **BLANK)
    names = [f"s{number}" for number in range(MANY)]
    for name in names:
        done(await house.keep(made, name))
    kept = await house.kept(made)
    before = [None, *(kept[name].uid for name in names)]
    assert [kept[name].status.parent for name in names] == before[:-1]
    [volume] = await volumes_of(house, made)
    assert len(layers.chain(volume.spec)) == MANY + 1
    done(await house.forget(made, "s20"))
    done(await house.forget(made, names[-1]))
    held = house.place(made).read()
    assert [one.name for one in held.snapshots] == [name for name in names[:-1] if name != "s20"]
    done(await house.ask("vm.kill", made))
    done(await house.ask("vm.start", made))  # with all of them open
    done(await house.go_back(made, "s3", start=True))
    await house.becomes(made, vm.State.RUNNING)
    [volume] = await volumes_of(house, made)
    assert len(layers.chain(volume.spec)) == 5
    assert len(await house.kept(made)) == MANY - 2
