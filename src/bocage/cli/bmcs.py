"""A BMC as it is named on the command line. Its password never stands there, where every process list shows it."""

from __future__ import annotations

from typing import Any
from urllib import parse

from bocage.cli import failure, passwords

_KINDS = {"redfish": ("redfish", "https"), "redfish+http": ("redfish", "http"), "ipmi": ("ipmi", "ipmi")}


def asked(url: str, *, password_file: str | None) -> dict[str, Any]:
    """What the API is asked for. Raises failure.Usage."""
    parts = parse.urlsplit(url)
    if parts.scheme not in _KINDS or not parts.hostname:
        right = "redfish://USER@ADDRESS, redfish+http://USER@ADDRESS:8000/SYSTEM, ipmi://USER@ADDRESS"
        raise failure.Usage(option="--bmc", wrong=f"'{url}' names no BMC", right=right)
    if parts.password is not None:
        right = f"{parts.scheme}://{parts.username}@{parts.hostname}; it is asked for"
        raise failure.Usage(option="--bmc", wrong="the password stands on the command line", right=right)
    kind, scheme = _KINDS[parts.scheme]
    return {
        "kind": kind,
        "address": f"{scheme}://{parts.netloc.rpartition('@')[2]}",
        "user": parse.unquote(parts.username or ""),
        "system": parts.path.strip("/"),
        "password": passwords.ask(f"the BMC at {parts.hostname}", file=password_file, option="--bmc-password-file"),
    }
