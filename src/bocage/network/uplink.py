"""A bridge onto one of the machine's own NICs: the machine's addresses and routes move to the bridge in one step.

What was before is written down first, with a time. Unless the move is confirmed until then, a watcher puts it back:
a process of its own (`python -m bocage.network.uplink FILE`), which outlives the daemon and needs nothing of it.
After a reboot the kernel has forgotten the bridge: what was confirmed is made again, a NIC found by its MAC and a bond
by its name, whose MAC is that of whichever port came first.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import pathlib
import sys
import time
from collections.abc import Iterable
from typing import Literal

from bocage import errors, files
from bocage.network import base, bonds, kernel, nics, watching
from bocage.words import N_

CONFIRM_WITHIN = 60.0  # seconds
PREFIX = "bcu-"
_ALIAS = "bocage uplink "
_START_WITHIN = 30.0  # seconds for a watcher
_TRIES, _PAUSE = 30, 1.0  # to put a NIC back; seconds between two
_BOOT_ID = pathlib.Path("/proc/sys/kernel/random/boot_id")

State = Literal["trial", "confirmed", "undone"]


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


class NotWatched(base.Error, errors.Unavailable):
    type = "network-not-watched"
    text = N_("nothing could be started that would put {nic} back: it is as it was")
    hint = N_("the host has no room for one more process; 'bocage events' and the journal may say why")
    nic: str


class NothingToConfirm(base.Error, errors.Conflict):
    type = "network-nothing-to-confirm"
    text = N_("{network} waits for no confirmation")
    network: str


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """What a NIC was like before it became a port of the network's bridge; a confirmed one stays as it is written."""

    uid: str
    mac: str
    nic: str  # its name then
    kind: str | None  # the kernel's word: `bond`; empty for a real one, None where it was not asked for then
    mtu: int | None
    ways: nics.Ways
    ipv6: bool  # whether it took part in IPv6
    state: State
    boot_id: str
    until: float  # by the boot clock of that boot
    ports: tuple[str, ...] = ()  # the NICs of a bond of ours, by name, `nic` among them; and their MACs
    macs: tuple[str, ...] = ()
    mode: bonds.Mode = "active-backup"

    @property
    def port(self) -> str:
        """What is the bridge's port."""
        return bonds.interface_of(self.uid) if self.ports else self.nic

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
    lists = {field.name: tuple(held.pop(field.name, ())) for field in dataclasses.fields(nics.Ways)}
    lists |= {name: tuple(held.pop(name, ())) for name in ("ports", "macs")}
    ways = nics.Ways(**{field.name: lists.pop(field.name) for field in dataclasses.fields(nics.Ways)})
    record = Record(**{"kind": None, "mtu": None, "ipv6": True, **held, **lists, "ways": ways})
    if record.state == "trial" and record.boot_id != _boot_id():
        return dataclasses.replace(record, state="undone")
    return record


async def stands(record: Record) -> bool:
    """Whether its bridge is there to the last step, and the NIC is its port."""
    links = {one.name: one for one in await kernel.links()}
    return _is_whole(record, links.get(record.interface)) and any(
        one.name == record.port and one.master == record.interface for one in links.values()
    )


async def begin(
    path: pathlib.Path,
    uid: str,
    nic: str,
    *,
    mtu: int | None = None,
    vlans: bool = False,
    mode: bonds.Mode = "active-backup",
) -> Record:
    """Move a NIC, named by name or MAC, under the network's bridge; the watcher puts it back unless `confirm` comes.

    Several, with commas between, become a bond of this mode. Raises nics.NoSuchNic, nics.NicTaken, nics.NicCarries,
    bonds.Numbered, NotWatched, base.KernelLacks, base.Refused; then all is as before.
    """
    found, *others = await bonds.found(nic)
    bonded = (found, *others) if others else ()
    if bonded or vlans:
        await nics.refuse_carried([found.name, *(one.name for one in others)])
    record = Record(
        uid=uid,
        mac=found.mac,
        nic=found.name,
        kind=found.kind,
        mtu=found.mtu,
        ways=await nics.ways(found.name),
        ipv6=kernel.sysctl(f"ipv6/conf/{found.name}/disable_ipv6") == "0",
        state="trial",
        boot_id=_boot_id(),
        until=_in(_START_WITHIN + CONFIRM_WITHIN),
        ports=tuple(one.name for one in bonded),
        macs=tuple(one.mac for one in bonded),
        mode=mode,
    )
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _write(path, record)
    try:
        await _watch(path, record)
        record = dataclasses.replace(record, until=_in(CONFIRM_WITHIN))
        _write(path, record)
        await _move(record, record.ways, mtu, vlans=vlans)
    except errors.Problem:
        async with watching.alone(path.with_suffix(".lock")):
            await _put_back(record)
            _write(path, dataclasses.replace(record, state="undone"))
        raise
    return record


async def ensure(path: pathlib.Path, *, mtu: int | None = None, vlans: bool = False) -> Record | None:
    """Make a confirmed bridge again when it is gone, as after a reboot; have one on trial be watched.

    Raises nics.NoSuchNic, nics.NicTaken, NotWatched, base.Refused; a confirmed one stays confirmed then.
    """
    record = read(path)
    if record is None or record.state == "undone":
        return record
    if record.state == "trial":
        await _watch(path, record)
        return record
    if await stands(record):
        return record
    if _is_whole(record, await kernel.link(record.interface)):  # and the NIC came out of it, or was plugged in anew
        record = await _named(path, record)
        if record.ports and not kernel.present(record.port):
            await bonds.make(record.port, record.mode, record.mac, record.ports)
        await kernel.change([f"link set {record.port} up", f"link set {record.port} master {record.interface}"])
        await _open_to_vlans(record, vlans=vlans)
        return record
    now = nics.Ways()
    for half in filter(kernel.present, {record.interface, *([record.port] if record.ports else [])}):
        now |= await nics.ways(half)  # of one that was ended in the middle
        await kernel.change([f"link delete {half}"])
    record = await _named(path, record)
    now = await nics.ways(record.nic) | now
    try:
        await _move(record, nics.settled(record.ways, now), mtu, vlans=vlans)
    except errors.Problem:
        await _put_back(dataclasses.replace(record, ways=now))
        raise
    return record


async def _named(path: pathlib.Path, record: Record) -> Record:
    """The record, with what its NICs are called now; written down. Raises nics.NoSuchNic, nics.NicTaken."""
    if record.macs and kernel.present(record.port):
        return record
    if record.macs:
        ports = tuple(one.name for one in await bonds.again(record.macs))
        now = dataclasses.replace(record, nic=ports[0], ports=ports)
    else:
        called = record.nic if nics.by_name(record.kind) else record.mac
        found = await nics.find(called, kind=record.kind, of=record.interface)
        now = dataclasses.replace(record, nic=found.name, mac=found.mac)
    if now != record:
        _write(path, now)
    return now


async def rejoin(path: pathlib.Path) -> bool:
    """Have NICs of a confirmed bond be in it that came late; whether there were any. Raises base.Refused."""
    record = read(path)
    if record is None or record.state != "confirmed" or not record.macs:
        return False
    names = nics.late(await kernel.links(), record.macs)
    if names:
        await bonds.join(record.port, names)
        _write(path, dataclasses.replace(record, ports=tuple(dict.fromkeys((*record.ports, *names)))))
    return bool(names)


async def confirm(path: pathlib.Path) -> bool:
    """Let it stay; False when it was put back already, or never begun."""
    async with watching.alone(path.with_suffix(".lock")):
        record = read(path)
        if record is None or record.state == "undone":
            return False
        _write(path, dataclasses.replace(record, state="confirmed"))
        return True


async def remove(path: pathlib.Path) -> None:
    """Put the NIC back, and forget it. Not an error when it is gone."""
    async with watching.alone(path.with_suffix(".lock")):
        record = read(path)
        if record and kernel.present(record.interface):
            await _put_back(await _present(record))
        elif record and record.state != "undone":
            await _put_back_bare(path, record)
        _forget(path)


async def neighbours(interface: str) -> set[str]:
    """The addresses that are the machine's own on the bridge, and those of the routers that it knows there."""
    return await nics.own(interface) | await nics.routers(interface)


async def _move(record: Record, wanted: nics.Ways, mtu: int | None, *, vlans: bool) -> None:
    name, nic, port = record.interface, record.nic, record.port
    await kernel.change([f"link add {name} address {record.mac} type bridge {kernel.bridge_options(vlans=vlans)}"])
    heed = kernel.sysctl(f"ipv6/conf/{nic}/accept_ra")
    for key, value in (("disable_ipv6", "0" if record.ipv6 else "1"), ("accept_ra", heed)):
        if value and kernel.sysctl(f"ipv6/conf/{name}/{key}"):
            kernel.set_sysctl(f"ipv6/conf/{name}/{key}", value)
    if not record.ports:
        await kernel.change([f"address flush dev {nic} scope global"])
    else:
        await bonds.make(port, record.mode, record.mac, record.ports)
    size = [f"link set {port} mtu {mtu}"] if mtu else []
    await kernel.change([*size, f"link set {port} up", f"link set {name} up"])
    if record.ipv6:  # what it learned of routers is for its bridge to learn
        kernel.set_sysctl(f"ipv6/conf/{port}/disable_ipv6", "1")
    await kernel.change([f"link set {port} master {name}", *nics.given(wanted, name)])
    await _open_to_vlans(record, vlans=vlans)
    await kernel.change([f'link set {name} alias "{_ALIAS}{record.uid}"'])  # last: now it is whole


async def _open_to_vlans(record: Record, *, vlans: bool) -> None:
    """Have all VLANs pass by the NIC, and the host be on the one without a tag."""
    if vlans:
        await kernel.set_vlans(record.interface, kernel.Vlans(), itself=True)
        await kernel.set_vlans(record.port, kernel.Vlans(tagged=("2-4094",)))


async def _put_back(record: Record) -> None:
    """As it was. Each step may find that it was done: the others are tried all the same."""
    size = [f"link set {record.nic} mtu {record.mtu}"] if record.mtu else []
    bond = bonds.apart(record.port, record.ports) if record.ports else ()
    steps = [f"link delete {record.interface}", *bond, *size, f"link set {record.nic} up"]
    for _ in range(_TRIES):
        try:
            await _forced(steps)
            if record.ipv6 and kernel.sysctl(f"ipv6/conf/{record.nic}/disable_ipv6"):
                with contextlib.suppress(base.KernelLacks):
                    kernel.set_sysctl(f"ipv6/conf/{record.nic}/disable_ipv6", "0")
            await _forced(nics.given(record.ways, record.nic))
        except errors.Problem:  # a kernel that is busy: this host is not reached by anybody else
            await asyncio.sleep(_PAUSE)
        else:
            return


async def _forced(steps: Iterable[str]) -> None:
    with contextlib.suppress(base.Refused):  # as a step is that was done already
        await base.run("ip", "-force", "-batch", "-", stdin="".join(f"{step}\n" for step in steps))


async def _put_back_bare(path: pathlib.Path, record: Record) -> None:
    """The same where somebody took the bridge away, who may have given the NIC something since."""
    with contextlib.suppress(nics.NoSuchNic, nics.NicTaken):
        record = await _named(path, record)
        now = await nics.ways(record.nic)
        if record.ports and kernel.present(record.port):
            now |= await nics.ways(record.port)
        await _put_back(dataclasses.replace(record, ways=nics.settled(record.ways, now)))


async def _present(record: Record) -> Record:
    """The record with what the bridge has by now, and the NIC's present name."""
    ports = await kernel.links("master", record.interface)
    nic = next((one.name for one in ports if one.mac == record.mac and not record.ports), record.nic)
    ways = await nics.ways(record.interface)
    if not _is_whole(record, await kernel.link(record.interface)):
        ways = record.ways | await nics.ways(nic) | ways
    return dataclasses.replace(record, nic=nic, ways=ways)


def _is_whole(record: Record, found: kernel.Link | None) -> bool:
    return found is not None and found.alias == f"{_ALIAS}{record.uid}"


async def _watch(path: pathlib.Path, record: Record) -> None:
    """Have a watcher be there, which no end of ours takes with it. Raises NotWatched."""
    if watching.watched(path):
        return
    watcher = watching.started(__name__, path)
    due = _in(_START_WITHIN)
    while not watching.watched(path):
        if watcher.poll() is not None or _in(0) > due:
            if watching.watched(path) or read(path) != record:  # by another that came first, which may be done
                return
            watcher.kill()
            raise NotWatched(nic=record.nic)
        await asyncio.sleep(0.02)


def watch(path: pathlib.Path) -> None:
    """What the watcher does, unless there is one: at the time that the record names, put back what is on trial."""
    with watching.at_work(path) as alone:
        if alone:
            asyncio.run(_put_back_in_time(path))


async def _put_back_in_time(path: pathlib.Path) -> None:
    while (record := read(path)) is not None and record.state == "trial":
        left = record.until - _in(0)
        if left > 0:
            await asyncio.sleep(min(left, 1.0))
            continue
        async with watching.alone(path.with_suffix(".lock")):
            record = read(path)
            if record is not None and record.state == "trial":
                await _put_back(record)
                _write(path, dataclasses.replace(record, state="undone"))


def _write(path: pathlib.Path, record: Record) -> None:
    held = dataclasses.asdict(record)
    files.write_durably(path, json.dumps({**held.pop("ways"), **held}) + "\n", mode=0o600)


def _forget(path: pathlib.Path) -> None:
    for one in (path, path.with_suffix(".lock"), watching.lock_of(path)):
        one.unlink(missing_ok=True)


def _in(seconds: float) -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) + seconds


def _boot_id() -> str:
    return _BOOT_ID.read_text().strip()


if __name__ == "__main__":
    watch(pathlib.Path(sys.argv[1]))
