from __future__ import annotations

import dataclasses
import ipaddress
import pathlib
import subprocess
import uuid

import pytest

from bocage.network import base, dnsmasq

NETWORK = base.Bridge(
    uid=str(uuid.UUID(int=1)),
    name="lan",
    subnet=ipaddress.IPv4Network("10.77.1.0/24"),
    nat=True,
    state=pathlib.Path("/run/networks/one"),
)
ADDRESS = ipaddress.IPv4Address("10.77.1.20")


def test_hosts_are_written_for_dhcp_and_for_dns() -> None:
    hosts = {"52:54:00:AA:00:01": base.Host(address=ADDRESS, name="Alpha")}
    assert dnsmasq.hosts_files(hosts) == ("52:54:00:aa:00:01,10.77.1.20,alpha,43200\n", "10.77.1.20 alpha\n")


@pytest.mark.parametrize("name", ["a,b", "a\nb", "", "-a", "a.b", "*", "a" * 64, "é"])
def test_a_name_that_would_say_something_else_to_the_server_is_refused(name: str) -> None:
    with pytest.raises(base.BadHost):
        dnsmasq.hosts_files({"52:54:00:aa:00:01": base.Host(address=ADDRESS, name=name)})


@pytest.mark.parametrize("mac", ["52:54:00:aa:00", "52:54:00:aa:00:0g", "*:*:*:*:*:*", "set:known", ""])
def test_a_mac_that_is_none_is_refused(mac: str) -> None:
    with pytest.raises(base.BadHost):
        dnsmasq.hosts_files({mac: base.Host(address=ADDRESS, name="alpha")})


def test_leases_that_ended_or_that_cannot_be_read_do_not_count() -> None:
    text = (
        "1000 52:54:00:aa:00:01 10.77.1.20 alpha 01:52:54:00:aa:00:01\n"
        "3000 52:54:00:aa:00:02 10.77.1.30 * *\n"
        "0 52:54:00:aa:00:03 10.77.1.40 gamma *\n"
        "9000 52:54:00:aa:00:04 10.77.1.999 delta *\n"
        "duid 00:01:00:01\n"
        "\n"
        "3000 52:54:00:aa"
    )
    assert dnsmasq.parse_leases(text, now=2000) == {
        "52:54:00:aa:00:02": ipaddress.IPv4Address("10.77.1.30"),
        "52:54:00:aa:00:03": ipaddress.IPv4Address("10.77.1.40"),
    }


def test_a_network_that_never_was_has_no_leases(tmp_path: pathlib.Path) -> None:
    assert dnsmasq.leases(dataclasses.replace(NETWORK, state=tmp_path / "none")) == {}


@pytest.mark.parametrize("subnet", ["10.77.1.0/24", "10.77.1.0/29", "10.0.0.0/8"])
@pytest.mark.parametrize("nat", [True, False])
def test_the_server_understands_its_configuration(tmp_path: pathlib.Path, subnet: str, nat: bool) -> None:
    network = dataclasses.replace(NETWORK, subnet=ipaddress.IPv4Network(subnet), nat=nat)
    written = tmp_path / "dnsmasq.conf"
    written.write_text(dnsmasq.configuration(network))
    program = base.need("dnsmasq")
    done = subprocess.run([program, "--test", f"--conf-file={written}"], capture_output=True, text=True, timeout=20)
    assert "syntax check OK" in done.stderr


def test_an_isolated_networks_server_asks_no_other() -> None:
    isolated = dnsmasq.configuration(dataclasses.replace(NETWORK, nat=False)).splitlines()
    assert "no-resolv" in isolated
    assert not [line for line in isolated if line.startswith("server=")]
    assert "no-resolv" not in dnsmasq.configuration(NETWORK).splitlines()


def test_only_a_dnsmasq_of_this_directory_is_ours(tmp_path: pathlib.Path) -> None:
    argument = f"--conf-file={tmp_path}/dnsmasq-0.conf"
    with subprocess.Popen(["sh", "-c", "read wait", argument], stdin=subprocess.PIPE) as other:
        try:
            assert dnsmasq.processes(tmp_path) == []
        finally:
            other.kill()
