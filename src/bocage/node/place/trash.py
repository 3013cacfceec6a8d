"""The trash: a deleted VM's directory, kept for a while beside the living ones."""

from __future__ import annotations

import asyncio
import pathlib

from bocage import files
from bocage.model import ground, snapshot, vm
from bocage.storage import half_made
from bocage.store import resources

_TOGETHER = 16  # volumes that are forgotten in one transaction


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
        if bin_.exists() and not directory.exists():
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
    await _forget_snapshots(store, machine)
    await _forget_volumes(store, machine)
    await store.delete(machine)


async def snapshots(store: resources.Resources, machine: vm.VM) -> list[snapshot.Snapshot]:
    """A VM's snapshots, the oldest first."""
    known = (await store.list(snapshot.Snapshot, machine.metadata.project, trash=True, holding=machine.uid)).items
    return sorted((one for one in known if one.spec.vm == machine.uid), key=lambda one: one.metadata.created)


async def _forget_snapshots(store: resources.Resources, machine: vm.VM) -> None:
    known = await snapshots(store, machine)
    for first in range(0, len(known), _TOGETHER):
        transaction = resources.Transaction()
        for one in known[first : first + _TOGETHER]:
            transaction.delete(one)
        await store.commit(transaction)


async def _forget_volumes(store: resources.Resources, machine: vm.VM) -> None:
    """Some at a time, since a transaction is bounded; the VM itself goes last, so that this is carried on."""
    known = (await store.list(ground.Volume, machine.metadata.project, holding=machine.uid)).items
    doomed = [one for one in known if one.spec.vm == machine.uid]
    for first in range(0, len(doomed), _TOGETHER):
        transaction = resources.Transaction()
        for volume in doomed[first : first + _TOGETHER]:
            transaction.delete(volume)
        await store.commit(transaction)
