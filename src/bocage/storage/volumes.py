"""Volumes: disk files of a VM, made, grown, copied, measured and removed while no QEMU runs on them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Sequence

from bocage import errors, files, storage, threads
from bocage.storage import half_made, inspect, qcow2, qcow2_header, space, tools
from bocage.words import N_

FORMATS = ("qcow2", "raw")
_SECTOR = 512
_QUICK = 60.0  # seconds
_LONG = 24 * 3600.0  # seconds; a copy is bounded by its caller, this is the last resort
_PERCENT = re.compile(r"\(\s*([\d.]+)/100%\)")
_LOOK = 0.2  # seconds between two looks at how much a copy has written


class Unfit(storage.Error, errors.Invalid, ValueError):
    """A size or a format that no volume can have. Sizes are bytes."""

    type = "volume-unfit"
    text = N_("a volume cannot have the {field} {value}: {right}")
    field: str
    value: str
    right: str


class Shrinks(storage.Error, errors.Conflict):
    """Growing to less than it is would cut off the guest's data."""

    type = "volume-would-shrink"
    text = N_("{path} has {size:size}; it cannot become {wanted:size}, volumes only grow")
    path: str
    size: int
    wanted: int


class OverLimit(storage.Error, errors.Unavailable):
    """A copy grew past what it was allowed to take."""

    type = "volume-over-limit"
    status = 507
    text = N_("the copy at {path} grew past the {limit:size} that it may take; it was removed")
    path: str
    limit: int


@dataclasses.dataclass(frozen=True, slots=True)
class Layer:
    """One file of a chain and its format, one of raw, qcow2, vmdk, vhd, vhdx, vdi, iso."""

    path: pathlib.Path
    format: str


@dataclasses.dataclass(frozen=True, slots=True)
class Backing:
    """What an overlay builds on: its name relative to the overlay's directory, and its format."""

    relative: str
    format: str


@dataclasses.dataclass(frozen=True, slots=True)
class Measure:
    """The size of the disk, the length of its file, and the bytes that it takes on its file system."""

    virtual_size: int
    file_size: int
    allocated: int


async def create(
    path: pathlib.Path, *, image_format: str, size: int, preallocate: bool = False, backing: Backing | None = None
) -> None:
    """Make an empty volume of `size` bytes: thin, or with its room set aside; or an overlay on a base image.

    Raises Unfit, half_made.Exists, space.Full; then nothing is left of it.
    """
    _check(image_format, size)
    if backing:
        if image_format != "qcow2" or preallocate:
            raise Unfit(field="format", value=image_format, right="an overlay is a thin qcow2")
        await qcow2.create_overlay(path, backing_relative=backing.relative, backing_format=backing.format, size=size)
        return
    async with half_made.made_whole(path) as beside:
        if image_format == "raw":
            await threads.run(_make_raw, beside, size, preallocate)
        elif preallocate:
            what = ("-f", "qcow2", "-o", "preallocation=falloc", qcow2.plain(beside), str(size))
            await tools.qemu_img("create", "-q", *what, within=_LONG)
        else:
            await threads.run(qcow2.write_empty, beside, size)


def _make_raw(path: pathlib.Path, size: int, preallocate: bool) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(descriptor, size)
        if preallocate:
            os.posix_fallocate(descriptor, 0, size)
    finally:
        os.close(descriptor)


async def grow(path: pathlib.Path, *, image_format: str, size: int, backing: Backing | None = None) -> None:
    """Make a volume that nobody uses larger; not an error when it has that size already.

    `backing` is what its header should name; it is held against it first.
    Raises Unfit, Shrinks, qcow2.HeaderDiffers, space.Full.
    """
    _check(image_format, size)
    if image_format == "qcow2":
        qcow2.check_header(
            path, backing=backing.relative if backing else None, backing_format=backing.format if backing else None
        )
    now = measure(path, image_format=image_format).virtual_size
    if size < now:
        raise Shrinks(path=str(path), size=now, wanted=size)
    if size == now:
        return
    with space.told_when_full(path.parent):
        if image_format == "raw":
            os.truncate(path, size)
        else:
            await tools.qemu_img("resize", "-q", "-f", "qcow2", qcow2.plain(path), str(size), within=_QUICK)
        await threads.run(files.sync_file, path)


async def convert(
    chain: Sequence[Layer],
    destination: pathlib.Path,
    *,
    image_format: str,
    progress: threads.Progress | None = None,
    limit: int | None = None,
    compress: bool = False,
    within: float = _LONG,
    mode: int = 0o600,
    pass_fds: Sequence[int] = (),
    size: int | None = None,
) -> None:
    """Write the contents of a chain, its top first, as one new volume that stands alone.

    The chain is opened exactly as given, whatever the headers say. `progress` is told bytes of the
    virtual disk. When the copy takes more than `limit` bytes it is given up. A layer may be named as
    `/proc/self/fd/N` where `pass_fds` has N; then `size` is the size of the virtual disk.
    Raises OverLimit, half_made.Exists, space.Full, process.Failed.
    """
    _check(image_format, _SECTOR)
    total = await threads.run(virtual_size, chain[0]) if size is None else size

    def told(line: str) -> None:
        if progress and (percent := _PERCENT.search(line)):
            progress(int(float(percent.group(1)) / 100 * total), total)

    async with half_made.made_whole(destination, mode=mode) as beside:
        command = ["convert", "-p", "-O", image_format, *(["-c"] if compress else [])]
        copying = tools.qemu_img(
            *command, described(chain), qcow2.plain(beside), within=within, each_line=told, pass_fds=pass_fds
        )
        await _within(limit, beside, asyncio.create_task(copying))


async def merge(chain: Sequence[Layer], *, progress: threads.Progress | None = None, within: float = _LONG) -> None:
    """Write what the first layer of a chain holds into the second; the first stays as it is.

    The chain is opened exactly as given. Cut off, it holds what it held before, and can be merged again.
    Raises space.Full, process.Failed.
    """
    total = await threads.run(files.allocated, chain[0].path)

    def told(line: str) -> None:
        if progress and (percent := _PERCENT.search(line)):
            progress(int(float(percent.group(1)) / 100 * total), total)

    with space.told_when_full(chain[1].path.parent):
        await tools.qemu_img("commit", "-p", "-d", described(chain), within=within, each_line=told)
        await threads.run(files.sync_file, chain[1].path)


async def _within(limit: int | None, path: pathlib.Path, work: asyncio.Task[bytes]) -> None:
    """Wait for `work`; give it up, raising OverLimit, when `path` takes more than `limit` bytes.

    What is written meanwhile goes to the disk steadily, so that no long sync is left for the end.
    """
    try:
        while not work.done():
            await asyncio.wait([work], timeout=_LOOK)
            with contextlib.suppress(FileNotFoundError):
                if limit is not None and files.allocated(path) > limit:
                    raise OverLimit(path=str(path), limit=limit)
                await threads.run(files.sync_file, path)
        await work
    finally:
        work.cancel()
        await asyncio.wait([work])


def described(chain: Sequence[Layer]) -> str:
    """A chain as a name for QEMU's tools, node by node, so that no header decides what is opened."""
    node: dict[str, object] | None = None
    for layer in reversed(chain):
        file = {"driver": "file", "filename": qcow2.plain(layer.path)}
        one: dict[str, object] = {"driver": inspect.driver(layer.format), "file": file}
        if layer.format == "qcow2":
            one["backing"] = node
        elif node is not None:
            raise Unfit(field="format", value=layer.format, right="only a qcow2 can build on another file")
        node = one
    return "json:" + json.dumps(node)


def measure(path: pathlib.Path, *, image_format: str) -> Measure:
    """The sizes of a volume. Raises refusals.Refused for a qcow2 whose header cannot be right."""
    return Measure(
        virtual_size=virtual_size(Layer(path, image_format)),
        file_size=os.stat(path).st_size,
        allocated=files.allocated(path),
    )


def virtual_size(layer: Layer) -> int:
    """The size in bytes of the disk that a raw or qcow2 file holds; of other formats the size of the file."""
    return qcow2.read_header(layer.path).virtual_size if layer.format == "qcow2" else os.stat(layer.path).st_size


async def delete(path: pathlib.Path) -> None:
    """Remove a volume durably; not an error when it is gone already."""

    def remove() -> None:
        files.remove_tree(path)
        files.sync_directory(path.parent)

    await threads.run(remove)


def _check(image_format: str, size: int) -> None:
    if image_format not in FORMATS:
        raise Unfit(field="format", value=image_format, right="raw or qcow2")
    if size <= 0 or size % _SECTOR:
        raise Unfit(field="size", value=str(size), right="a positive multiple of 512 bytes")
    if image_format == "qcow2" and size > qcow2_header.MOST:
        raise Unfit(field="size", value=str(size), right="2 PiB at most")
