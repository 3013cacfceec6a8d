"""Fences on a bridge whose guests are namespaces: what passes, and what stays when rules are changed."""

from __future__ import annotations

import ipaddress
import re
import subprocess
import uuid
from collections.abc import Callable, Mapping

import hypothesis
import pytest
from hypothesis import strategies

from bocage.model.firewall import FirewallRule, Prefix
from bocage.network import base, fences
from bocage.planner import firewall
from tests.network.machines import Machine, run
from tests.node import frames

Connect = Callable[..., Machine]
Serve = Callable[..., None]

UID = "1a2b3c4d-0000-4000-8000-000000000000"
ALPHA, BETA = "52:54:00:aa:00:01", "52:54:00:aa:00:02"
RULES = {
    "web": (FirewallRule(ports=("80",)), FirewallRule(protocol="icmp")),
    "resolver": (FirewallRule(direction="out", protocol="tcp", ports=("53",)), FirewallRule(ports=("80",))),
}


def net(text: str) -> Prefix:
    return ipaddress.ip_network(text)


def port(tap: str, mac: str, *addresses: str, groups: tuple[str, ...] | None = None, free: bool = False) -> fences.Port:
    return fences.Port(tap=tap, mac=mac, addresses=tuple(map(net, addresses)), groups=groups, free=free)


@pytest.fixture
def two(connect: Connect) -> tuple[Machine, Machine]:
    """Two machines on a bridge: 10.5.0.1 and 10.5.0.2, fd05::1 and fd05::2."""
    run("ip", "link", "add", "br0", "type", "bridge", "forward_delay", "0")
    run("ip", "link", "set", "br0", "up")
    made = connect("br0", ALPHA, address="10.5.0.1/24"), connect("br0", BETA, address="10.5.0.2/24")
    for number, machine in enumerate(made, 1):
        machine.run("ip", "address", "add", f"fd05::{number}/64", "dev", "eth0", "nodad")
    return made


async def held(*ports: fences.Port, rules: Mapping[str, tuple[FirewallRule, ...]] = RULES) -> None:
    known = {one for port in ports for one in port.addresses} | {net("10.5.0.254")}
    await fences.apply(UID, ports, known, rules)


_HEARING = """
import socket
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.settimeout(30)
print(1, flush=True)
while True:
    frame, (_, _, kind, *_) = wire.recvfrom(2000)
    found = frame.find(WORD) + len(WORD)
    if kind != 4 and found >= len(WORD):  # not its own
        name = frame[found : frame.index(b".", found)].decode()
        print(name, flush=True)
        if name == END:
            break
"""
_SENDING = """
import socket, sys
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(("eth0", 0))
for line in sys.stdin:
    wire.send(bytes.fromhex(line))
"""


def heard(sender: Machine, hearer: Machine, sent: list[bytes]) -> set[str]:
    """The names of those frames that reach the other machine."""
    mac = sender.mac
    program = f"WORD = {frames.WORD.encode()!r}\nEND = {frames.END!r}\n{_HEARING}"
    end = frames.solicitation(frames.END, "fe80::99", source=mac, sender=str(fences.link_local(mac)))
    with spawned(hearer, program) as hearing:
        lines = "".join(f"{one.hex()}\n" for one in [*sent, end])
        command = [*sender.entry, "python3", "-ISc", _SENDING]
        subprocess.run(command, input=lines, text=True, check=True, timeout=20)
        assert hearing.stdout
        *names, last = hearing.stdout.read().split()
        assert last == frames.END
        return set(names)


def pretending(*last: int) -> list[bytes]:
    """ARP and a ping of ALPHA in the name of each of these addresses, by their last number."""
    return [
        make(f"{what}-{one}", f"10.5.0.{one}", source=ALPHA)
        for one in last
        for what, make in (("arp", frames.arp_reply), ("ping", frames.echo_request))
    ]


def listing() -> list[str]:
    """The rules in force, without what packets have left in them; elements of sets come in any order."""
    return sorted(re.sub(r"elements = \{[^}]*expires[^}]*\}|,", "", run("nft", "list", "ruleset")).split())


async def test_a_group_lets_in_what_it_says_and_answers_of_both_ip_versions(
    two: tuple[Machine, Machine], serve: Serve
) -> None:
    alpha, beta = two
    await held(port("port1", ALPHA, "10.5.0.1", "fd05::1"), port("port2", BETA, "10.5.0.2", "fd05::2", groups=("web",)))
    for machine in two:
        for number in (80, 81):
            serve(machine, number, f"{machine.port}-{number}")
    assert alpha.reaches("10.5.0.2", 80) == "HELLO port2-80"
    assert alpha.reaches("10.5.0.2", 81, within=1) == ""
    assert beta.reaches("10.5.0.1", 81) == "HELLO port1-81"
    assert alpha.pings("10.5.0.2")
    assert alpha.pings("fd05::2")
    assert beta.pings("fd05::1")
    first = port("port1", ALPHA, "10.5.0.1", "fd05::1")
    await held(first, port("port2", BETA, "10.5.0.2", "fd05::2", groups=("none",)))
    assert alpha.reaches("10.5.0.2", 80, within=1) == ""  # of a group that is not there, nothing
    assert not alpha.pings("fd05::2", within=1)
    assert beta.pings("fd05::1")


async def test_what_goes_out_is_free_until_a_group_says_what_may(two: tuple[Machine, Machine], serve: Serve) -> None:
    alpha, beta = two
    serve(alpha, 53, "names")
    serve(alpha, 81, "other")
    serve(beta, 80, "web")
    ports = [port("port1", ALPHA, "10.5.0.1"), port("port2", BETA, "10.5.0.2", groups=("web", "resolver"))]
    await held(*ports)
    assert beta.reaches("10.5.0.1", 53) == "HELLO names"
    assert beta.reaches("10.5.0.1", 81, within=1) == ""
    assert alpha.reaches("10.5.0.2", 80) == "HELLO web"  # its answers go out
    assert not beta.pings("10.5.0.1", within=1)
    assert alpha.pings("10.5.0.2")
    assert not beta.pings("10.5.0.1", within=1)  # still not: that it answered opens nothing


async def test_a_connection_that_waits_outlives_new_rules(two: tuple[Machine, Machine]) -> None:
    alpha, beta = two
    ports = [port("port1", ALPHA, "10.5.0.1"), port("port2", BETA, "10.5.0.2", groups=("web",))]
    await held(*ports)
    server = "from socket import *; s = create_server(('', 9)); print(1, flush=True); input(); s.accept()[0].send(b'x')"
    client = "from socket import *; s = create_connection(('10.5.0.1', 9), 5); print(1, flush=True); print(s.recv(1))"
    with spawned(alpha, server) as asked, spawned(beta, client) as asking:
        assert asked.stdin
        assert asking.stdout
        await held(*ports, port("port3", "52:54:00:aa:00:03", groups=("resolver",)))
        await held(*ports)
        asked.stdin.write("go\n")
        asked.stdin.flush()
        assert asking.stdout.readline() == "b'x'\n"


def spawned(machine: Machine, program: str) -> subprocess.Popen[str]:
    """A program that has said its first line."""
    command = [*machine.entry, "python3", "-ISc", program]
    made = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert made.stdout
    assert made.stdout.readline() == "1\n"
    return made


async def test_rules_that_the_kernel_refuses_leave_those_before_them(
    two: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = [port("port1", ALPHA, "10.5.0.1"), port("port2", BETA, "10.5.0.2", groups=("web",))]
    await held(*ports)
    before = listing()
    crossing = firewall.Box("tcp", 22, 25, net("10.0.0.0/8")), firewall.Box("tcp", 20, 30, net("10.1.0.0/16"))
    monkeypatch.setattr(firewall, "allowed", lambda *_: firewall.Allowed(boxes=crossing))
    with pytest.raises(base.Refused):
        await held(*ports, port("port3", "52:54:00:aa:00:03", groups=("resolver",)))
    assert listing() == before


async def test_the_same_again_changes_nothing_and_what_is_gone_leaves_nothing(two: tuple[Machine, Machine]) -> None:
    ports = [port("port1", ALPHA, "10.5.0.1"), port("port2", BETA, "10.5.0.2", groups=("web", "resolver"))]
    await held(*ports)
    once = listing()
    await held(*ports)
    assert listing() == once
    await held(ports[0])
    assert "goto comes_port2" not in run("nft", "list", "ruleset")
    assert "in_web" not in run("nft", "list", "ruleset")
    await fences.remove(UID)
    await fences.remove(UID)
    assert listing() == []


async def test_rules_that_come_beside_those_of_a_stranger_leave_them_in_force(two: tuple[Machine, Machine]) -> None:
    first, second = port("port1", ALPHA, "10.5.0.1"), port("port2", BETA, "10.5.0.2", groups=("web",))
    await held(first, second)
    both = listing()
    known = {net("10.5.0.254"), *first.addresses, *second.addresses}
    for one, other in ((first, second), (second, first)):
        await fences.apply(UID, [one], known, RULES, others=[other.tap])
        assert two[1].pings("10.5.0.1")
        assert heard(*two, pretending(1, 9)) == {"arp-1", "ping-1"}
    await held(first, second)
    assert listing() == both


async def test_what_is_let_go_beside_a_stranger_is_free_and_leaves_nothing(two: tuple[Machine, Machine]) -> None:
    """The stranger keeps the rules that it has, also those of a group that nobody else is in."""
    alpha, beta = two
    first = port("port1", ALPHA, "10.5.0.1", groups=("resolver",))
    second = port("port2", BETA, "10.5.0.2", groups=("web",))
    await held(first, second)
    known = {net("10.5.0.254"), *first.addresses, *second.addresses}
    sent = [*pretending(9), frames.datagram("not-web", "10.5.0.9", source=ALPHA)]
    back = [frames.datagram("back", "10.5.0.2", source=BETA)]
    assert heard(alpha, beta, sent) == heard(beta, alpha, back) == set()
    for _ in range(2):
        await fences.apply(UID, [port("port1", ALPHA, free=True)], known, {}, others=["port2"])
        assert heard(alpha, beta, sent) == {"arp-9", "ping-9"}
        assert heard(beta, alpha, back) == {"back"}
        said = run("nft", "list", "ruleset")
        assert "port1" not in said
        assert all(one in said for one in (": goto comes_port2", ": goto sent_port2", "chain in_web {", "dport vmap"))
    await fences.apply(UID, [first], known, RULES)
    assert "port2" not in run("nft", "list", "ruleset")


async def test_a_nic_whose_addresses_nobody_knows_takes_none_that_is_somebodys(two: tuple[Machine, Machine]) -> None:
    await held(port("port1", ALPHA), port("port2", BETA, "10.5.0.2"), port("port3", "52:54:00:aa:00:03", "10.5.0.3"))
    assert two[0].pings("10.5.0.2")
    assert heard(*two, pretending(1, 2, 3, 254, 9)) == {"arp-1", "ping-1", "arp-9", "ping-9"}


async def test_a_trunk_bears_the_tags_of_its_vlans_alone_and_never_two(two: tuple[Machine, Machine]) -> None:
    await held(
        fences.Port(tap="port1", mac=ALPHA, addresses=(net("10.5.0.1"),), trunk=(20, 30)),
        port("port2", BETA, "10.5.0.2"),
    )

    def sent(name: str, *tags: int, kind: int = 0x8100) -> bytes:
        frame = frames.datagram(name, "10.5.0.99" if tags else "10.5.0.1", source=ALPHA)
        for tag in reversed(tags):
            frame = frames.tagged(frame, tag, kind)
        return frame

    good = [sent("none"), sent("twenty", 20), sent("thirty", 30)]
    bad = [
        sent("native", 10),
        sent("priority", 0),
        sent("twice", 20, 30),
        sent("hopping", 10, 20),
        sent("service", 20, kind=0x88A8),
        sent("twice-native", 20, 10),
        frames.tagged(frames.datagram("stranger", "10.5.0.1", source="52:54:00:aa:00:09"), 20),
    ]
    assert heard(two[0], two[1], [*good, *bad]) == {"none", "twenty", "thirty"}
    assert heard(two[1], two[0], [frames.tagged(frames.datagram("back", "10.5.0.2", source=BETA), 20)]) == set()


async def test_nobody_keeps_a_neighbour_from_its_address_by_asking_whether_it_is_free(
    two: tuple[Machine, Machine],
) -> None:
    known = [port("port1", ALPHA, "10.5.0.1"), port("port2", BETA, "10.5.0.2", "fd05::2")]
    unknown = [port("port1", ALPHA), known[1]]
    own, beta = str(fences.link_local(ALPHA)), str(fences.link_local(BETA))
    sent = [
        frames.arp_probe("probe", "10.5.0.2", source=ALPHA),
        frames.arp_probe("probe-of-nobodys", "10.5.0.77", source=ALPHA),
        frames.arp_probe("probe-of-own", "10.5.0.1", source=ALPHA),
        frames.solicitation("dad", "fd05::2", source=ALPHA),
        frames.solicitation("dad-of-link-local", beta, source=ALPHA),
        frames.solicitation("dad-of-own", own, source=ALPHA),
        frames.solicitation("dad-of-made-up", "fe80::77", source=ALPHA),
        frames.solicitation("asked", "fd05::2", source=ALPHA, sender=own),
        frames.neighbour("in-pieces", "fd05::2", source=ALPHA, pieces=True),
    ]
    good = {"probe-of-own", "dad-of-own", "dad-of-made-up", "asked"}
    await held(*known)
    assert heard(two[0], two[1], sent) == good
    await held(*unknown)  # it may take what is nobody's, and so may ask
    assert heard(two[0], two[1], sent) == {*good, "probe-of-nobodys"}


@pytest.mark.parametrize("addresses", [("10.5.0.1",), ()])
async def test_a_lease_is_asked_for_in_ones_own_name(two: tuple[Machine, Machine], addresses: tuple[str, ...]) -> None:
    await held(port("port1", ALPHA, *addresses), port("port2", BETA, "10.5.0.2"))
    asks = frames.lease_request
    sent = [
        asks("first", ALPHA, source=ALPHA),
        asks("again", ALPHA, source=ALPHA, address="10.5.0.1"),
        asks("anothers", BETA, source=ALPHA),
        asks("anothers-again", BETA, source=ALPHA, address="10.5.0.1"),
        frames.datagram("nobodys", "10.5.0.1", source=ALPHA, ports=(68, 67)),
    ]
    assert heard(two[0], two[1], sent) == {"first", "again"}


async def test_who_is_a_router_by_its_own_word_is_not_taken_for_by_a_guest(
    two: tuple[Machine, Machine], connect: Connect
) -> None:
    """It comes in through the NIC of the host; nobody has told what address it has."""
    alpha, beta = two
    mac, address = "52:54:00:aa:00:09", "fe80::1"
    router = connect("br0", mac)
    ports = [port("port1", ALPHA, "10.5.0.1", groups=("web",)), port("port2", BETA, "10.5.0.2", groups=("web",))]
    await held(*ports)
    taken = [
        frames.neighbour("neighbour", address, source=ALPHA),
        frames.solicitation("dad", address, source=ALPHA),
        frames.advertisement("router", source=ALPHA, address=address),
    ]
    assert heard(alpha, beta, taken) == {"neighbour", "dad"}  # nobody has it, as far as is known
    real = [
        frames.advertisement("real", source=mac, address=address),
        frames.neighbour("real-neighbour", address, source=mac),
        frames.solicitation("real-asks", str(fences.link_local(BETA)), source=mac, sender=address),
    ]
    real_ones = {"real", "real-neighbour", "real-asks"}
    assert heard(router, beta, real) == real_ones
    for _ in range(2):
        assert heard(alpha, beta, taken) == set()
        assert heard(router, beta, real) == real_ones
        await held(*ports)  # which is not forgotten


_NAMES = strategies.sampled_from(["a", "web-1", "0-zero", "x" * 63])
_RULE = strategies.builds(
    FirewallRule,
    direction=strategies.sampled_from(["in", "out"]),
    protocol=strategies.sampled_from(["icmp", "any"]),
    peers=strategies.lists(strategies.sampled_from(["10.0.0.0/8", "10.0.0.1", "fd00::/8", "::/0"]), max_size=3),
) | strategies.builds(
    FirewallRule,
    direction=strategies.sampled_from(["in", "out"]),
    protocol=strategies.sampled_from(["tcp", "udp"]),
    ports=strategies.lists(strategies.sampled_from(["1", "80", "70-90", "1-65535", "85-1000"]), max_size=3),
    peers=strategies.lists(strategies.sampled_from(["10.0.0.0/8", "10.0.0.1", "0.0.0.0/0", "fd00::/8"]), max_size=3),
)
_PORT = strategies.builds(
    fences.Port,
    tap=strategies.integers(0, 99).map(lambda number: f"bt{number:012x}"),
    mac=strategies.integers(0, 255).map(lambda number: f"52:54:00:00:00:{number:02x}"),
    addresses=strategies.lists(
        strategies.sampled_from(["10.0.0.1", "10.0.0.0/24", "fd00::1", "fd00::/64", "0.0.0.0/0"]).map(net), max_size=3
    ).map(tuple),
    free=strategies.booleans(),
    trunk=strategies.lists(strategies.integers(1, 4094), max_size=3, unique=True).map(tuple),
    groups=strategies.none() | strategies.lists(_NAMES, min_size=1, max_size=3, unique=True).map(tuple),
)


@hypothesis.settings(
    max_examples=40, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(
    ports=strategies.lists(_PORT, max_size=4, unique_by=lambda one: one.tap),
    known=strategies.sets(strategies.sampled_from(["10.0.0.1", "10.0.0.254", "fd00::1", "10.0.0.0/24"]).map(net)),
    groups=strategies.dictionaries(_NAMES, strategies.lists(_RULE, max_size=5), max_size=3),
)
def test_whatever_is_asked_for_the_kernel_takes_it(
    namespace: None, ports: list[fences.Port], known: set[Prefix], groups: dict[str, list[FirewallRule]]
) -> None:
    text = fences.ruleset(str(uuid.UUID(int=7)), ports, known, groups)
    said = subprocess.run(["nft", "--check", "-f", "-"], input=text, text=True, capture_output=True, timeout=20)
    assert said.returncode == 0, (said.stderr, text)
