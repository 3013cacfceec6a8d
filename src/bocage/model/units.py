"""Sizes with units. `2G` is 2 GiB; a plain number is refused, since nobody can tell what it counts."""

from __future__ import annotations

import re
from typing import Any

import pydantic_core
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import core_schema

_UNITS = {"B": 0, "K": 10, "M": 20, "G": 30, "T": 40, "P": 50}
_FORM = re.compile(r"(\d{1,18})(?:\.(\d{1,6}))?\s?([BKMGTP])(?:i?B)?", re.IGNORECASE)
_LIMIT = 1 << 62


class Size(int):
    """A number of bytes. Written `512M`, `1.5G`, `100B`; binary units (IEC 80000-13: K is 1,024)."""

    @classmethod
    def parse(cls, text: str) -> Size:
        """Read a size; raises ValueError with what would be right."""
        match = _FORM.fullmatch(text.strip()) if isinstance(text, str) else None
        if not match:
            raise ValueError("a size is a number with a unit, such as 512M, 2G or 1.5T")
        whole, fraction, unit = match.groups()
        shift = _UNITS[unit.upper()]
        count = int(whole) << shift
        if fraction:
            part, rest = divmod(int(fraction) << shift, 10 ** len(fraction))
            if rest and shift < 20:
                raise ValueError("this size is no whole number of bytes")
            count += part
        if count >= _LIMIT:
            raise ValueError("this size is past what any machine has")
        return cls(count)

    def __str__(self) -> str:
        """The shortest exact form: `2G`, `1536M`, `1000B`."""
        for unit in "PTGMK":
            if self and not self % (1 << _UNITS[unit]):
                return f"{int(self) >> _UNITS[unit]}{unit}"
        return f"{int(self)}B"

    def __repr__(self) -> str:
        return f"Size({str(self)!r})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(str, when_used="always"),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {
            "type": "string",
            "pattern": r"^\d{1,15}(\.\d{1,6})?\s?[BKMGTPbkmgtp](i?[Bb])?$",
            "description": "A number with a binary unit: 512M, 2G, 1.5T.",
            "examples": ["512M", "2G"],
        }

    @classmethod
    def _validate(cls, value: Any) -> Size:
        if isinstance(value, Size):
            return value
        try:
            return cls.parse(value)
        except ValueError as error:
            raise pydantic_core.PydanticCustomError("size", str(error)) from error


KiB, MiB, GiB, TiB = (Size(1 << shift) for shift in (10, 20, 30, 40))
