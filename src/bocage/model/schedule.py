"""When snapshots are taken by themselves, and how many are kept: `hourly=24,daily=7`."""

from __future__ import annotations

import enum
import re
import zoneinfo
from typing import Annotated, Any

from pydantic import Field, StringConstraints, field_validator, model_validator

from bocage.model.base import Part

_FORM = re.compile(r"([a-z]+)=(\d{1,4})")


class Period(enum.StrEnum):
    HOURLY = "hourly"
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    YEARLY = "yearly"


class SnapshotSchedule(Part):
    """One is taken whenever the shortest period begins; of each period the first one is kept for so many periods.

    A text such as `hourly=24,daily=7` is taken for `keep`.
    """

    keep: Annotated[dict[Period, Annotated[int, Field(ge=1, le=1000)]], Field(min_length=1)]
    at: Annotated[str, StringConstraints(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")] = "00:00"
    """Local time at which days and what is longer begin; hours begin at its minute."""
    zone: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_+/-]{1,64}$")] | None = None
    """IANA time zone, such as `Europe/Paris`; None: that of the VM's host."""
    memory: bool = False
    """The memory, too, of a VM that runs."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs = [_FORM.fullmatch(part.strip()) for part in value.split(",")]
        if not all(pairs):
            raise ValueError("write how many of each period are kept, such as hourly=24,daily=7")
        return {"keep": {pair[1]: int(pair[2]) for pair in pairs if pair}}

    @field_validator("zone")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                zoneinfo.ZoneInfo(value)
            except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
                raise ValueError(f"there is no time zone {value}; write one such as Europe/Paris or UTC") from error
        return value

    @property
    def shortest(self) -> Period:
        """How often one is taken."""
        return next(period for period in Period if period in self.keep)

    def __str__(self) -> str:
        return ",".join(f"{period}={self.keep[period]}" for period in Period if period in self.keep)
