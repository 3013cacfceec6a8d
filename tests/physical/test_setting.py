"""A BMC is asked who it is before it is kept: by the API, on the command line, and by the host that it is to be of."""

from __future__ import annotations

import pathlib
import uuid
from collections.abc import AsyncIterator
from typing import cast

import pytest

from bocage import home
from bocage.model import base as model
from bocage.model import ground, power
from bocage.node import ground as node_ground
from bocage.node import power as powers
from bocage.node.rounds import identifying
from bocage.physical import base
from bocage.store import resources, sqlite
from tests.daemon import host as daemons
from tests.ground import bmc
from tests.physical.test_redfish import PASSWORD, Server, asked

ONE, TWO = "5f0c9f1e-6f0a-4c53-9c1e-0d1f5a3f7c11", "5f0c9f1e-6f0a-4c53-9c1e-0d1f5a3f7c12"


class Here:
    """What of a host's ground this needs."""

    def __init__(self, kept: resources.Resources, path: pathlib.Path) -> None:
        self.resources, self.uid = kept, ONE
        self.home = home.Home(path, path)


@pytest.fixture
async def here(tmp_path: pathlib.Path) -> AsyncIterator[node_ground.Ground]:
    store = await sqlite.open(tmp_path / "bocage.db")
    try:
        yield cast(node_ground.Ground, Here(resources.Resources(store), tmp_path))
    finally:
        await store.close()


async def add(here: node_ground.Ground, uid: str, name: str, smbios_uuid: str) -> None:
    metadata = model.Metadata(uid=uid, name=name)
    status = ground.HostStatus(smbios_uuid=smbios_uuid)
    await here.resources.create(ground.Host(metadata=metadata, spec=ground.HostSpec(), status=status))


async def test_a_bmc_that_is_another_hosts_is_refused(here: node_ground.Ground) -> None:
    first, second = Server("server1"), Server("server2")
    await add(here, ONE, "host1", first.uuid)
    await add(here, TWO, "host2", second.uuid.upper())
    with bmc.serving_at("127.0.0.1", [bmc.Bmc(first, PASSWORD), bmc.Bmc(second, PASSWORD)]) as (of_first, of_second):
        with pytest.raises(powers.OfAnotherHost) as refused:
            await powers.look(here, ONE, asked(of_second))
        assert refused.value.other == "host2"
        looked = await powers.look(here, ONE, asked(of_first))
        assert (looked.uuid, looked.power) == (first.uuid, base.Power.ON)


async def test_a_host_sees_whether_its_bmc_is_its_own(here: node_ground.Ground) -> None:
    server = Server("server1")
    await add(here, ONE, "host1", server.uuid)
    rounds = identifying.Rounds(here)
    assert await rounds.look()
    with bmc.serving_at("127.0.0.1", [bmc.Bmc(server, PASSWORD)]) as (port,):
        looked = await powers.look(here, ONE, asked(port))
        await here.resources.change(
            ground.Host, None, ONE, lambda one: resources.with_spec(one, bmc=looked.bmc), expected=None
        )
        assert await rounds.look()
        assert (await here.resources.get(ground.Host, None, ONE)).bmc_is_its_own
        bmcs = [bmc.Bmc(server, PASSWORD, port)]
    assert not await rounds.look()  # it is away for a moment, and the host's own all the same
    away = await here.resources.get(ground.Host, None, ONE)
    assert away.status.bmc
    assert away.status.bmc.problem
    assert away.bmc_is_its_own
    with bmc.serving_at("127.0.0.1", bmcs):
        server.uuid = str(uuid.uuid4())  # the addresses were swapped meanwhile
        assert not await rounds.look()
        seen = await here.resources.get(ground.Host, None, ONE)
        assert seen.status.bmc
        assert not seen.bmc_is_its_own
    elsewhere = looked.bmc.model_copy(update={"address": "http://127.0.0.1:1"})
    await here.resources.change(
        ground.Host, None, ONE, lambda one: resources.with_spec(one, bmc=elsewhere), expected=None
    )
    assert not await rounds.look()
    seen = await here.resources.get(ground.Host, None, ONE)
    assert seen.status.bmc
    assert seen.status.bmc.problem
    assert seen.status.bmc.problem.type == "bmc-unreachable"
    await here.resources.change(ground.Host, None, ONE, lambda one: resources.with_spec(one, bmc=None), expected=None)
    assert await rounds.look()
    assert (await here.resources.get(ground.Host, None, ONE)).status.bmc is None


@pytest.mark.slow
def test_on_the_command_line_the_password_is_read_and_never_shown() -> None:
    server = Server("server1")
    with daemons.host() as one, bmc.serving_at("127.0.0.1", [bmc.Bmc(server, PASSWORD)]) as (port,):
        one.start()
        name = one.api.hosts.list()["items"][0]["metadata"]["name"]
        server.uuid = one.api.hosts.get(name)["status"]["smbios_uuid"]
        url = f"redfish+http://{bmc.USER}@127.0.0.1:{port}"
        wrong = one.run("host", "set", name, "--bmc", url, stdin="wrong\n")
        assert wrong.returncode != 0
        assert "does not let the user 'admin' in" in wrong.stderr
        on_it = one.run("host", "set", name, "--bmc", url.replace("@", f":{PASSWORD.split()[0]}@"), stdin="")
        assert "the password stands on the command line" in on_it.stderr
        assert one.run("host", "power", name).returncode != 0
        done = one.run("host", "set", name, "--bmc", url, stdin=f"{PASSWORD}\n")
        assert done.returncode == 0, done.stderr
        one.until(lambda: one.api.hosts.get(name)["status"]["bmc"], lambda seen: seen and seen["own"])
        assert one.api.hosts.get(name)["spec"]["bmc"]["password"] == ""
        assert "this machine's" in one.run("host", "show", name).stdout
        assert one.run("host", "power", name).stdout == "on\n"
        server.state = "Off"
        assert one.run("host", "power", name).stdout == "off\n"
        assert PASSWORD.encode() not in (one.path / "bocage.db").read_bytes()
        assert one.run("host", "set", name, "--bmc", "none").returncode == 0
        assert one.api.hosts.get(name)["spec"]["bmc"] is None


def test_an_address_is_of_its_kind() -> None:
    for kind, address in (
        ("redfish", "ipmi://10.0.0.1"),
        ("redfish", "https://admin:secret@10.0.0.1"),
        ("redfish", "https://10.0.0.1/redfish/v1"),
        ("ipmi", "https://10.0.0.1"),
        ("ipmi", "ipmi://"),
        ("redfish", "https://10.0.0.1:99999"),
    ):
        with pytest.raises(ValueError, match="address"):
            power.BmcPlace(kind=kind, address=address)
    assert power.BmcPlace(kind="redfish", address="https://[fd00::1]:8443/").host == "fd00::1"
