"""Members of a tar stream: their headers written and read, within bounds, without following them."""

from __future__ import annotations

import dataclasses
import re
import tarfile
from collections.abc import Callable, Sequence

from bocage.storage.archive import problems

BLOCK = 512
LARGEST = 64 << 40  # bytes of one file, holes included
_MOST_PAX = 64 << 10
_MOST_EXTENTS = 1 << 20
_SPARSE_DIRECTORY = "GNUSparseFile.0/"
_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a named pipe",
    b"7": "a contiguous file",
}
Read = Callable[[int], bytes]
"""Gives exactly so many bytes of the stream; raises problems.Broken at its end."""


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar stream: `size` is its length, `stored` the bytes that follow in the stream."""

    name: str
    size: int
    stored: int
    sparse: bool


def header(name: str, size: int, extents: Sequence[tuple[int, int]] | None, mtime: int) -> bytes:
    """The bytes before a member's data; with `extents` (offset and length) it is a sparse member."""
    info = tarfile.TarInfo(name)
    info.mode, info.mtime, info.size = 0o600, mtime, size
    if extents is None:
        return info.tobuf(tarfile.PAX_FORMAT)
    numbers = [len(extents), *(number for extent in extents for number in extent)]
    mapped = padded("".join(f"{number}\n" for number in numbers).encode())
    info.name = _SPARSE_DIRECTORY + name
    info.size = len(mapped) + sum(length for _, length in extents)
    info.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": name,
        "GNU.sparse.realsize": str(size),
    }
    return info.tobuf(tarfile.PAX_FORMAT) + mapped


def padded(data: bytes) -> bytes:
    """Data filled up to whole blocks."""
    return data + bytes(-len(data) % BLOCK)


def following(read: Read) -> Member | None:
    """The next member of a stream that stands at a header; None at the stream's end.

    Raises problems.Broken and problems.Unsafe.
    """
    pax: dict[str, str] = {}
    while True:
        block = read(BLOCK)
        if not any(block):
            return None
        kind, size = block[156:157], _number(block[124:136])
        if _number(block[148:156]) != sum(block[:148]) + sum(block[156:]) + 8 * 32:
            raise problems.Broken(fault="a member's header is damaged")
        if kind == b"x":
            pax = _pax(read, size)
            continue
        name = pax.get("GNU.sparse.name") or pax.get("path") or _name(block)
        if kind == b"5":
            pax = {}
            continue  # a directory: those that files need are made for them
        if kind not in (b"0", b"\x00"):
            raise problems.Unsafe(member=name[:200], fault=_KINDS.get(kind, f"a member of type {kind!r}"))
        return _member(name, size, pax)


def _member(name: str, size: int, pax: dict[str, str]) -> Member:
    stored = _decimal(pax["size"]) if "size" in pax else size
    sparse = "GNU.sparse.major" in pax
    if any(key.startswith("GNU.sparse") for key in pax) and (
        pax.get("GNU.sparse.major"), pax.get("GNU.sparse.minor")
    ) != ("1", "0"):  # fmt: skip
        raise problems.Broken(fault="a sparse member of another format than 1.0")
    real = _decimal(pax.get("GNU.sparse.realsize", "")) if sparse else stored
    if max(real, stored) > LARGEST:
        raise problems.TooMuch(limit=LARGEST)
    return Member(name=safe(name), size=real, stored=stored, sparse=sparse)


def read_map(read: Read, member: Member) -> tuple[list[tuple[int, int]], int]:
    """The extents of a sparse member, and the bytes of data that follow. Raises problems.Broken."""
    numbers: list[int] = []
    text, consumed, wanted = b"", 0, 1
    while len(numbers) < wanted:
        if consumed + BLOCK > member.stored:
            raise problems.Broken(fault=f"the map of '{member.name}' is damaged")
        *lines, text = (text + read(BLOCK)).split(b"\n")
        consumed += BLOCK
        for line in lines:
            if len(numbers) < wanted:
                numbers.append(_decimal(line.decode("ascii", errors="replace")))
            if len(numbers) == 1:
                wanted = 1 + 2 * numbers[0]
        if len(numbers) < wanted and len(text) > 20:
            raise problems.Broken(fault=f"the map of '{member.name}' is damaged")
        if wanted > 2 * _MOST_EXTENTS:
            raise problems.Broken(fault=f"the map of '{member.name}' has too many entries")
    extents = list(zip(numbers[1::2], numbers[2::2], strict=True))
    _check_map(extents, member, member.stored - consumed)
    return extents, member.stored - consumed


def _check_map(extents: list[tuple[int, int]], member: Member, stored: int) -> None:
    end = 0
    for start, length in extents:
        if start < end or start + length > member.size:
            raise problems.Broken(fault=f"the map of '{member.name}' does not hold together")
        end = start + length
    if sum(length for _, length in extents) != stored:
        raise problems.Broken(fault=f"the map of '{member.name}' does not fit its data")


def _pax(read: Read, size: int) -> dict[str, str]:
    if size > _MOST_PAX:
        raise problems.Broken(fault=f"an extended header of {size} bytes")
    data = read(size + -size % BLOCK)[:size]
    found = {}
    while data:
        matched = re.match(rb"(\d{1,6}) ([^=\n]{1,100})=", data)
        length = int(matched.group(1)) if matched else 0
        if not matched or not matched.end() < length <= len(data) or data[length - 1 : length] != b"\n":
            raise problems.Broken(fault="an extended header is damaged")
        value = data[matched.end() : length - 1]
        found[matched.group(2).decode(errors="replace")] = value.decode(errors="backslashreplace")
        data = data[length:]
    return found


def _name(block: bytes) -> str:
    name, prefix = block[:100].split(b"\x00", 1)[0], block[345:500].split(b"\x00", 1)[0]
    whole = prefix + b"/" + name if prefix and block[257:263] == b"ustar\x00" else name
    return whole.decode(errors="backslashreplace")


def safe(name: str) -> str:
    """A member's name when it stays inside. Raises problems.Unsafe."""
    plain = name.removeprefix("./")
    parts = plain.split("/")
    fault = None
    if name.startswith("/"):
        fault = "an absolute path"
    elif ".." in parts:
        fault = "a path that leaves the directory"
    elif any(part in ("", ".") or len(part.encode()) > 255 for part in parts) or len(parts) > 8:
        fault = "no plain path"
    elif not plain.isprintable() or "\\" in plain:
        fault = "a name with characters that no file of ours has"
    if fault:
        raise problems.Unsafe(member=name[:200], fault=fault)
    return plain


def _number(field: bytes) -> int:
    if field[:1] == b"\x80":  # GNU's way of writing what octal digits cannot hold
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \x00")
    if digits and not re.fullmatch(rb"[0-7]+", digits):
        raise problems.Broken(fault="a member's header is damaged")
    return int(digits or b"0", 8)


def _decimal(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise problems.Broken(fault="a number in a header is damaged")
    return int(text)
