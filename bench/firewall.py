"""Packets a second over a bridge, with 1,000 firewall rules and anti-spoofing, and without: guest to guest.

The same between namespaces at the ends of veth pairs, which cost a packet far less than guests do: there the rules
weigh most. Each packet is of a connection that was never answered, so it goes through all that there is.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import pathlib
import subprocess
from collections.abc import Iterator, Mapping

from tests.node import frames

from bench import measure, ours, session
from bocage.model.firewall import FirewallRule
from bocage.network import fences

RULES = 1000
_UID = "1a2b3c4d-0000-4000-8000-000000000000"
_SECONDS = 2.0
_PORT = 9999
_BOUND = 120.0  # seconds
_PROGRAM = "/mnt/ld.so --library-path /mnt /mnt/packets"
_LEAST = 0.9  # of the bare bridge
_MACS = ("52:54:00:aa:00:01", "52:54:00:aa:00:02")


def run(bench: session.Session) -> measure.Result:
    """The figure."""
    result = measure.Result()
    result.rows.append(_row("guest to guest", _between_guests(bench)))
    program = bench.place("firewall") / "packets"
    program.parent.mkdir(parents=True, exist_ok=True)
    _run("tcc", "-o", str(program), str(pathlib.Path(__file__).with_name("packets.c")))
    with _machines() as (one, other):
        sides = {
            "bare": lambda: _measured("bare", program, one, other, fenced=False),
            "ours": lambda: _measured("ours", program, one, other, fenced=True),
        }
        found = measure.alternate(bench.runs, sides)
        asyncio.run(fences.remove(_UID))
    result.rows.append(_row("namespace to namespace", found, must=False))
    return result


def _row(between: str, found: Mapping[str, list[float]], *, must: bool = True) -> measure.Row:
    bare = measure.median(found["bare"])
    return measure.Row(
        figure="firewall", what=f"packets {between}, {RULES} rules", unit="k/s", ours=measure.median(found["ours"]),
        peer=bare, peer_is="bare bridge", must=f"≥ {_LEAST:g} {measure.TIMES}" if must else "",
        limit=_LEAST * bare if must else None, at_least=True, runs=found,
    )  # fmt: skip


def _between_guests(bench: session.Session) -> dict[str, list[float]]:
    """Thousands of packets a second that one guest gets of another's."""
    place = bench.place("firewall-guests")
    tools = frames.disc(place, pathlib.Path(__file__).with_name("packets.c"))
    with ours.running(place / "home", bench.tiny) as home:
        home.done(home.api.networks.create({"name": "fenced", "kind": "nat", "subnet": "10.5.0.0/24"}))
        uid = home.api.networks.get("fenced")["metadata"]["uid"]
        wanted = [rule.model_dump() for rule in rules()]
        home.api.firewall_groups.create({"name": "bench", "rules": wanted})
        for number, name in enumerate(("one", "other"), 1):
            nic = {"network": "fenced", "ip": f"10.5.0.1{number}", "firewall": ["bench"]}
            machine = home.make(name, nics=[nic], disks=[{"size": "8M", "format": "raw"}])
            disk = home.homes.local_storage / "vms" / str(machine["metadata"]["uid"]) / "disks" / "disk1.raw"
            with disk.open("r+b") as file:
                file.write(tools)
            home.done(home.api.vms.start(name))
            home.api.vms.expect(name, "^tiny: ready", timeout=_BOUND)
            unpacked = f"{frames.SETUP}; until tiny address | grep 10.5.0; do usleep 100000; done; echo addressed"
            home.api.vms.expect(name, "^addressed", timeout=_BOUND, send=unpacked)

        def flood(name: str) -> Mapping[str, float]:
            if name == "ours":
                home.done(home.api.firewall_groups.change("bench", {"notes": "in force"}))
            else:
                asyncio.run(fences.remove(uid))
            counting = f"rm -f /tmp/c; sleep {_SECONDS + 3:g} | {_PROGRAM} count {_PORT} >/tmp/c &"
            counting += " until grep -s ready /tmp/c; do usleep 10000; done"
            home.api.vms.expect("other", "ready", timeout=_BOUND, send=counting)
            home.api.vms.expect(
                "one", "^sent", timeout=_BOUND, send=f"{_PROGRAM} send 10.5.0.12 {_PORT} {_SECONDS:g}; echo sent"
            )
            came = home.api.vms.expect("other", r"^came \d", timeout=_BOUND, send="wait; echo came `tail -n1 /tmp/c`")
            return {name: int(came.split()[1]) / _SECONDS / 1000}

        return measure.alternate(bench.runs, {name: functools.partial(flood, name) for name in ("bare", "ours")})


def rules() -> list[FirewallRule]:
    """Rules that do not fall together; the last is the one that the packets need."""
    some = [
        FirewallRule(protocol="udp", ports=(str(1000 + 7 * number),), peers=(f"10.{number % 250}.0.0/16",))
        for number in range(RULES - 1)
    ]
    return [*some, FirewallRule(protocol="udp", ports=(str(_PORT),), peers=("10.5.0.0/24",))]


def _measured(name: str, program: pathlib.Path, one: int, other: int, *, fenced: bool) -> Mapping[str, float]:
    """Thousands of packets a second that come through."""
    ports = [
        fences.Port(
            tap=f"bench{number}", mac=mac, addresses=(ipaddress.ip_network(f"10.5.0.{number}"),), groups=("bench",)
        )
        for number, mac in enumerate(_MACS, 1)
    ]
    if fenced:
        asyncio.run(fences.apply(_UID, ports, [], {"bench": rules()}))
    else:
        asyncio.run(fences.remove(_UID))
    with subprocess.Popen(
        [*_within(other), str(program), "count", str(_PORT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as counting:
        assert counting.stdout
        assert counting.stdin
        counting.stdout.readline()
        _run(*_within(one), str(program), "send", "10.5.0.2", str(_PORT), str(_SECONDS))
        counting.stdin.close()
        came = int(counting.stdout.readline())
    return {name: came / _SECONDS / 1000}


@contextlib.contextmanager
def _machines() -> Iterator[tuple[int, int]]:
    """Two machines on a bridge, by the pids of what holds their namespaces."""
    with contextlib.ExitStack() as undo:
        _run("ip", "link", "add", "bench0", "type", "bridge", "forward_delay", "0")
        undo.callback(_run, "ip", "link", "delete", "bench0")
        _run("ip", "link", "set", "bench0", "up")
        holders = []
        for number, mac in enumerate(_MACS, 1):
            holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep inf"], stdout=subprocess.PIPE)
            undo.callback(holder.wait)
            undo.callback(holder.kill)
            assert holder.stdout
            undo.callback(holder.stdout.close)
            holder.stdout.readline()
            veth = ("ip", "link", "add", f"bench{number}", "type", "veth")
            _run(*veth, "peer", "name", "eth0", "address", mac, "netns", str(holder.pid))
            _run("ip", "link", "set", f"bench{number}", "master", "bench0", "up")
            _run(*_within(holder.pid), "ip", "address", "add", f"10.5.0.{number}/24", "dev", "eth0")
            _run(*_within(holder.pid), "ip", "link", "set", "eth0", "up")
            holders.append(holder.pid)
        yield holders[0], holders[1]


def _within(pid: int) -> list[str]:
    return ["nsenter", "-t", str(pid), "-n", "--"]


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=60)
