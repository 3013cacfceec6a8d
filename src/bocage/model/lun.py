"""Where a LUN is that a storage lies on, and who we are there."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any

from pydantic import Field, SerializationInfo, StringConstraints, field_serializer, field_validator, model_validator

from bocage.model.base import Part

Chap = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f]*$")]


class LunPlace(Part):
    """A LUN as everybody may know it."""

    portal: Annotated[
        str, StringConstraints(pattern=r"^([0-9]{1,3}(\.[0-9]{1,3}){3}|\[[0-9a-f:]+\]):[0-9]{1,5}$", max_length=60)
    ]
    """The array's address and port: `10.0.0.9:3260`."""
    target: Annotated[str, StringConstraints(pattern=r"^(iqn|eui|naa)\.[a-z0-9.:-]+$", max_length=223)]
    """Its name, RFC 3720 section 3.2.6: `iqn.2026-01.com.example:array`."""
    lun: Annotated[int, Field(ge=0, le=16_383)] = 0
    user: Annotated[str, StringConstraints(max_length=255, pattern=r"^[^\x00-\x1f]*$")] = ""
    """By CHAP; empty where the array asks nobody."""

    @field_validator("portal")
    @classmethod
    def _is_one(cls, portal: str) -> str:
        host, _, port = portal.rpartition(":")
        ipaddress.ip_address(host.strip("[]"))
        if not 0 < int(port) < 1 << 16:
            raise ValueError("a port is 1 to 65535")
        return portal

    @property
    def address(self) -> tuple[str, int]:
        """Of the portal."""
        host, _, port = self.portal.rpartition(":")
        return host.strip("[]"), int(port)


class LunRequest(LunPlace):
    """A LUN as a person names it."""

    password: Chap | None = None

    @model_validator(mode="after")
    def _both(self) -> LunRequest:
        if bool(self.user) != (self.password is not None):
            raise ValueError("password: CHAP takes a user and a password")
        return self


class Lun(LunPlace):
    """A LUN as it is kept."""

    password: str = ""
    """Sealed; never shown."""

    @field_serializer("password", mode="plain")
    def _for_us_alone(self, value: str, info: SerializationInfo) -> str:
        context: Any = info.context
        return "" if context else value


class Slice(Part):
    """The part of a LUN that one volume has, in bytes."""

    offset: int
    size: int

    @property
    def end(self) -> int:
        return self.offset + self.size
