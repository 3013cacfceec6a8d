"""A BMC as it is named on the command line. Its password never stands there, where every process list shows it."""

from __future__ import annotations

import os
import pathlib
import sys
from typing import Any
from urllib import parse

import typer

from bocage.cli import failure

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
        "password": _password(parts.hostname, password_file),
    }


def _password(host: str, file: str | None) -> str:
    if file is not None:
        try:
            read = pathlib.Path(os.path.expanduser(file)).read_text().partition("\n")[0]
        except (OSError, UnicodeDecodeError) as error:
            raise failure.Usage(option="--bmc-password-file", wrong=f"{file}: {error}") from error
    elif sys.stdin.isatty():
        read = str(typer.prompt(f"Password of the BMC at {host}", hide_input=True, err=True))
    else:
        read = sys.stdin.readline()
    if not (password := read.rstrip("\r\n")):
        where = "standard input" if file is None else file
        raise failure.Usage(option=where, wrong="there is no password on it", right="its first line")
    return password
