"""A VM as one archive: its definition, its disks flat or with their chain, firmware variables, seed, saved memory."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import pathlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterator

from bocage import errors, files
from bocage.model import ground, vm
from bocage.node.place import directory, in_use
from bocage.node.place.preparation import Preparation
from bocage.storage import archive, half_made, image_record, volumes
from bocage.words import N_


class Error(errors.Problem):
    """A VM cannot be exported."""


class Running(Error, errors.Conflict):
    type = "export-while-running"
    text = N_("{name} is running: its disks change while they would be read")
    hint = N_("'bocage vm stop {name}' or 'bocage vm save {name}' first")
    name: str


class Differs(Error, errors.Conflict):
    type = "export-differs"
    text = N_("{name} is not what it was when its first {offset:size} were exported")
    hint = N_("export it again from the beginning")
    name: str
    offset: int


async def stream(preparation: Preparation, machine: vm.VM, *, chain: bool) -> AsyncGenerator[bytes, None]:
    """The archive, piece by piece; the VM cannot start meanwhile. Raises Running before the first piece."""
    with contextlib.ExitStack() as undo:
        try:
            undo.enter_context(preparation.in_use.copied([machine]))
        except in_use.CopyWhileRunning as error:
            raise Running(name=machine.name) from error
        async with (
            _laid_out(preparation, machine, chain=chain) as parts,
            contextlib.aclosing(archive.packed(parts)) as pieces,
        ):
            async for piece in pieces:
                yield piece


async def started(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The same stream once its first piece is there, so that what is refused is refused before the answer begins."""
    first = await anext(pieces, b"")

    async def whole() -> AsyncGenerator[bytes, None]:
        async with contextlib.aclosing(pieces):
            yield first
            async for piece in pieces:
                yield piece

    return whole()


async def rest(
    pieces: AsyncGenerator[bytes, None], machine: vm.VM, *, offset: int, sha256: str
) -> AsyncGenerator[bytes, None]:
    """What comes after the first `offset` bytes, whose digest the asker has. Raises Differs before its first piece."""
    hashed, left = hashlib.sha256(), offset
    async with contextlib.aclosing(pieces):
        async for piece in pieces:
            if left:
                hashed.update(piece[:left])
                piece, left = piece[left:], max(left - len(piece), 0)
                if not left and hashed.hexdigest() != sha256:
                    raise Differs(name=machine.name, offset=offset)
            if piece:
                yield piece
    if left:
        raise Differs(name=machine.name, offset=offset)


def _is_as_given(image: pathlib.Path) -> bool:
    """Whether an image is stored as the file whose digest it is named by: only then can others check it."""
    record = image_record.read(image.parent, image.stem)
    return record is not None and record.given_format == record.format


@contextlib.asynccontextmanager
async def _laid_out(preparation: Preparation, machine: vm.VM, *, chain: bool) -> AsyncIterator[dict[str, pathlib.Path]]:
    """The files of the archive by their names in it; what was made for it goes at the end."""
    await preparation.check_storage(machine)
    place = await preparation.place(machine)
    scratch = place.path / f".export.{secrets.token_hex(4)}{half_made.SUFFIX}"
    try:
        async with preparation.work(machine):
            parts = await _made(preparation, machine, place, scratch, chain=chain)
        yield parts
    finally:
        await asyncio.to_thread(files.remove_tree, scratch)


async def _made(
    preparation: Preparation, machine: vm.VM, place: directory.Directory, scratch: pathlib.Path, *, chain: bool
) -> dict[str, pathlib.Path]:
    await asyncio.to_thread(scratch.mkdir, mode=0o700)
    parts: dict[str, pathlib.Path] = {}
    kept: list[ground.Volume] = []
    for disk, volume in zip(machine.spec.disks, await preparation.disks.of(machine), strict=True):
        layers = await preparation.disks.layers(volume, disk.name)
        flat, own = not chain, layers[0].path
        # a volume that lay by itself lies in the VM's directory from now on, under its disk's name
        changes: dict[str, object] = {"vm": machine.uid, "name": disk.name, "source": None}
        if volume.spec.layers:
            flat = True
        elif volume.spec.linked and chain and await asyncio.to_thread(_is_as_given, layers[1].path):
            parts[f"images/{layers[1].path.name}"] = layers[1].path
        elif volume.spec.linked:
            flat = True
        if (volume.spec.linked or volume.spec.layers) and flat:
            own = scratch / f"{disk.name}.{volume.spec.format}"
            limit = await preparation.rooms.left(machine.spec.storage)
            await volumes.convert(layers, own, image_format=volume.spec.format, limit=limit)
            changes |= {"linked": False, "image": None, "layers": {}, "merging": None, "flattening": False}
            await asyncio.to_thread(_date, own, (await asyncio.to_thread(layers[0].path.stat)).st_mtime_ns)
        parts[f"disks/{disk.name}.{volume.spec.format}"] = own
        kept.append(volume.model_copy(update={"spec": volume.spec.model_copy(update=changes)}))
    for extra in (place.firmware_variables, place.tpm_state, place.seed, place.saved, place.saved_definition):
        if await asyncio.to_thread(extra.exists):
            parts[extra.name] = extra
    held = await preparation.held(machine, kept, None)
    definition = scratch / "vm.yaml"
    await asyncio.to_thread(files.write_durably, definition, directory.render(held))
    await asyncio.to_thread(_date, definition, int(machine.metadata.created.timestamp()) * 10**9)
    return {"vm.yaml": definition, **parts}


def _date(path: pathlib.Path, mtime_ns: int) -> None:
    """Give a file that was made for the archive a time that is the same each time it is made."""
    os.utime(path, ns=(mtime_ns, mtime_ns))
