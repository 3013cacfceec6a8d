"""A VM gets its share of the host and no more, from its start on, and while that is changed."""

from __future__ import annotations

import asyncio
import pathlib
import time
from typing import Any

import pytest

from bocage.engine.qemu import affinity, cgroup, throttling
from bocage.model import ground, share, vm
from bocage.model.units import MiB, Size
from bocage.network import kernel, rate, tap
from bocage.node import clock
from bocage.node.life import adapting
from bocage.store import resources
from tests.network.machines import run
from tests.node.house import BLANK, BOUND, House
from tests.node.test_adapting import carried_out
from tests.node.test_nics import alter
from tests.node.test_saved import change, done, waiting
from tests.node.test_wires import make_network

SMALL: dict[str, Any] = {"image": "tiny", "nics": [], "memory": "96M", "disk": "64M"}
PERIOD = 0.1  # seconds in which a capped group may use its part
grouped = pytest.mark.skipif(cgroup.place() is None, reason="no control groups here")


def group(house: House, which: vm.VM) -> cgroup.Directories:
    place = cgroup.place()
    assert place
    return place.group(house.homes.runtime.name, which.uid)


def bounds(house: House, which: vm.VM) -> tuple[int, float | None, int | None]:
    """Weight, cap and bound of memory, as the kernel has them."""
    found = group(house, which)
    if "cpu" in found.legacy:
        weight = int((found.legacy["cpu"] / "cpu.shares").read_text()) * 100 // 1024
        quota = int((found.legacy["cpu"] / "cpu.cfs_quota_us").read_text())
        memory = int((found.legacy["memory"] / "memory.limit_in_bytes").read_text())
        return weight, None if quota < 0 else quota / 100_000, None if memory > 1 << 60 else memory
    assert found.unified
    most, period = (found.unified / "cpu.max").read_text().split()
    bound = (found.unified / "memory.max").read_text().strip()
    return (
        int((found.unified / "cpu.weight").read_text()),
        None if most == "max" else int(most) / int(period),
        None if bound == "max" else int(bound),
    )


def cpus_of(pid: int) -> set[str]:
    """On which CPUs the threads of a process may run."""
    found = set()
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        found |= {line.split()[1] for line in lines if line.startswith("Cpus_allowed_list:")}
    return found


async def up(house: House, name: str = "box", **request: Any) -> vm.VM:
    made = await house.create(name, start=True, **{**SMALL, **request})
    await house.says(made, "^tiny: ready")
    return made


async def shared(house: House, which: vm.VM, **fields: Any) -> dict[str, vm.Outcome]:
    """Give it another share, and see what became of it."""
    present = (await house.read(which)).spec.share
    await change(house, which, share=share.Share.model_validate({**present.model_dump(), **fields}))
    return await carried_out(house, which)


@pytest.mark.guest
@pytest.mark.slow
@grouped
async def test_a_share_holds_from_the_start_changes_while_it_runs_and_is_there_after_a_daemon_was_away(
    tiny_house: House,
):
    node = 0 if affinity.of_node(0) else None
    cpu = {"weight": 300, "cap": 1.5, "pin": "0", "node": node}
    asked = {"cpu": cpu, "memory_overhead": "1G", "disks": {"iops": 1000}}
    made = await up(tiny_house, share=asked)
    gib = 1 << 30
    assert bounds(tiny_house, made) == (300, 1.5, gib + 96 * MiB)
    pid = (await tiny_house.read(made)).status.pid
    assert pid
    assert cpus_of(pid) == {"0"}
    assert (b'"policy":"preferred"' in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()) == (node is not None)
    assert (await tiny_house.read(made)).status.outcomes == ()
    assert waiting(tiny_house, await tiny_house.read(made)) == []

    became = await shared(tiny_house, made, cpu={"cap": 0.5}, memory_overhead=None, disks={"rate": "5M"})
    assert {path: one.how for path, one in became.items()} == {
        "share.cpu": "done",
        "share.memory_overhead": "done",
        "share.disks": "done",
    }
    assert bounds(tiny_house, made) == (100, 0.5, None)
    assert len(cpus_of(pid)) == 1
    assert cpus_of(pid) != {"0"}
    assert waiting(tiny_house, await tiny_house.read(made)) == []

    await tiny_house.close()
    group(tiny_house, made).cap(7.0)  # whatever became of it meanwhile
    opened = await House(tiny_house.homes).open()
    try:
        await opened.until(lambda: asyncio.to_thread(bounds, opened, made), lambda found: found == (100, 0.5, None))
        done(await opened.ask("vm.save", made))
        done(await opened.ask("vm.start", made))
        assert bounds(opened, made) == (100, 0.5, None)
        assert await limits_of(opened, made, "limit-all") == {"bps-total": 5 << 20, "iops-total": 0}
    finally:
        await opened.close()


async def limits_of(house: House, which: vm.VM, name: str) -> dict[str, int]:
    """What QEMU has for a throttle group."""
    running = machine(house, which)
    found = await running.link.execute("qom-get", {"path": f"/objects/{name}", "property": "limits"})
    return {key: found[key] for key in ("bps-total", "iops-total")}


def machine(house: House, which: vm.VM) -> Any:
    """Its process, past the engine's door."""
    actor = house.node.crew.of(which.uid)
    assert actor
    assert actor.standing.machine
    return actor.standing.machine


@pytest.mark.guest
async def test_limits_of_disks_come_and_go_under_snapshots_growth_and_hot_plugging(tiny_house: House):
    made = await up(tiny_house)
    running = machine(tiny_house, made)
    assert await throttling.filters(running.link, "disk0") == []
    became = await shared(tiny_house, made, disks={"iops": 5000})
    assert became["share.disks"].how == "done"
    await limit_disk(tiny_house, made, "disk0", iops=4000, burst_iops=8000, burst_seconds=3)
    assert await throttling.filters(running.link, "disk0") == ["disk0.shared", "disk0.limit"]
    found = await running.link.execute("qom-get", {"path": "/objects/limit-disk0", "property": "limits"})
    assert (found["iops-total"], found["iops-total-max"], found["iops-total-max-length"]) == (4000, 8000, 3)

    await tiny_house.says(made, "^tiny: log 3$", send="tiny log /dev/vda &")
    done(await tiny_house.keep(made, "one"))
    done(await tiny_house.keep(made, "two"))
    await tiny_house.says(made, "^tiny: log [0-9]*5$")
    done(await tiny_house.forget(made, "one"))
    assert await throttling.filters(running.link, "disk0") == ["disk0.shared", "disk0.limit"]
    await limit_disk(tiny_house, made, "disk0")  # while it writes
    assert await throttling.filters(running.link, "disk0") == ["disk0.shared"]
    done(await tiny_house.ask("vm.disk-grow", made, disk="disk0", size="128M"))
    await tiny_house.says(made, "^134217728", send="blockdev --getsize64 /dev/vda")
    done(await tiny_house.attach(made, size="16M", limits={"rate": "1M"}))
    assert await throttling.filters(running.link, "disk1") == ["disk1.shared", "disk1.limit"]
    done(await tiny_house.ask("vm.disk-detach", made, disk="disk1"))
    became = await shared(tiny_house, made, disks={})
    assert became["share.disks"].how == "done"
    assert await throttling.filters(running.link, "disk0") == []
    objects = await running.link.execute("qom-list", {"path": "/objects"})
    assert not [one for one in objects if one["name"].startswith("limit")]
    await tiny_house.says(made, "^tiny: log [0-9]*7$")
    await tiny_house.says(made, "^tiny: verified", send="kill $!; tiny verify /dev/vda")


async def limit_disk(house: House, which: vm.VM, name: str, **limits: Any) -> None:
    present = (await house.read(which)).spec.disks
    disks = tuple(
        one.model_copy(update={"limits": share.Io.model_validate(limits)}) if one.name == name else one
        for one in present
    )
    await change(house, which, disks=disks)
    assert (await carried_out(house, which))[f"disks[{name}]"].how == "done"


@pytest.mark.guest
@pytest.mark.slow
@grouped
async def test_busy_vms_share_a_cpu_by_their_weights_and_a_cap_holds(tiny_house: House):
    light = await up(tiny_house, "light", share={"cpu": {"weight": 100, "pin": "1"}})
    heavy = await up(tiny_house, "heavy", share={"cpu": {"weight": 300, "pin": "1"}})
    for one in (light, heavy):
        await tiny_house.says(one, "^burning", send="tiny burn 1 600 & echo burning")
    light_used, heavy_used, _ = await used(tiny_house, light, heavy, seconds=4.0)
    assert 2.7 < heavy_used / light_used < 3.3
    await shared(tiny_house, light, cpu={"weight": 300, "pin": "1"})
    light_used, heavy_used, _ = await used(tiny_house, light, heavy, seconds=4.0)
    assert 0.9 < heavy_used / light_used < 1.1
    await shared(tiny_house, light, cpu={"cap": 0.2})
    capped, _, passed = await used(tiny_house, light, heavy, seconds=1.5)
    assert capped < 0.22 * (passed + 2 * PERIOD)  # what the periods at both ends gave belongs to them as a whole
    assert throttled(tiny_house, light) > 0


def throttled(house: House, which: vm.VM) -> int:
    """How often its cap held it."""
    found = group(house, which)
    text = (found.legacy.get("cpu", found.unified) / "cpu.stat").read_text()  # type: ignore[operator]
    return int(text.split("nr_throttled ")[1].split()[0])


async def used(house: House, *which: vm.VM, seconds: float) -> tuple[float, ...]:
    """What each has used of CPU time until all together had so many seconds of it; and what has passed."""
    meters = [machine(house, one).meter for one in which]
    begun, before = time.monotonic(), [meter.process().cpu_seconds for meter in meters]
    due = clock.boottime() + BOUND
    while True:
        found = [meter.process().cpu_seconds - then for meter, then in zip(meters, before, strict=True)]
        if sum(found) >= seconds:
            return (*found, time.monotonic() - begun)
        assert clock.boottime() < due
        await asyncio.sleep(0.05)


@pytest.mark.guest
@pytest.mark.slow
async def test_a_limit_of_a_disk_holds_within_a_tenth(tiny_house: House):
    made = await up(tiny_house, disks=[{"size": "32M", "limits": {"iops": 60}}])
    reads = "while :; do dd if=/dev/vdb of=/dev/null bs=4k count=4096 iflag=direct status=none; done"
    several = f"for _ in 1 2 3 4; do ({reads}) & done"  # so that one always waits, however busy this machine is
    await tiny_house.says(made, "^reading", send=f"{several}; echo reading")
    assert await speed(tiny_house, made, "disk1", 300) == pytest.approx(60, rel=0.1)
    await limit_disk(tiny_house, made, "disk1", iops=120)
    assert await speed(tiny_house, made, "disk1", 500) == pytest.approx(120, rel=0.1)


async def speed(house: House, which: vm.VM, disk: str, count: int) -> float:
    """Reads a second, over so many of them, once what was saved up is used."""
    meter = machine(house, which).meter

    async def reads() -> int:
        return int((await meter.disks())[disk].reads)

    first = await reads()
    await house.until(reads, lambda now: now > first + 30)
    begun, before = time.monotonic(), await reads()
    due = clock.boottime() + BOUND
    while (now := await reads()) < before + count:
        assert clock.boottime() < due
        await asyncio.sleep(0.05)
    return (now - before) / (time.monotonic() - begun)


@pytest.mark.guest
@pytest.mark.slow
@grouped
async def test_a_qemu_that_wants_more_than_its_bound_is_ended_and_that_is_said(tiny_house: House):
    made = await up(tiny_house, restart={"policy": "never"}, memory="512M", share={"memory_overhead": "1G"})
    place = group(tiny_house, made)
    held = place.memory_bytes()
    assert held is not None
    await machine(tiny_house, made).holding.memory(held + 32 * MiB)  # as if QEMU itself leaked
    await tiny_house.says(made, "^touching", send="tiny touch 300M & echo touching")
    ended = await tiny_house.becomes(made, vm.State.CRASHED, vm.State.STOPPED)
    assert ended.status.last_end
    assert "its memory is bounded by" in str(ended.status.last_end.reason.params)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.fault
@grouped
async def test_a_daemon_that_ends_while_a_share_is_changed_has_it_changed_when_it_is_back(
    house: House, monkeypatch: pytest.MonkeyPatch, moment: str
):
    made = await house.create(start=True, **BLANK)
    await house.becomes(made, vm.State.RUNNING)
    begun = adapting._try
    cut_off = []

    async def never_told(*arguments: Any) -> Any:
        if moment == "after":
            await begun(*arguments)
        cut_off.append(arguments)
        raise RuntimeError("cut off here")  # what the daemon would write next is not written

    monkeypatch.setattr(adapting, "_try", never_told)
    await change(house, made, share=share.Share(cpu=share.Cpu(cap=0.3), disks=share.Io(rate=Size(1 << 20))))
    await house.until(house.events, lambda _: bool(cut_off))
    assert bounds(house, made)[1] == (0.3 if moment == "after" else None)
    await house.close()
    monkeypatch.undo()
    opened = await House(house.homes).open()
    try:
        await carried_out(opened, made)
        assert bounds(opened, made)[1] == 0.3
        assert await limits_of(opened, made, "limit-all") == {"bps-total": 1 << 20, "iops-total": 0}
        assert waiting(opened, await opened.read(made)) == []
    finally:
        await opened.close()


async def test_without_control_groups_what_needs_them_is_said_to_be_impossible_and_the_rest_is_done(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(house.node.ground.engine, "_place", None)
    made = await house.create(start=True, **BLANK, share={"cpu": {"cap": 0.5}})
    [told] = (await house.until(lambda: house.read(made), lambda one: bool(one.status.outcomes))).status.outcomes
    assert (told.path, told.how, told.saying.type) == ("share.cpu", "impossible", "share-without-group")
    became = await shared(house, made, cpu={"pin": "0"})
    assert became["share.cpu"].how == "done"
    became = await shared(house, made, cpu={"pin": "4000"})
    assert (became["share.cpu"].how, became["share.cpu"].saying.type) == ("impossible", "share-without-cpus")
    assert waiting(house, await house.read(made)) == []


@pytest.mark.guest
async def test_nics_on_bridges_are_held_to_their_rates_and_of_others_it_is_said_that_they_are_not(wired: House):
    await make_network(wired, "lan", kind="nat", subnet="10.98.0.0/24")
    await make_network(wired, "own", kind="user")
    nics = [{"network": "lan"}, {"network": "own"}, {"network": "lan", "rate": {"outward": "3M"}}]
    made = await wired.create(start=True, **{**BLANK, "nics": nics}, share={"nics": {"inward": "1M"}})
    [told] = (await wired.until(lambda: wired.read(made), lambda one: bool(one.status.outcomes))).status.outcomes
    assert (told.path, told.how, told.saying.params) == ("share.nics", "impossible", {"name": "box", "nic": "nic1"})
    first, third = (tap.name_for(made.uid, name) for name in ("nic0", "nic2"))
    assert "rate 8388Kbit" in run("tc", "qdisc", "show", "dev", first)  # 1 MiB is that many bits
    assert "rate 25165Kbit" in run("tc", "qdisc", "show", "dev", rate.beside(third))
    assert "tbf" not in run("tc", "qdisc", "show", "dev", third)

    await make_network(wired, "other", kind="isolated", subnet="10.99.0.0/24")
    became = await alter(wired, made, "nic0", network="other")
    assert became["nics[nic0]"].how == "done"
    assert "rate 8388Kbit" in run("tc", "qdisc", "show", "dev", first)
    became = await alter(wired, made, "nic2", rate=None)
    assert became["nics[nic2]"].how == "done"
    assert "rate 8388Kbit" in run("tc", "qdisc", "show", "dev", third)
    assert not kernel.present(rate.beside(third))
    assert waiting(wired, await wired.read(made)) == []
    done(await wired.ask("vm.kill", made))
    assert not kernel.present(first)


async def test_a_host_gives_no_more_than_it_has_and_refuses_with_numbers(house: House):
    host = await house.resources.get(ground.Host, None, house.node.ground.uid)
    has = host.status.memory_bytes
    await house.resources.change(
        ground.Host, None, host.uid, lambda one: resources.with_spec(one, memory_overcommit=100 * MiB / has + 0.1)
    )
    room = int(has * (100 * MiB / has + 0.1))
    big = {**BLANK, "memory": f"{(room >> 20) - 64}M", "share": {"cpu": {"reserve": host.status.cpus}}}
    first = await house.create("first", start=True, **big)
    second = await house.create("second", **{**BLANK, "memory": "128M"})
    refused = await house.ask("vm.start", second)
    assert refused.status.problem
    assert refused.status.problem.type == "host-without-room"
    assert "128M of memory are asked for" in str(refused.status.problem.params)
    third = await house.create("third", **BLANK, share={"cpu": {"reserve": 0.5}})
    refused = await house.ask("vm.start", third)
    assert refused.status.problem
    assert "0.5 CPUs are to be reserved and 0 are left" in str(refused.status.problem.params)
    assert (await house.node.preparation.admission.shown()).cpus_reserved == host.status.cpus

    await house.close()
    opened = await House(house.homes).open()  # which knows again what was given
    try:
        refused = await opened.ask("vm.start", third)
        assert refused.status.problem
        became = await shared(opened, first, cpu={"reserve": host.status.cpus - 0.5})
        assert became["share.cpu"].how == "done"
        done(await opened.ask("vm.start", third))
        became = await shared(opened, first, cpu={"reserve": host.status.cpus})
        assert (became["share.cpu"].how, became["share.cpu"].saying.type) == ("pending", "host-without-room")
        done(await opened.ask("vm.kill", first))
        done(await opened.ask("vm.start", second))
    finally:
        await opened.close()
