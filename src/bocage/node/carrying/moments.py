"""The snapshots of a VM that is taken in: those whose files came along, as they stand here."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from bocage import errors
from bocage.model import base, ground, snapshot, vm
from bocage.node.place import directory
from bocage.planner import layers
from bocage.words import N_


class Error(errors.Problem):
    """The snapshots of a VM cannot be taken in."""


class KnowsIdentity(Error, errors.Conflict):
    type = "adopt-snapshot-memory"
    text = N_("the snapshot {snapshot} of {name} holds memory, which knows the VM by the identity that it had")
    hint = N_("take it in without '--new-identity'; or delete that snapshot where the VM is at home")
    name: str
    snapshot: str


def of(
    held: directory.Held, machine: vm.VM, volumes: Sequence[ground.Volume], path: pathlib.Path
) -> tuple[snapshot.Snapshot, ...]:
    """Those that were whole. With another identity they belong to the VM as it is called from now on."""
    here = {old.volume: new for old, new in zip(held.vm.spec.disks, volumes, strict=True)}
    taken: list[snapshot.Snapshot] = []
    for one in held.snapshots:
        if one.status.state != "ready" or not all(disk.volume in here for disk in one.status.disks):
            continue
        if one.spec.memory and machine.uid != held.vm.uid:
            raise KnowsIdentity(name=held.vm.name, snapshot=one.name)
        if one.spec.memory and not directory.Directory(path).memory_of(one.uid)[0].is_file():
            continue
        if all(disk.file in layers.every(here[disk.volume].spec) for disk in one.status.disks):
            taken.append(_as_here(one, machine, here))
    return _related(taken, volumes)


def _as_here(one: snapshot.Snapshot, machine: vm.VM, here: dict[str, ground.Volume]) -> snapshot.Snapshot:
    same = machine.uid == one.spec.vm
    metadata = one.metadata.model_copy(
        update={
            "uid": one.uid if same else base.new_uid(),
            "project": machine.metadata.project,
            "revision": 0,
            "status_revision": 0,
        }
    )
    disks = tuple(disk.model_copy(update={"volume": here[disk.volume].uid}) for disk in one.status.disks)
    return one.model_copy(
        update={
            "metadata": metadata,
            "spec": one.spec.model_copy(update={"vm": machine.uid}),
            "status": one.status.model_copy(update={"disks": disks}),
        }
    )


def _related(taken: Sequence[snapshot.Snapshot], volumes: Sequence[ground.Volume]) -> tuple[snapshot.Snapshot, ...]:
    parents, _ = layers.lineage(taken, {volume.uid: volume for volume in volumes})
    return tuple(
        one.model_copy(update={"status": one.status.model_copy(update={"parent": parents[one.uid]})}) for one in taken
    )
