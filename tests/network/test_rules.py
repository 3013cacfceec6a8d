from __future__ import annotations

import ipaddress
import pathlib
import uuid

import pytest

from bocage.network import base, rules
from tests.network.machines import run


def network(subnet: str = "10.77.1.0/24", *, nat: bool = True) -> base.Bridge:
    return base.Bridge(
        uid=str(uuid.uuid4()),
        name="lan",
        subnet=ipaddress.IPv4Network(subnet),
        nat=nat,
        state=pathlib.Path("/nonexistent"),
    )


def ssh(host_address: str, port: int = 2222) -> base.Forward:
    publish = base.Publish(host_address=host_address, host_port=port, guest_port=22)
    return base.Forward(address=ipaddress.IPv4Address("10.77.1.20"), publish=publish)


def test_names_in_the_kernel_come_from_the_uid_and_fit() -> None:
    one, two = network(), network()
    assert one.interface != two.interface
    assert one.table != two.table
    assert len(one.interface) <= 15
    assert one.mac != two.mac


def test_a_port_on_the_hosts_loopback_is_not_taken_from_what_arrives() -> None:
    of = network()
    arriving, leaving = rules.ports_table(of, [ssh("127.0.0.1")]).split("chain output")
    assert "dnat" not in arriving
    assert "ip daddr 127.0.0.1 tcp dport 2222 dnat ip to 10.77.1.20:22" in leaving


async def test_rules_are_replaced_not_added(namespace: None) -> None:
    of = network()
    await rules.apply(of)
    once = run("nft", "list", "ruleset")
    await rules.apply(of)
    assert run("nft", "list", "ruleset") == once


@pytest.mark.parametrize("nat", [True, False])
async def test_removing_takes_the_rules_of_this_network_alone_and_may_be_repeated(namespace: None, nat: bool) -> None:
    one, two = network(nat=nat), network("10.77.2.0/24")
    await rules.apply(two)
    before = run("nft", "list", "ruleset")
    await rules.apply(one)
    await rules.publish(one, [ssh("0.0.0.0"), ssh("127.0.0.1", 2223)])
    await rules.remove(one.uid)
    await rules.remove(one.uid)
    assert run("nft", "list", "ruleset") == before


async def test_publishing_nothing_leaves_no_table(namespace: None) -> None:
    of = network()
    await rules.publish(of, [ssh("0.0.0.0")])
    await rules.publish(of, [])
    assert run("nft", "list", "ruleset") == ""


async def test_the_probe_leaves_no_rule(namespace: None) -> None:
    await rules.probe()
    assert run("nft", "list", "ruleset") == ""
