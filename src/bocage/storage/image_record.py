"""What is known of an image, in a YAML file beside it: `DIGEST.yaml`."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import pathlib
from typing import Any

import yaml

from bocage import files
from bocage.storage import digests, qcow2, refusals

_VERSION = 1
_READ_ONLY = 0o444


@dataclasses.dataclass(frozen=True, slots=True)
class Image:
    """An image of a library.

    `digest` is the SHA-256 of the file as it was given, in `given_format`; it is stored in `format`.
    `names` maps `PROJECT/NAME` to the uid of the image resource. Sizes are bytes, `created` is UTC.
    """

    digest: str
    format: str
    virtual_size: int
    file_size: int
    given_format: str
    given_size: int
    origin: str
    created: str
    names: dict[str, str]

    @property
    def file_name(self) -> str:
        """The name of its file."""
        return f"{self.digest}.{self.format}"


def now() -> str:
    """The time of a new record, UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def write(directory: pathlib.Path, image: Image) -> None:
    """Write an image's record durably."""
    document = {"version": _VERSION, **dataclasses.asdict(image)}
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    files.write_durably(directory / f"{image.digest}.yaml", text, mode=_READ_ONLY)


def read(directory: pathlib.Path, digest: str) -> Image | None:
    """The record of an image that is here; None when its file is not.

    A record that is lost or damaged is made anew from the image itself, without its names.
    """
    file = _file(directory, digest)
    if file is None:
        return None
    with contextlib.suppress(OSError, ValueError, TypeError, yaml.YAMLError):
        image = _parsed(yaml.safe_load((directory / f"{digest}.yaml").read_text()))
        if image.file_name == file.name:
            return image
    return _from_file(file, digest)


def read_all(directory: pathlib.Path) -> list[Image]:
    """The records of all images that are here, by digest."""
    found = sorted({name.partition(".")[0] for name in os.listdir(directory) if not name.endswith(".yaml")})
    return [image for digest in found if digests.is_digest(digest) and (image := read(directory, digest))]


def _file(directory: pathlib.Path, digest: str) -> pathlib.Path | None:
    for image_format in ("qcow2", "raw", "iso"):
        path = directory / f"{digest}.{image_format}"
        if path.is_file() and not path.is_symlink():
            return path
    return None


def _parsed(document: Any) -> Image:
    if not isinstance(document, dict) or document.pop("version", None) != _VERSION:
        raise ValueError("not a record of this version")
    image = Image(**document)
    for field in dataclasses.fields(Image):
        wanted = {"int": int, "str": str}.get(str(field.type), dict)
        if not isinstance(getattr(image, field.name), wanted):
            raise ValueError(field.name)  # noqa: TRY004 - one error for a record that does not hold
    return image


def _from_file(file: pathlib.Path, digest: str) -> Image | None:
    image_format = file.suffix[1:]
    known = file.stat()
    virtual_size = known.st_size
    if image_format == "qcow2":
        try:
            virtual_size = qcow2.read_header(file).virtual_size
        except refusals.Refused:
            return None
    created = datetime.datetime.fromtimestamp(known.st_mtime, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Image(
        digest=digest,
        format=image_format,
        virtual_size=virtual_size,
        file_size=known.st_size,
        given_format=image_format,
        given_size=known.st_size,
        origin="",
        created=created,
        names={},
    )
