"""NICs that come, go and are wired otherwise while the guest runs, seen from inside it and from the host."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bocage.model import vm
from bocage.model.device_requests import NicPatch, NicRequest
from bocage.planner import equipment
from bocage.store import resources
from tests.node.house import House
from tests.node.test_adapting import carried_out
from tests.node.test_saved import waiting
from tests.node.test_wires import (
    addressed,
    closed,
    free_port,
    greets,
    links,
    make_network,
    network_named,
    publish,
    reads,
    up,
)

pytestmark = pytest.mark.guest


async def attach(house: House, which: vm.VM, **request: object) -> dict[str, vm.Outcome]:
    facts = await house.facts()
    asked = NicRequest.model_validate(request)
    storage = facts.storage["local"]
    return await _change(house, which, lambda one: equipment.attach_nic(one, asked, facts, storage=storage))


async def alter(house: House, which: vm.VM, nic: str, **patch: object) -> dict[str, vm.Outcome]:
    facts = await house.facts()
    asked = NicPatch.model_validate(patch)
    return await _change(house, which, lambda one: equipment.change_nic(one, nic, asked, facts))


async def detach(house: House, which: vm.VM, nic: str) -> dict[str, vm.Outcome]:
    return await _change(house, which, lambda one: equipment.detach_nic(one, nic))


async def _change(house: House, which: vm.VM, how: Callable[[vm.VM], vm.VM]) -> dict[str, vm.Outcome]:
    await house.resources.change(vm.VM, "default", which.uid, lambda one: resources.bumped(one, how(one)))
    return await carried_out(house, which)


async def has(house: House, guest: vm.VM, card: str, subnet: str) -> None:
    """The guest's card has an address that begins so."""
    wait = f"until tiny address | grep -q '{card} {subnet}'; do usleep 100000; done; echo it is there"
    await house.says(guest, "^it is there", send=wait)


async def test_a_nic_comes_moves_to_another_network_loses_its_cable_and_goes(wired: House) -> None:
    await make_network(wired, "own", kind="user")
    await make_network(wired, "lan", kind="nat", subnet="10.98.0.0/24")
    await make_network(wired, "cell", kind="isolated", subnet="10.99.0.0/24")
    guest = await up(wired, "guest", "own")
    before, pid = links(), (await wired.read(guest)).status.pid
    became = await attach(wired, guest, network="lan")
    assert [(path, one.how) for path, one in became.items()] == [("nics[nic1]", "done")]
    await has(wired, guest, "eth1", "10.98.0.")
    assert len([name for name in links() - before if name.startswith("bt")]) == 1
    await alter(wired, guest, "nic1", network="cell")
    # A guest that watches its cables asks anew by itself; this one's DHCP client is told to.
    await wired.says(guest, "^asked$", send="killall -USR2 udhcpc; killall -USR1 udhcpc; echo asked")
    await has(wired, guest, "eth1", "10.99.0.")
    await alter(wired, guest, "nic1", connected=False)
    await wired.says(guest, "^0", send="cat /sys/class/net/eth1/carrier")
    await alter(wired, guest, "nic1", network="lan")
    await wired.says(guest, "^0", send="sleep 2; cat /sys/class/net/eth1/carrier")  # another network puts none in
    await alter(wired, guest, "nic1", connected=True)
    await wired.says(guest, "^1", send="until grep 1 /sys/class/net/eth1/carrier; do usleep 100000; done")
    await detach(wired, guest, "nic1")
    await wired.says(guest, "^eth0$", send="ls /sys/class/net | grep eth")
    assert not [name for name in links() if name.startswith("bt")]
    found = await wired.read(guest)
    assert waiting(wired, found) == []
    assert found.status.pid == pid is not None  # the machine that it was from the start
    await wired.ask("vm.kill", guest)


async def test_published_ports_change_and_a_card_goes_over_to_a_network_of_another_kind(wired: House) -> None:
    first, second = free_port(), free_port()
    await make_network(wired, "own", kind="user")
    await make_network(wired, "lan", kind="nat", subnet="10.98.0.0/24")
    guest = await up(wired, "guest", "own", publish=[publish(first)])
    await addressed(wired, guest)
    await greets(wired, guest, "hello")
    assert await reads(first) == "hello"
    pid = (await wired.read(guest)).status.pid
    await alter(wired, guest, "nic0", publish=[publish(second)])
    assert await reads(second) == "hello"
    await closed(first)
    became = await alter(wired, guest, "nic0", network="lan")
    assert became["nics[nic0]"].how == "done"
    await has(wired, guest, "eth0", "10.98.0.")
    assert await reads(second) == "hello"
    found = await wired.read(guest)
    assert found.status.pid == pid
    net = await network_named(wired, "lan")
    assert found.spec.nics[0].network == net.uid


async def test_a_card_that_cannot_come_while_it_runs_is_there_after_a_cold_start(wired: House) -> None:
    await make_network(wired, "own", kind="user")
    guest = await up(wired, "guest", "own")
    became = await attach(wired, guest, network="own", model="e1000")
    assert became["nics[nic1]"].how == "pending"
    assert waiting(wired, await wired.read(guest)) == ["nics[nic1]"]
    await wired.ask("vm.kill", guest)
    await wired.ask("vm.start", guest)
    await wired.says(guest, "^tiny: ready")
    await wired.says(guest, "^0x100e", send="cat /sys/bus/pci/devices/*/device | grep 0x100e")


async def test_a_cable_that_is_out_is_out_from_the_start(wired: House) -> None:
    await make_network(wired, "own", kind="user")
    made = await wired.create(
        "box", image="tiny", memory="128M", disk="64M", nics=[{"network": "own", "connected": False}], start=True
    )
    await wired.says(made, "^tiny: ready")
    await wired.says(made, "^0", send="ip link set eth0 up; cat /sys/class/net/eth0/carrier")


@pytest.mark.fault
async def test_a_network_that_cannot_be_had_leaves_the_card_where_it_was(wired: House) -> None:
    port = free_port()
    await make_network(wired, "own", kind="user")
    other = await up(wired, "other", "own", publish=[publish(port)])
    guest = await up(wired, "guest", "own")
    became = await alter(wired, guest, "nic0", publish=[publish(port)])
    assert became["nics[nic0]"].how == "pending"
    assert became["nics[nic0]"].saying.type == "port-published-already"
    await addressed(wired, guest)  # it is carried all the same
    await wired.ask("vm.kill", other)
