"""What is measured of real guests is what they do."""

from __future__ import annotations

import os
import pathlib
import time
from collections.abc import AsyncIterator

import httpx
import pytest

from bocage.model import sample, vm
from bocage.node import history as histories
from bocage.node import host_use, http
from bocage.node.rounds import sampling
from bocage.planner import rollup
from tests.node.house import BLANK, House

pytestmark = pytest.mark.guest


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_ASKED_EVERY", 1.0)


@pytest.fixture
async def interface(tiny_house: House) -> AsyncIterator[httpx.AsyncClient]:
    node, path = tiny_house.node, tiny_house.homes.node_socket
    async with http.serve(node.shop, node.crew, node.sampling, path):
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        async with httpx.AsyncClient(transport=transport, base_url="http://node", timeout=60) as client:
            yield client


async def measured(house: House, machine: vm.VM, least: float, *metrics: str) -> sample.Use:
    """The use of a VM once some metrics together have reached so much."""
    return await house.until(lambda: use_of(house, machine), lambda one: together(one, *metrics) >= least)


def together(use: sample.Use, *metrics: str) -> float:
    return sum(use.now.get(metric) or 0.0 for metric in metrics)


async def use_of(house: House, machine: vm.VM) -> sample.Use:
    return house.node.sampling.now().vms.get(machine.uid, sample.Use())


async def test_a_guest_that_computes_and_writes_is_seen_to_do_so(tiny_house: House, interface: httpx.AsyncClient):
    others = [{"size": "1M", "bus": "scsi"}, {"size": "1M", "bus": "sata"}]
    busy = await tiny_house.create("busy", image="tiny", memory="128M", disk="64M", disks=others, nics=[], start=True)
    idle = await tiny_house.create("idle", image="tiny", memory="96M", nics=[], start=True)
    for machine in (busy, idle):
        await tiny_house.says(machine, "^tiny: ready")
    await tiny_house.says(busy, "^started", send="(while :; do :; done) & echo started")
    # What it does not get on a machine that others load, too, it has to wait for.
    computing = await measured(tiny_house, busy, 0.5, "cpu", "wait")
    await tiny_house.until(lambda: use_of(tiny_house, idle), lambda one: together(one, "cpu", "wait") < 0.4)
    assert computing.wait_seconds is not None
    assert 20 << 20 < computing.memory < 1 << 30

    told = await tiny_house.until(lambda: memory_of(tiny_house, busy), lambda one: one is not None)
    assert told
    assert 64 << 20 < told.total <= 128 << 20
    assert 0 < told.available < told.total

    assert set(tiny_house.node.sampling.now().vms[busy.uid].disks) == {"disk0", "disk1", "disk2"}
    before = tiny_house.node.sampling.now().vms[busy.uid].disks["disk0"]
    written = "dd if=/dev/zero of=/dev/vda bs=64k count=160 seek=320 conv=fsync 2>/dev/null && echo written"
    await tiny_house.says(busy, "^written", send=written)
    after = await tiny_house.until(
        lambda: disk_of(tiny_house, busy), lambda one: one.written_bytes - before.written_bytes >= 160 << 16
    )
    assert after.written_bytes - before.written_bytes < 2 * (160 << 16)
    assert after.writes > before.writes
    assert after.write_seconds > before.write_seconds

    answer = sample.Uses.model_validate((await interface.get("/use")).json())
    assert set(answer.vms) == {busy.uid, idle.uid}
    assert answer.host.cpus == len(os.sched_getaffinity(0))
    assert answer.host.memory_used < answer.host.memory_total

    async def history() -> sample.History:
        asked = await interface.get(f"/history/{busy.uid}", params={"span": 600, "most": 120})
        return sample.History.model_validate(asked.json())

    shown = await tiny_house.until(history, lambda one: any(one.courses["disk_written_bytes"].average))
    assert shown.step == 5
    assert max(value or 0.0 for value in shown.courses["cpu"].peak) >= (computing.now["cpu"] or 0.0) * 0.99


async def memory_of(house: House, machine: vm.VM) -> sample.GuestMemory | None:
    return house.node.sampling.now().vms[machine.uid].guest_memory


async def disk_of(house: House, machine: vm.VM) -> sample.DiskUse:
    return house.node.sampling.now().vms[machine.uid].disks["disk0"]


async def test_what_was_measured_outlives_the_daemon_and_goes_with_the_vm(house: House):
    made = await house.create(**BLANK, start=True)
    await measured(house, made, 1.0, "memory")
    await house.close()
    kept = histories.History(house.homes.samples)
    try:
        found = await kept.read(made.uid, since=time.time() - 3600)
        assert found[rollup.SECONDS]
    finally:
        await kept.close()
    await house.open()
    await measured(house, made, 1.0, "memory")
    shown = await house.node.sampling.history(made.uid, span=600, most=120)
    assert sum(value is not None for value in shown.courses["memory"].average) >= 2
    await house.ask("vm.kill", made)
    await house.becomes(made, vm.State.STOPPED)
    assert made.uid not in house.node.sampling.now().vms
    shown = await house.node.sampling.history(made.uid, span=600, most=120)
    assert any(shown.courses["memory"].average)  # what it used is known all the same


async def test_a_vm_that_hangs_holds_up_no_other_ones_figures(house: House):
    hung = await house.create("hung", **BLANK, start=True)
    well = await house.create("well", **BLANK, start=True)
    pid = (await house.read(hung)).status.pid
    assert pid
    os.kill(pid, 19)
    try:
        before = house.node.sampling.now().vms.get(well.uid, sample.Use())
        await house.until(
            lambda: use_of(house, well), lambda one: one.now.get("cpu") is not None and one.disks != before.disks
        )
        assert (await measured(house, hung, 1.0, "memory")).memory > 0  # /proc tells all the same
    finally:
        os.kill(pid, 18)


async def test_a_tap_is_counted_from_the_guests_side(wired: House):
    made = await wired.create("box", image="tiny", memory="128M", start=True)
    await wired.says(made, "^tiny: ready")
    before = await wired.until(lambda: use_of(wired, made), lambda one: "nic0" in one.nics)
    gateway = "$(ip route | sed -n 's/^default via \\([0-9.]*\\).*/\\1/p')"
    sent = f"until ping -c 5 -s 1000 {gateway} >/dev/null; do usleep 100000; done; echo sent"  # once it has a route
    await wired.says(made, "^sent", send=sent)
    after = await wired.until(
        lambda: use_of(wired, made),
        lambda one: one.nics["nic0"].sent_bytes - before.nics["nic0"].sent_bytes > 5000,
    )
    assert after.nics["nic0"].received_bytes > before.nics["nic0"].received_bytes


def test_the_hosts_own_figures_can_be_read():
    found = host_use.read()
    assert found.busy > 0
    assert 0 < found.memory_used < found.memory_total
    for pressure in host_use.pressure().values():
        assert 0 <= pressure.full_10 <= pressure.some_10 <= 1
    assert set(host_use.pressure()) == {one.name for one in pathlib.Path("/proc/pressure").glob("*")} - {"irq"}
    ksm = host_use.ksm()
    assert (ksm is not None) == pathlib.Path("/sys/kernel/mm/ksm").is_dir()


async def test_many_vms_are_read_less_often(house: House):
    made = house.node.sampling
    assert 0 < made._pause() <= sampling.STEP
    made._meters = dict.fromkeys(map(str, range(200)))  # type: ignore[assignment]
    try:
        assert made._pause() <= 2 * sampling.STEP
    finally:
        made._meters = {}
