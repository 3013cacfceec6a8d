"""Homes that earlier releases left: each later one opens them, and their VMs start."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator

import pytest

from bocage import home
from bocage.model import ground, vm, work
from tests.network.conftest import namespace  # noqa: F401 - a fixture
from tests.node.house import House
from tests.releases import make

ARCHIVES = sorted(make.HERE.glob("*.tar.zst"))
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("zstd"), reason="the homes are root's, and packed by zstd"
)


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name.removesuffix(".tar.zst"))
def unpacked(request: pytest.FixtureRequest) -> Iterator[home.Home]:
    """The home of an earlier release, as it left it."""
    archive: pathlib.Path = request.param
    with make.place() as homes:
        extract = ["tar", "--extract", "--numeric-owner", f"--file={archive}", "--directory", str(make.AT)]
        subprocess.run(extract, check=True)
        yield homes


@pytest.fixture
async def old(namespace: None, unpacked: home.Home) -> AsyncIterator[House]:  # noqa: F811 - the fixture
    """The same, opened by this release. Its VMs are on a bridge, which goes with the namespace."""
    house = await House(unpacked).open()
    try:
        yield house
    finally:
        await house.close()


def test_there_is_a_home_of_each_release():
    assert ARCHIVES


async def test_all_that_it_knew_is_there(old: House):
    kept = old.resources
    machines = {one.name: one for one in (await kept.list(vm.VM, trash=True)).items}
    assert set(machines) == {"plain", "linked", "binned"}
    plain, linked = machines["plain"], machines["linked"]
    assert (plain.metadata.title, plain.metadata.notes, plain.metadata.tags) == (make.TITLE, "a\nb", ("old",))
    assert (linked.spec.autostart.enabled, linked.spec.nics[0].mac) == (True, "52:54:00:12:34:56")
    assert machines["binned"].metadata.deleted is not None
    assert len(linked.spec.disks) == 2
    assert [one.name for one in (await kept.list(ground.Image)).items] == ["picture"]
    assert {one.name: one.status.state for one in (await kept.list(ground.Storage)).items} == {
        "local": "ready",
        "second": "ready",
    }


async def test_its_vms_start_and_what_was_thrown_away_comes_back(old: House):
    machines = {one.name: one for one in (await old.resources.list(vm.VM, trash=True)).items}
    for name in ("plain", "linked"):
        started = await old.ask("vm.start", machines[name])
        assert started.status.state is work.TaskState.DONE, started.status
    back = await old.undelete(machines["binned"])
    assert back.status.state is work.TaskState.DONE, back.status
