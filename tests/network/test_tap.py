from __future__ import annotations

import os
import subprocess

import pytest

from bocage.network import base, kernel, tap
from tests.network.machines import eventually, run

MAC = "52:54:00:aa:00:01"
OWNER = 4711


@pytest.fixture
def bridge(namespace: None) -> str:
    run("ip", "link", "add", "br0", "type", "bridge")
    run("ip", "link", "set", "br0", "up")
    return "br0"


def test_a_name_fits_the_kernel_and_differs_by_vm_and_card() -> None:
    names = {tap.name_for(vm, nic) for vm in ("one", "two") for nic in ("net0", "net1")}
    assert len(names) == 4
    assert all(len(name) <= 15 and name.startswith("bt") for name in names)
    assert tap.name_for("one", "net0") == tap.name_for("one", "net0")


def test_the_hosts_end_has_another_mac_than_the_guest() -> None:
    assert tap.host_mac("52:54:00:AA:00:01") == "fe:54:00:aa:00:01"


async def test_a_tap_is_up_on_its_bridge_and_its_owners(bridge: str) -> None:
    await tap.ensure("bt0", bridge=bridge, owner=OWNER, guest_mac=MAC)
    found = await kernel.link("bt0")
    assert found
    assert (found.master, found.owner, found.up, found.mac) == (bridge, OWNER, True, "fe:54:00:aa:00:01")
    assert not found.port_isolated


async def test_a_tap_can_be_made_before_it_is_plugged_in(bridge: str) -> None:
    assert await tap.make("bt0", owner=OWNER) is None
    found = await kernel.link("bt0")
    assert found
    assert (found.master, found.owner, found.up) == ("", OWNER, False)
    assert not kernel.is_up("bt0")
    assert await tap.make("bt0", owner=OWNER) == found
    await tap.ensure("bt0", bridge=bridge, owner=OWNER, guest_mac=MAC, new=True)
    assert kernel.is_up("bt0")
    made = await kernel.link("bt0")
    await tap.remove("bt0")
    await tap.ensure("bt0", bridge=bridge, owner=OWNER, guest_mac=MAC)
    assert await kernel.link("bt0") == made
    assert not kernel.is_up("bt1")


async def test_qemu_takes_a_tap_by_descriptor_though_its_user_may_open_nothing(bridge: str) -> None:
    await tap.ensure("bt0", bridge=bridge, owner=OWNER, guest_mac=MAC)
    descriptor = tap.open_queue("bt0")
    try:
        said = qemu_with(descriptor)
    finally:
        os.close(descriptor)
    assert "n: index=0,type=tap" in said


def qemu_with(descriptor: int) -> str:
    """What QEMU, run as the owner, says of its network when it is handed the tap."""
    qemu = ["qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none", "-monitor", "stdio"]
    done = subprocess.run(
        [*qemu, "-sandbox", "on,spawn=deny", "-netdev", f"tap,id=n,fd={descriptor}"],
        input="info network\nquit\n",
        capture_output=True,
        text=True,
        timeout=20,
        pass_fds=[descriptor],
        user=OWNER,
        group=OWNER,
        extra_groups=[],
        check=True,
    )
    return done.stdout + done.stderr


async def test_a_second_ensure_runs_nothing(bridge: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await tap.ensure("bt0", bridge=bridge, owner=OWNER, guest_mac=MAC, apart=True)
    asked: list[str] = []

    async def change(steps: list[str]) -> None:
        asked.extend(steps)

    monkeypatch.setattr(kernel, "change", change)
    await tap.ensure("bt0", bridge=bridge, owner=OWNER, guest_mac=MAC, apart=True)
    assert asked == []


@pytest.mark.parametrize(
    "broken",
    [
        "ip link set bt0 down",
        "ip link set bt0 nomaster",
        "ip link set bt0 address 02:00:00:00:00:01",
        "ip link set bt0 type bridge_slave isolated off",
        "ip link delete bt0",
        "ip link set bt0 alias ''",
    ],
)
async def test_what_was_changed_by_hand_is_put_right(bridge: str, broken: str) -> None:
    await tap.ensure("bt0", bridge=bridge, owner=OWNER, guest_mac=MAC, apart=True)
    before = await kernel.link("bt0")
    run("sh", "-c", broken)
    assert await kernel.link("bt0") != before
    await tap.ensure("bt0", bridge=bridge, owner=OWNER, guest_mac=MAC, apart=True)
    assert await kernel.link("bt0") == before


async def test_the_host_itself_says_nothing_on_a_tap(bridge: str) -> None:
    await tap.ensure("bt0", bridge=bridge, owner=OWNER, guest_mac=MAC)
    descriptor = tap.open_queue("bt0")
    try:
        await eventually(lambda: "LOWER_UP" in run("ip", "link", "show", "bt0"))
        assert "inet6" not in run("ip", "address", "show", "dev", "bt0")
    finally:
        os.close(descriptor)


async def test_a_tap_is_on_its_vlans_before_anything_passes(bridge: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that goes over to another bridge."""
    set_on = []

    async def set_vlans(port: str, wanted: kernel.Vlans) -> None:
        found = await kernel.link(port)
        assert found
        assert not found.up
        set_on.append((found.master, wanted))

    run("ip", "link", "add", "br1", "type", "bridge")
    wanted = kernel.Vlans(10, (20,))
    with monkeypatch.context() as patch:
        patch.setattr(kernel, "set_vlans", set_vlans)
        for one in (bridge, "br1"):
            await tap.ensure("bt0", bridge=one, owner=OWNER, guest_mac=MAC, vlans=wanted)
    assert set_on == [(bridge, wanted), ("br1", wanted)]
    found = await kernel.link("bt0")
    assert found
    assert found.up


async def test_a_tap_of_another_owner_is_made_anew(bridge: str) -> None:
    await tap.ensure("bt0", bridge=bridge, owner=OWNER, guest_mac=MAC)
    await tap.ensure("bt0", bridge=bridge, owner=OWNER + 1, guest_mac=MAC)
    found = await kernel.link("bt0")
    assert found
    assert found.owner == OWNER + 1


async def test_the_owner_may_be_a_user_with_a_name(bridge: str) -> None:
    await tap.ensure("bt0", bridge=bridge, owner=65534, guest_mac=MAC)
    found = await kernel.link("bt0")
    assert found
    assert found.owner == 65534


async def test_a_tap_is_removed_also_while_it_is_open_and_twice(bridge: str) -> None:
    await tap.ensure("bt0", bridge=bridge, owner=OWNER, guest_mac=MAC)
    descriptor = tap.open_queue("bt0")
    try:
        await tap.remove("bt0")
        assert await kernel.link("bt0") is None
    finally:
        os.close(descriptor)
    await tap.remove("bt0")


async def test_only_taps_of_ours_are_listed_and_touched(bridge: str) -> None:
    run("ip", "tuntap", "add", "dev", "tap7", "mode", "tap")
    run("ip", "link", "set", "tap7", "alias", "somebody's")
    run("ip", "link", "set", "tap7", "master", bridge)
    await tap.ensure("bt0", bridge=bridge, owner=OWNER, guest_mac=MAC)
    assert await tap.present() == ["bt0"]
    assert await tap.present(bridge) == ["bt0"]
    assert await tap.present("br1") == []
    with pytest.raises(base.InterfaceForeign):
        await tap.ensure("tap7", bridge=bridge, owner=OWNER, guest_mac=MAC)
    with pytest.raises(base.InterfaceForeign):
        await tap.remove("tap7")


async def test_a_bridge_that_is_not_there_is_said_and_the_next_ensure_finishes(namespace: None) -> None:
    with pytest.raises(base.Refused):
        await tap.ensure("bt0", bridge="br0", owner=OWNER, guest_mac=MAC)
    run("ip", "link", "add", "br0", "type", "bridge")
    await tap.ensure("bt0", bridge="br0", owner=OWNER, guest_mac=MAC)
    found = await kernel.link("bt0")
    assert found
    assert found.master == "br0"
