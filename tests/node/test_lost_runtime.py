"""A VM runs on whose runtime directory is lost: it is known, told, and never started a second time."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
from collections.abc import Iterator

import pytest

from bocage import home
from bocage.engine.qemu import processes
from bocage.model import vm, work
from tests.node.conftest import clear
from tests.node.house import BLANK, House
from tests.node.test_wishes import problem


def qemus(which: vm.VM) -> list[int]:
    """The pids of the QEMU processes that have its directory's files."""
    found = processes.find(f"vms/{which.uid}/serial.log")
    return [one.identity.pid for one in found if "qemu-system" in one.arguments[0]]


@pytest.fixture(params=["removed", "looked-for-elsewhere"])
def later_homes(request: pytest.FixtureRequest, homes: home.Home) -> Iterator[home.Home]:
    """The home as the next daemon has it: the same, or as after its runtime directory was mounted in another place."""
    if request.param == "removed":
        yield homes
    else:
        made = dataclasses.replace(homes, runtime=homes.runtime.with_name(f"{homes.runtime.name}-2"))
        yield made
        clear(made)


@pytest.mark.fault
async def test_a_vm_whose_runtime_directory_is_lost_is_told_and_never_started_twice(
    house: House, later_homes: home.Home
):
    made = await house.create(start=True, **BLANK)
    before = (await house.read(made)).status
    assert before.pid is not None
    await house.close()
    shutil.rmtree(house.homes.vm_runtime(made.uid))
    again = await House(later_homes).open()
    try:
        found = await again.becomes(made, vm.State.UNKNOWN)
        assert found.status.reason is not None
        assert found.status.reason.type == "vm-out-of-reach"
        assert found.status.pid == before.pid
        assert found.status.isolation == before.isolation
        assert "vm-out-of-reach" in await again.events()
        assert problem(await again.ask("vm.start", made)) == "vm-cannot-be-reached"
        assert problem(await again.ask("vm.stop", made)) == "vm-cannot-be-reached"
        assert qemus(made) == [before.pid]
        await again.until(again.events, lambda events: "alarm-out-of-reach" in events)
        assert (await again.ask("vm.kill", made)).status.state is work.TaskState.DONE
        assert (await again.read(made)).status.state is vm.State.STOPPED
        assert qemus(made) == []
        assert (await again.ask("vm.start", made)).status.state is work.TaskState.DONE
        assert (await again.read(made)).status.state is vm.State.RUNNING
    finally:
        await again.close()


@pytest.mark.fault
async def test_a_record_of_an_earlier_process_is_nobodys(house: House):
    made = await house.create(start=True, **BLANK)
    await house.ask("vm.kill", made)
    record = house.place(made).path / "process.json"
    stale = record.read_text()
    own = processes.identify(os.getpid())  # it lives, and is no QEMU of this VM
    record.write_text(stale.replace(stale.split('"identity": "')[1].split('"')[0], str(own)))
    await house.close()
    again = await House(house.homes).open()
    try:
        assert (await again.becomes(made, vm.State.STOPPED)).status.pid is None
        assert problem(await again.ask("vm.start", made)) == "vm-already-running"  # rather no start than two
        record.write_text(stale)
        assert (await again.ask("vm.start", made)).status.state is work.TaskState.DONE
    finally:
        await again.close()


async def test_a_vm_that_is_off_has_no_runtime_directory(house: House):
    def left() -> list[pathlib.Path]:
        return list((house.homes.runtime / "vms").iterdir())

    made = await house.create(start=True, **BLANK)
    assert left() == [house.homes.vm_runtime(made.uid)]
    await house.ask("vm.kill", made)
    assert left() == []
    house.place(made).disks.rename(house.place(made).path / "aside")
    assert problem(await house.ask("vm.start", made)) == "volume-file-missing"
    assert left() == []
    (house.place(made).path / "aside").rename(house.place(made).disks)
    await house.ask("vm.start", made)
    await house.ask("vm.save", made)
    assert left() == []
