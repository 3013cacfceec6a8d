"""The time zone that this host is set to."""

from __future__ import annotations

import os
import pathlib
import zoneinfo

_LINK = pathlib.Path("/etc/localtime")
_NAME = pathlib.Path("/etc/timezone")


def of_host() -> zoneinfo.ZoneInfo:
    """By `TZ`, /etc/localtime, /etc/timezone, as tzset(3) does and Debian writes it; else UTC."""
    for name in (os.environ.get("TZ", "").lstrip(":"), _linked(), _named(), "UTC"):
        try:
            return zoneinfo.ZoneInfo(name)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            continue
    raise zoneinfo.ZoneInfoNotFoundError("UTC")


def _linked() -> str:
    try:
        return os.readlink(_LINK).partition("zoneinfo/")[2]
    except OSError:
        return ""


def _named() -> str:
    try:
        return _NAME.read_text().strip()
    except OSError:
        return ""
