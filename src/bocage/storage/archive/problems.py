"""What can be wrong with an archive."""

from __future__ import annotations

from bocage import errors, storage
from bocage.words import N_


class Error(storage.Error):
    """Anything that goes wrong with an archive."""


class Broken(Error, errors.Invalid, ValueError):
    """It is no archive of ours, or it is damaged or cut short."""

    type = "archive-broken"
    text = N_("the archive cannot be read: {fault}")
    hint = N_("compare its checksum with the original, and copy it again")
    fault: str


class Unsafe(Error, errors.Invalid, ValueError):
    """A member would leave the directory, or is something else than a plain file."""

    type = "archive-unsafe"
    text = N_("'{member}' cannot be part of an archive: it is {fault}")
    member: str
    fault: str


class TooMuch(Error, errors.Invalid, ValueError):
    """More bytes than may come in."""

    type = "archive-too-much"
    text = N_("the archive holds more than the {limit:size} that may come in; nothing of it was kept")
    limit: int


class TooMany(TooMuch):
    """More files than may come in."""

    type = "archive-too-many"
    text = N_("the archive holds more than the {limit} files that may come in; nothing of it was kept")


class WrongChecksum(Error, errors.Invalid, ValueError):
    """A file is not what its checksum says."""

    type = "archive-wrong-checksum"
    text = N_("'{member}' is damaged: its SHA-256 is {found}, recorded is {recorded}")
    hint = N_("copy it again from the original")
    member: str
    found: str
    recorded: str


class Changed(Error, errors.Conflict):
    """A file was written to while it was packed."""

    type = "archive-source-changed"
    text = N_("'{member}' was changed while it was packed; there is no archive")
    hint = N_("stop what writes to it, then try again")
    member: str
