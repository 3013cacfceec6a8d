"""A real Debian guest: what its seed told it, what its agent tells, and its orderly end."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import pathlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from bocage import home
from bocage.model import vm, work
from bocage.node import http
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


async def test_its_agent_runs_commands_carries_files_and_sets_passwords(guest: Guest):
    house, machine = guest
    node = house.node
    transport = httpx.AsyncHTTPTransport(uds=str(house.homes.node_socket))
    at = f"http://node/vms/{machine.uid}"
    async with (
        http.serve(node.shop, node.crew, node.sampling, house.homes.node_socket),
        httpx.AsyncClient(transport=transport, timeout=BOUND) as client,
    ):

        async def run(*command: str, stdin: bytes = b"", timeout: float = BOUND) -> tuple[dict[str, Any], bytes, bytes]:
            asked = {"command": command, "stdin": base64.b64encode(stdin).decode(), "timeout": timeout}
            answer = await client.post(f"{at}/exec", json=asked)
            answer.raise_for_status()
            *said, end = [json.loads(line) for line in answer.text.splitlines()]
            out, err = (b"".join(base64.b64decode(one.get(name, "")) for one in said) for name in ("stdout", "stderr"))
            return end, out, err

        script = 'tr a-z A-Z; id -un; echo "$1" >&2; exit 7'
        end, out, err = await run("sh", "-c", script, "sh", "it's so", stdin=b"from here\n")
        assert end == {"exit_code": 7, "signal": None, "cut": []}
        assert (out, err) == (b"FROM HERE\nroot\n", b"it's so\n")
        assert (await run("sh", "-c", "kill -9 $$"))[0] == {"exit_code": None, "signal": 9, "cut": []}
        end, out, _ = await run("head", "-c", "1000000", "/dev/zero")
        assert (end["cut"], len(out)) == ([], 1_000_000)
        none = await client.post(f"{at}/exec", json={"command": ["no-such-program"], "timeout": 5})
        assert (none.status_code, none.json()["params"]["command"]) == (409, "guest-exec")
        late = await client.post(f"{at}/exec", json={"command": ["sleep", "60"], "timeout": 0.5})
        assert (late.status_code, late.json()["type"]) == (504, "guest-command-runs-on")
        assert (await run("kill", str(late.json()["params"]["pid"])))[0]["exit_code"] == 0

        content = os.urandom(3_000_000)
        there = {"path": "/root/it is here", "mode": "640"}
        put = await client.put(f"{at}/file", params=there, content=content)
        assert put.json() == {"size": len(content), "mode": "0640"}
        _, out, _ = await run("stat", "-c", "%a %s %U", there["path"])
        assert out.split() == [b"640", b"3000000", b"root"]
        got = await client.get(f"{at}/file", params={"path": there["path"]})
        assert (got.content == content, got.headers["bocage-size"]) == (True, "3000000")
        assert (await client.get(f"{at}/file", params={"path": "/proc/uptime"})).text.count(".") == 2
        for path in ("/nonexistent", "/root"):
            assert (await client.get(f"{at}/file", params={"path": path})).status_code == 409

        changed = await client.post(f"{at}/password", json={"user": debian.USER, "password": "other words"})
        assert changed.status_code == 204
        _, out, _ = await run("getent", "shadow", debian.USER)
        kept = out.decode().split(":")[1]
        assert kept not in ("", "!", "*")
        # It says so itself: su as somebody who is not root asks for it.
        _, out, _ = await run(
            "su", "nobody", "-s", "/bin/sh", "-c", f"su {debian.USER} -c 'echo in'", stdin=b"other words\n"
        )
        assert out == b"in\n"
        unknown = await client.post(f"{at}/password", json={"user": "nobody-here", "password": "other words"})
        assert (unknown.status_code, "other words" in unknown.text) == (409, False)


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
