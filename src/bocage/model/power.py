"""How a host is switched off and on from outside: its BMC."""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Literal
from urllib import parse

from pydantic import (
    SerializationInfo,
    StringConstraints,
    field_serializer,
    field_validator,
    model_validator,
)

from bocage.model.base import Part, Saying

Kind = Literal["redfish", "ipmi"]
Password = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^\x00\r\n]*$")]
_SCHEMES = {"redfish": ("https", "http"), "ipmi": ("ipmi",)}
_PORTS = {"https": 443, "http": 80, "ipmi": 623}


class BmcPlace(Part):
    """Where a BMC is, and who we are there."""

    kind: Kind
    address: Annotated[str, StringConstraints(max_length=300)]
    """`https://10.0.0.5` (or `http:`, where there is no TLS) for Redfish, `ipmi://10.0.0.5` for IPMI; with a port,
    perhaps."""
    user: Annotated[str, StringConstraints(max_length=255, pattern=r"^[^\x00\r\n:]*$")] = ""
    system: Annotated[str, StringConstraints(max_length=300, pattern=r"^[^\x00-\x20]*$")] = ""
    """Redfish: the id of the system; empty: the only one that the BMC has."""

    @field_validator("address")
    @classmethod
    def _an_address(cls, value: str) -> str:
        try:
            parts = parse.urlsplit(value)
            whole = bool(parts.hostname) and parts.port != 0
        except ValueError:
            whole = False
        if not whole or parts.path.strip("/") or parts.query or parts.fragment or parts.username or parts.password:
            raise ValueError("an address is a scheme and a host, perhaps with a port: https://10.0.0.5")
        return f"{parts.scheme}://{parts.netloc}"

    @model_validator(mode="after")
    def _of_its_kind(self) -> BmcPlace:
        schemes = _SCHEMES[self.kind]
        if parse.urlsplit(self.address).scheme not in schemes:
            raise ValueError(f"address: of kind '{self.kind}' it begins with {' or '.join(f'{s}://' for s in schemes)}")
        if self.kind == "ipmi" and self.system:
            raise ValueError("system: IPMI knows one alone")
        return self

    @property
    def host(self) -> str:
        return parse.urlsplit(self.address).hostname or ""

    @property
    def port(self) -> int:
        parts = parse.urlsplit(self.address)
        return parts.port or _PORTS[parts.scheme]


class BmcRequest(BmcPlace):
    """A BMC as a person names it."""

    password: Password


class Bmc(BmcPlace):
    """A BMC as it is kept."""

    password: str = ""
    """Sealed; never shown."""
    certificate: str = ""
    """SHA-256 of the one that it showed when it was set: with another it is not spoken to. Empty without TLS."""

    @field_serializer("password", mode="plain")
    def _for_us_alone(self, value: str, info: SerializationInfo) -> str:
        context: Any = info.context
        return "" if context else value


class BmcSeen(Part):
    """What its host saw of the BMC when it last looked."""

    address: str
    """Where: what stands here is not about another one."""
    system: str = ""
    uuid: str = ""
    """The System UUID that it tells; empty when it did not answer, or has none."""
    own: bool = False
    """Whether that is the host's own."""
    problem: Saying | None = None
    seen: datetime.datetime


def same_system(one: str, other: str) -> bool:
    """Whether two System UUIDs are of one machine.

    The first three fields stand in either byte order (SMBIOS 7.2.1, IPMI 20.8): old firmware and its BMC may differ.
    """
    first, second = _digits(one), _digits(other)
    return bool(first) and first in (second, _swapped(second))


def _digits(uuid: str) -> str:
    digits = uuid.replace("-", "").lower()
    return "" if len(digits) != 32 or set(digits) in ({"0"}, {"f"}) else digits


def _swapped(digits: str) -> str:
    pairs = [digits[at : at + 2] for at in range(0, len(digits), 2)]
    return "".join(pairs[3::-1] + pairs[5:3:-1] + pairs[7:5:-1] + pairs[8:])
