"""A bridge onto the machine's NIC; the NIC is one end of a veth pair, the network behind it the other."""

from __future__ import annotations

import asyncio
import dataclasses
import fcntl
import os
import pathlib
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from bocage import errors
from bocage.network import base, bonds, kernel, nics, uplink, watching
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
    assert await uplink.confirm(path)
    await eventually(lambda: not watchers(path))
    assert kernel.present(record.interface)
    await eventually(reached, within=30)
    rebooted()  # the NIC is configured anew, and is called otherwise
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
async def test_a_nic_that_comes_up_with_nothing_gets_what_was_confirmed_also_at_the_second_try(
    lan: Machine, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, before = tmp_path / "record.json", ways()
    await confirmed(path)
    written = path.read_bytes()
    rebooted()
    with monkeypatch.context() as broken:
        broken.setattr(nics, "given", lambda *_: ["address add 192.0.2.2/24 dev nothing"])
        with pytest.raises(base.Refused):
            await uplink.ensure(path)
    assert not kernel.present(uplink.interface_of(UID))
    assert path.read_bytes() == written
    await uplink.ensure(path)
    assert ways() == before
    assert path.read_bytes() == written
    await eventually(reached, within=30)
    run("ip", "link", "set", "up0", "nomaster")  # it is pulled out, and plugged in again
    assert not await uplink.stands(read(path))
    await uplink.ensure(path)
    assert await uplink.stands(read(path))
    await eventually(reached, within=30)


@pytest.mark.fault
@pytest.mark.parametrize("step", range(4))
async def test_a_move_that_ends_anywhere_is_finished_by_the_next_with_all_addresses(
    lan: Machine, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    path, before, change = tmp_path / "record.json", ways(), kernel.change
    await confirmed(path)
    rebooted()
    run("ip", "address", "add", "192.0.2.2/24", "dev", "up0")
    done = 0

    async def ended(steps: Iterable[str]) -> None:
        nonlocal done
        if done == step:
            raise asyncio.CancelledError
        done += 1
        await change(steps)

    with monkeypatch.context() as broken:
        broken.setattr(kernel, "change", ended)
        with pytest.raises(asyncio.CancelledError):
            await uplink.ensure(path)
    assert not await uplink.stands(read(path))
    await uplink.ensure(path)
    assert await uplink.stands(read(path))
    assert ways() == before
    await eventually(reached, within=30)


@pytest.mark.fault
async def test_a_watcher_that_is_killed_is_started_again_and_does_what_the_first_would_have(
    lan: Machine, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, before = tmp_path / "record.json", ways()
    record = await uplink.begin(path, UID, "up0")
    (first,) = watchers(path)
    os.kill(first, signal.SIGKILL)
    await eventually(lambda: not watching.watched(path))
    uplink._write(path, dataclasses.replace(record, until=0.0))  # its minute passes, and nobody is there
    await uplink.ensure(path)
    await eventually(lambda: read(path).state == "undone")
    assert ways() == before
    await eventually(lambda: not watchers(path))


async def test_without_a_watcher_nothing_is_moved(
    lan: Machine, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, before = tmp_path / "record.json", ways()
    monkeypatch.setattr(watching, "started", lambda *_: subprocess.Popen(["false"]))
    with pytest.raises(uplink.NotWatched):
        await uplink.begin(path, UID, "up0")
    assert ways() == before
    assert not kernel.present(uplink.interface_of(UID))
    await eventually(reached, within=30)


async def test_what_a_nic_learned_of_routers_goes_over_to_its_bridge_and_back(
    lan: Machine, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "record.json"
    run("ip", "link", "set", "up0", "mtu", "1400")
    await confirmed(path, mtu=1420)
    assert "inet6" not in run("ip", "address", "show", "dev", "up0")
    assert "inet6 fe80:" in run("ip", "address", "show", "dev", uplink.interface_of(UID))
    (link_local,) = (one for one in await nics.own(uplink.interface_of(UID)) if one.startswith("fe80"))
    run("ip", "-6", "route", "add", "2001:db8:1::/48", "via", "fe80::77", "dev", uplink.interface_of(UID))
    assert {link_local, "fe80::77", "192.0.2.1", "192.0.2.2"} <= await uplink.neighbours(uplink.interface_of(UID))
    await uplink.remove(path)
    assert "mtu 1400 " in run("ip", "link", "show", "up0")
    await eventually(lambda: "inet6 fe80:" in run("ip", "address", "show", "dev", "up0"))


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
    assert not await uplink.confirm(path)
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
    with pytest.raises(nics.NoSuchNic):
        await uplink.begin(tmp_path / "record.json", UID, "eth7")
    run("ip", "link", "add", "br0", "type", "bridge")
    run("ip", "link", "set", "up0", "master", "br0")
    with pytest.raises(nics.NicTaken):
        await uplink.begin(tmp_path / "record.json", UID, "up0")


async def test_what_stands_on_a_nic_is_not_cut_off(lan: Machine, connect: Connect, tmp_path: pathlib.Path) -> None:
    connect("", port="up1")
    before = ways()
    run("ip", "link", "add", "link", "up1", "name", "on1", "type", "macvlan")
    with pytest.raises(nics.NicCarries, match="on1 stands on up1"):
        await uplink.begin(tmp_path / "record.json", UID, "up0,up1")
    with pytest.raises(nics.NicCarries):
        await uplink.begin(tmp_path / "record.json", UID, "up1", vlans=True)
    assert ways() == before
    assert uplink.read(tmp_path / "record.json") is None


async def test_a_nic_of_a_bond_that_comes_late_joins_it_without_addresses(
    lan: Machine, connect: Connect, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "record.json"
    await confirmed(path)
    assert not await uplink.rejoin(path)
    connect("", port="up1")
    run("ip", "address", "add", "192.0.2.77/24", "dev", "up1")
    late = await kernel.link("up1")
    assert late
    bond = dataclasses.replace(read(path), ports=("up0",), macs=(read(path).mac, late.mac))
    uplink._write(path, bond)
    run("ip", "link", "add", bond.port, "type", "bridge")  # this kernel may have no bonds
    assert await uplink.rejoin(path)
    joined = await kernel.link("up1")
    assert joined
    assert (joined.master, joined.addresses) == (bond.port, ())
    assert read(path).ports == ("up0", "up1")
    assert not await uplink.rejoin(path)


@pytest.mark.fault
@pytest.mark.parametrize("numbered", ["", "192.0.2.2/24", "192.0.2.9/24"])
async def test_a_bridge_that_somebody_took_away_leaves_the_nic_as_it_was_in_the_end(
    lan: Machine, tmp_path: pathlib.Path, numbered: str
) -> None:
    path, before = tmp_path / "record.json", ways()
    await confirmed(path)
    run("ip", "link", "delete", uplink.interface_of(UID))
    if numbered:
        run("ip", "address", "add", numbered, "dev", "up0")
        run("ip", "route", "add", "default", "via", "192.0.2.1", "dev", "up0", "metric", "100")
    await uplink.remove(path)
    if numbered == "192.0.2.9/24":
        assert numbered in run("ip", "address", "show", "dev", "up0")
        assert "192.0.2.2/24" not in run("ip", "address", "show", "dev", "up0")
    else:
        assert ways() == before
    await eventually(reached, within=30)
    assert uplink.read(path) is None


@pytest.mark.fault
async def test_a_nic_that_is_gone_with_its_bridge_can_be_forgotten(lan: Machine, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "record.json"
    await confirmed(path)
    run("ip", "link", "delete", uplink.interface_of(UID))
    run("ip", "link", "delete", "up0")
    await uplink.remove(path)
    assert uplink.read(path) is None


async def test_who_waits_for_the_watcher_holds_nobody_up(tmp_path: pathlib.Path) -> None:
    path, lock = tmp_path / "record.json", tmp_path / "record.lock"
    async with watching.alone(lock):
        waiting = asyncio.create_task(uplink.remove(path))
        await asyncio.sleep(0.1)
        assert not waiting.done()
    await waiting


async def test_a_watcher_of_the_earlier_version_is_seen_and_sees_others(tmp_path: pathlib.Path) -> None:
    path, lock = tmp_path / "record.json", tmp_path / "record.lock"
    with open(watching.lock_of(path), "a") as its, open(lock, "a") as works:
        fcntl.flock(its, fcntl.LOCK_EX | fcntl.LOCK_NB)  # what it did
        fcntl.flock(works, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert watching.watched(path)
        waiting = asyncio.create_task(uplink.remove(path))
        await asyncio.sleep(0.1)
        assert not waiting.done()
    await waiting
    assert not watching.watched(path)
    with watching.at_work(path) as alone, open(watching.lock_of(path), "a") as its:
        assert alone
        with pytest.raises(BlockingIOError):
            fcntl.flock(its, fcntl.LOCK_EX | fcntl.LOCK_NB)


async def test_a_watcher_that_starts_while_it_is_looked_for_stays(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "record.json"
    watching.lock_of(path).touch()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            watching.watched(path)

    looking = [threading.Thread(target=look) for _ in range(2)]
    for one in looking:
        one.start()
    try:
        for _ in range(500):
            with watching.at_work(path) as alone:
                assert alone
                assert watching.watched(path)
    finally:
        over.set()
        for one in looking:
            one.join()
    assert not watching.watched(path)


async def confirmed(path: pathlib.Path, **more: Any) -> None:
    """The NIC is the bridge's for good."""
    await uplink.begin(path, UID, "up0", **more)
    assert await uplink.confirm(path)


def rebooted() -> None:
    """The kernel has forgotten the bridge, and what the NIC had."""
    run("ip", "link", "delete", uplink.interface_of(UID))
    pathlib.Path("/proc/sys/net/ipv6/conf/up0/disable_ipv6").write_text("0")


def read(path: pathlib.Path) -> uplink.Record:
    found = uplink.read(path)
    assert found
    return found


@pytest.mark.fault
async def test_nics_become_one_or_all_is_as_it_was_where_the_kernel_cannot(
    lan: Machine, connect: Connect, tmp_path: pathlib.Path
) -> None:
    connect("", port="up1")
    path, before = tmp_path / "record.json", ways()
    run("ip", "address", "add", "192.0.2.77/24", "dev", "up1")
    with pytest.raises(bonds.Numbered):
        await uplink.begin(path, UID, "up0,up1")
    run("ip", "address", "flush", "dev", "up1")
    try:
        await uplink.begin(path, UID, "up0,up1")
    except base.KernelLacks:
        assert read(path).state == "undone"
    else:
        assert {one.name for one in await kernel.links("master", bonds.interface_of(UID))} == {"up0", "up1"}
        await eventually(reached, within=30)
        await uplink.remove(path)
    assert ways() == before
    assert not kernel.present(uplink.interface_of(UID))
    assert not kernel.present(bonds.interface_of(UID))
    await eventually(reached, within=30)


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


async def test_what_never_came_to_be_can_be_forgotten(tmp_path: pathlib.Path):
    await uplink.remove(tmp_path / "uplinks" / "one.json")
