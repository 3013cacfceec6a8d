from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ipaddress
import json
import os
import pathlib
import signal
from collections.abc import Callable

import pytest

from bocage.network import base, bridge, dnsmasq, fences, kernel, neighbours, rules, tap
from tests.network.machines import Machine, eventually, run

Make = Callable[..., base.Bridge]
Connect = Callable[..., Machine]
Serve = Callable[..., None]
Listen = Callable[..., Callable[[], str]]

ALPHA, BETA = "52:54:00:aa:00:01", "52:54:00:aa:00:02"


def host(address: str, name: str) -> base.Host:
    return base.Host(address=ipaddress.IPv4Address(address), name=name)


def forward(address: str, guest_port: int, host_address: str, host_port: int) -> base.Forward:
    publish = base.Publish(host_address=host_address, host_port=host_port, guest_port=guest_port)
    return base.Forward(address=ipaddress.IPv4Address(address), publish=publish)


def seen() -> str:
    """All that networks are made of, without the counters that any packet moves."""
    links = run("ip", "-json", "-details", "address", "show", "type", "bridge")
    found = json.loads(links or "[]")
    for link in found:
        for gone in ("linkinfo", "operstate", "flags"):
            link.pop(gone, None)
    return json.dumps(found) + run("nft", "list", "ruleset")


def pids(network: base.Bridge) -> list[int]:
    return [one.pid for one in dnsmasq.processes(network.state)]


async def test_a_guest_gets_its_address_and_its_name_resolves(make: Make, connect: Connect) -> None:
    network = make("lan", "10.77.1.0/24")
    await bridge.ensure(network)
    await bridge.set_hosts(network, {ALPHA: host("10.77.1.20", "alpha"), BETA: host("10.77.1.30", "beta")})
    alpha = connect(network.interface, ALPHA)

    said = alpha.ask_lease()

    assert "leased 10.77.1.20" in said
    assert "router=10.77.1.1 dns=10.77.1.1 domain=lan.internal hostname=alpha" in said
    assert await bridge.leases(network) == {ALPHA: ipaddress.IPv4Address("10.77.1.20")}
    assert alpha.resolve("beta.lan.internal", "10.77.1.1") == "10.77.1.30"
    assert alpha.resolve("beta", "10.77.1.1") == "10.77.1.30"
    assert alpha.resolve("gamma.lan.internal", "10.77.1.1") == ""
    await bridge.remove(network.uid, network.state)


async def test_a_card_that_no_vm_has_gets_an_address_of_the_last_quarter_and_no_name(
    make: Make, connect: Connect
) -> None:
    network = make()
    await bridge.ensure(network)
    stranger = connect(network.interface, "52:54:00:bb:00:01")
    address = ipaddress.IPv4Address(stranger.lease("-x", "hostname:wpad"))
    assert ipaddress.IPv4Address("10.77.1.192") <= address < ipaddress.IPv4Address("10.77.1.255")
    assert stranger.resolve("wpad.lan.internal", "10.77.1.1") == ""
    await bridge.remove(network.uid, network.state)


async def test_who_calls_itself_as_a_neighbour_does_not_get_its_address(make: Make, connect: Connect) -> None:
    network = make()
    await bridge.ensure(network)
    first, second = connect(network.interface, ALPHA), connect(network.interface, BETA)
    same = ("-x", "0x3d:ff00112233")  # the client identifier of DHCP
    address = first.lease(*same)
    assert address
    assert second.lease(*same) not in ("", address)
    assert str((await bridge.leases(network))[ALPHA]) == address
    assert first.lease(*same) == address
    await bridge.remove(network.uid, network.state)


async def test_a_renamed_vm_is_known_by_its_new_name_without_a_new_server(make: Make, connect: Connect) -> None:
    network = make()
    await bridge.ensure(network)
    await bridge.set_hosts(network, {ALPHA: host("10.77.1.20", "alpha")})
    machine = connect(network.interface, ALPHA)
    machine.lease()
    before = pids(network)
    await bridge.set_hosts(network, {ALPHA: host("10.77.1.20", "omega")})
    await eventually(lambda: machine.resolve("omega.lan.internal", "10.77.1.1") == "10.77.1.20")
    assert machine.resolve("alpha.lan.internal", "10.77.1.1") == ""
    assert pids(network) == before
    await bridge.remove(network.uid, network.state)


async def test_a_second_ensure_changes_nothing(make: Make) -> None:
    network = make()
    await bridge.ensure(network)
    before, server = seen(), pids(network)
    await bridge.ensure(network)
    assert seen() == before
    assert pids(network) == server
    assert len(server) == 1
    await bridge.remove(network.uid, network.state)


async def test_nothing_is_left_after_remove(make: Make, connect: Connect) -> None:
    empty = seen()
    network = make()
    await bridge.ensure(network)
    await bridge.set_hosts(network, {ALPHA: host("10.77.1.20", "alpha")})
    await bridge.publish(network, [forward("10.77.1.20", 22, "127.0.0.1", 2222)])
    name = tap.name_for("vm", "eth0")
    await tap.ensure(name, bridge=network.interface, owner=4000, guest_mac=ALPHA)
    servers = pids(network)

    await bridge.remove(network.uid, network.state)

    assert seen() == empty
    assert [link.name for link in await kernel.links()] == ["lo"]
    assert pids(network) == []
    assert servers
    assert not network.state.exists()
    await bridge.remove(network.uid, network.state)


async def half_of_it_gone(network: base.Bridge, what: str) -> None:
    match what:
        case "bridge":
            run("ip", "link", "delete", network.interface)
        case "address":
            run("ip", "address", "flush", "dev", network.interface)
        case "another address":
            run("ip", "address", "replace", "10.77.9.1/24", "dev", network.interface)
        case "down":
            run("ip", "link", "set", network.interface, "down")
        case "rules":
            run("nft", "flush", "ruleset")
        case "one chain":
            run("nft", "flush", "chain", "inet", network.table, "forwarded")
        case "server":
            for pid in pids(network):
                os.kill(pid, signal.SIGKILL)
            await eventually(lambda: not pids(network))
        case "configuration":
            for path in network.state.glob("*.conf"):
                path.write_text("port=0\n")
        case "directory":
            for path in network.state.iterdir():
                path.unlink()
        case "all, as after a reboot":
            await half_of_it_gone(network, "server")
            await half_of_it_gone(network, "bridge")
            await half_of_it_gone(network, "rules")


@pytest.mark.fault
@pytest.mark.parametrize(
    "what",
    [
        "bridge",
        "address",
        "another address",
        "down",
        "rules",
        "one chain",
        "server",
        "configuration",
        "directory",
        "all, as after a reboot",
    ],
)
async def test_what_was_destroyed_by_hand_is_made_again(make: Make, connect: Connect, what: str) -> None:
    network = make()
    hosts = {ALPHA: host("10.77.1.20", "alpha")}
    await bridge.ensure(network)
    await bridge.set_hosts(network, hosts)
    before = seen()

    await half_of_it_gone(network, what)
    await bridge.ensure(network)
    await bridge.set_hosts(network, hosts)

    assert without_index(seen()) == without_index(before)
    assert len(pids(network)) == 1
    machine = connect(network.interface, ALPHA)
    assert machine.lease() == "10.77.1.20"
    assert machine.resolve("alpha.lan.internal", "10.77.1.1") == "10.77.1.20"
    await bridge.remove(network.uid, network.state)


def without_index(shown: str) -> str:
    return "\n".join(part for part in shown.replace(", ", "\n").splitlines() if '"ifindex"' not in part)


@pytest.mark.fault
async def test_the_server_of_an_older_configuration_is_replaced(make: Make) -> None:
    network = make()
    await bridge.ensure(network)
    (old,) = pids(network)
    renamed = base.Bridge(uid=network.uid, name="office", subnet=network.subnet, nat=network.nat, state=network.state)
    await bridge.ensure(renamed)
    (new,) = pids(network)
    assert new != old
    await bridge.remove(network.uid, network.state)


@pytest.mark.fault
async def test_another_program_whose_pid_stands_in_the_stale_file_is_left_alone(make: Make) -> None:
    network = make()
    await bridge.ensure(network)
    await half_of_it_gone(network, "server")
    other = await asyncio.create_subprocess_exec("sleep", "60")
    try:
        (network.state / "dnsmasq.pid").write_text(f"{other.pid}\n")
        await bridge.ensure(network)
        assert len(pids(network)) == 1
        assert other.pid not in pids(network)
        (network.state / "dnsmasq.pid").write_text(f"{other.pid}\n")
        await bridge.remove(network.uid, network.state)
        assert other.returncode is None
    finally:
        other.kill()
        await other.wait()


@pytest.mark.fault
@pytest.mark.parametrize("step", range(1, 8))
async def test_an_ensure_that_was_cut_off_is_finished_by_the_next(
    make: Make, connect: Connect, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    network = make()
    cut = cut_off_at(step, monkeypatch)
    with contextlib.suppress(CutOff):
        await bridge.ensure(network)
    cut()
    await bridge.ensure(network)
    assert len(pids(network)) == 1
    assert connect(network.interface, ALPHA).lease()
    await bridge.remove(network.uid, network.state)
    assert seen() == "[]"


@pytest.mark.fault
@pytest.mark.parametrize("step", range(1, 7))
async def test_a_remove_that_was_cut_off_is_finished_by_the_next(
    make: Make, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    network = make()
    await bridge.ensure(network)
    await tap.ensure("btcut", bridge=network.interface, owner=4000, guest_mac=ALPHA)
    cut = cut_off_at(step, monkeypatch)
    with contextlib.suppress(CutOff):
        await bridge.remove(network.uid, network.state)
    cut()
    await bridge.remove(network.uid, network.state)
    assert seen() == "[]"
    assert [link.name for link in await kernel.links()] == ["lo"]
    assert not network.state.exists()


class CutOff(Exception):
    """Stands for the daemon's death: nothing catches it on the way."""


def cut_off_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let the network's `step`-th program not be run any more; the returned function lets all run again."""
    whole, count = base.run, 0

    async def cut(program: str, *arguments: str, stdin: str | None = None) -> bytes:
        nonlocal count
        count += 1
        if count >= step:
            raise CutOff
        return await whole(program, *arguments, stdin=stdin)

    monkeypatch.setattr(base, "run", cut)
    return lambda: monkeypatch.setattr(base, "run", whole)


async def test_a_log_that_grew_starts_anew_under_the_running_server(make: Make) -> None:
    network = make()
    await bridge.ensure(network)
    log = network.state / "dnsmasq.log"
    with log.open("a") as file:
        file.write("x" * (2 << 20))
    await bridge.ensure(network)
    assert log.stat().st_size == 0
    await bridge.set_hosts(network, {ALPHA: host("10.77.1.20", "alpha")})
    await eventually(lambda: "dhcp-hosts" in log.read_text())
    assert log.stat().st_size < 10_000
    await bridge.remove(network.uid, network.state)


async def test_two_networks_do_not_reach_each_other(make: Make, connect: Connect, serve: Serve) -> None:
    one, two = make("one", "10.77.1.0/24"), make("two", "10.77.2.0/24")
    await bridge.ensure(one)
    await bridge.ensure(two)
    await bridge.set_hosts(two, {BETA: host("10.77.2.20", "beta")})
    first, second = connect(one.interface, ALPHA), connect(two.interface, BETA)
    first.lease()
    address = second.lease()
    neighbour = connect(two.interface, "52:54:00:aa:00:03")
    neighbour.lease()
    serve(second, 80, "second")

    assert neighbour.reaches(address, 80) == "HELLO second"
    assert neighbour.resolve("beta.two.internal", str(two.gateway)) == address
    assert first.reaches(address, 80, within=1) == ""
    assert first.resolve("beta.two.internal", str(two.gateway)) == ""
    await rules.remove(two.uid)
    assert first.reaches(address, 80, within=1) == "", "a network is not let into one whose own rules are gone"
    for network in (one, two):
        await bridge.remove(network.uid, network.state)


@pytest.fixture
def world(connect: Connect, serve: Serve) -> Machine:
    """What lies behind this host: 192.0.2.1, to which it has its default route."""
    outside = connect(address="192.0.2.1/24", port="uplink")
    run("ip", "address", "add", "192.0.2.2/24", "dev", "uplink")
    run("ip", "route", "add", "default", "via", "192.0.2.1")
    serve(outside, 80, "world")
    return outside


async def test_a_nat_network_reaches_the_world_and_is_not_reached_from_it(
    make: Make, connect: Connect, serve: Serve, world: Machine
) -> None:
    network = make()
    await bridge.ensure(network)
    guest = connect(network.interface, ALPHA)
    address = guest.lease()
    serve(guest, 80, "guest")
    world.run("ip", "route", "add", "10.77.1.0/24", "via", "192.0.2.2")

    assert guest.reaches("192.0.2.1", 80) == "HELLO world"
    assert world.reaches(address, 80, within=1) == ""
    await bridge.remove(network.uid, network.state)


@pytest.mark.parametrize("forwarding", [True, False])
async def test_a_guest_reaches_the_world_by_ipv6_from_the_hosts_address_where_the_host_forwards_it(
    make: Make, connect: Connect, listen: Listen, world: Machine, forwarding: bool
) -> None:
    world.run("ip", "address", "add", "2001:db8::1/64", "dev", "eth0", "nodad")
    run("ip", "address", "add", "2001:db8::2/64", "dev", "uplink", "nodad")
    run("sysctl", "-qw", f"net.ipv6.conf.all.forwarding={int(forwarding)}")
    network = dataclasses.replace(make(), ipv6=True)
    await bridge.ensure(network)
    assert network.prefix
    guest = connect(network.interface, ALPHA)
    own = fences.made_of(ALPHA, network.prefix)
    guest.run("sysctl", "-qw", "net.ipv6.conf.eth0.accept_ra=2")
    await eventually(lambda: str(own) in guest.run("ip", "-6", "address", "show", "scope", "global"), within=60)
    await eventually(lambda: "tentative" not in guest.run("ip", "-6", "address"), within=60)

    await eventually(lambda: guest.pings(str(network.gateway6), within=1), within=30)
    away = guest.run("ip", "-6", "route", "show", "default")
    assert ("via fe80:" in away) == forwarding, away
    if forwarding:
        outside = listen(world, 5000, "::")
        guest.says("over there", "2001:db8::1", 5000)
        assert outside() == "over there from 2001:db8::2"
        world.run("ip", "-6", "route", "add", str(network.prefix), "via", "2001:db8::2")
        assert not world.pings(str(own), within=1)
    await bridge.remove(network.uid, network.state)


async def test_an_isolated_network_reaches_neither_the_world_nor_the_host_but_itself(
    make: Make, connect: Connect, serve: Serve, world: Machine
) -> None:
    run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    network = make(nat=False)
    await bridge.ensure(network)
    guest, friend = connect(network.interface, ALPHA), connect(network.interface, BETA)
    said = guest.ask_lease()
    address = friend.lease()
    serve(None, 8080, "host")
    serve(friend, 80, "friend")
    guest.run("ip", "route", "replace", "default", "via", "10.77.1.1")
    world.run("ip", "route", "add", "10.77.1.0/24", "via", "192.0.2.2")

    assert "router= " in said
    assert guest.reaches(address, 80) == "HELLO friend"
    assert guest.reaches("10.77.1.1", 8080, within=1) == ""
    assert guest.reaches("192.0.2.2", 8080, within=1) == ""
    assert guest.reaches("192.0.2.1", 80, within=1) == ""
    assert world.reaches(address, 80, within=1) == ""
    await bridge.remove(network.uid, network.state)


async def test_nothing_leaves_an_isolated_network_and_nothing_enters_it(
    make: Make, connect: Connect, listen: Listen, world: Machine
) -> None:
    run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    network = make(nat=False)
    await bridge.ensure(network)
    guest = connect(network.interface, ALPHA)
    address = guest.lease()
    guest.run("ip", "route", "replace", "default", "via", "10.77.1.1")
    world.run("ip", "route", "add", "10.77.1.0/24", "via", "192.0.2.2")
    here = Machine(os.getpid(), "lo")

    outside = listen(world, 5000)
    guest.says("from the isolated", "192.0.2.1", 5000)
    here.says("from the host", "192.0.2.1", 5000)
    inside = listen(guest, 5000)
    world.says("from the world", address, 5000)
    here.says("from the host", address, 5000)

    assert outside() == "from the host"
    assert inside() == "from the host"
    await bridge.remove(network.uid, network.state)


async def test_a_guest_with_an_address_of_its_own_invention_does_not_reach_the_world(
    make: Make, connect: Connect, listen: Listen, world: Machine
) -> None:
    network = make()
    await bridge.ensure(network)
    guest = connect(network.interface, ALPHA)
    guest.lease()
    guest.run("ip", "address", "add", "198.51.100.9/32", "dev", "eth0")

    outside = listen(world, 5000)
    guest.says("from 198.51.100.9", "192.0.2.1", 5000, source="198.51.100.9")
    guest.says("from its own", "192.0.2.1", 5000)

    assert outside() == "from its own"
    await bridge.remove(network.uid, network.state)


async def test_the_host_speaks_no_ipv6_on_a_network(make: Make, connect: Connect) -> None:
    network = make()
    await bridge.ensure(network)
    connect(network.interface, ALPHA)
    assert "inet6" not in run("ip", "address", "show", "dev", network.interface)
    await bridge.remove(network.uid, network.state)


@pytest.mark.parametrize("bridged_frames_pass_the_firewall", [0, 1])
async def test_a_published_port_is_reached_from_where_it_was_published(
    make: Make, connect: Connect, serve: Serve, world: Machine, bridged_frames_pass_the_firewall: int
) -> None:
    if kernel.sysctl("bridge/bridge-nf-call-iptables") is not None:
        kernel.set_sysctl("bridge/bridge-nf-call-iptables", str(bridged_frames_pass_the_firewall))
    network, other = make(), make("other", "10.77.2.0/24")
    await bridge.ensure(network)
    await bridge.ensure(other)
    guest, friend = connect(network.interface, ALPHA), connect(network.interface, BETA)
    stranger = connect(other.interface, BETA)
    address = guest.lease()
    friend.lease()
    stranger.lease()
    serve(guest, 22, "guest")
    await bridge.publish(network, [forward(address, 22, "127.0.0.1", 2222), forward(address, 22, "0.0.0.0", 2223)])
    here = Machine(os.getpid(), "lo")

    assert here.reaches("127.0.0.1", 2222) == "HELLO guest"
    assert here.reaches("192.0.2.2", 2222, within=1) == ""
    assert world.reaches("192.0.2.2", 2222, within=1) == ""
    assert here.reaches("127.0.0.1", 2223) == "HELLO guest"
    assert here.reaches("192.0.2.2", 2223) == "HELLO guest"
    assert world.reaches("192.0.2.2", 2223) == "HELLO guest"
    assert friend.reaches("192.0.2.2", 2223) == "HELLO guest"
    assert stranger.reaches("192.0.2.2", 2223) == "HELLO guest"
    assert stranger.reaches(address, 22, within=1) == ""

    await bridge.publish(network, [])
    assert world.reaches("192.0.2.2", 2223, within=1) == ""
    assert here.reaches("127.0.0.1", 2222, within=1) == ""
    await bridge.remove(network.uid, network.state)
    await bridge.remove(other.uid, other.state)


async def test_ports_published_on_loopback_do_not_open_the_hosts_loopback_to_guests(
    make: Make, connect: Connect, serve: Serve
) -> None:
    network = make()
    await bridge.ensure(network)
    guest = connect(network.interface, ALPHA)
    address = guest.lease()
    serve(guest, 22, "guest")
    serve(None, 8480, "secret", address="127.0.0.1")
    await bridge.publish(network, [forward(address, 22, "127.0.0.1", 2222)])
    guest.run("sysctl", "-qw", "net.ipv4.conf.eth0.route_localnet=1")
    guest.run("ip", "address", "flush", "dev", "lo")
    guest.run("ip", "route", "flush", "table", "local", "127.0.0.0/8", expect=None)
    guest.run("ip", "route", "add", "127.0.0.1/32", "via", "10.77.1.1", "dev", "eth0", "onlink")

    assert Machine(os.getpid(), "lo").reaches("127.0.0.1", 2222) == "HELLO guest"
    assert guest.reaches("127.0.0.1", 8480, within=1) == ""
    run("nft", "flush", "chain", "inet", network.table, "input")
    assert guest.reaches("127.0.0.1", 8480) == "HELLO secret", "the attack itself does not work: nothing was shown"
    await bridge.remove(network.uid, network.state)


async def test_what_cannot_be_published_is_refused(make: Make) -> None:
    isolated, nat = make(nat=False), make()
    with pytest.raises(base.PublishUnfit):
        await bridge.publish(isolated, [forward("10.77.1.20", 22, "127.0.0.1", 2222)])
    with pytest.raises(base.PublishUnfit):
        await bridge.publish(nat, [forward("10.77.1.20", 22, "::1", 2222)])
    assert seen() == "[]"


async def test_a_subnet_that_is_routed_elsewhere_is_refused_and_nothing_made(make: Make, world: Machine) -> None:
    network = make("lan", "192.0.2.0/25")
    with pytest.raises(base.SubnetTaken) as refused:
        await bridge.ensure(network)
    assert (refused.value.route, refused.value.interface) == ("192.0.2.0/24", "uplink")
    assert seen() == "[]"


async def test_a_bridge_that_is_not_ours_is_neither_taken_nor_removed(make: Make) -> None:
    network = make()
    run("ip", "link", "add", network.interface, "type", "bridge")
    run("ip", "link", "set", network.interface, "alias", "somebody's")
    with pytest.raises(base.InterfaceForeign):
        await bridge.ensure(network)
    with pytest.raises(base.InterfaceForeign):
        await bridge.remove(network.uid, network.state)
    assert await kernel.link(network.interface)


async def test_a_directory_that_the_server_could_not_reach_is_said(make: Make, tmp_path: pathlib.Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    made = make()
    network = base.Bridge(uid=made.uid, name="lan", subnet=made.subnet, nat=True, state=closed / "network")
    with pytest.raises(base.StateHidden) as refused:
        await bridge.ensure(network)
    assert refused.value.directory == str(closed)
    await bridge.remove(network.uid, network.state)


async def test_addresses_behind_a_card_come_from_leases_and_neighbours(make: Make, connect: Connect) -> None:
    network = make()
    await bridge.ensure(network)
    await bridge.set_hosts(network, {ALPHA: host("10.77.1.20", "alpha")})
    leased, fixed = connect(network.interface, ALPHA), connect(network.interface, BETA, address="10.77.1.30/24")
    leased.lease()
    assert fixed.pings("10.77.1.1")
    found = await neighbours.addresses(network)
    assert found == {ALPHA: ["10.77.1.20"], BETA: ["10.77.1.30"]}
    await bridge.remove(network.uid, network.state)


async def test_the_rules_of_a_network_go_with_it_alone(make: Make) -> None:
    one, two = make("one", "10.77.1.0/24"), make("two", "10.77.2.0/24")
    await bridge.ensure(one)
    await bridge.ensure(two)
    await bridge.publish(two, [forward("10.77.2.20", 22, "127.0.0.1", 2222)])
    await bridge.remove(one.uid, one.state)
    left = run("nft", "list", "tables")
    assert left.split("\n")[:-1] == [f"table inet {two.table}", f"table inet {rules.ports_name(two.uid)}"]
    await bridge.remove(two.uid, two.state)
