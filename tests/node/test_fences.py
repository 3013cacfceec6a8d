"""A hostile guest and its neighbour on one bridge, with real packets: sent within one, heard within the other."""

from __future__ import annotations

import ipaddress
import pathlib
import re

import pytest

from bocage.model import base, firewall, vm, work
from bocage.network import fences
from bocage.node.wires import fencing
from bocage.planner import firewall as planner
from bocage.store import resources
from tests.network.machines import eventually, run
from tests.node import frames
from tests.node.house import House
from tests.node.test_nics import alter
from tests.node.test_rewiring import with_the_database_lost
from tests.node.test_wires import BLANK, SMALL, addressed, again, asks, gets, greets, make_network, network_named

pytestmark = [pytest.mark.guest, pytest.mark.slow]
EVE, BOB = "52:54:00:ee:00:01", "52:54:00:bb:00:02"


async def up(house: House, name: str, mac: str, tools: bytes) -> vm.VM:
    nics = [{"network": "lan", "mac": mac}]
    made = await house.create(name, nics=nics, disks=[{"size": "8M", "format": "raw"}], **SMALL)
    disk = next((house.homes.local_storage / "vms" / made.uid).rglob("disk1.raw"))
    with disk.open("r+b") as file:
        file.write(tools)
    await house.ask("vm.start", made)
    await house.says(made, "^tiny: ready")
    await house.says(made, "^unpacked", send=f"{frames.SETUP} && echo unpacked")
    return made


async def heard(house: House, sender: vm.VM, hearer: vm.VM, sent: list[bytes]) -> set[str]:
    """The names of those frames that reach the other guest."""
    await house.says(hearer, "frames: listening", send=f"{frames.HEARING} >/tmp/heard & tail -F /tmp/heard &")
    *lines, last = frames.sending(sent)
    for number, line in enumerate(lines):
        await house.says(sender, f"typed {number}$", send=f"{line}; echo typed {number}")
    await house.says(sender, "frames: sent$", send=last)
    await house.says(hearer, f"frames: heard .*{frames.END}")
    found = await house.says(hearer, "^all: ", send="killall tail; echo all: `sed -n 's/frames: heard //p' /tmp/heard`")
    return {one.removeprefix(frames.WORD) for one in found.removeprefix("all:").split()} - {frames.END}


def attacks(*, own: str, others: str, gateway: str) -> dict[str, bytes]:
    return {
        "another-mac": frames.datagram("another-mac", own, source="52:54:00:cc:00:03"),
        "gateway-by-arp": frames.arp_reply("gateway-by-arp", gateway, source=EVE),
        "neighbour-by-arp": frames.arp_reply("neighbour-by-arp", others, source=EVE),
        "nobody-by-arp": frames.arp_reply("nobody-by-arp", "10.98.0.99", source=EVE),
        "mac-within-arp": frames.arp_reply("mac-within-arp", own, source=EVE, of=BOB),
        "anothers-ip": frames.datagram("anothers-ip", others, source=EVE),
        "nobodys-ip": frames.datagram("nobodys-ip", "192.0.2.1", source=EVE),
        "router": frames.advertisement("router", source=EVE),
        "router-in-pieces": frames.advertisement("router-in-pieces", source=EVE, pieces=True),
        "redirect": frames.redirect("redirect", source=EVE),
        "neighbour-by-nd": frames.neighbour("neighbour-by-nd", str(fences.link_local(BOB)), source=EVE),
        "anothers-ip6": frames.datagram6("anothers-ip6", str(fences.link_local(BOB)), source=EVE),
        "dhcp-server": frames.datagram("dhcp-server", own, source=EVE, ports=(67, 68)),
        "neighbours-lease": frames.lease_request("neighbours-lease", BOB, source=EVE),
        "probe-of-neighbour": frames.arp_probe("probe-of-neighbour", others, source=EVE),
        "dad-of-neighbour": frames.solicitation("dad-of-neighbour", str(fences.link_local(BOB)), source=EVE),
        "dhcp6-server": frames.datagram6("dhcp6-server", str(fences.link_local(EVE)), source=EVE, ports=(547, 546)),
        "tagged": frames.tagged(frames.datagram("tagged", others, source=EVE), 10),
        "next-bridge": frames.ethernet(frames.mark("next-bridge"), 0x88B5, EVE, "01:80:c2:00:00:00"),
    }


def honest(own: str) -> dict[str, bytes]:
    return {
        "own-arp": frames.arp_reply("own-arp", own, source=EVE),
        "own-ip": frames.datagram("own-ip", own, source=EVE),
        "own-lease": frames.lease_request("own-lease", EVE, source=EVE, address=own),
        "own-probe": frames.arp_probe("own-probe", own, source=EVE),
        "own-dad": frames.solicitation("own-dad", str(fences.link_local(EVE)), source=EVE),
        "asked-nd": frames.solicitation(
            "asked-nd", str(fences.link_local(BOB)), source=EVE, sender=str(fences.link_local(EVE))
        ),
        "own-nd": frames.neighbour("own-nd", str(fences.link_local(EVE)), source=EVE),
        "own-ip6": frames.datagram6("own-ip6", str(fences.link_local(EVE)), source=EVE),
    }


def _net(text: str) -> ipaddress.IPv4Network:
    return ipaddress.IPv4Network(text)


def _without_flows(listed: str) -> str:
    return re.sub(r"elements = \{[^}]*expires[^}]*\}", "", listed)


async def group(house: House, name: str, *rules: dict[str, object]) -> firewall.FirewallGroup:
    spec = firewall.FirewallGroupSpec.model_validate({"rules": rules})
    made = firewall.FirewallGroup(metadata=base.Metadata(name=name, project="default"), spec=spec)
    await house.resources.create(made)
    return made


async def ruled(house: House, which: firewall.FirewallGroup, *rules: dict[str, object]) -> work.Task:
    """The group with other rules, put in force."""
    spec = firewall.FirewallGroupSpec.model_validate({"rules": rules})
    await house.resources.change(
        firewall.FirewallGroup, "default", which.uid, lambda one: resources.with_spec(one, rules=spec.rules)
    )
    return await house.ask("firewall-group.change", which)


async def test_a_guest_passes_for_nobody_and_a_firewall_lets_in_what_it_says(
    wired: House, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = frames.disc(tmp_path)
    await make_network(wired, "lan", kind="nat", subnet="10.98.0.0/24", ipv6=True)
    net = await network_named(wired, "lan")
    prefix = wired.node.wires._bridge(net).prefix
    assert prefix
    eve, bob = await up(wired, "eve", EVE, tools), await up(wired, "bob", BOB, tools)
    own, others = await addressed(wired, eve), await addressed(wired, bob)
    bad, good = attacks(own=own, others=others, gateway="10.98.0.1"), honest(own)
    end = frames.datagram(frames.END, own, source=EVE)
    sent = [*bad.values(), *good.values(), end]
    assert await heard(wired, eve, bob, sent) == set(good)
    bobs = fences.made_of(BOB, prefix)  # of the prefix that the network advertises
    for which, guest in ((fences.made_of(EVE, prefix), eve), (bobs, bob)):
        there = f"until ip -6 address show dev eth0 | grep {which}; do usleep 100000; done; echo it has {which}"
        await wired.says(guest, "^it has", send=there)
    await wired.says(eve, "^it answers", send=f"until ping -6 -c 1 -W 5 {bobs}; do sleep 1; done; echo it answers")
    claim = frames.neighbour("prefix-by-nd", str(bobs), source=EVE)
    assert await heard(wired, eve, bob, [claim, frames.datagram6("prefix", str(bobs), source=EVE), end]) == set()

    await alter(wired, eve, "nic0", allowed=["192.0.2.0/24"])
    assert await heard(wired, eve, bob, [bad["nobodys-ip"], bad["anothers-ip"], end]) == {"nobodys-ip"}

    became = await alter(wired, eve, "nic0", spoofing="allow", allowed=[])
    assert became["nics[nic0]"].how == "done"
    assert await heard(wired, eve, bob, sent) == {*bad, *good}
    await alter(wired, eve, "nic0", spoofing="deny")

    # The firewall.
    await greets(wired, bob, "hello")
    await greets(wired, eve, "answer")
    assert await gets(wired, eve, others) == "hello"
    web = await group(wired, "web", {"ports": ["80"], "peers": ["10.99.0.0/24"]})
    became = await alter(wired, bob, "nic0", firewall=["web"])
    assert became["nics[nic0]"].how == "done"
    assert await asks(wired, eve, others) == "none"
    assert await gets(wired, bob, own) == "answer"  # what it asks for itself is answered
    assert (await ruled(wired, web, {"ports": ["80"]})).status.state is work.TaskState.DONE
    assert await gets(wired, eve, others) == "hello"
    before = run("nft", "list", "table", "bridge", fences.table_of(net.uid))

    def overlapping(*_: object) -> planner.Allowed:
        boxes = (planner.Box("tcp", 22, 25, _net("10.0.0.0/8")), planner.Box("tcp", 20, 30, _net("10.1.0.0/16")))
        return planner.Allowed(boxes=boxes)

    with monkeypatch.context() as broken:
        broken.setattr(planner, "allowed", overlapping)
        task = await ruled(wired, web, {"ports": ["81"]})
    assert task.status.problem
    assert task.status.problem.type == "network-refused"
    shown = await wired.resources.find(firewall.FirewallGroup, "default", "web")
    assert shown.status.state == "failed"
    assert _without_flows(run("nft", "list", "table", "bridge", fences.table_of(net.uid))) == _without_flows(before)
    assert await gets(wired, eve, others) == "hello"
    for one in (eve, bob):
        await wired.ask("vm.kill", one)
    assert "comes_" not in run("nft", "list", "ruleset")


async def test_vlans_that_the_kernel_does_not_have_are_refused_with_the_reason(wired: House) -> None:
    ended = await make_network(wired, "office", kind="isolated", vlans=True)
    if ended.status.state is work.TaskState.DONE:
        net = await network_named(wired, "office")
        assert '"vlan_filtering":1' in run("ip", "-json", "-details", "link", "show", net.status.bridge or "")
    else:
        assert ended.status.problem
        assert ended.status.problem.type == "network-kernel-lacks"
        assert "VLANs" in ended.status.problem.text


@pytest.mark.fault
async def test_rules_follow_a_vm_over_the_end_of_its_daemon_and_the_loss_of_the_database(wired: House) -> None:
    await make_network(wired, "lan", kind="nat", subnet="10.98.0.0/24")
    net = await network_named(wired, "lan")
    web = await group(wired, "web", {"ports": ["80"]})
    nics = [{"network": "lan", "firewall": ["web"]}]
    box = await wired.create("box", start=True, nics=nics, **BLANK)
    assert "tcp . 80 : accept" in rules_of(net.uid)
    # A daemon that dies between writing the wish and doing it: the next one does it.
    spec = firewall.FirewallGroupSpec.model_validate({"rules": [{"ports": ["81"]}]})
    await wired.resources.change(
        firewall.FirewallGroup, "default", web.uid, lambda one: resources.with_spec(one, rules=spec.rules)
    )
    async with again(wired) as later:
        assert "tcp . 81 : accept" in rules_of(net.uid)
        run("nft", "delete", "table", "bridge", fences.table_of(net.uid))  # somebody flushes all rules
        await eventually(lambda: "tcp . 81 : accept" in rules_of(net.uid), within=60)
        await later.ask("firewall-group.change", web)  # which writes it down beside the VM, too
    async with with_the_database_lost(wired) as poor:
        assert "tcp . 81 : accept" in rules_of(net.uid)
        ended = await poor.adopt_local()
        assert ended.status.state is work.TaskState.DONE
        back = await poor.resources.find(firewall.FirewallGroup, "default", "web")
        assert [str(rule) for rule in back.spec.rules] == ["in tcp 81"]
        assert "tcp . 81 : accept" in rules_of(net.uid)
        await poor.ask("vm.kill", box)
        assert "comes_" not in rules_of(net.uid)


def rules_of(uid: str) -> str:
    return run("nft", "list", "table", "bridge", fences.table_of(uid), expect=None)


def test_a_subnet_that_one_may_use_is_not_taken_from_its_neighbours():
    own, subnet = ipaddress.ip_network("10.9.0.5/32"), ipaddress.ip_network("10.9.0.0/24")
    assert fencing._somebodys([[own], [subnet]]) == {own}
