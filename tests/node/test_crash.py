"""A daemon that is killed between any two things that it does to the world: whoever comes next carries on."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import pathlib
import random
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from bocage import home
from bocage.engine import base
from bocage.engine.qemu import cgroup, processes, throttling
from bocage.model import firewall, ground, template, vm, work
from bocage.model.units import Size
from bocage.node import started
from bocage.node.place import directory, edits
from bocage.planner import layers
from bocage.store import resources
from tests.node import behind, crash
from tests.node.house import BLANK, House
from tests.node.test_wires import make_network, network_named

pytestmark = [pytest.mark.fault, pytest.mark.slow]

EVERY = bool(os.environ.get("BOCAGE_TEST_EVERY"))
"""Whether every point is tried; else a few, others in each run."""
FEW = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """What there is before a deed, and what must be after it, whatever happened in between."""

    before: Callable[[House], Awaitable[object]]
    after: Callable[[House], Awaitable[bool]]
    is_a_task: bool = True  # else it is a change of the definition
    may_fail: bool = False  # what was cut off cannot be done again; then all is as it was


async def defined(house: House) -> vm.VM:
    return await house.create("box", **BLANK)


async def running(house: House) -> vm.VM:
    return await house.create("box", start=True, **BLANK)


async def paused(house: House) -> None:
    await house.ask("vm.pause", await running(house))


async def saved(house: House) -> None:
    await house.ask("vm.save", await running(house))


async def saved_and_changed(house: House) -> None:
    await saved(house)
    found = await box(house)
    assert found is not None
    await house.resources.change(
        vm.VM, "default", found.uid, lambda one: resources.with_spec(one, memory=Size(48 << 20))
    )


async def as_it_was_saved(house: House) -> bool:
    found = await box(house)
    assert found is not None
    built = started.read(house.homes.vm_runtime(found.uid))
    return found.status.state is vm.State.RUNNING and built is not None and built.memory == 32 << 20


async def deleted(house: House) -> None:
    await house.ask("vm.delete", await defined(house))


async def with_another_storage(house: House) -> None:
    await defined(house)
    await house.storage("other")


async def running_beside_another_storage(house: House) -> None:
    made = await with_two_disks(house)
    await house.keep(made, "first")
    await house.storage("other")
    await house.ask("vm.start", made)


async def linked_to_an_image(house: House) -> None:
    path = house.homes.path / "small.raw"
    path.write_bytes(bytes(range(256)) * 4096)
    await house.add_image(path, "small")
    await house.create("box", image="small", memory="32M", disk="4M", nics=[])
    await house.storage("other")


async def with_two_disks(house: House) -> vm.VM:
    return await house.create("box", disks=[{"size": "1M"}], **BLANK)  # no guest is there to let go of one


async def kept_twice(house: House) -> vm.VM:
    """Two snapshots, and something of its own in each layer."""
    made = await with_two_disks(house)
    await fill(house, made, 1)
    await house.keep(made, "first")
    await fill(house, made, 2)
    await house.keep(made, "second")
    await fill(house, made, 3)
    return made


async def kept_twice_and_running(house: House) -> None:
    await house.ask("vm.start", await kept_twice(house))


async def kept_with_memory(house: House) -> None:
    made = await running(house)
    await house.keep(made, "first", memory=True)
    await house.keep(made, "second")


async def linked_and_running(house: House) -> None:
    await linked_to_an_image(house)
    found = await box(house)
    assert found is not None
    await house.ask("vm.start", found)


async def fill(house: House, made: vm.VM, word: int) -> None:
    """Write a word at the beginning of each disk, and at a place of its own."""
    for volume in await house.node.preparation.disks.of(await house.read(made)):
        path = await house.node.preparation.disks.path(volume)
        where = ("0", f"{word * 128}k")
        commands = [part for at in where for part in ("-c", f"write -P {word} {at} 64k")]
        await asyncio.to_thread(
            subprocess.run, ["qemu-io", "-f", "qcow2", *commands, str(path)], check=True, capture_output=True
        )


async def reads(house: House, top: dict[str, str] | None = None) -> set[tuple[int, ...]]:
    """What stands at the beginning and at the three places of each disk; of those layers, by volume, where given."""
    found = await box(house)
    assert found is not None
    held: set[tuple[int, ...]] = set()
    for volume in await house.node.preparation.disks.of(found):
        chain = await house.node.preparation.disks.layers(volume, "disk", top=(top or {}).get(volume.uid))
        raw = house.homes.path / "read.raw"
        command = ["qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", str(chain[0].path), str(raw)]
        await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
        content = await asyncio.to_thread(raw.read_bytes)
        held.add(tuple(content[at << 10] for at in (0, 128, 256, 384)))
        raw.unlink()
    return held


async def uploaded(house: House) -> None:
    archive = house.homes.path / "box.tar.zst"
    await house.export(await defined(house), archive)
    await house.upload(archive)


async def lying_elsewhere(house: House) -> None:
    await make_network(house, "lab", kind="user")
    made = await house.create("box", **{**BLANK, "nics": [{"network": "lab"}]})
    elsewhere = house.homes.path / "brought" / "box"
    shutil.copytree(house.place(made).path, elsewhere)
    await house.ask("vm.delete", made, purge=True)
    await house.ask("network.delete", await network_named(house, "lab"))


async def box(house: House, name: str = "box") -> vm.VM | None:
    found = [one for one in (await house.resources.list(vm.VM, trash=True)).items if one.name == name]
    return found[0] if found else None


def is_in(*states: vm.State, name: str = "box", power: vm.Power | None = None):
    async def reached(house: House) -> bool:
        found = await box(house, name)
        return (
            found is not None
            and found.status.ready
            and found.status.state in states
            and (power is None or found.spec.power is power)
        )

    return reached


async def in_the_trash(house: House) -> bool:
    found = await box(house)
    trash = house.homes.local_storage / "trash"
    return found is not None and (trash / found.uid / "vm.yaml").exists() and not house.place(found).path.exists()


async def gone(house: House) -> bool:
    parts = [house.homes.local_storage / part for part in ("vms", "trash")]
    return await box(house) is None and not any(list(part.iterdir()) for part in parts)


async def back(house: House) -> bool:
    found = await box(house)
    return found is not None and house.place(found).definition.exists() and found.metadata.deleted is None


async def copied(house: House) -> bool:
    return await is_in(vm.State.STOPPED, name="new")(house) and await back(house)


async def moved(house: House) -> bool:
    found, other = await box(house), (await house.facts()).storage["other"]
    assert found is not None
    there = directory.Directory(pathlib.Path(other.spec.path) / "vms" / found.uid)
    return found.spec.storage == other.uid and there.definition.exists() and not house.place(found).path.exists()


async def moved_and_runs(house: House) -> bool:
    """It is the same process, which goes on at the new place, or it was started anew from one of both."""
    found = await box(house)
    return found is not None and found.status.state is vm.State.RUNNING and await moved(house)


async def moved_with_its_image(house: House) -> bool:
    images = {one.spec.storage: one.spec.sha256 for one in (await house.resources.list(ground.Image)).items}
    [volume] = (await house.volumes()).values()
    return await moved(house) and volume.spec.linked and images.get(volume.spec.storage) == volume.spec.image


async def taken_in_with_its_network(house: House) -> bool:
    found = await box(house)
    assert found is not None
    network = await network_named(house, "lab")
    return found.spec.nics[0].network == network.uid and network.status.state == "ready"


async def two_disks(house: House) -> bool:
    found = await box(house)
    return found is not None and len(found.spec.disks) == 2


async def one_disk_and_a_volume(house: House) -> bool:
    found, volumes = await box(house), await house.volumes()
    assert found is not None
    free = [one for one in volumes.values() if one.spec.vm is None]
    if len(found.spec.disks) != 1 or len(free) != 1:
        return False
    own = list(house.place(found).disks.iterdir())
    by_itself = list((house.homes.local_storage / "volumes").rglob("*.qcow2"))
    return len(own) == 1 and len(by_itself) == 1


async def grown(house: House) -> bool:
    return all(volume.spec.size == 2 << 20 for volume in (await house.volumes()).values())


async def kept_now(house: House) -> bool:
    """The snapshot is there whole, or the VM is as it was without one."""
    found = await box(house)
    assert found is not None
    kept, chains = await house.kept(found), await layers_of(house)
    if "now" not in kept:
        return True
    return kept["now"].status.state == "ready" and len(kept["now"].status.disks) == len(chains)


async def went_back(house: House) -> bool:
    found = await box(house)
    assert found is not None
    kept = await house.kept(found)
    top = {disk.volume: disk.file for disk in kept["second"].status.disks}
    return await reads(house) == {(1, 1, 0, 0)} and await reads(house, top) == {(2, 1, 2, 0)}


async def went_back_to_memory(house: House) -> bool:
    found = await box(house)
    assert found is not None
    place, kept = house.place(found), await house.kept(found)
    return found.status.state is vm.State.SAVED and place.saved.exists() and set(kept) == {"first", "second"}


async def forgotten(house: House) -> bool:
    """The other snapshot and the present are what they were, and the layer is gone."""
    found = await box(house)
    assert found is not None
    kept = await house.kept(found)
    top = {disk.volume: disk.file for disk in kept["second"].status.disks}
    if list(kept) != ["second"] or any(len(chain) != 2 for chain in await layers_of(house)):
        return False
    return await reads(house) == {(3, 1, 2, 3)} and await reads(house, top) == {(2, 1, 2, 0)}


async def stands_alone(house: House) -> bool:
    """Its disk needs the image no more, and still has what was on it."""
    [volume] = (await house.volumes()).values()
    if volume.spec.linked or volume.spec.flattening or await layers_of(house) != [("disk0.qcow2",)]:
        return False
    return await reads(house) == {(0, 0, 0, 0)} and await first_bytes(house) == bytes(range(256))


async def first_bytes(house: House) -> bytes:
    [volume] = (await house.volumes()).values()
    [layer] = await house.node.preparation.disks.layers(volume, "disk0")
    raw = house.homes.path / "read.raw"
    command = ["qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", str(layer.path), str(raw)]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    content = await asyncio.to_thread(raw.read_bytes)
    raw.unlink()
    return content[:256]


async def layers_of(house: House) -> list[tuple[str, ...]]:
    found = await box(house)
    assert found is not None
    known = await house.node.preparation.disks.of(found)
    present = {path.name for path in house.place(found).disks.iterdir()}
    assert present == {name for one in known for name in layers.every(one.spec)}
    return [layers.chain(one.spec) for one in known]


UP, OFF, SAVED = vm.Power.RUNNING, vm.Power.STOPPED, vm.Power.SAVED


def cap_of(group: cgroup.Directories) -> float:
    """What the kernel has."""
    if "cpu" in group.legacy:
        return int((group.legacy["cpu"] / "cpu.cfs_quota_us").read_text()) / 100_000
    assert group.unified
    most, period = (group.unified / "cpu.max").read_text().split()
    return int(most) / int(period)


async def as_held(house: House) -> bool:
    found = await box(house)
    assert found is not None
    found = await house.adapted(found)
    actor = house.node.crew.of(found.uid)
    assert actor
    running: Any = actor.standing.machine  # past the engine's door
    if running is None or (place := cgroup.place()) is None:
        return False
    if found.spec.share == vm.VMSpec.model_fields["share"].default:  # it died before the change was written down
        return await throttling.filters(running.link, "disk0") == []
    group = place.group(house.homes.runtime.name, found.uid)
    cap, wanted = cap_of(group), found.spec.share.cpu.cap
    limits = await running.link.execute("qom-get", {"path": "/objects/limit-disk0", "property": "limits"})
    assert limits["iops-total"] == 300
    assert await throttling.filters(running.link, "disk0") == ["disk0.shared", "disk0.limit"]
    built = started.read(house.homes.vm_runtime(found.uid))
    return cap == wanted and built is not None and edits.pending(built, found) == []


CASES = {
    "hold": Case(running, as_held, is_a_task=False),
    "create": Case(defined, is_in(vm.State.RUNNING, name="new", power=UP)),
    "start": Case(defined, is_in(vm.State.RUNNING, power=UP)),
    "kill": Case(running, is_in(vm.State.STOPPED, power=OFF)),
    "pause": Case(running, is_in(vm.State.PAUSED)),
    "resume": Case(paused, is_in(vm.State.RUNNING, power=UP)),
    "save": Case(running, is_in(vm.State.SAVED, power=SAVED)),
    "restore": Case(saved_and_changed, as_it_was_saved),
    "discard": Case(saved, is_in(vm.State.STOPPED, power=OFF)),
    "reset": Case(running, is_in(vm.State.RUNNING, power=UP)),
    "delete": Case(defined, in_the_trash),
    "undelete": Case(deleted, back),
    "purge": Case(defined, gone),
    "clone": Case(defined, copied),
    "move": Case(with_another_storage, moved),
    "move-linked": Case(linked_to_an_image, moved_with_its_image),
    "move-running": Case(running_beside_another_storage, moved_and_runs),
    "attach": Case(defined, two_disks),
    "plug": Case(running, two_disks),
    "detach": Case(with_two_disks, one_disk_and_a_volume),
    "grow": Case(defined, grown),
    "grow-running": Case(running, grown),
    "import": Case(uploaded, copied),
    "adopt": Case(lying_elsewhere, taken_in_with_its_network),
    "keep": Case(with_two_disks, kept_now),
    "keep-running": Case(running, kept_now),
    "keep-memory": Case(running, kept_now, may_fail=True),
    "go-back": Case(kept_twice_and_running, went_back),
    "go-back-to-memory": Case(kept_with_memory, went_back_to_memory),
    "forget": Case(kept_twice, forgotten),
    "forget-running": Case(kept_twice_and_running, forgotten),
    "flatten": Case(linked_to_an_image, stands_alone),
    "flatten-running": Case(linked_and_running, stands_alone),
}


@pytest.mark.parametrize("deed", CASES)
async def test_killed_at_any_point_of_it_what_was_asked_is_done_in_the_end(
    deed: str, homes: home.Home, dice: random.Random
):
    await at_points(homes, deed, CASES[deed], dice)


async def at_points(homes: home.Home, deed: str, case: Case, dice: random.Random) -> None:
    """Once whole, then killed at every point, or at a few."""
    points = await lived(homes, deed, 0, case)
    assert points, "a deed without a point is none"
    for point in range(1, points + 1) if EVERY else sorted(dice.sample(range(1, points + 1), min(FEW, points))):
        await lived(homes, deed, point, case)


@behind.root_only
async def test_memory_that_is_written_behind_a_machine_is_whole_or_gone_and_the_machine_goes_on(
    homes: home.Home, dice: random.Random, monkeypatch: pytest.MonkeyPatch
):
    behind.allowed(monkeypatch)

    async def kept_and_goes_on(house: House) -> bool:
        found = await box(house)
        assert found is not None
        actor = house.node.crew.of(found.uid)
        machine = actor.standing.machine if actor else None
        return machine is not None and await machine.look() is base.Run.RUNNING and await kept_now(house)

    case = Case(running, kept_and_goes_on, may_fail=True)
    points = await lived(homes, "keep-memory", 0, case)
    assert points
    for point in range(1, points + 1) if EVERY else sorted(dice.sample(range(points // 2, points + 1), FEW)):
        await lived(homes, "keep-memory", point, case)


@pytest.mark.guest
@pytest.mark.parametrize("deed", ["stop", "reboot"])
async def test_a_guest_that_was_asked_to_go_down_does_so_once_whatever_becomes_of_the_daemon(
    deed: str, homes: home.Home, dice: random.Random, tiny_image: pathlib.Path
):
    async def booted(house: House) -> None:
        if not (await house.facts()).images:
            await house.add_image(tiny_image)
        made = await house.create("box", start=True, image="tiny", memory="128M", disk="64M", nics=[])
        await house.says(made, "^tiny: ready")

    async def rebooted_once(house: House) -> bool:
        found = await box(house)
        assert found is not None
        said = house.place(found).serial_log.read_bytes()
        assert said.count(b"tiny: ready") <= 2, "it was restarted twice"
        return found.status.state is vm.State.RUNNING and said.count(b"tiny: ready") == 2

    case = Case(booted, is_in(vm.State.STOPPED, power=OFF) if deed == "stop" else rebooted_once)
    points = await lived(homes, deed, 0, case)
    assert points
    for point in range(1, points + 1) if EVERY else sorted(dice.sample(range(1, points + 1), 2)):
        await lived(homes, deed, point, case)


@pytest.mark.guest
async def test_a_running_machine_is_changed_wholly_or_not_at_all(
    homes: home.Home, dice: random.Random, tiny_image: pathlib.Path
):
    async def booted(house: House) -> None:
        if not (await house.facts()).images:
            await house.add_image(tiny_image)
        await make_network(house, "cell", kind="isolated")
        roomy = {"memory": "128M", "max_memory": "512M", "max_cpus": 2}
        made = await house.create("box", start=True, image="tiny", disk="64M", nics=[{"network": "cell"}], **roomy)
        await house.says(made, "^tiny: ready")

    async def as_defined(house: House) -> bool:
        found = await box(house)
        assert found is not None
        found = await house.adapted(found)
        assert all(one.how == "done" for one in found.status.outcomes), found.status.outcomes
        [mac] = [nic.mac for nic in found.spec.nics]
        wanted = f"{found.spec.cpus.count} 1 {mac}"
        seen = "$(nproc) $(ls /sys/class/net | grep -c eth) $(cat /sys/class/net/eth*/address)"
        await house.says(
            found, "^it is so", send=f'until [ "{seen}" = "{wanted}" ]; do usleep 100000; done; echo it is so'
        )
        built = started.read(house.homes.vm_runtime(found.uid))
        return built is not None and (built.nics, built.memory) == (found.spec.nics, found.spec.memory)

    case = Case(booted, as_defined, is_a_task=False)
    points = await lived(homes, "adapt", 0, case)
    assert points
    for point in range(1, points + 1) if EVERY else sorted(dice.sample(range(1, points + 1), 2)):
        await lived(homes, "adapt", point, case)


@pytest.mark.guest
async def test_dynamic_memory_becomes_fixed_and_more_wholly_or_not_at_all(
    homes: home.Home, dice: random.Random, tiny_image: pathlib.Path
):
    async def booted(house: House) -> None:
        if not (await house.facts()).images:
            await house.add_image(tiny_image)
        memory = {"startup": "128M", "minimum": "80M", "maximum": "256M"}
        roomy = {"memory": memory, "max_memory": "512M", "board": {"added_memory": "dimm"}, "nics": []}
        made = await house.create("box", start=True, image="tiny", disk="64M", **roomy)
        await house.says(made, "^tiny: ready")

    async def as_defined(house: House) -> bool:
        found = await box(house)
        assert found is not None
        found = await house.adapted(found)
        assert all(one.how == "done" for one in found.status.outcomes), found.status.outcomes
        built = started.read_whole(house.homes.vm_runtime(found.uid))
        actor = house.node.crew.of(found.uid)
        assert built
        if actor is None or actor.standing.machine is None:
            return False  # it was not looked at yet
        line = await house.says(found, "^MemAvailable:", send="grep MemAvailable /proc/meminfo")
        return (
            (built.spec.memory, built.spec.dynamic_memory, built.first.dimms) == (384 << 20, None, (128 << 20,))
            and await actor.standing.machine.balloon.size() == 384 << 20
            and int(line.split()[1]) << 10 > 200 << 20
        )

    case = Case(booted, as_defined, is_a_task=False)
    points = await lived(homes, "fix", 0, case)
    assert points
    asked = range(2, points + 1)  # who dies at the first has asked for nothing
    for point in asked if EVERY else sorted(dice.sample(asked, 2)):
        await lived(homes, "fix", point, case)


async def lived(homes: home.Home, deed: str, point: int, case: Case) -> int | None:
    """Make what is before, do the deed and die at the point, and see that the next daemon carries on to the end."""
    print(f"{deed} killed at {point}")
    async with opened(homes) as house:
        await case.before(house)
        before = {task.uid for task in await tasks(house)}
    points = crash.die_at(homes.path, deed, point)
    async with opened(homes) as house:
        asked = [task for task in await ended(house) if task.uid not in before]
        for task in asked:  # none, when it died before it had taken what was asked
            assert case.may_fail or task.status.state is work.TaskState.DONE, task.status.problem
            await house.until(lambda: case.after(house), bool)
        if not case.is_a_task:
            await house.until(lambda: case.after(house), bool)
        await nothing_odd(house)
        await clear(house)
    return points


async def ended(house: House) -> list[work.Task]:
    """All tasks, once each has ended."""
    return await house.until(lambda: tasks(house), lambda found: all(task.status.state.ended for task in found))


async def tasks(house: House) -> list[work.Task]:
    return (await house.resources.list(work.Task)).items


async def nothing_odd(house: House) -> None:
    """No half file, no directory of nobody, one QEMU for each running VM and none else; `vm.yaml` says the truth."""
    await house.until(lambda: half_made(house), lambda left: left == [])
    machines = (await house.resources.list(vm.VM, trash=True)).items
    for storage in (await house.resources.list(ground.Storage)).items:
        for part in ("vms", "trash"):
            known = {
                one.uid
                for one in machines
                if one.spec.storage == storage.uid and (one.metadata.deleted is not None) == (part == "trash")
            }
            assert {path.name for path in (pathlib.Path(storage.spec.path) / part).iterdir()} <= known
    pids = sorted(one.status.pid for one in machines if one.status.pid)
    qemus = [one for one in processes.find(house.homes.runtime) if "qemu-system" in one.arguments[0]]
    assert sorted(one.identity.pid for one in qemus) == pids
    for machine in machines:
        if machine.metadata.deleted is None:
            await house.until(lambda machine=machine: tells_the_truth(house, machine), bool)  # type: ignore[misc]


async def half_made(house: House) -> list[pathlib.Path]:
    roots = [pathlib.Path(one.spec.path) for one in (await house.resources.list(ground.Storage)).items]
    return [path for root in roots for path in root.rglob("*.part") if "incoming" not in path.parts]


async def tells_the_truth(house: House, machine: vm.VM) -> bool:
    present = await house.read(machine)
    root = (await house.resources.get(ground.Storage, None, present.spec.storage)).spec.path
    held = directory.Directory(pathlib.Path(root) / "vms" / machine.uid).read()
    volumes = {one.uid: one.spec for one in (await house.volumes()).values()}
    return held.vm.spec == present.spec and all(volumes[one.uid] == one.spec for one in held.volumes)


async def clear(house: House) -> None:
    """Remove all of it, so that the next point begins as the last one did."""
    for machine in (await house.resources.list(vm.VM, trash=True)).items:
        await house.ask("vm.delete", machine, purge=True)
    for volume in (await house.volumes()).values():
        await house.ask("volume.delete", volume)
    for held in (await house.resources.list(template.Template)).items:
        await house.ask("template.delete", held)
    for image in (await house.resources.list(ground.Image)).items:
        await house.ask("image.delete", image)
    for network in (await house.resources.list(ground.Network)).items:
        if network.name != "default":
            await house.ask("network.delete", network)
    for group in (await house.resources.list(firewall.FirewallGroup)).items:
        await house.resources.delete(group)
    for storage in (await house.resources.list(ground.Storage)).items:
        if storage.name != "local":
            await house.ask("storage.delete", storage)
            shutil.rmtree(storage.spec.path)
    for task in await tasks(house):
        place = f"/bocage/1/task/default/{task.uid}/"
        await house.resources.store.apply(deletes=[place + "spec", place + "status"])
    for left in ("brought", "box.tar.zst", "storage/local/incoming/upload-1.part"):
        path = house.homes.path / left
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@contextlib.asynccontextmanager
async def opened(homes: home.Home):
    house = await House(homes).open()
    try:
        yield house
    finally:
        await house.close()
