"""Groups of firewall rules, which NICs refer to by name."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from bocage.model.base import Part, Resource, Saying

Prefix = ipaddress.IPv4Network | ipaddress.IPv6Network

_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
_HIGHEST = 65_535


def _range(value: Any) -> Any:
    """`80`, `8000-8100`; a number is taken for its port."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str):
        return value
    found = _RANGE.fullmatch(text.strip())
    if not found or not 1 <= int(found[1]) <= int(found[2] or found[1]) <= _HIGHEST:
        raise ValueError(f"{text} is no port or range of ports: write 80 or 8000-8100")
    first, last = int(found[1]), int(found[2] or found[1])
    return str(first) if first == last else f"{first}-{last}"


def _prefix(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return str(ipaddress.ip_network(value.strip(), strict=False))
    except ValueError as error:
        raise ValueError(f"{value} is neither an address nor a subnet: write 10.0.0.5, 10.0.0.0/8, fd00::/8") from error


def _ipv4(value: str) -> str:
    try:
        return str(ipaddress.IPv4Address(value))
    except ValueError as error:
        raise ValueError(f"{value} is no IPv4 address: write one such as 10.80.1.20") from error


IPv4 = Annotated[str, AfterValidator(_ipv4), Field(description="An IPv4 address.", examples=["10.80.1.20"])]
Ports = Annotated[str, BeforeValidator(_range), Field(description="`80`, or `8000-8100`.", examples=["80"])]
Peer = Annotated[
    str, BeforeValidator(_prefix), Field(description="An address or a subnet, IPv4 or IPv6.", examples=["10.0.0.0/8"])
]


class FirewallRule(Part):
    """What is let through; there is no rule that forbids. Answers need none."""

    direction: Literal["in", "out"] = "in"
    protocol: Literal["tcp", "udp", "icmp", "any"] = "tcp"
    """`icmp` is that of both IP versions."""
    ports: Annotated[tuple[Ports, ...], Field(max_length=64)] = ()
    """Of the guest for what comes in, of the other for what goes out; empty: all."""
    peers: Annotated[tuple[Peer, ...], Field(max_length=256)] = ()
    """The others that it is for; empty: everybody."""

    @model_validator(mode="after")
    def _ports_where_there_are_some(self) -> FirewallRule:
        if self.ports and self.protocol not in ("tcp", "udp"):
            raise ValueError(f"ports: {self.protocol} has none; leave them out, or choose tcp or udp")
        return self

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """First and last port of each range."""
        pairs = [one.split("-") for one in self.ports]
        return tuple((int(pair[0]), int(pair[-1])) for pair in pairs) or ((0, _HIGHEST),)

    @property
    def prefixes(self) -> tuple[Prefix, ...]:
        return tuple(ipaddress.ip_network(one) for one in self.peers) or (
            ipaddress.IPv4Network("0.0.0.0/0"),
            ipaddress.IPv6Network("::/0"),
        )

    def __str__(self) -> str:
        words = [self.direction, self.protocol, ",".join(self.ports)]
        words += [{"in": "from", "out": "to"}[self.direction], ",".join(self.peers)] if self.peers else []
        return " ".join(word for word in words if word)


class FirewallGroupSpec(Part):
    rules: Annotated[tuple[FirewallRule, ...], Field(max_length=2000)] = ()

    @field_validator("rules")
    @classmethod
    def _each_once(cls, value: tuple[FirewallRule, ...]) -> tuple[FirewallRule, ...]:
        return tuple(dict.fromkeys(value))


class FirewallGroupStatus(Part):
    state: Literal["in-force", "failed"] = "in-force"
    """Whether all NICs that refer to it are held to its rules, or to those that it had before."""
    reason: Saying | None = None


class FirewallGroup(Resource[FirewallGroupSpec, FirewallGroupStatus]):
    kind: ClassVar[str] = "firewall-group"
    plural: ClassVar[str] = "firewall-groups"
    status: FirewallGroupStatus = FirewallGroupStatus()
