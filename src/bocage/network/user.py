"""User-mode networking, for which nobody needs root: passt where it is installed, else QEMU's own (slirp).

passt is started as the VM's own user: started as root it would choose `nobody`, and that VM could not open
its socket. Either it listens for QEMU (`-netdev stream,server=off`): then a VM whose passt dies runs on, but
without this card until its next start, since QEMU knows `reconnect` from 8.0 on only. Or QEMU listens
(`server=on`) and passt is handed a connected descriptor: then a passt that died is started anew on a second
connection, and the guest keeps its lease (tried with QEMU 7.2). The engine does the latter.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import ipaddress
import os
import pathlib
import socket
from collections.abc import Sequence
from typing import Literal

from bocage import errors, words
from bocage.network import base, kernel
from bocage.words import N_

_RESOLVERS = ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")


class PortTaken(base.Error, errors.Conflict):
    type = "port-taken"
    text = N_("port {port}/{protocol} of {address} is taken already")
    hint = N_("'ss -lnp sport = :{port}' shows by whom; publish another one")
    address: str
    port: int
    protocol: str


class PortPrivileged(base.Error, errors.Forbidden, PermissionError):
    type = "port-privileged"
    text = N_("port {port}/{protocol} cannot be published: below {lowest} they are root's")
    hint = N_("publish one from {lowest} up, or 'sysctl net.ipv4.ip_unprivileged_port_start={port}'")
    port: int
    protocol: str
    lowest: int


class AddressAbsent(base.Error, errors.Invalid, ValueError):
    type = "publish-address-absent"
    text = N_("{address} is no address of this machine, so nothing can be published there")
    hint = N_("'ip address' shows its addresses; 0.0.0.0 is all of them")
    address: str


class PublishedTwice(base.Error, errors.Invalid, ValueError):
    type = "published-twice"
    text = N_("port {port}/{protocol} is published twice")
    port: int
    protocol: str


class PublishNeedsPasst(base.Error, errors.Invalid, ValueError):
    type = "publish-needs-passt"
    text = N_("publishing on {address} needs passt: QEMU's own user-mode network listens on IPv4 alone")
    hint = N_("'apt install passt', or publish on an IPv4 address")
    address: str


class PasstAbsent(words.Message):
    """Why a VM has QEMU's own user-mode network."""

    type = "passt-absent"
    text = N_("passt is not installed: QEMU's own user-mode network, which is slower, is used")
    hint = N_("'apt install passt'")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a card's user-mode network is done. `why` says why it is not passt.

    `reaches_loopback`: the guest can reach, at its gateway's address, what listens on the host's loopback.
    """

    backend: Literal["passt", "slirp"]
    publish: tuple[base.Publish, ...]
    subnet: ipaddress.IPv4Network
    program: str = ""
    nameservers: tuple[str, ...] = ()  # told to the guest; empty: those of /etc/resolv.conf
    offline: bool = False  # the host has no way out: passt takes its loopback for a model
    reaches_loopback: bool = False
    why: words.Message | None = None

    @property
    def guest(self) -> ipaddress.IPv4Address:
        """The address that the guest gets by DHCP."""
        return self.subnet[15]

    @property
    def gateway(self) -> ipaddress.IPv4Address:
        """The guest's gateway."""
        return self.subnet[2]


async def plan(
    publish: Sequence[base.Publish] = (),
    *,
    card: int = 0,
    passt: str | None = "",
    low_ports: bool = False,
    check: bool = True,
) -> Plan:
    """Decide for passt or QEMU's own, and (`check`) see that every port can be had. Asked again at each start.

    `card` numbers the VM's user-mode cards, whose subnets differ (10.0.2.0/24 and on). `passt` is its path,
    None for without, "" for the one installed. `low_ports`: it will be started as root (`run_as`), and may
    take ports below 1024. Raises PortTaken, PortPrivileged, AddressAbsent, PublishedTwice, PublishNeedsPasst.
    """
    program = base.find("passt") if passt == "" else passt
    if check:
        await asyncio.to_thread(check_ports, publish, low_ports=low_ports and program is not None)
    subnet = ipaddress.IPv4Network(f"10.0.{2 + card}.0/24")
    if program is None:
        if six := next((one for one in publish if ":" in one.host_address), None):
            raise PublishNeedsPasst(address=six.host_address)
        return Plan(backend="slirp", publish=tuple(publish), subnet=subnet, reaches_loopback=True, why=PasstAbsent())
    nameservers = await asyncio.to_thread(_nameservers)
    return Plan(
        backend="passt",
        publish=tuple(publish),
        subnet=subnet,
        program=program,
        nameservers=nameservers or (),
        offline=4 not in kernel.default_routes(),
        reaches_loopback=nameservers is None,
    )


def passt_command(
    plan: Plan,
    serve: pathlib.Path | int | None = None,
    *,
    run_as: tuple[int, int] | None = None,
    log: pathlib.Path | None = None,
) -> list[str]:
    """The command that serves one QEMU, and ends by itself within a second or two of it.

    `serve` is the Unix socket to listen on (it must not be there yet), or a descriptor that is connected;
    with None the command still lacks it.
    Started as root, it is told whom to `run_as` (user id, group id), and then keeps none of root's rights
    but that to low ports. That user must be able to write `log`.
    """
    command = [plan.program, "--foreground", "--quiet", "--one-off"]
    if serve is not None:
        command += ["--fd", str(serve)] if isinstance(serve, int) else ["--socket", os.fspath(serve)]
    if run_as is not None:
        command += ["--runas", f"{run_as[0]}:{run_as[1]}"]
    command += ["--log-file", os.fspath(log)] if log is not None else ["--stderr"]
    command += ["--address", str(plan.guest), "--netmask", str(plan.subnet.netmask)]
    command += ["--gateway", str(plan.gateway), "--mac-addr", _gateway_mac(plan)]
    if plan.offline:
        command += ["--ipv4-only", "--interface", "lo"]
    if not plan.reaches_loopback:
        command.append("--no-map-gw")
    for server in plan.nameservers:
        command += ["--dns", server]
    for one in plan.publish:
        option = "--tcp-ports" if one.protocol == "tcp" else "--udp-ports"
        command += [option, f"{one.host_address}/{one.host_port}:{one.guest_port}"]
    return command


def check_ports(publish: Sequence[base.Publish], *, low_ports: bool) -> None:
    """Try each port: bind it, and let it go. `low_ports`: what will listen may take those below 1024.

    Raises PortTaken, PortPrivileged, AddressAbsent, PublishedTwice. Someone may still be faster.
    """
    lowest = int(kernel.sysctl("ipv4/ip_unprivileged_port_start") or 1024)
    with contextlib.ExitStack() as held:
        seen: set[tuple[str, str, int]] = set()
        for one in publish:
            key = (one.protocol, one.host_address, one.host_port)
            if key in seen:
                raise PublishedTwice(port=one.host_port, protocol=one.protocol)
            seen.add(key)
            if one.host_port < lowest and not low_ports:
                raise PortPrivileged(port=one.host_port, protocol=one.protocol, lowest=lowest)
            _bind(one, held)


def _bind(one: base.Publish, held: contextlib.ExitStack) -> None:
    try:
        address = ipaddress.ip_address(one.host_address)
    except ValueError as error:
        raise AddressAbsent(address=one.host_address) from error
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    kind = socket.SOCK_STREAM if one.protocol == "tcp" else socket.SOCK_DGRAM
    tried = held.enter_context(socket.socket(family, kind))
    if one.protocol == "tcp":
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        tried.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        tried.bind((str(address), one.host_port))
        if one.protocol == "tcp":
            tried.listen(1)  # two bound sockets may share a port by SO_REUSEADDR; two that listen may not
    except OSError as error:
        match errno.errorcode.get(error.errno or 0):
            case "EADDRINUSE":
                raise PortTaken(address=one.host_address, port=one.host_port, protocol=one.protocol) from error
            case "EADDRNOTAVAIL":
                raise AddressAbsent(address=one.host_address) from error
        raise


def _gateway_mac(plan: Plan) -> str:
    return "52:55:" + ":".join(f"{octet:02x}" for octet in plan.gateway.packed)


def _nameservers() -> tuple[str, ...] | None:
    """Servers to name to the guest; empty when passt finds them itself, None when only loopback ones are there.

    A server on the host's loopback is of no use to the guest, unless the way there is opened.
    """
    for path in _RESOLVERS:
        found = _usable(path)
        if found:
            return () if path == _RESOLVERS[0] else found
    return None


def _usable(path: str) -> tuple[str, ...]:
    servers = []
    with contextlib.suppress(OSError), open(path, errors="replace") as file:
        for line in file:
            word, *values = [*line.split(), ""]
            if word == "nameserver":
                with contextlib.suppress(ValueError):
                    if not ipaddress.ip_address(values[0]).is_loopback:
                        servers.append(values[0])
    return tuple(servers)
