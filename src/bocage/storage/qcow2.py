"""qcow2 files: headers compared with what is recorded, and written for overlays of our own."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence

from bocage import errors, files, process, storage, threads
from bocage.storage import half_made, qcow2_header, reader, space, tools
from bocage.words import N_

_QUICK = 60.0  # seconds for a program that only touches a header
_CHECK_BOUND = 4 * 3600.0
_LONG = 24 * 3600.0  # the last resort


class HeaderDiffers(storage.Error, errors.Conflict):
    """The header is not the one that was recorded; opening it could open another file."""

    type = "qcow2-header-differs"
    text = N_("{path} is not as recorded: its {field} is {found}, recorded is {recorded}")
    hint = N_("nothing was opened; a header changed by hand can be put back with 'qemu-img rebase -u'")
    path: str
    field: str
    found: str
    recorded: str


class BackingName(storage.Error, errors.Invalid, ValueError):
    """A backing file's name that is no relative path."""

    type = "qcow2-backing-name"
    text = N_("'{name}' cannot stand in a header as a backing file: it is not a plain relative path")
    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class Health:
    """What `qemu-img check` found: leaked clusters cost room only."""

    leaks: bool
    corruptions: bool


_CHECK_ANSWERS = {
    "exit code 2": Health(leaks=False, corruptions=True),
    "exit code 3": Health(leaks=True, corruptions=False),
    "exit code 63": Health(leaks=False, corruptions=False),
}


def read_header(path: pathlib.Path) -> qcow2_header.Header:
    """The header of a regular file; a link at its end is not followed. Raises refusals.Refused."""
    with reader.opened(path) as source:
        return qcow2_header.parse(source)


def check_header(
    path: pathlib.Path, *, backing: str | None, backing_format: str | None, size: int | None = None
) -> qcow2_header.Header:
    """Hold a header against what is recorded; opening a file whose header differs could open another file.

    `backing` is the name as it stands in the header (relative to the file's directory), `size` the
    virtual size in bytes where it is recorded. Raises HeaderDiffers and refusals.Refused.
    """
    header = read_header(path)
    recorded = {"backing": backing, "backing_format": backing_format, "data_file": None, "encryption": None}
    if size is not None:
        recorded["virtual_size"] = str(size)
    for field, wanted in recorded.items():
        value = getattr(header, field)
        found = str(value) if field == "virtual_size" else value
        if found != wanted:
            raise HeaderDiffers(path=str(path), field=field, found=found or "(none)", recorded=wanted or "(none)")
    return header


async def create_overlay(path: pathlib.Path, *, backing_relative: str, backing_format: str, size: int) -> None:
    """Make an empty overlay of `size` bytes whose header names its backing file relative to its own directory.

    The backing file itself is not opened. Raises BackingName, half_made.Exists, space.Full.
    """
    check_backing_name(backing_relative)
    async with half_made.made_whole(path) as beside:
        await threads.run(write_empty, beside, size, backing_relative, backing_format)


def write_empty(path: pathlib.Path, size: int, backing: str | None = None, backing_format: str | None = None) -> None:
    """Write a file of `size` bytes that holds nothing, over a backing file whose name was checked. Raises OSError."""
    begins, length = qcow2_header.empty(size, backing=backing, backing_format=backing_format)
    path.write_bytes(begins)
    os.truncate(path, length)


async def rebase(path: pathlib.Path, *, backing_relative: str | None, backing_format: str | None) -> None:
    """Write another backing name into a header; the contents stay. Without a name it stands alone afterwards.

    It is for chains that moved as a whole. Raises BackingName.
    """
    if backing_relative is None:
        named: tuple[str, ...] = ("-b", "")
    else:
        check_backing_name(backing_relative)
        named = ("-F", backing_format or "raw", "-b", backing_relative)
    with space.told_when_full(path.parent):
        await tools.qemu_img("rebase", "-q", "-u", "-f", "qcow2", *named, plain(path), within=_QUICK)


async def absorb(path: pathlib.Path) -> None:
    """Copy into an overlay that nobody uses all that it has of its backing file; it stands alone afterwards.

    Its header has been checked: the file that it names is opened. Cut off, it can be done again.
    """
    with space.told_when_full(path.parent):
        await tools.qemu_img("rebase", "-q", "-f", "qcow2", "-b", "", plain(path), within=_LONG)
        await threads.run(files.sync_file, path)


def check_backing_name(name: str) -> None:
    """Refuse a name that QEMU would not read as a path relative to the overlay. Raises BackingName."""
    if not name or name.startswith("/") or ":" in name.split("/", 1)[0] or len(name.encode()) > qcow2_header.NAME_BOUND:
        raise BackingName(name=name)


def plain(path: pathlib.Path) -> str:
    """A file's name as QEMU's tools need it: they take a relative one with a colon for a protocol."""
    return os.path.abspath(path)


async def check(path: pathlib.Path, *, driver: str = "qcow2", pass_fds: Sequence[int] = ()) -> Health:
    """Let `qemu-img check` go through an image's tables; a backing file is not opened. Changes nothing.

    `driver` is QEMU's name of the format; one that has no tables to check is taken for healthy.
    """
    node: dict[str, object] = {"driver": driver, "file": {"driver": "file", "filename": plain(path)}}
    if driver == "qcow2":
        node["backing"] = None
    try:
        await tools.qemu_img("check", "-q", "--output=json", "json:" + json.dumps(node),
            within=_CHECK_BOUND, pass_fds=pass_fds,
        )  # fmt: skip
    except process.Failed as error:
        if error.status_words not in _CHECK_ANSWERS:
            raise
        return _CHECK_ANSWERS[error.status_words]
    return Health(leaks=False, corruptions=False)
