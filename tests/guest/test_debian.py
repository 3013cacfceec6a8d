"""The Debian image, built for real and booted on plain QEMU with both kinds of firmware."""

import asyncio
import pathlib
import re
import shutil

import pytest
import pytest_asyncio

from bocage import process
from bocage.guest import debian, seed
from tests.guest import machine

pytestmark = [pytest.mark.guest, pytest.mark.slow]

GIB = 1 << 30
BOUND = 600.0  # a boot takes one to two minutes where nothing but an emulated CPU is to be had
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEJxmzfBgLoFbhcjUsxv6CZxvCA4uvQO6ZdGkYPm1DqZ ada@example"


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["bookworm"])
async def image(request, packages_cache, tmp_path_factory):
    steps = []
    made = tmp_path_factory.mktemp("debian") / "debian.qcow2"
    await debian.build(
        made, release=request.param, cache=packages_cache, report=lambda step, fraction: steps.append(fraction)
    )
    assert steps == sorted(steps)
    assert steps[-1] == 1.0
    assert [path.name for path in made.parent.iterdir()] == [made.name]
    return made


def _by_uefi(place: pathlib.Path) -> list[str]:
    shutil.copy("/usr/share/OVMF/OVMF_VARS_4M.fd", place / "vars.fd")
    return [
        "-drive", "if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
        "-drive", f"if=pflash,format=raw,unit=1,file={place}/vars.fd",
    ]  # fmt: skip


async def test_it_starts_by_uefi_from_the_same_root(image, tmp_path):
    async with machine.boot(image, *_by_uefi(tmp_path), memory="512") as guest:
        await guest.expect(r".*\] efi: EFI v.*", within=BOUND)
        await guest.expect(r"Welcome to .*Debian.*", within=BOUND)


async def test_it_boots_takes_its_seed_and_grows(image, tmp_path):
    larger = tmp_path / "larger.qcow2"
    await process.run(
        "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image, larger, str(6 * GIB), within=30
    )
    told = seed.Seed(
        instance_id="i-1",
        hostname="alpha",
        user="ada",
        ssh_keys=(KEY,),
        password_hash=seed.hash_password("open sesame"),
        network=(seed.NicSeed(mac="52:54:00:00:00:01", address="10.0.2.77/24", gateway="10.0.2.2"),),
    )
    (tmp_path / "seed.iso").write_bytes(seed.build(told))
    agent = tmp_path / "agent"
    arguments = [
        *machine.cd(tmp_path / "seed.iso"), *machine.nic(0, "52:54:00:00:00:01"),
        "-device", "virtio-serial-pci", "-chardev", f"socket,id=qga,path={agent},server=on,wait=off",
        "-device", "virtserialport,chardev=qga,name=org.qemu.guest_agent.0",
    ]  # fmt: skip
    async with machine.boot(larger, *arguments, cpus="2", memory="1024") as guest:
        await guest.expect(r".*ci-info: \|\s+ssh-ed25519\s+\|.*ada@example.*", within=BOUND)
        await guest.expect(r".*Cloud-init v\. .* finished .*DataSourceNoCloud.*", within=BOUND)
        guest.send("\n")
        await guest.said("alpha login: ", within=BOUND)
        guest.send("ada\n")
        await guest.said("Password: ", within=BOUND)
        guest.send("open sesame\n")
        await guest.said("ada@alpha:~$ ", within=BOUND)
        guest.send("ip -4 -o address show scope global\n")
        await guest.expect(r".* inet 10\.0\.2\.77/24 .*", within=BOUND)
        guest.send("df -B1 --output=size / | tail -n 1\n")
        assert int((await guest.expect(r"\s*(\d{7,})", within=BOUND))[1]) > 5 * GIB
        guest.send("systemctl --failed --no-legend | wc -l\n")
        assert (await guest.expect(r"(\d+)", within=BOUND))[1] == "0"
        guest.send("sudo cat ~/.ssh/authorized_keys\n")
        await guest.expect(re.escape(KEY), within=BOUND)
        await _agent_answers(agent)
        await guest.tell("system_powerdown")
        assert await asyncio.wait_for(guest.process.wait(), BOUND) == 0


async def _agent_answers(path: pathlib.Path) -> None:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b'{"execute": "guest-ping"}\n')
    assert await asyncio.wait_for(reader.readline(), 60) == b'{"return": {}}\n'
    writer.close()
