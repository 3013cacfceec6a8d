"""What the network room speaks of: published ports, a bridged network, and what can go wrong with them."""

from __future__ import annotations

import dataclasses
import hashlib
import ipaddress
import os
import pathlib
import shutil
from typing import Literal

from bocage import errors, process
from bocage.words import N_

Kind = Literal["user", "nat", "isolated", "bridge"]
Protocol = Literal["tcp", "udp"]

_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"  # not in the PATH of an ordinary user
_PROGRAM_BOUND = 10.0  # seconds


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """A port of the host behind which a port of the guest stands.

    Without a host address it is the loopback one: what shall be seen from outside is said.
    """

    host_port: int
    guest_port: int
    host_address: str = "127.0.0.1"
    protocol: Protocol = "tcp"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A VM's network card as its network's DHCP and DNS know it: `name` is an RFC 1123 label."""

    address: ipaddress.IPv4Address
    name: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """A published port of a bridged network and the guest's address behind it."""

    address: ipaddress.IPv4Address
    publish: Publish


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bridge:
    """A network on a Linux bridge of its own. Everything made for it is named by its `uid`.

    `state` is the network's own directory; it and those above must let others pass (mode o+x), since
    the DHCP server reads its files after it has given up root.
    """

    uid: str
    name: str
    subnet: ipaddress.IPv4Network
    nat: bool
    state: pathlib.Path
    domain: str = ""  # empty: NAME.internal
    dhcp: bool = True
    mtu: int | None = None
    vlans: bool = False
    ipv6: bool = False

    @property
    def prefix(self) -> ipaddress.IPv6Network | None:
        """Its IPv6 prefix, if it has one: unique to it (RFC 4193), and always the same."""
        if not self.ipv6:
            return None
        digest = hashlib.sha256(self.uid.encode()).digest()
        return ipaddress.IPv6Network((b"\xfd" + digest[:7] + bytes(8), 64))

    @property
    def gateway6(self) -> ipaddress.IPv6Address | None:
        """The host's own IPv6 address in it."""
        return self.prefix[1] if self.prefix else None

    @property
    def interface(self) -> str:
        """The bridge's name in the kernel, at most 15 characters."""
        return interface_of(self.uid)

    @property
    def table(self) -> str:
        """Its nftables table of family `inet`."""
        return table_of(self.uid)

    @property
    def gateway(self) -> ipaddress.IPv4Address:
        """The host's own address in it."""
        return self.subnet[1]

    @property
    def zone(self) -> str:
        """The DNS domain of its VMs."""
        return self.domain or f"{self.name}.internal"

    @property
    def mac(self) -> str:
        """The bridge's own MAC address; set, since it would otherwise follow the cards plugged into it."""
        digest = hashlib.sha256(self.uid.encode()).digest()
        return ":".join(f"{octet:02x}" for octet in (0x06, *digest[:5]))


def interface_of(uid: str) -> str:
    """The bridge of the network `uid`."""
    return f"bcg-{_short(uid)}"


def table_of(uid: str) -> str:
    """The nftables table of the network `uid`."""
    return f"bocage_{_short(uid)}"


def _short(uid: str) -> str:
    return uid.replace("-", "")[:8].lower()


class Error(errors.Problem):
    """Anything that goes wrong with a network."""


class NotRoot(Error, errors.Forbidden, PermissionError):
    type = "network-needs-root"
    text = N_("a network of kind '{kind}' needs root: it makes a bridge and firewall rules")
    hint = N_("start the daemon as root, or use a network of kind 'user'")
    kind: str


class ProgramMissing(Error, errors.Unavailable, FileNotFoundError):
    type = "network-program-missing"
    text = N_("the program '{program}' is not installed")
    hint = N_("install it: 'apt install {package}'")
    program: str
    package: str


class KernelLacks(Error, errors.Unavailable):
    """The kernel, or the container around us, does not offer `what`; `said` is its own answer."""

    type = "network-kernel-lacks"
    text = N_("this machine's kernel does not offer {what} here: {said}")
    hint = N_("a network of kind 'user' needs nothing of the kernel")
    what: str
    said: str


class SubnetTaken(Error, errors.Conflict):
    type = "network-subnet-taken"
    text = N_("the subnet {subnet} overlaps {route}, which this machine reaches through '{interface}'")
    hint = N_("choose another subnet, or none to have a free one chosen")
    subnet: str
    route: str
    interface: str


class InterfaceForeign(Error, errors.Conflict):
    type = "network-interface-foreign"
    text = N_("an interface '{interface}' is there which Bocage did not make ({found})")
    hint = N_("rename or remove it: 'ip link show {interface}'")
    interface: str
    found: str


class StateHidden(Error, errors.Conflict):
    type = "network-state-hidden"
    text = N_("the DHCP server could not read its files: '{directory}' lets only its owner pass")
    hint = N_("'chmod o+x {directory}'")
    directory: str


class BadHost(Error, errors.Invalid, ValueError):
    type = "network-bad-host"
    text = N_("'{value}' is not a valid {what} for a network's DHCP and DNS")
    value: str
    what: str


class PublishUnfit(Error, errors.Invalid, ValueError):
    type = "network-publish-unfit"
    text = N_(
        "port {port} cannot be published on the network '{network}': that takes one with NAT, and an IPv4 address"
    )
    hint = N_("use a network of kind 'nat' or 'user'")
    port: int
    network: str


class Refused(Error, errors.Unavailable):
    """A program that sets up the network said no. `command` can be pasted into a shell."""

    type = "network-refused"
    text = N_("'{program}' refused to set up the network: {output}")
    program: str
    output: str
    command: str


_PACKAGES = dict.fromkeys(("ip", "tc", "bridge"), "iproute2")
_PACKAGES |= {"nft": "nftables", "dnsmasq": "dnsmasq-base", "passt": "passt"}


def find(program: str) -> str | None:
    """The path of a program, also of those that only root has in its PATH; None if it is not there."""
    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:{_SYSTEM_PATH}")


def need(program: str) -> str:
    """The path of a program. Raises ProgramMissing."""
    path = find(program)
    if path is None:
        raise ProgramMissing(program=program, package=_PACKAGES.get(program, program))
    return path


async def run(program: str, *arguments: str, stdin: str | None = None) -> bytes:
    """Run one of the network's programs to its end, at most 10 s. Raises ProgramMissing, Refused, TimedOut."""
    try:
        return await process.run(
            need(program), *arguments, within=_PROGRAM_BOUND, stdin=None if stdin is None else stdin.encode()
        )
    except process.Failed as failed:
        raise Refused(program=program, output=failed.output, command=failed.command) from failed
