"""Burns a directory on a CD: ISO 9660 with names of 8.3 for DOS, Joliet for Windows 95 on, Rock Ridge for Unix."""

from __future__ import annotations

import dataclasses
import os
import re
import stat
from collections.abc import Iterator
from typing import Any

from bocage import errors
from bocage.cli import failure
from bocage.words import N_

MOST = 4 << 30  # bytes of all files; also the largest that all systems read
MOST_ENTRIES = 20_000
_JOLIET = 64  # characters of a name; pycdlib counts them as bytes of UTF-8
_SUFFIX = 16
_DEEPEST = 7  # directories in one another, as ISO 9660 has them, 6.8.2.1
_LABEL = re.compile(r"[^A-Z0-9_]+")


class TooMuch(failure.Error, errors.Invalid):
    type = "burn-too-much"
    text = N_("{path} has more than fits on one: {most:size}, or 20,000 files")
    hint = N_("share the directory, or copy it by the network")
    path: str
    most: int


class Unfit(failure.Error, errors.Invalid):
    type = "burn-unfit"
    text = N_("{path} cannot be on a CD: {why}")
    path: str
    why: str


class Changed(failure.Error, errors.Conflict):
    type = "burn-changed"
    text = N_("{path} changed while it was burned")
    hint = N_("burn it again when nothing writes to it")
    path: str


@dataclasses.dataclass(frozen=True, slots=True)
class _Entry:
    path: str  # here
    plain: str  # `/DOCS/README.TXT` in ISO 9660
    joliet: str
    name: str  # its last part, as it is
    about: os.stat_result

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.about.st_mode)


def burn(directory: str, to: str, *, label: str = "") -> list[str]:
    """Write an ISO image of what a directory holds; what was left out, as it is neither file nor directory in it.

    Links to files within are followed. Raises TooMuch, Unfit, Changed and OSError.
    """
    import pycdlib  # late: it takes longer to import than most commands run
    from pycdlib import pycdlibexception

    skipped: list[str] = []
    entries = list(_walk(directory, os.path.realpath(directory), "", "", skipped, 1))
    if len(entries) > MOST_ENTRIES or sum(one.about.st_size for one in entries if not one.is_directory) > MOST:
        raise TooMuch(path=directory, most=MOST)
    volume = _LABEL.sub("_", (label or os.path.basename(os.path.abspath(directory)) or "CD").upper())[:16]
    image: Any = pycdlib.PyCdlib()
    image.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=volume)
    try:
        for one in entries:
            mode = one.about.st_mode
            if one.is_directory:
                image.add_directory(one.plain, rr_name=one.name, joliet_path=one.joliet, file_mode=mode)
            else:
                image.add_file(one.path, f"{one.plain};1", rr_name=one.name, joliet_path=one.joliet, file_mode=mode)
        image.write(to)
    except pycdlibexception.PyCdlibException as error:
        raise Unfit(path=directory, why=str(error)) from error
    finally:
        image.close()
    for one in entries:
        now = os.stat(one.path)
        if (now.st_size, now.st_mtime_ns) != (one.about.st_size, one.about.st_mtime_ns) and not one.is_directory:
            raise Changed(path=one.path)
    return skipped


def _is_within(path: str, root: str) -> bool:
    return os.path.realpath(path).startswith(root.rstrip("/") + "/")


def _walk(at: str, root: str, plain: str, joliet: str, skipped: list[str], depth: int) -> Iterator[_Entry]:
    taken: set[str] = set()
    for entry in sorted(os.scandir(at), key=lambda one: one.name):
        if entry.is_symlink() and not _is_within(entry.path, root):  # whose content nobody has put there
            skipped.append(entry.path)
            continue
        try:
            about = entry.stat()
            directory = entry.is_dir(follow_symlinks=False)
        except OSError:
            skipped.append(entry.path)  # a link to nowhere
            continue
        if not (directory or stat.S_ISREG(about.st_mode)):
            skipped.append(entry.path)
            continue
        if directory and depth > _DEEPEST:
            raise Unfit(path=entry.path, why="it lies too deep")
        try:
            entry.name.encode("utf-16-be")
        except UnicodeEncodeError as error:
            raise Unfit(path=repr(entry.path), why="its name is no text") from error
        short = _plain(entry.name, taken, directory=directory)
        long = _joliet(entry.name, taken)
        one = _Entry(entry.path, f"{plain}/{short}", f"{joliet}/{long}", entry.name, about)
        yield one
        if directory:
            yield from _walk(one.path, root, one.plain, one.joliet, skipped, depth + 1)


def _plain(name: str, taken: set[str], *, directory: bool) -> str:
    """A name of 8.3 that no other has (ISO 9660, 7.5.1): `README~1.TXT` becomes `README_1.TXT`."""
    stem, dot, suffix = name.upper().rpartition(".")
    if not dot or not stem or directory:
        stem, suffix = name.upper().strip("."), ""
    stem, suffix = (re.sub(r"[^A-Z0-9_]", "_", part) for part in (stem or "_", suffix))
    ending = "" if directory else f".{suffix[:3]}"
    return _free(stem, ending, 8, taken)


def _joliet(name: str, taken: set[str]) -> str:
    """A name without the characters that Joliet forbids, not too long, that no other has."""
    clean = re.sub(r"[*/:;?\\\x00-\x1f]", "_", name)
    stem, dot, suffix = clean.rpartition(".")
    if not (dot and stem and len(suffix.encode()) <= _SUFFIX):
        stem, dot, suffix = clean, "", ""
    return _free(stem, dot + suffix, _JOLIET - len((dot + suffix).encode()), taken, mark="joliet:")


def _free(stem: str, ending: str, most: int, taken: set[str], *, mark: str = "") -> str:
    """A name of a stem of at most so many bytes that no other has; capitals make no difference, as in Windows."""
    number, tail = 0, ""
    while (made := _cut(stem, most - len(tail)) + tail + ending) and mark + made.upper() in taken:
        number += 1
        tail = f"_{number}"
    taken.add(mark + made.upper())
    return made


def _cut(text: str, most: int) -> str:
    return text.encode()[:most].decode(errors="ignore")
