"""A real Debian guest: what its seed told it, what its agent tells, and its orderly end."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import AsyncIterator, Iterator

import pytest

from bocage import home
from bocage.model import vm, work
from tests.node import debian
from tests.node.house import BOUND, House

pytestmark = [pytest.mark.guest, pytest.mark.slow, pytest.mark.timeout(3600)]
Guest = tuple[House, vm.VM]


@pytest.fixture(scope="module")
def booted(packages_cache: pathlib.Path) -> Iterator[debian.Booted]:
    with debian.booted(packages_cache) as found:
        yield found


@pytest.fixture
async def guest(booted: debian.Booted, homes: home.Home) -> AsyncIterator[Guest]:
    async with debian.resumed(booted, homes, "heron") as running:
        yield running


async def test_it_goes_on_from_its_saved_memory_and_its_agent_tells_its_addresses(guest: Guest):
    house, machine = guest
    assert "vm-restored" in await house.events()
    told = await debian.addresses(house, machine)
    assert told["nic0"][0] == "10.0.2.15"
    assert told["nic1"][0] == debian.STATIC.split("/")[0]


async def test_by_password_one_finds_inside_what_the_definition_says(guest: Guest):
    house, machine = guest
    spec = machine.spec
    await debian.log_in(house, machine)

    async def finds(command: str) -> str:
        line = await house.says(machine, "^found ", send=f"echo found $({command})")
        return line.removeprefix("found ").strip()

    assert await finds("hostname") == "heron"
    assert await finds("id -un; sudo -n id -un") == "ada root"
    assert await finds("nproc") == "2"
    assert await finds("lsmem --bytes --summary=only | awk '/online/ {print $NF}'") == str(int(spec.memory))
    serials = " ".join(disk.serial for disk in spec.disks)
    assert await finds("lsblk -dno SERIAL /dev/vda /dev/vdb") == serials
    assert await finds("lsblk -dbno SIZE /dev/vda /dev/vdb") == f"{5 << 30} {96 << 20}"
    assert int(await finds("df -B1 --output=size / | tail -n 1")) > 4.5 * (1 << 30)
    macs = await finds("cat /sys/class/net/e*/address | sort")
    assert macs.split() == sorted(nic.mac for nic in spec.nics)
    assert await finds("systemctl --failed --no-legend | wc -l") == "0"
    assert debian.STATIC in await finds("ip -4 -o address show scope global")


async def test_its_key_lets_one_in_by_ssh_through_the_published_port(guest: Guest, booted: debian.Booted):
    _, machine = guest
    at = machine.spec.nics[0].publish[0]
    options = ["BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null"]
    ssh = await asyncio.create_subprocess_exec(
        "ssh", "-F", "none", "-q", *(part for option in options for part in ("-o", option)),
        "-i", booted.ssh_key, "-p", str(at.host_port), f"{debian.USER}@{at.host_address}", "hostname; id -un",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        said, complaint = await asyncio.wait_for(ssh.communicate(), BOUND)
    finally:
        if ssh.returncode is None:
            ssh.kill()
            await ssh.wait()
    assert (said.decode().split(), complaint.decode()) == (["heron", "ada"], "")


async def test_it_is_stopped_by_its_agent(guest: Guest):
    house, machine = guest
    stopped = await house.ask("vm.stop", machine)
    assert stopped.status.state is work.TaskState.DONE, stopped.status
    ways = [line.said.params["way"] for line in stopped.status.log if line.said.type == "step-asking-guest"]
    assert ways == ["guest agent"]
    now = await house.read(machine)
    assert (now.status.state, now.spec.power) == (vm.State.STOPPED, vm.Power.STOPPED)


async def test_the_same_image_booted_by_uefi_and_without_a_seed(booted: debian.Booted, homes: home.Home):
    async with debian.resumed(booted, homes, "owl") as (house, machine):
        assert "] efi: EFI v" in house.place(machine).serial_log.read_text(errors="replace")
        assert (await debian.addresses(house, machine))["nic0"][0] == "10.0.2.15"
