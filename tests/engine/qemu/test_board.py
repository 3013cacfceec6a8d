"""What QEMU really built, beside what the spec says."""

import asyncio
from typing import Any

import pytest

from bocage.engine.qemu import link, machine
from bocage.model import vm as model
from bocage.planner import hardware
from tests.engine.qemu import specs
from tests.engine.qemu.vms import Vms

ENUMERATED = 30.0  # seconds until the firmware has numbered the buses behind the root ports


async def pci(at: link.Link) -> dict[str, tuple[str, int, int, int, int]]:
    """Each device by its id: what it is behind (a port's id, or nothing), slot, function, vendor, product."""
    found: dict[str, tuple[str, int, int, int, int]] = {}

    def walk(devices: list[dict[str, Any]], behind: str) -> None:
        for one in devices:
            name = one["qdev_id"] or f"{behind}/{one['slot']:x}.{one['function']}"
            found[name] = (behind, one["slot"], one["function"], one["id"]["vendor"], one["id"]["device"])
            walk(one.get("pci_bridge", {}).get("devices", []), name)

    for bus in await at.execute("query-pci"):
        walk(bus["devices"], "")
    return found


def expected(spec: model.VMSpec) -> dict[str, tuple[str, int, int]]:
    """What the spec says about where each device is."""
    devices: dict[str, str] = {f"board.{name}": address for name, address in spec.hardware.devices.items()}
    devices |= {disk.name: disk.address for disk in spec.disks if disk.address}
    devices |= {nic.name: nic.address for nic in spec.nics if not hardware.is_isa(spec.hardware)}
    devices |= {f"board.rp{index}": hardware.port_address(index) for index in range(spec.hardware.root_ports)}
    places: dict[str, tuple[str, int, int]] = {}
    for name, address in devices.items():
        bus, slot, function = hardware.split(address)
        places[name] = (f"board.{bus}" if bus.startswith("rp") else "", slot, function)
    return places


async def built(vm: machine.QemuMachine, spec: model.VMSpec) -> dict[str, tuple[str, int, int, int, int]]:
    """What there is once the firmware has looked at all of it."""
    wanted = set(expected(spec))
    async with asyncio.timeout(ENUMERATED):
        while not wanted <= set(found := await pci(vm.link)):
            await asyncio.sleep(0.05)
    return found


def named(path: str) -> str:
    """The id in the path of a device: `/machine/peripheral/disk0/virtio-backend`."""
    return path.removeprefix("/machine/peripheral/").split("/")[0]


async def get(vm: machine.QemuMachine, device: str, name: str) -> Any:
    return await vm.link.execute("qom-get", {"path": f"/machine/peripheral/{device}", "property": name})


@pytest.mark.parametrize("kind", specs.KINDS)
async def test_every_device_is_where_the_spec_says(kind: str, vms: Vms) -> None:
    plan = vms.plan(kind)
    found = await built(await vms.start(plan), plan.spec)
    assert {name: place[:3] for name, place in found.items() if name in expected(plan.spec)} == expected(plan.spec)


@pytest.mark.parametrize("kind", specs.KINDS)
async def test_cpus_memory_identity_disks_and_nics_are_what_was_given(kind: str, vms: Vms) -> None:
    plan = vms.plan(kind)
    spec = plan.spec
    vm = await vms.start(plan, paused=True)
    ask = vm.link.execute
    assert len(await ask("query-cpus-fast")) == spec.cpus.count
    threads = {tuple(cpu["props"].values()) for cpu in await ask("query-cpus-fast")}
    assert len(threads) == spec.cpus.count
    assert max(cpu["props"]["socket-id"] for cpu in await ask("query-cpus-fast")) == spec.cpus.sockets - 1
    assert (await ask("query-memory-size-summary"))["base-memory"] == spec.memory
    assert (await ask("query-uuid"))["UUID"] == spec.hardware.smbios.uuid
    drives = {named(block["qdev"]): block for block in await ask("query-block") if block.get("qdev")}
    for disk in spec.disks:
        assert await get(vm, disk.name, "serial") == disk.serial
        assert drives[disk.name]["inserted"]["node-name"] == f"{disk.name}.0"
        assert not drives[disk.name]["inserted"]["ro"]
    for nic in spec.nics:
        assert await get(vm, nic.name, "mac") == nic.mac
    for cd in spec.cds:
        assert bool(drives[cd.name].get("inserted")) is bool(cd.image)
        assert drives[cd.name]["removable"]


@pytest.mark.parametrize(
    ("kind", "device", "bus"),
    [
        ("sata", "disk1", "ide.1"),
        ("ide", "disk1", "ide.0"),
        ("scsi", "disk1", "board.scsi.0"),
        ("install", "cd1", "ide.1"),
    ],
)
async def test_a_device_without_an_address_is_on_its_bus(kind: str, device: str, bus: str, vms: Vms) -> None:
    vm = await vms.start(vms.plan(kind), paused=True)
    assert (await get(vm, device, "parent_bus")).rsplit("/", 1)[-1] == bus


async def test_a_base_image_is_open_for_reading_alone(vms: Vms) -> None:
    vm = await vms.start(vms.plan("linked"), paused=True)
    nodes = {node["node-name"]: node for node in await vm.link.execute("query-named-block-nodes")}
    assert {name: node["ro"] for name, node in nodes.items()} == {
        "disk0.0": False,
        "disk0.0.file": False,
        "disk0.1": True,
        "disk0.1.file": True,
    }
    assert nodes["disk0.0"]["image"]["backing-image"]["filename"].endswith("base,1.qcow2")


@pytest.mark.parametrize("kind", ["virtio", "i440fx", "old-nics", "install"])
async def test_the_board_is_the_same_after_a_restart(kind: str, vms: Vms) -> None:
    plan = vms.plan(kind)
    first = await vms.start(plan)
    before = await built(first, plan.spec)
    await first.quit()
    second = await vms.start(plan)
    assert await built(second, plan.spec) == before


async def test_a_device_more_moves_no_other(vms: Vms) -> None:
    plan = vms.plan("virtio")
    first = await vms.start(plan)
    before = await built(first, plan.spec)
    board = plan.spec.hardware
    address = hardware.next_address(board, hardware.used_addresses(plan.spec))
    more = specs.disk(board, 3).model_copy(update={"address": address})
    larger = vms.plan(of=plan.spec.model_copy(update={"disks": (*plan.spec.disks, more)}))
    second = await vms.start(larger)
    after = await built(second, larger.spec)
    assert {name: place for name, place in after.items() if name != more.name} == before


async def test_what_boots_once_is_behind_the_standing_order_from_the_next_reset_on(vms: Vms) -> None:
    vm = await vms.start(vms.plan("install"), paused=True)
    assert await get(vm, "cd0", "bootindex") == -1
    assert await get(vm, "disk0", "bootindex") == 10
