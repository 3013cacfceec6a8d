"""A bridge onto the machine's NIC; the NIC is one end of a veth pair, the network behind it the other."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from typing import Any

import pytest

from bocage import errors
from bocage.network import base, kernel, uplink
from tests.network.machines import Machine, eventually, run

Connect = Callable[..., Machine]
UID = "1a2b3c4d-0000-4000-8000-000000000000"


@pytest.fixture
def lan(connect: Connect) -> Machine:
    """The router of the network that the machine is on, as 192.0.2.2 and 2001:db8::2."""
    router = connect("", address="192.0.2.1/24", port="up0")
    router.run("ip", "address", "add", "2001:db8::1/64", "dev", "eth0", "nodad")
    router.run("ip", "address", "add", "198.51.100.1/32", "dev", "lo")
    run("ip", "address", "add", "192.0.2.2/24", "dev", "up0")
    run("ip", "address", "add", "2001:db8::2/64", "dev", "up0", "nodad")
    run("ip", "route", "add", "default", "via", "192.0.2.1", "dev", "up0", "metric", "100")
    run("ip", "route", "add", "203.0.113.0/24", "via", "192.0.2.1", "dev", "up0")
    run("ip", "-6", "route", "add", "default", "via", "2001:db8::1", "dev", "up0")
    return router


def reached() -> bool:
    said = [run("busybox", "ping", "-c", "1", "-W", "1", one, expect=None) for one in ("198.51.100.1", "2001:db8::1")]
    return all(" 0% packet loss" in one for one in said)


def ways() -> str:
    """Addresses and routes, without the name that they are on."""
    shown = run("ip", "route") + run("ip", "-6", "route", "show", "default")
    return shown.replace("up0", "NIC").replace(uplink.interface_of(UID), "NIC").replace(" linkdown", "")


async def test_a_confirmed_move_stays_and_comes_again_after_a_reboot_under_another_name(
    lan: Machine, tmp_path: pathlib.Path
) -> None:
    path, before = tmp_path / "record.json", ways()
    await eventually(reached, within=30)
    record = await uplink.begin(path, UID, "up0")
    await eventually(reached, within=30)
    assert ways() == before
    assert watchers(path)
    assert uplink.confirm(path)
    await eventually(lambda: not watchers(path))
    assert kernel.present(record.interface)
    await eventually(reached, within=30)
    run("ip", "link", "delete", record.interface)  # a reboot: the bridge is gone, and the NIC is configured anew
    run("ip", "link", "set", "up0", "down")
    run("ip", "link", "set", "up0", "name", "other0")
    run("ip", "address", "add", "192.0.2.2/24", "dev", "other0")
    run("ip", "address", "add", "2001:db8::2/64", "dev", "other0", "nodad")
    run("ip", "link", "set", "other0", "up")
    run("ip", "route", "add", "default", "via", "192.0.2.1", "dev", "other0")
    await uplink.ensure(path)
    assert kernel.present(record.interface)
    await eventually(reached, within=30)
    await uplink.remove(path)
    assert not kernel.present(record.interface)
    await eventually(reached, within=30)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault
async def test_what_nobody_confirms_is_put_back_though_nobody_but_the_watcher_lives(
    lan: Machine, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, before = tmp_path / "record.json", ways()
    monkeypatch.setattr(uplink, "CONFIRM_WITHIN", 0.5)
    await uplink.begin(path, UID, "up0")
    await eventually(lambda: (found := uplink.read(path)) is not None and found.state == "undone")
    assert not kernel.present(uplink.interface_of(UID))
    assert ways() == before
    await eventually(reached, within=30)
    assert not uplink.confirm(path)
    await eventually(lambda: not watchers(path))


@pytest.mark.fault
async def test_a_move_that_fails_in_the_middle_is_taken_back_at_once(lan: Machine, tmp_path: pathlib.Path) -> None:
    before = ways()
    with pytest.raises(base.Refused):
        await uplink.begin(tmp_path / "record.json", UID, "up0", mtu=1_000_000)
    assert not kernel.present(uplink.interface_of(UID))
    assert ways() == before
    await eventually(reached, within=30)
    await eventually(lambda: not watchers(tmp_path / "record.json"))


@pytest.mark.fault
async def test_a_kernel_that_is_too_busy_at_first_still_gives_the_nic_back(
    lan: Machine, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, before, ran = tmp_path / "record.json", ways(), base.run
    tried: list[tuple[str, ...]] = []
    await uplink.begin(path, UID, "up0")

    async def busy(*command: str, **options: Any) -> bytes:
        if "-force" in command and len(tried) < 2:
            tried.append(command)
            raise errors.TimedOut(what="ip", bound=10.0)
        return await ran(*command, **options)

    monkeypatch.setattr(base, "run", busy)
    monkeypatch.setattr(uplink, "_PAUSE", 0.01)
    await uplink.remove(path)
    assert len(tried) == 2
    assert not kernel.present(uplink.interface_of(UID))
    assert ways() == before


async def test_only_a_nic_that_is_free_can_be_taken(lan: Machine, tmp_path: pathlib.Path) -> None:
    with pytest.raises(uplink.NoSuchNic):
        await uplink.begin(tmp_path / "record.json", UID, "eth7")
    run("ip", "link", "add", "br0", "type", "bridge")
    run("ip", "link", "set", "up0", "master", "br0")
    with pytest.raises(uplink.NicTaken):
        await uplink.begin(tmp_path / "record.json", UID, "up0")


def watchers(path: pathlib.Path) -> list[int]:
    """The processes that watch a record."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            try:
                line = pathlib.Path(entry.path, "cmdline").read_bytes()
            except OSError:
                continue
            if line.endswith(os.fsencode(path) + b"\0"):
                found.append(int(entry.name))
    return found
