"""The image library of one storage: each image once, read-only, under the SHA-256 of the file it came as.

The identity is the digest of the *given* file, which is what publishers print and what `--sha256`
checks; the stored file may be in another format (`DIGEST.FORMAT`). What is known of it lies beside it
in `DIGEST.yaml`, so that a library tells its own story without any database.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import pathlib
import secrets
import stat
from collections.abc import AsyncIterator, Mapping

from bocage import errors, files, process, storage, threads
from bocage.storage import (
    digests,
    half_made,
    image_record,
    inspect,
    intake,
    qcow2,
    reader,
    refusals,
    space,
    sparse,
    volumes,
)
from bocage.words import N_

_KEPT = ("raw", "qcow2", "iso")
_READ_ONLY = 0o444
_STREAM_PIECE = 2 << 20


class Error(storage.Error):
    """Anything that goes wrong with an image library."""


class NoSuchImage(Error, errors.NotFound):
    """The library has no image of this digest."""

    type = "image-not-here"
    text = N_("there is no image {digest} in this storage")
    digest: str


class WrongChecksum(Error, errors.Invalid, ValueError):
    """The file is not the one whose checksum was given."""

    type = "image-wrong-checksum"
    text = N_("{file} has the SHA-256 {found}, expected was {expected}; it was not taken")
    hint = N_("fetch it again; if the publisher has a newer one, take the checksum that belongs to it")
    file: str
    found: str
    expected: str


class BadChecksum(Error, errors.Invalid, ValueError):
    """What was given as a checksum is none."""

    type = "image-bad-checksum"
    text = N_("'{given}' is no SHA-256: 64 hexadecimal digits")
    given: str


class Changed(Error, errors.Conflict):
    """The file was written to while it was taken in."""

    type = "image-changed"
    text = N_("{file} was changed while it was read; it was not taken")
    hint = N_("try again when nothing writes to it")
    file: str


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """What was said about an image that is to come in.

    `file_name` is the name that the file had, `origin` a path or an address for people. `format` is
    what a person named. `into` is the format to store it in; without it raw, qcow2 and iso stay as they
    are and all others become qcow2. `limit` is the bytes that it may take. `names` maps `PROJECT/NAME`
    to the uid of the image resource.
    """

    file_name: str
    origin: str
    format: str | None = None
    sha256: str | None = None
    into: str | None = None
    limit: int | None = None
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class _Given:
    """A file to take in: open, perhaps hashed already, and perhaps ours to use up."""

    source: reader.Reader
    digest: str | None = None
    own: pathlib.Path | None = None


class Library:
    """The images below `root`: `images/`, and what is coming in below `incoming/`.

    Where several hosts have it open, what comes in by one of them lies below `incoming/HOST/`.
    """

    def __init__(self, root: pathlib.Path, *, host: str = "") -> None:
        self.intake = intake.Intake(root / "incoming" / host)
        self._images = root / "images"
        self._writing = asyncio.Lock()

    def image(self, digest: str) -> image_record.Image:
        """What is known of an image. Raises NoSuchImage."""
        found = image_record.read(self._images, digest) if digests.is_digest(digest) else None
        if found is None:
            raise NoSuchImage(digest=digest[:64])
        return found

    def path(self, digest: str) -> pathlib.Path:
        """The file of an image. Raises NoSuchImage."""
        return self._images / self.image(digest).file_name

    async def images(self) -> list[image_record.Image]:
        """Every image, by digest."""
        return await threads.run(image_record.read_all, self._images)

    async def names(self) -> dict[str, str]:
        """Names, and the digest that each points to."""
        return {name: image.digest for image in await self.images() for name in image.names}

    async def add(
        self, source: pathlib.Path | AsyncIterator[bytes], wanted: Wanted, progress: threads.Progress | None = None
    ) -> image_record.Image:
        """Take in a local file, or a stream that is not carried on when it breaks off.

        Raises refusals.Refused, WrongChecksum, BadChecksum, Changed, space.Full, volumes.OverLimit,
        intake.OverLimit; then, and when it is cancelled, nothing is left of it.
        """
        _check_checksum(wanted)
        if isinstance(source, pathlib.Path):
            with reader.opened(source, wanted.file_name) as opened:
                if _only_ours(opened.descriptor):
                    return await self._take(_Given(opened), wanted, progress)
                return await self._add_stream(_pieces(opened), wanted, progress)
        return await self._add_stream(source, wanted, progress)

    async def _add_stream(
        self, chunks: AsyncIterator[bytes], wanted: Wanted, progress: threads.Progress | None
    ) -> image_record.Image:
        key = f"add-{secrets.token_hex(8)}"
        try:
            await self.intake.append(key, 0, chunks, limit=wanted.limit)
            return await self.finish(key, wanted, progress)
        finally:
            await self.intake.discard(key)

    async def finish(self, key: str, wanted: Wanted, progress: threads.Progress | None = None) -> image_record.Image:
        """Make an image of what came in under `key`.

        What was refused is removed; after space.Full it is kept, so that it can be tried again.
        Raises as `add`, and intake.Busy.
        """
        _check_checksum(wanted)
        with self.intake.held(key):
            path = self.intake.path(key)
            try:
                digest = await self.intake.digest(key, progress)
                with reader.opened(path, wanted.file_name) as opened:
                    image = await self._take(_Given(opened, digest, path), wanted, progress)
            except (refusals.Refused, WrongChecksum, volumes.OverLimit):
                await threads.run(files.remove_tree, path)
                raise
            self.intake.forget(key)
            await threads.run(files.remove_tree, path)
            return image

    async def take_over(
        self, other: Library, digest: str, names: Mapping[str, str], progress: threads.Progress | None = None
    ) -> image_record.Image:
        """Have an image of another library here too, as it is stored there; what is here already keeps its names.

        Raises NoSuchImage, space.Full; then, and when it is cancelled, nothing is left of it.
        """
        with contextlib.suppress(NoSuchImage):
            return self.image(digest)
        record = dataclasses.replace(other.image(digest), names=dict(names))
        made = self._images / f".{secrets.token_hex(8)}{half_made.SUFFIX}"
        try:
            async with half_made.made_whole(made, mode=_READ_ONLY) as beside:
                await threads.run_job(sparse.copy_now, progress, other.path(digest), beside)
            return await self._enter(made, record)
        finally:
            await threads.run(files.remove_tree, made)

    async def rename(self, digest: str, names: Mapping[str, str]) -> image_record.Image:
        """Give an image exactly these names; they leave any other image. Raises NoSuchImage."""
        async with self._writing:
            image = dataclasses.replace(self.image(digest), names=dict(names))
            await threads.run(self._write, image)
            return image

    async def remove(self, digest: str) -> None:
        """Remove an image; whether something builds on it is for the caller to know. Raises NoSuchImage."""
        async with self._writing:
            path = self.path(digest)
            for one in (path, self._images / f"{digest}.yaml"):
                await threads.run(files.remove_tree, one)
            await threads.run(files.sync_directory, self._images)

    def sweep(self, *, untouched: float = 0.0) -> list[str]:
        """Remove records whose image never came, or went; the names that went.

        Where others may be entering one, those alone that nobody has written to for so many seconds.
        """
        gone = [
            path
            for path in self._images.glob("*.yaml")
            if image_record.read(self._images, path.stem) is None
            and (not untouched or half_made.is_untouched(path, untouched))
        ]
        for path in gone:
            files.remove_tree(path)
        return sorted(path.name for path in gone)

    async def _take(self, given: _Given, wanted: Wanted, progress: threads.Progress | None) -> image_record.Image:
        source = given.source
        before = os.fstat(source.descriptor)
        hashing = asyncio.ensure_future(
            _known(given.digest) if given.digest
            else threads.run_job(digests.of_descriptor, None, source.descriptor, source.size)
        )  # fmt: skip
        made = self._images / f".{secrets.token_hex(8)}{half_made.SUFFIX}"
        try:
            if given.digest:
                _compare(given.digest, wanted)
            found = await inspect.inspect_opened(source, claimed_format=wanted.format, file_name=wanted.file_name)
            into = _stored_as(found.format, wanted)
            await self._make(given, found, into, made, wanted, progress)
            whole = given.own if given.own and into == found.format else made
            digest = await hashing
            _compare(digest, wanted)
            if given.own is None and _touched(before, os.fstat(source.descriptor)):
                raise Changed(file=source.name)
            return await self._settle(digest, whole, found, into, wanted)
        finally:
            hashing.cancel()
            await asyncio.wait([hashing])
            await threads.run(files.remove_tree, made)

    async def _make(
        self,
        given: _Given,
        found: inspect.Inspected,
        into: str,
        made: pathlib.Path,
        wanted: Wanted,
        progress: threads.Progress | None,
    ) -> None:
        """Write the image as it will be stored to `made`, reading the very file that was inspected.

        What came in as it will be stored stays where it is until it gets its place: a kill before that loses nothing.
        """
        descriptor = given.source.descriptor
        same = pathlib.Path(f"/proc/self/fd/{descriptor}")
        if into == found.format and not given.own:
            async with half_made.made_whole(made, mode=_READ_ONLY) as beside:
                await threads.run_job(sparse.copy_opened, progress, descriptor, beside)
        try:
            # a file cut short is no error to QEMU when it copies: what is missing would become zeros
            if found.format not in ("raw", "iso"):
                health = await qcow2.check(same, driver=found.driver, pass_fds=[descriptor])
                if health.corruptions:
                    raise refusals.Malformed(file=given.source.name, fault="errors in its tables")
            if into != found.format:
                await volumes.convert(
                    [volumes.Layer(same, found.format)], made, image_format=into, mode=_READ_ONLY,
                    limit=wanted.limit, pass_fds=[descriptor], size=found.virtual_size, progress=progress,
                )  # fmt: skip
        except process.Failed as error:
            fault = error.output.strip().splitlines()[-1:] or [error.status_words]
            raise refusals.Unreadable(file=given.source.name, fault=fault[0]) from error

    async def _settle(
        self, digest: str, made: pathlib.Path, found: inspect.Inspected, into: str, wanted: Wanted
    ) -> image_record.Image:
        """The record of the finished file, which gets its place."""
        measured = await threads.run(volumes.measure, made, image_format=into)
        image = image_record.Image(
            digest=digest,
            format=into,
            virtual_size=measured.virtual_size,
            file_size=measured.file_size,
            given_format=found.format,
            given_size=found.file_size,
            origin=wanted.origin,
            created=image_record.now(),
            names=dict(wanted.names),
        )
        return await self._enter(made, image)

    async def _enter(self, made: pathlib.Path, image: image_record.Image) -> image_record.Image:
        """Give the finished file its place and its record, unless the same image is here already."""
        async with self._writing:
            with contextlib.suppress(NoSuchImage):
                here = self.image(image.digest)
                if not image.names.items() <= here.names.items():
                    here = dataclasses.replace(here, names={**here.names, **image.names})
                    await threads.run(self._write, here)
                return here
            # the record first: a file that has its name is complete, a record without a file is nothing
            with space.told_when_full(self._images):
                await threads.run(self._write, image)
                try:
                    await threads.run(half_made.finish, made, self._images / image.file_name, _READ_ONLY)
                except half_made.Exists:  # of this digest: another host has taken it in meanwhile
                    await threads.run(files.remove_tree, made)
            return image

    def _write(self, image: image_record.Image) -> None:
        for other in image_record.read_all(self._images):
            if other.digest != image.digest and other.names.keys() & image.names.keys():
                kept = {name: uid for name, uid in other.names.items() if name not in image.names}
                image_record.write(self._images, dataclasses.replace(other, names=kept))
        image_record.write(self._images, image)


async def _known(digest: str) -> str:
    return digest


async def _pieces(source: reader.Reader) -> AsyncIterator[bytes]:
    for at in range(0, source.size, _STREAM_PIECE):
        yield await threads.run(source.read, at, min(_STREAM_PIECE, source.size - at))


def _check_checksum(wanted: Wanted) -> None:
    if wanted.sha256 is not None and not digests.is_digest(wanted.sha256.lower()):
        raise BadChecksum(given=wanted.sha256[:100])


def _compare(digest: str, wanted: Wanted) -> None:
    if wanted.sha256 is not None and digest != wanted.sha256.lower():
        raise WrongChecksum(file=wanted.file_name, found=digest, expected=wanted.sha256.lower())


def _stored_as(found: str, wanted: Wanted) -> str:
    if found == "iso":
        return "iso"
    return wanted.into or (found if found in _KEPT else "qcow2")


def _only_ours(descriptor: int) -> bool:
    """Whether nobody but ourselves (and root) could change a file between its inspection and its use."""
    known = os.fstat(descriptor)
    return known.st_uid in (0, os.geteuid()) and not known.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _touched(before: os.stat_result, after: os.stat_result) -> bool:
    return (before.st_size, before.st_mtime_ns, before.st_ctime_ns) != (after.st_size, after.st_mtime_ns, after.st_ctime_ns)  # fmt: skip  # noqa: E501
