"""A network onto a NIC of the host, with a real guest on it: the NIC is one end of a veth pair."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from bocage.model import ground, work
from bocage.network import kernel, uplink
from tests.network.machines import Machine, eventually, run
from tests.node.house import House
from tests.node.test_wires import SMALL, again, failed, make_network, network_named

pytestmark = pytest.mark.guest


@pytest.fixture
def router(wired: House, connect: Callable[..., Machine]) -> Machine:
    """What is behind the host's NIC `up0`."""
    made = connect("", address="192.0.2.1/24", port="up0")
    run("ip", "address", "add", "192.0.2.2/24", "dev", "up0")
    run("ip", "route", "add", "default", "via", "192.0.2.1", "dev", "up0")
    return made


def reached(address: str) -> bool:
    return " 0% packet loss" in run("busybox", "ping", "-c", "1", "-W", "2", address, expect=None)


async def test_a_guest_is_on_the_network_of_the_host_once_that_is_confirmed(wired: House, router: Machine) -> None:
    assert (await make_network(wired, "office", kind="bridge", nic="up0")).status.state is work.TaskState.DONE
    net = await network_named(wired, "office")
    assert net.status.state == "unconfirmed"
    assert net.status.confirm_by
    await eventually(lambda: reached("192.0.2.1"), within=30)
    assert (await wired.ask("network.confirm", net)).status.state is work.TaskState.DONE
    assert (await network_named(wired, "office")).status.state == "ready"
    guest = await wired.create("guest", start=True, nics=[{"network": "office", "ip": "192.0.2.9"}], **SMALL)
    await wired.says(guest, "^tiny: ready")
    configured = "killall udhcpc; ip addr add 192.0.2.9/24 dev eth0; until ping -c 1 -W 5 192.0.2.1; do :; done"
    await wired.says(guest, "^pinged", send=f"{configured}; echo pinged")
    assert router.pings("192.0.2.9")
    await eventually(lambda: reached("192.0.2.9"), within=30)
    # Not as the host's router, and not as the host.
    for taken in ("192.0.2.1", "192.0.2.2"):
        spoof = f"ip addr flush dev eth0; ip addr add {taken}/24 dev eth0; arping -c 2 -w 2 -I eth0 192.0.2.7"
        await wired.says(guest, "^tried", send=f"{spoof}; echo tried")
    await eventually(lambda: reached("192.0.2.1"), within=30)
    await wired.ask("vm.kill", guest)
    await wired.ask("vm.delete", guest, purge=True)
    assert (await wired.ask("network.delete", net)).status.state is work.TaskState.DONE
    assert not kernel.present(uplink.interface_of(net.uid))
    await eventually(lambda: reached("192.0.2.1"), within=30)


@pytest.mark.fault
async def test_the_host_is_on_its_nic_again_though_no_vm_is_when_that_comes_late_or_its_bridge_was_taken_away(
    wired: House, connect: Callable[..., Machine], router: Machine
) -> None:
    await make_network(wired, "office", kind="bridge", nic="up0")
    await wired.ask("network.confirm", net := await network_named(wired, "office"))
    found = await kernel.link("up0")
    assert found
    bridge = uplink.interface_of(net.uid)
    run("ip", "link", "delete", bridge)
    await eventually(lambda: reached("192.0.2.1"), within=60)
    await wired.close()
    run("ip", "link", "delete", bridge)
    run("ip", "link", "delete", "up0")
    async with again(wired) as later:
        assert (await network_named(later, "office")).status.state == "failed"
        connect("", address="192.0.2.1/24", port="late0")
        run("ip", "link", "set", "late0", "address", found.mac)
        await later.until(lambda: network_named(later, "office"), lambda one: one.status.state == "ready")
        await eventually(lambda: reached("192.0.2.1"), within=60)
        await later.ask("network.delete", net)


@pytest.mark.fault
async def test_what_was_not_confirmed_is_put_back_and_said_also_by_a_daemon_that_was_not_there(
    wired: House, router: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uplink, "CONFIRM_WITHIN", 1.0)
    await make_network(wired, "office", kind="bridge", nic="up0")
    net = await network_named(wired, "office")
    await wired.close()
    async with asyncio.timeout(30):
        while kernel.present(uplink.interface_of(net.uid)):
            await asyncio.sleep(0.05)
    async with again(wired) as later:
        shown = await later.until(lambda: network_named(later, "office"), lambda one: one.status.state == "failed")
        assert shown.status.reason
        assert shown.status.reason.type == "network-not-confirmed", shown.status.reason.text
        assert failed(await later.ask("network.confirm", shown)) == "network-not-confirmed"
        await eventually(lambda: reached("192.0.2.1"), within=30)
        await later.ask("network.delete", shown)
        listed = (await later.resources.list(ground.Network)).items
        assert [one.name for one in listed if one.spec.kind == "bridge"] == []
