"""A bridge onto one of the machine's own NICs: the machine's addresses and routes move to the bridge in one step.

What was before is written down first, with a time. Unless the move is confirmed until then, a watcher puts it back:
a process of its own (`python -m bocage.network.uplink FILE`), which outlives the daemon and needs nothing of it.
After a reboot the kernel has forgotten the bridge: what was confirmed is made again, the NIC found by its MAC.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, Literal

from bocage import errors, files
from bocage.network import base, kernel
from bocage.words import N_

CONFIRM_WITHIN = 60.0  # seconds
PREFIX = "bcu-"
_ALIAS = "bocage uplink "
_TRIES, _PAUSE = 30, 1.0  # to put a NIC back; seconds between two
_BOOT_ID = pathlib.Path("/proc/sys/kernel/random/boot_id")
_DROPPED_FLAGS = ("linkdown", "dead", "pervasive")

State = Literal["trial", "confirmed", "undone"]


class NoSuchNic(base.Error, errors.NotFound):
    type = "network-no-such-nic"
    text = N_("this machine has no NIC {nic}")
    hint = N_("'ip link' shows those it has; name one by its name or its MAC address")
    nic: str


class NicTaken(base.Error, errors.Conflict):
    type = "network-nic-taken"
    text = N_("{nic} is a port of {master} already")
    hint = N_("'ip link show {nic}'; take it out of there first")
    nic: str
    master: str


class NotConfirmed(base.Error, errors.Conflict):
    type = "network-not-confirmed"
    text = N_("nobody confirmed {network} in time: {nic} is as it was before")
    hint = N_("'bocage network delete {network}', make it again, and then 'bocage network confirm {network}'")
    network: str
    nic: str


class NotBegun(base.Error, errors.Conflict):
    """It was made on another machine, or its record is lost: a machine's own NIC is never moved unasked."""

    type = "network-not-begun"
    text = N_("{network} was never put onto a NIC of this machine")
    hint = N_("'bocage network delete {network}' and 'bocage network create {network} --kind bridge --nic NIC'")
    network: str


class NothingToConfirm(base.Error, errors.Conflict):
    type = "network-nothing-to-confirm"
    text = N_("{network} waits for no confirmation")
    network: str


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """What a NIC was like before it became a port of the network's bridge. Routes are as `ip route` prints them."""

    uid: str
    mac: str
    nic: str  # its name then
    addresses: tuple[str, ...]
    routes: tuple[str, ...]
    routes6: tuple[str, ...]
    state: State
    boot_id: str
    until: float  # by the boot clock of that boot

    @property
    def interface(self) -> str:
        return interface_of(self.uid)


def interface_of(uid: str) -> str:
    """The bridge of the network `uid`. Not named as those with a subnet are: what these let through goes by name."""
    return PREFIX + base.interface_of(uid).partition("-")[2]


def read(path: pathlib.Path) -> Record | None:
    """The record of a network; None when it was never begun. One that a reboot overtook is undone."""
    try:
        held = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    record = Record(**{**held, **{name: tuple(held[name]) for name in ("addresses", "routes", "routes6")}})
    if record.state == "trial" and record.boot_id != _boot_id():
        return dataclasses.replace(record, state="undone")
    return record


async def begin(path: pathlib.Path, uid: str, nic: str, *, mtu: int | None = None, vlans: bool = False) -> Record:
    """Move a NIC, named by name or MAC, under the network's bridge; the watcher puts it back unless `confirm` comes.

    Raises NoSuchNic, NicTaken, base.Refused; then all is as before.
    """
    found = await _find(nic)
    addresses, routes, routes6 = await _as_it_is(found.name)
    record = Record(
        uid=uid,
        mac=found.mac,
        nic=found.name,
        addresses=addresses,
        routes=routes,
        routes6=routes6,
        state="trial",
        boot_id=_boot_id(),
        until=time.clock_gettime(time.CLOCK_BOOTTIME) + CONFIRM_WITHIN,
    )
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _write(path, record)
    _watch(path)
    await _move(path, record, mtu, vlans=vlans)
    return record


async def ensure(path: pathlib.Path, *, mtu: int | None = None, vlans: bool = False) -> Record | None:
    """Make a confirmed bridge again when it is gone, as after a reboot. Raises NoSuchNic, base.Refused."""
    record = read(path)
    if record is None or record.state == "undone" or kernel.present(record.interface):
        return record
    if record.state == "trial":
        return record  # its watcher has begun to put it back
    found = await _find(record.mac)
    addresses, routes, routes6 = await _as_it_is(found.name)
    now = dataclasses.replace(record, nic=found.name, addresses=addresses, routes=routes, routes6=routes6)
    _write(path, now)
    await _move(path, now, mtu, vlans=vlans)
    return now


def confirm(path: pathlib.Path) -> bool:
    """Let it stay; False when it was put back already, or never begun."""
    with _locked(path):
        record = read(path)
        if record is None or record.state == "undone":
            return False
        _write(path, dataclasses.replace(record, state="confirmed"))
        return True


async def remove(path: pathlib.Path) -> None:
    """Put the NIC back, and forget it. Not an error when it is gone."""
    with _locked(path):
        if (record := read(path)) and kernel.present(record.interface):
            await _put_back(await _present(record))
        _forget(path)


async def neighbours(interface: str) -> set[str]:
    """The addresses that are the machine's own on the bridge, and its gateway's."""
    found, routes, routes6 = await _as_it_is(interface)
    own = {one.split("/")[0] for one in found}
    for line in (*routes, *routes6):
        words = line.split()
        if "via" in words:
            own.add(words[words.index("via") + 1])
    return {one for one in own if one != "inet6"}


async def _move(path: pathlib.Path, record: Record, mtu: int | None, *, vlans: bool) -> None:
    name, nic = record.interface, record.nic
    size = [f"link set {nic} mtu {mtu}"] if mtu else []
    steps = [
        f"link add {name} address {record.mac} type bridge {kernel.bridge_options(vlans=vlans)}",
        f'link set {name} alias "{_ALIAS}{record.uid}"',
        *size,
        f"link set {nic} up",
        f"link set {name} up",
        *(f"address delete {address} dev {nic}" for address in record.addresses),
        f"link set {nic} master {name}",
        *_addressed(record, name),
    ]
    try:
        await kernel.change(steps)
        if vlans:
            await kernel.set_vlans(nic, untagged=1, tagged=["2-4094"])
    except errors.Problem:
        with _locked(path):
            await _put_back(record)
            _write(path, dataclasses.replace(record, state="undone"))
        raise


async def _put_back(record: Record) -> None:
    """As it was. Each step may find that it was done: the others are tried all the same."""
    steps = [f"link delete {record.interface}", f"link set {record.nic} up", *_addressed(record, record.nic)]
    for _ in range(_TRIES):
        try:
            await base.run("ip", "-force", "-batch", "-", stdin="".join(f"{step}\n" for step in steps))
        except base.Refused:
            return  # a step that was done already is refused
        except errors.Problem:  # a kernel that is busy: this host is not reached by anybody else
            await asyncio.sleep(_PAUSE)
        else:
            return


def _addressed(record: Record, name: str) -> Iterator[str]:
    yield from (f"address add {address} dev {name} nodad" if ":" in address else f"address add {address} dev {name}"
                for address in record.addresses)  # fmt: skip
    yield from (f"route replace {route} dev {name}" for route in record.routes)
    yield from (f"route replace {route.replace('default', '::/0', 1)} dev {name}" for route in record.routes6)


async def _present(record: Record) -> Record:
    """The record with what the bridge has by now, and the NIC's present name."""
    addresses, routes, routes6 = await _as_it_is(record.interface)
    ports = await kernel.links("master", record.interface)
    nic = next((one.name for one in ports if one.mac == record.mac), record.nic)
    return dataclasses.replace(record, nic=nic, addresses=addresses, routes=routes, routes6=routes6)


async def _find(nic: str) -> kernel.Link:
    """A NIC by name or MAC; bridges and taps are none."""
    links = [one for one in await kernel.links() if one.kind not in ("bridge", "tun") and one.name != "lo"]
    found = next((one for one in links if nic.lower() in (one.name.lower(), one.mac)), None)
    if found is None:
        raise NoSuchNic(nic=nic)
    if found.master:
        raise NicTaken(nic=found.name, master=found.master)
    return found


async def _as_it_is(name: str) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Addresses but for those that the kernel makes by itself; routes of both IP versions but for those."""
    shown: list[dict[str, Any]] = json.loads(await base.run("ip", "-json", "address", "show", "dev", name) or b"[]")
    addresses = tuple(
        f"{entry['local']}/{entry['prefixlen']}"
        for link in shown
        for entry in link.get("addr_info", [])
        if entry.get("scope") != "link" and not (entry["family"] == "inet6" and entry.get("dynamic"))
    )
    return addresses, await _routes("-4", name), await _routes("-6", name)


async def _routes(version: str, name: str) -> tuple[str, ...]:
    said = (await base.run("ip", version, "route", "show", "dev", name)).decode()
    lines = [line.split() for line in said.splitlines()]
    kept = [words for words in lines if "kernel" not in words and "ra" not in words]
    kept = [[word for word in words if word not in _DROPPED_FLAGS] for words in kept]
    return tuple(" ".join(words) for words in sorted(kept, key=lambda words: "via" in words))  # direct ones first


def _watch(path: pathlib.Path) -> None:
    """Start the watcher, which no end of ours takes with it."""
    subprocess.Popen(
        [sys.executable, "-m", "bocage.network.uplink", os.fspath(path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


async def _wait(path: pathlib.Path) -> None:
    """What the watcher does: at the time that the record names, put back what is still on trial."""
    while (record := read(path)) is not None and record.state == "trial":
        left = record.until - time.clock_gettime(time.CLOCK_BOOTTIME)
        if left > 0:
            await asyncio.sleep(min(left, 1.0))
            continue
        with _locked(path):
            record = read(path)
            if record is not None and record.state == "trial":
                await _put_back(record)
                _write(path, dataclasses.replace(record, state="undone"))


def _write(path: pathlib.Path, record: Record) -> None:
    files.write_durably(path, json.dumps(dataclasses.asdict(record)) + "\n", mode=0o600)


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    """One at a time of the daemon and the watcher."""
    with open(path.with_suffix(".lock"), "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _forget(path: pathlib.Path) -> None:
    for one in (path, path.with_suffix(".lock")):
        one.unlink(missing_ok=True)


def _boot_id() -> str:
    return _BOOT_ID.read_text().strip()


if __name__ == "__main__":
    asyncio.run(_wait(pathlib.Path(sys.argv[1])))
