"""The networks of VMs that come in: the same ones, or those that a person chose; never others."""

from __future__ import annotations

import collections
import contextlib
import json
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import yaml

from bocage.model import ground, vm, work
from bocage.node.carrying import adoption
from bocage.node.place import directory
from tests.network.machines import run
from tests.node.house import House
from tests.node.test_adoption import adopt, carried, discard, files_of, why
from tests.node.test_wires import SMALL as TINY
from tests.node.test_wires import addressed, gets, greets, links, make_network, network_named, up
from tests.node.test_wishes import problem

BLANK: dict[str, Any] = {"memory": "32M", "disk": "1M"}


@contextlib.asynccontextmanager
async def with_the_database_lost(house: House) -> AsyncIterator[House]:
    await house.close()
    for path in house.homes.path.glob("bocage.db*"):
        path.unlink()
    again = await House(house.homes).open()
    try:
        yield again
    finally:
        await again.close()


async def network_of(house: House, made: vm.VM, nic: int = 0) -> ground.Network:
    return await house.resources.get(ground.Network, "default", (await house.read(made)).spec.nics[nic].network)


def masters() -> dict[str, str]:
    """By tap: the bridge that it is plugged into."""
    found = json.loads(run("ip", "-json", "link", "show"))
    return {link["ifname"]: link.get("master", "") for link in found if link["ifname"].startswith("bt")}


def as_before(path: pathlib.Path) -> None:
    """Make `vm.yaml` what was written when definitions did not carry their networks."""
    document = yaml.safe_load(path.read_text())
    del document["networks"]
    path.write_text(yaml.safe_dump(document))


@pytest.mark.guest
@pytest.mark.fault
async def test_with_the_database_lost_a_running_guest_stays_in_its_isolated_network(wired: House):
    await make_network(wired, "cell", kind="isolated")
    await make_network(wired, "lab", kind="nat", subnet="10.99.3.0/24")
    first = await up(wired, "first", "cell")
    address = await addressed(wired, first)
    await greets(wired, first, "first")
    second = await wired.create("second", nics=[{"network": "cell"}, {"network": "lab"}], **TINY)
    cell, lab = await network_named(wired, "cell"), await network_named(wired, "lab")
    pid, plugged = (await wired.read(first)).status.pid, masters()
    assert list(plugged.values()) == [cell.status.bridge]
    async with with_the_database_lost(wired) as house:
        assert set((await house.adopt_local()).status.result["adopted"]) == {"first", "second"}
        assert (await house.becomes(first, vm.State.RUNNING)).status.pid == pid
        for before, made, nic in ((cell, first, 0), (cell, second, 0), (lab, second, 1)):
            now = await network_of(house, made, nic)
            assert (now.uid, now.name, now.spec, now.status) == (before.uid, before.name, before.spec, before.status)
        assert masters() == plugged
        assert (await house.events()).count("network-adopted") == 2
        assert (await house.ask("vm.start", await house.read(second))).status.state is work.TaskState.DONE
        await house.says(second, "^tiny: ready")
        await addressed(house, second)
        assert await gets(house, second, address) == "first"
        await house.node.wires.sweep()
        assert collections.Counter(masters().values()) == {cell.status.bridge: 2, lab.status.bridge: 1}


@pytest.mark.guest
async def test_a_vm_on_another_machine_brings_its_isolated_network(
    wired: House,
    other: House,
    tmp_path: pathlib.Path,
):
    await make_network(wired, "cell", kind="isolated")
    cell = await network_named(wired, "cell")
    boxes = [await wired.create(name, nics=[{"network": "cell"}], **BLANK) for name in ("one", "two")]
    for made in boxes:
        await wired.export(made, tmp_path / made.name)
        await wired.ask("vm.delete", made, purge=True)
    await wired.ask("network.delete", cell)
    assert cell.status.bridge not in links()
    for made in boxes:
        ended = await other.bring(tmp_path / made.name)
        assert ended.status.state is work.TaskState.DONE, ended.status.problem
        there = await network_of(other, made)
        assert (there.uid, there.name, there.spec.kind) == (cell.uid, "cell", "isolated")
        assert (await other.ask("vm.start", await other.read(made))).status.state is work.TaskState.DONE
    assert (await other.events()).count("network-adopted") == 1
    assert list(masters().values()) == [cell.status.bridge] * 2
    for made in boxes:
        await other.ask("vm.delete", await other.read(made), purge=True)
    await other.ask("network.delete", await network_named(other, "cell"))
    assert cell.status.bridge not in links()


@pytest.mark.guest
async def test_a_network_that_cannot_be_made_keeps_its_vm_out(
    wired: House,
    other: House,
    tmp_path: pathlib.Path,
):
    await make_network(wired, "cell", kind="isolated", subnet="10.99.4.0/24")
    made = await wired.create(nics=[{"network": "cell"}], **BLANK)
    await wired.export(made, path := tmp_path / "box")
    await wired.ask("vm.delete", made, purge=True)
    await wired.ask("network.delete", await network_named(wired, "cell"))
    run("ip", "link", "add", "elsewhere", "type", "bridge")
    run("ip", "address", "add", "10.99.4.7/24", "dev", "elsewhere")
    run("ip", "link", "set", "elsewhere", "up")
    before = files_of(other)
    refused = await other.bring(path)
    assert problem(refused) == "adopt-network-cannot-be-made"
    assert refused.status.problem
    assert "10.99.4.0/24" in refused.status.problem.params["reason"]
    await discard(other)
    assert [net.name for net in (await other.resources.list(ground.Network)).items] == ["default"]
    assert files_of(other) == before


async def taken_along(house: House, path: pathlib.Path, *, network: str) -> vm.VM:
    """A VM on a network of its own, exported and gone, with its network."""
    await make_network(house, network, kind="user")
    made = await house.create(nics=[{"network": network}, {"network": "default"}], **BLANK)
    await house.export(made, path)
    return made


async def test_a_network_of_the_same_name_is_another_one_until_a_person_says_so(
    house: House,
    other: House,
    tmp_path: pathlib.Path,
):
    made = await taken_along(house, path := tmp_path / "box", network="lab")
    await make_network(other, "lab", kind="user")
    await make_network(other, "workshop", kind="user")
    before = files_of(other)
    refusals: list[tuple[dict[str, Any], str]] = [
        ({}, "adopt-network-another"),
        ({"networks": {"default": "workshop"}}, "adopt-network-another"),
        ({"networks": {"lab": "nowhere"}}, "not-found"),
    ]
    for params, expected in refusals:
        assert problem(await other.bring(path, **params)) == expected
        await discard(other)
        assert files_of(other) == before
    for chosen in ("lab", "workshop"):
        assert (await other.bring(path, networks={"lab": chosen})).status.state is work.TaskState.DONE
        assert [(await network_of(other, made, nic)).name for nic in (0, 1)] == [chosen, "default"]
        await other.ask("vm.delete", await other.read(made), purge=True)


async def test_a_definition_that_does_not_carry_its_networks_is_read_and_nothing_is_guessed(
    house: House,
    other: House,
    tmp_path: pathlib.Path,
):
    made = await taken_along(house, tmp_path / "archive", network="lab")
    brought = await carried(house, made, tmp_path / "box")
    as_before(brought / "vm.yaml")
    assert directory.Directory(brought).read().networks == ()
    dead = house.node.ground.uid
    for _ in range(2):
        refused = await adopt(other, brought, dead=dead)
        assert "the network lab of box is not here" in why(refused)
        if not any(net.name == "lab" for net in (await other.resources.list(ground.Network)).items):
            await make_network(other, "lab", kind="user")
    taken = await adopt(other, brought, dead=dead, networks={"lab": "lab"})
    assert taken.status.state is work.TaskState.DONE, taken.status.problem
    assert [(await network_of(other, made, nic)).name for nic in (0, 1)] == ["lab", "default"]


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("status:\n    subnet: null", "status:\n    subnet: everything"),
        ("spec:\n    kind: user\n    subnet: null", "spec:\n    kind: user\n    subnet: 8.8.8.0/24"),
        ("kind: user", "kind: open"),
        ("name: lab\n", "name: ../lab\n"),
    ],
)
async def test_a_network_that_makes_no_sense_is_refused_before_anything_is_made(
    house: House, other: House, tmp_path: pathlib.Path, right: str, wrong: str
):
    made = await taken_along(house, tmp_path / "archive", network="lab")
    brought = await carried(house, made, tmp_path / "box")
    text = (brought / "vm.yaml").read_text()
    assert right in text
    (brought / "vm.yaml").write_text(text.replace(right, wrong))
    refused = await adopt(other, brought, dead=house.node.ground.uid)
    assert problem(refused) == "vm-yaml-unreadable"
    assert [net.name for net in (await other.resources.list(ground.Network)).items] == ["default"]


async def test_an_isolated_default_is_not_everybodys_default(
    house: House,
    other: House,
    tmp_path: pathlib.Path,
):
    made = await house.create(nics=[{"network": "default"}], **BLANK)
    brought = await carried(house, made, tmp_path / "box")
    definition = brought / "vm.yaml"
    assert "kind: user" in definition.read_text()
    definition.write_text(definition.read_text().replace("kind: user", "kind: isolated"))
    refused = await adopt(other, brought, dead=house.node.ground.uid)
    assert "(kind isolated) is another one" in why(refused)


async def test_a_network_that_came_in_goes_again_when_its_vm_cannot(
    house: House,
    other: House,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
):
    await taken_along(house, path := tmp_path / "box", network="lab")
    before = files_of(other)

    async def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(adoption, "_enter", full)
    assert (await other.bring(path)).status.state is work.TaskState.FAILED
    await discard(other)
    assert [net.name for net in (await other.resources.list(ground.Network)).items] == ["default"]
    assert files_of(other) == before
