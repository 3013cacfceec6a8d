"""Images are inspected before any QEMU tool opens them; the inspection cannot hurt the daemon."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import sys

from bocage import errors, process, words
from bocage.storage import detect, probe, reader, refusals
from bocage.words import N_

_BOUND = 60.0  # seconds; a busy machine starts a Python slowly
_DRIVERS = {"iso": "raw", "vhd": "vpc"}


@dataclasses.dataclass(frozen=True, slots=True)
class Inspected:
    """An image that QEMU may open with `driver` named explicitly. Sizes are bytes."""

    format: str
    virtual_size: int
    file_size: int
    allocated: int

    @property
    def driver(self) -> str:
        """QEMU's name for the format."""
        return driver(self.format)


class NoSuchFormat(refusals.Refused):
    """The format that was named is none of ours."""

    type = "image-no-such-format"
    text = N_("there is no image format '{format}' here")
    format: str


def driver(image_format: str) -> str:
    """QEMU's name for one of `detect.TAKEN`."""
    return _DRIVERS.get(image_format, image_format)


async def inspect(path: pathlib.Path, *, claimed_format: str | None = None, file_name: str | None = None) -> Inspected:
    """Look at a stranger's image and say what it is; no QEMU tool opens it.

    `claimed_format` is what a person said (`--format`); `file_name` is the name under which the file
    was known to them, whose ending is a claim too. Raises refusals.Refused.
    """
    name = pathlib.PurePath(file_name or path.name).name
    with reader.opened(path, name) as source:
        return await inspect_opened(source, claimed_format=claimed_format, file_name=name)


async def inspect_opened(source: reader.Reader, *, claimed_format: str | None, file_name: str) -> Inspected:
    """As `inspect`, for a file that is open already and stays so."""
    claimed = {"vpc": "vhd"}.get(claimed_format, claimed_format) if claimed_format else None
    if claimed and claimed not in detect.TAKEN:
        raise NoSuchFormat(format=claimed)
    known = os.fstat(source.descriptor)
    found = await _in_a_child(source, claimed, file_name)
    return Inspected(
        format=found.format,
        virtual_size=found.virtual_size,
        file_size=known.st_size,
        allocated=known.st_blocks * 512,
    )


async def _in_a_child(source: reader.Reader, claimed: str | None, file_name: str) -> probe.Found:
    try:
        answer = await process.run(
            sys.executable, "-I", "-m", "bocage.storage.probe",
            str(source.descriptor), source.name, claimed or "", file_name,
            within=_BOUND, pass_fds=[source.descriptor],
        )  # fmt: skip
        said = json.loads(answer)
    except (process.Failed, errors.TimedOut, ValueError) as error:
        raise refusals.InspectionFailed(file=source.name, fault=str(error)[-500:]) from error
    if "refused" in said:
        refusal = words.revive(said["refused"], said["params"])
        assert isinstance(refusal, refusals.Refused)
        raise refusal
    return probe.Found(**said)
