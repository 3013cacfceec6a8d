"""What an archive says about itself: its contents at the start, its checksums at the end."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from bocage.storage.archive import problems

CONTENTS = "bocage-archive.json"
SUMS = "SHA256SUMS"
LARGEST = 4 << 20  # bytes of either
_KIND, _VERSION = "bocage-archive", 1


def contents(sizes: Mapping[str, int]) -> bytes:
    """The first member: the files and their sizes in bytes."""
    return json.dumps({"kind": _KIND, "version": _VERSION, "files": dict(sizes)}, indent=1).encode() + b"\n"


def read_contents(data: bytes) -> dict[str, int]:
    """The files and their sizes. Raises problems.Broken."""
    try:
        document = json.loads(data)
    except ValueError as error:
        raise problems.Broken(fault=f"{CONTENTS} is damaged") from error
    if not isinstance(document, dict) or document.get("kind") != _KIND:
        raise problems.Broken(fault="it is none of Bocage's archives")
    if document.get("version") != _VERSION:
        raise problems.Broken(fault=f"its version is {document.get('version')}")
    listed = document.get("files")
    if not isinstance(listed, dict) or not all(type(size) is int and size >= 0 for size in listed.values()):
        raise problems.Broken(fault=f"{CONTENTS} is damaged")
    return listed


def sums(digests: Mapping[str, str]) -> bytes:
    """The last member, as `sha256sum -c` reads it."""
    return "".join(f"{digest}  {name}\n" for name, digest in digests.items()).encode()


def read_sums(data: bytes) -> dict[str, str]:
    """Names and their SHA-256. Raises problems.Broken."""
    found: dict[str, str] = {}
    for line in data.decode(errors="replace").splitlines():
        matched = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)
        if not matched or matched.group(2) in found:
            raise problems.Broken(fault=f"{SUMS} is damaged")
        found[matched.group(2)] = matched.group(1)
    return found


def compare(expected: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Hold the checksums of what was read against the recorded ones. Raises problems.Broken and WrongChecksum."""
    for name, digest in found.items():
        if name not in expected:
            raise problems.Broken(fault=f"'{name}' has no checksum in {SUMS}")
        if expected[name] != digest:
            raise problems.WrongChecksum(member=name, found=digest, recorded=expected[name])
    if missing := sorted(expected.keys() - found.keys()):
        raise problems.Broken(fault=f"'{missing[0]}' is missing")
