"""USB devices that come to a running VM and go: real QEMU, with a keyboard of its own for the host's device.

What the guest sees of a real device of the host needs a host that has one: tests/server.
"""

from __future__ import annotations

import asyncio
import pathlib
import random
from typing import Any

import httpx
import pytest

from bocage import home
from bocage.engine import usb as host_usb
from bocage.engine.qemu import devices
from bocage.model import device_requests, ground, vm
from bocage.node import http, started
from bocage.node.rounds import plugging
from bocage.planner import equipment
from bocage.store import resources
from tests.node import crash
from tests.node.house import BLANK, House
from tests.node.test_adapting import carried_out
from tests.node.test_crash import Case, at_points, box
from tests.node.test_saved import done

DONGLE = "0529:0001"


class Bus:
    """A host's USB ports, and what is plugged in."""

    def __init__(self, at: pathlib.Path, patch: pytest.MonkeyPatch) -> None:
        self._at, self._in, self._times = at, dict[str, ground.HostUsb](), 0
        patch.setattr(host_usb, "look", lambda: list(self._in.values()))
        patch.setattr(devices, "usb", crash.keyboard)
        patch.setattr(plugging, "EVERY", 0.1)

    def plug(self, port: str, id_: str = DONGLE, serial: str = "") -> str:
        self._times += 1
        node = self._at / f"{self._times:03}"
        node.touch()
        self._in[port] = ground.HostUsb(id=id_, serial=serial, port=port, node=str(node))
        return str(node)

    def pull(self, port: str) -> None:
        pathlib.Path(self._in.pop(port).node).unlink()


@pytest.fixture
def bus(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Bus:
    return Bus(tmp_path, monkeypatch)


async def attach(house: House, which: vm.VM, **request: str) -> None:
    asked = device_requests.UsbRequest.model_validate(request)
    await change(house, which, lambda one: equipment.attach_usb(one, asked))


async def change(house: House, which: vm.VM, how: Any) -> None:
    await house.resources.change(vm.VM, "default", which.uid, lambda one: resources.bumped(one, how(one)))


async def stands(house: House, which: vm.VM, *nodes: str) -> vm.VM:
    """Once its devices are these of the host; '' for one that waits."""
    return await house.until(lambda: house.read(which), lambda one: tuple(at.node for at in one.status.usb) == nodes)


async def in_qemu(house: House, which: vm.VM, *, handed: bool = True) -> list[str]:
    """What QEMU itself has plugged in; with `handed`, and the files for it.

    A keyboard opens none, so QEMU forgets the file when the daemon goes, and the next one plugs it in anew.
    """
    actor = house.node.crew.of(which.uid)
    assert actor
    await actor.looked.wait()
    running: Any = actor.standing.machine  # past the engine's door
    told = await running.link.execute("human-monitor-command", {"command-line": "info usb"})
    names = [line.rpartition("ID: ")[2].strip() for line in told.splitlines() if "ID: usb" in line]
    files = [one for one in await running.link.execute("query-fdsets") if "usb" in str(one["fds"])]
    return sorted(names) if len(files) == len(names) or not handed else ["half"]


async def who_has(house: House) -> dict[str, str]:
    """The names of VMs by the devices that they have, as the host tells."""
    async with http.serve(house.node.shop, house.node.crew, house.node.sampling, house.homes.node_socket):
        transport = httpx.AsyncHTTPTransport(uds=str(house.homes.node_socket))
        async with httpx.AsyncClient(transport=transport, base_url="http://node", timeout=60) as client:
            devices = (await client.get("/usb")).json()["devices"]
    return {one["node"]: one["vm"]["name"] for one in devices if one["vm"]}


async def test_a_device_comes_when_it_is_plugged_in_goes_when_it_is_pulled_and_is_found_again(house: House, bus: Bus):
    made = await house.create(start=True, **BLANK)
    await attach(house, made, id=DONGLE)
    became = (await carried_out(house, made))["usb[usb0]"]
    assert (became.how, became.saying.type) == ("partly", "usb-waits")
    await stands(house, made, "")
    assert await in_qemu(house, made) == []

    first = bus.plug("1-2")
    await stands(house, made, first)
    assert await in_qemu(house, made) == ["usb0"]
    bus.pull("1-2")
    assert (await stands(house, made, "")).status.usb[0].reason is not None
    assert await in_qemu(house, made) == []
    second = bus.plug("1-4")  # another port, another number
    await stands(house, made, second)
    assert await in_qemu(house, made) == ["usb0"]

    async def told() -> list[str]:
        return [one for one in await house.events() if one.startswith("vm-usb")]

    await house.until(told, lambda types: types == ["vm-usb-came", "vm-usb-went", "vm-usb-came"])

    await house.close()  # a daemon that is back knows what its machines have
    opened = await House(house.homes).open()
    try:
        other = await opened.create("other", start=True, usb=[{"id": DONGLE}], **BLANK)
        assert (await carried_out(opened, other))["usb[usb0]"].how == "partly"
        await opened.until(lambda: in_qemu(opened, made), lambda found: found == ["usb0"])
        third = bus.plug("1-1", serial="A1")
        await stands(opened, other, third)
        await stands(opened, made, second)
        assert await who_has(opened) == {second: "box", third: "other"}

        # Memory is saved without it: it may be elsewhere when that is read.
        done(await opened.ask("vm.save", made))
        assert (await opened.read(made)).status.usb == ()
        bus.pull("1-4")
        done(await opened.ask("vm.start", made))
        await stands(opened, made, "")
        assert await in_qemu(opened, made) == []
        done(await opened.ask("vm.kill", other))  # what it had is free
        await stands(opened, made, third)

        await change(opened, made, lambda one: equipment.detach_usb(one, DONGLE))
        became = (await carried_out(opened, made))["usb[usb0]"]
        assert (became.how, became.saying.type) == ("done", "usb-gone")
        await stands(opened, made)
        assert await in_qemu(opened, made) == []
    finally:
        await opened.close()


async def test_a_daemon_that_is_back_gives_nobody_what_it_does_not_know_to_be_free(
    house: House, bus: Bus, monkeypatch: pytest.MonkeyPatch
):
    made, other = [await house.create(name, start=True, **BLANK) for name in ("made", "other")]
    await attach(house, made, id=DONGLE)
    node = bus.plug("1-2")
    await stands(house, made, node)
    await house.close()
    with monkeypatch.context() as patch:
        patch.setattr(plugging.Rounds, "_each", _never)  # it has not looked yet what its machines have
        opened = await House(house.homes).open()
        try:
            await attach(opened, other, id=DONGLE)
            assert (await carried_out(opened, other))["usb[usb0]"].how == "partly"
            assert await in_qemu(opened, made, handed=False) == ["usb0"]
            assert await in_qemu(opened, other) == []
        finally:
            await opened.close()


async def _never(*_: object) -> None:
    await asyncio.Event().wait()


async def test_what_is_no_device_of_the_host_is_refused_by_qemu_and_that_is_said(
    house: House, bus: Bus, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.undo()
    node = bus.plug("1-2")
    monkeypatch.setattr(host_usb, "look", lambda: [ground.HostUsb(id=DONGLE, port="1-2", node=node)])
    made = await house.create(start=True, **BLANK)
    await attach(house, made, port="1-2")
    became = (await carried_out(house, made))["usb[usb0]"]
    assert (became.how, became.saying.type) == ("partly", "usb-refused"), "a file is no USB device"
    assert "failed to open host usb device" in became.saying.text
    assert await in_qemu(house, made) == []


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.parametrize("deed", ["usb-attach", "usb-detach"])
async def test_killed_at_any_point_of_it_a_device_is_the_guests_or_the_hosts(
    deed: str, homes: home.Home, dice: random.Random, bus: Bus, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(host_usb, "look", crash.plugged_in)

    async def running(house: House) -> None:
        made = await house.create("box", start=True, **BLANK)
        if deed == "usb-detach":
            await attach(house, made, id=DONGLE)
            await stands(house, made, crash.plugged_in()[0].node)

    async def as_defined(house: House) -> bool:
        found = await box(house)
        assert found is not None
        found = await house.adapted(found)
        built = started.read(house.homes.vm_runtime(found.uid))
        assert built is not None
        await stands(house, found, *[crash.plugged_in()[0].node for _ in found.spec.usb])
        return built.usb == found.spec.usb and await in_qemu(house, found) == [one.name for one in found.spec.usb]

    case = Case(running, as_defined, is_a_task=False)
    await at_points(homes, deed, case, dice)
