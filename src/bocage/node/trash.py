"""The trash: a deleted VM's directory, kept for a while beside the living ones."""

from __future__ import annotations

import asyncio
import pathlib

from bocage import errors, files
from bocage.model import ground, vm
from bocage.storage import half_made
from bocage.store import resources
from bocage.words import N_

KEPT = 7 * 86_400.0  # seconds


class Error(errors.Problem):
    """Anything that goes wrong with the trash."""


class NotThere(Error, errors.NotFound):
    type = "trash-empty-of-it"
    text = N_("{name} is not in the trash any more")
    name: str


async def put(directory: pathlib.Path, bin_: pathlib.Path) -> None:
    """Move a VM's directory to the trash; nothing to do when it is there already or never was."""

    def move() -> None:
        if directory.exists():
            bin_.parent.mkdir(mode=0o700, exist_ok=True)
            files.rename_durably(directory, bin_)

    await asyncio.to_thread(move)


async def take_back(bin_: pathlib.Path, directory: pathlib.Path) -> None:
    """Move it back."""

    def move() -> None:
        if bin_.exists():
            files.rename_durably(bin_, directory)

    await asyncio.to_thread(move)


async def purge(store: resources.Resources, machine: vm.VM, bin_: pathlib.Path) -> None:
    """Remove a VM for good: its directory first, then its resources, so that a crash in between is carried on."""

    def remove() -> None:
        if bin_.exists():
            doomed = bin_.with_name(bin_.name + half_made.SUFFIX)
            files.rename_durably(bin_, doomed)
            files.remove_tree(doomed)

    await asyncio.to_thread(remove)
    transaction = resources.Transaction()
    transaction.delete(machine)
    for disk in machine.spec.disks:
        try:
            volume = await store.get(ground.Volume, machine.metadata.project, disk.volume)
        except resources.Missing:
            continue
        if volume.spec.vm == machine.uid:
            transaction.delete(volume)
    await store.commit(transaction)
