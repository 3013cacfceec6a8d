from __future__ import annotations

import ipaddress
import os
import pathlib
import subprocess
import sys

import pytest

from bocage.network import addresses, base, kernel, machine
from tests.network.machines import run

_SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(base.__file__)))
_CHECK = """
import asyncio, sys
from bocage import errors
from bocage.network import machine
try:
    asyncio.run(machine.check(sys.argv[1]))
except errors.Problem as problem:
    sys.exit(f"{problem.type}: {problem}")
"""


def said(kind: str, *before: str, path: str | None = None) -> str:
    """What the check says in a process of its own, started by `before`; empty when nothing hinders."""
    environment = {"PATH": path or os.environ["PATH"], "PYTHONPATH": _SOURCE}
    command = [*before, sys.executable, "-c", _CHECK, kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment)
    return done.stderr.strip()


@pytest.mark.parametrize("kind", ["nat", "isolated", "user"])
async def test_this_machine_can_carry_every_kind_and_the_check_leaves_nothing(namespace: None, kind: base.Kind) -> None:
    before = await kernel.links()
    await machine.check(kind, subnet=ipaddress.IPv4Network("10.77.1.0/24"))
    assert await kernel.links() == before
    assert run("nft", "list", "ruleset") == ""
    assert kernel.sysctl("ipv4/ip_forward") == "0"


@pytest.mark.parametrize("kind", ["nat", "isolated"])
async def test_bridges_need_root_and_user_mode_does_not(namespace: None, kind: base.Kind) -> None:
    os.seteuid(4711)
    try:
        with pytest.raises(base.NotRoot):
            await machine.check(kind)
        await machine.check("user")
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("program", ["dnsmasq", "nft", "ip"])
def test_a_program_that_is_missing_is_named(
    namespace: None, program: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for present in {"dnsmasq", "nft", "ip"} - {program}:
        found = base.find(present)
        assert found
        (tmp_path / present).symlink_to(found)
    monkeypatch.setattr(base, "_SYSTEM_PATH", "/nonexistent")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(base.ProgramMissing) as missing:
        base.need(program)
    assert missing.value.program == program


@pytest.mark.fault
def test_a_machine_without_taps_is_said(namespace: None) -> None:
    hidden = ("unshare", "--mount", "sh", "-c", 'mount --bind /dev/null /dev/net/tun; exec "$@"', "sh")
    assert said("nat", *hidden).startswith("network-kernel-lacks: ")
    assert "tun" in said("isolated", *hidden)


@pytest.mark.fault
def test_a_container_that_may_not_forward_is_said_for_nat_alone(namespace: None) -> None:
    closed = ("unshare", "--mount", "sh", "-c", 'mount --bind /proc /proc && mount -o remount,bind,ro /proc; exec "$@"')
    assert "ip_forward" in said("nat", *closed, "sh")
    assert said("isolated", *closed, "sh") == ""


@pytest.mark.fault
def test_root_without_the_right_to_make_interfaces_is_said(namespace: None) -> None:
    bounded = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")
    assert said("nat", *bounded).startswith("network-kernel-lacks: ")


async def test_a_subnet_that_is_routed_already_is_said_unless_by_the_network_itself(namespace: None) -> None:
    uid = "1b4e28ba-2fa1-41d2-883f-0016d3cca427"
    run("ip", "link", "add", base.interface_of(uid), "type", "bridge")
    run("ip", "address", "add", "10.77.1.1/24", "dev", base.interface_of(uid))
    run("ip", "link", "set", base.interface_of(uid), "up")
    subnet = ipaddress.IPv4Network("10.77.1.128/25")
    with pytest.raises(base.SubnetTaken) as taken:
        await machine.check("nat", subnet=subnet)
    assert taken.value.route == "10.77.1.0/24"
    await machine.check("nat", subnet=subnet, uid=uid)
    assert [route.subnet for route in await kernel.routes()] == [ipaddress.IPv4Network("10.77.1.0/24")]


async def test_a_subnet_that_fits_no_machines_is_said() -> None:
    with pytest.raises(addresses.SubnetUnfit):
        await machine.check("isolated", subnet=ipaddress.IPv4Network("10.77.1.0/31"))
