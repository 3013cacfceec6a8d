"""A network's DHCP and DNS: one dnsmasq a network, found again by the configuration it was started with.

The configuration's file name carries its digest, and stands in the process's arguments: what runs, and
whether it runs with what is wanted, is read from the process table. No pid file is trusted.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import ipaddress
import os
import pathlib
import pwd
import re
import signal
import time
from collections.abc import Iterator, Mapping

from bocage import errors, files
from bocage.network import addresses, base, kernel

LEASE_TIME = 43_200  # seconds
_STOP_BOUND = 5.0  # seconds until the plug is pulled, and again until it must be gone
_LOG_BOUND = 1 << 20  # bytes
_TOLD = "hosts-told"  # digest of the hosts that a running server was last told of
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")


@dataclasses.dataclass(frozen=True, slots=True)
class Process:
    """A dnsmasq of ours and the configuration file it was started with."""

    pid: int
    configuration: str


def configuration(network: base.Bridge) -> str:
    """What dnsmasq is told. Isolated networks ask no other server: a name would be a way out."""
    state = network.state
    lines = [
        f"# The network '{network.name}' ({network.uid}), written by Bocage: changes are lost.",
        f"interface={network.interface}",
        "except-interface=lo",
        "bind-dynamic",
        f"user={_user()}",
        f"pid-file={state}/dnsmasq.pid",
        f"log-facility={state}/dnsmasq.log",
        "quiet-dhcp",
        f"dhcp-leasefile={state}/leases",
        f"dhcp-hostsfile={state}/dhcp-hosts",
        f"addn-hosts={state}/hosts",
        "no-hosts",
        "expand-hosts",
        f"domain={network.zone}",
        f"local=/{network.zone}/",
        "domain-needed",
        "bogus-priv",
        "dns-loop-detect",
        "dhcp-authoritative",
        "no-ping",
        "dhcp-ignore-names",
        "dhcp-ignore-clid",  # a guest says what it likes there; its MAC is looked at on the way
        *(_ranges(network.subnet) if network.dhcp else []),
    ]
    if network.mtu:
        lines.append(f"dhcp-option=option:mtu,{network.mtu}")
    if network.prefix:
        lines += ["enable-ra", f"dhcp-range={network.prefix[0]},ra-stateless,ra-names,64,{LEASE_TIME}"]
        if not (network.nat and kernel.sysctl("ipv6/conf/all/forwarding") == "1"):
            lines.append(f"ra-param={network.interface},0,0")  # a prefix, but no way out
    if network.nat:
        lines.append(f"dhcp-option=option:router,{network.gateway}")
    else:
        lines += ["no-resolv", "dhcp-option=option:router"]
    return "".join(f"{line}\n" for line in lines)


def hosts_files(hosts: Mapping[str, base.Host]) -> tuple[str, str]:
    """What `dhcp-hosts` and `hosts` hold. Raises base.BadHost."""
    reservations, names = [], []
    for mac, host in sorted(hosts.items()):
        card, name = mac.lower(), host.name.lower()
        if not _MAC.fullmatch(card):
            raise base.BadHost(value=mac, what="MAC address")
        if not _LABEL.fullmatch(name):
            raise base.BadHost(value=host.name, what="name")
        reservations.append(f"{card},{host.address},{name},{LEASE_TIME}\n")
        names.append(f"{host.address} {name}\n")
    return "".join(reservations), "".join(names)


def parse_leases(text: str, now: float) -> dict[str, ipaddress.IPv4Address]:
    """MAC to address of the leases that hold at `now` (seconds since 1970), as dnsmasq keeps them."""
    found = {}
    for line in text.splitlines():
        expiry, mac, address, *_ = [*line.split(), "", "", ""]
        if _MAC.fullmatch(mac) and expiry.isdecimal() and (int(expiry) == 0 or int(expiry) > now):
            with contextlib.suppress(ValueError):
                found[mac] = ipaddress.IPv4Address(address)
    return found


def leases(network: base.Bridge) -> dict[str, ipaddress.IPv4Address]:
    """MAC to address of the leases that hold now; empty when there never was a server."""
    try:
        text = (network.state / "leases").read_text(errors="replace")
    except FileNotFoundError:
        return {}
    return parse_leases(text, time.time())


async def ensure(network: base.Bridge) -> None:
    """Have exactly one dnsmasq run with the network's present configuration.

    Raises base.ProgramMissing, base.Refused, base.StateHidden, errors.TimedOut.
    """
    text = configuration(network)
    path = _path(network)
    await asyncio.to_thread(_prepare, network.state, path, text)
    running = await asyncio.to_thread(processes, network.state)
    fitting = [one for one in running if one.configuration == os.fspath(path)]
    for one in [*fitting[1:], *(one for one in running if one not in fitting)]:
        await _stop(one)
    if not fitting:
        await base.run("dnsmasq", f"--conf-file={path}")


def runs(network: base.Bridge) -> bool:
    """Whether the server runs with the network's present configuration. Its pid file is only where to look first."""
    try:
        pid = int((network.state / "dnsmasq.pid").read_text())
    except (OSError, ValueError):
        return False
    return _started_with(pid, f"--conf-file={_path(network)}") is not None


async def set_hosts(network: base.Bridge, hosts: Mapping[str, base.Host]) -> None:
    """Make `hosts` (by MAC) all that have a reserved address and a name. Raises base.BadHost.

    A renamed or new one is known at once; an address that was leased before stays so until its lease ends.
    """
    reservations, names = hosts_files(hosts)
    if await asyncio.to_thread(_hosts_are, network.state, reservations, names):
        return
    await asyncio.to_thread(_write_hosts, network.state, reservations, names)
    for one in await asyncio.to_thread(processes, network.state):
        with contextlib.suppress(ProcessLookupError), _held(one) as descriptor:
            signal.pidfd_send_signal(descriptor, signal.SIGHUP)
    (network.state / _TOLD).write_text(_digest(reservations, names))


async def stop(state: pathlib.Path) -> None:
    """End every dnsmasq that was started for the directory `state`. Raises errors.TimedOut."""
    for one in await asyncio.to_thread(processes, state):
        await _stop(one)


def processes(state: pathlib.Path) -> list[Process]:
    """Every dnsmasq that was started for the directory `state`. Reads the process table."""
    own = f"--conf-file={state}/dnsmasq-"
    pids = sorted(int(entry.name) for entry in os.scandir("/proc") if entry.name.isdecimal())
    return [
        Process(pid, argument.removeprefix("--conf-file=")) for pid in pids if (argument := _started_with(pid, own))
    ]


def _started_with(pid: int, own: str) -> str | None:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            program, *arguments = file.read(8192).decode(errors="replace").split("\0")
    except OSError:
        return None
    if os.path.basename(program) != "dnsmasq":
        return None
    return next((argument for argument in arguments if argument.startswith(own)), None)


@contextlib.contextmanager
def _held(one: Process) -> Iterator[int]:
    """A pidfd of the process. Raises ProcessLookupError when it is gone or its pid is another's by now."""
    descriptor = os.pidfd_open(one.pid)
    try:
        if _started_with(one.pid, f"--conf-file={one.configuration}") is None:
            raise ProcessLookupError(one.pid)
        yield descriptor
    finally:
        os.close(descriptor)


async def _stop(one: Process) -> None:
    with contextlib.suppress(ProcessLookupError), _held(one) as descriptor:
        for number in (signal.SIGTERM, signal.SIGKILL):
            signal.pidfd_send_signal(descriptor, number)
            if await _ended(descriptor):
                return
        raise errors.TimedOut(what="dnsmasq", bound=2 * _STOP_BOUND)


async def _ended(descriptor: int) -> bool:
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_reader(descriptor, over.set)
    try:
        async with asyncio.timeout(_STOP_BOUND):
            await over.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(descriptor)
    return True


def _path(network: base.Bridge) -> pathlib.Path:
    return network.state / f"dnsmasq-{_digest(configuration(network))[:16]}.conf"


def _ranges(subnet: ipaddress.IPv4Network) -> list[str]:
    reserved = f"dhcp-range={subnet[0]},static,{subnet.netmask},{LEASE_TIME}"
    dynamic = addresses.dynamic_range(subnet)
    if dynamic is None:
        return [reserved]
    return [reserved, f"dhcp-range={dynamic[0]},{dynamic[1]},{subnet.netmask},{LEASE_TIME}"]


def _user() -> str:
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("dnsmasq").pw_name
    return "nobody"


def _prepare(state: pathlib.Path, path: pathlib.Path, text: str) -> None:
    state.mkdir(mode=0o755, parents=True, exist_ok=True)
    for directory in (state, *state.parents):
        if not directory.stat().st_mode & 0o001:
            raise base.StateHidden(directory=os.fspath(directory))
    for name in ("dhcp-hosts", "hosts"):
        (state / name).touch(mode=0o644)
    for old in state.glob("dnsmasq-*.conf"):
        if old != path:
            old.unlink()
    if not path.exists() or path.read_text() != text:
        files.write_durably(path, text)
    with contextlib.suppress(FileNotFoundError):
        if (state / "dnsmasq.log").stat().st_size > _LOG_BOUND:
            os.truncate(state / "dnsmasq.log", 0)  # dnsmasq appends: it goes on at the start


def _hosts_are(state: pathlib.Path, reservations: str, names: str) -> bool:
    """Whether the files hold this already and the server was told of it."""
    wanted = {"dhcp-hosts": reservations, "hosts": names, _TOLD: _digest(reservations, names)}
    try:
        return all((state / name).read_text() == text for name, text in wanted.items())
    except FileNotFoundError:
        return False


def _write_hosts(state: pathlib.Path, reservations: str, names: str) -> None:
    state.mkdir(mode=0o755, parents=True, exist_ok=True)
    (state / _TOLD).unlink(missing_ok=True)
    files.write_durably(state / "dhcp-hosts", reservations)
    files.write_durably(state / "hosts", names)


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()
