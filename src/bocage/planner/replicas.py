"""Whether a VM can have a replica on another host, and what it cannot do meanwhile: pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from bocage import errors
from bocage.model import board, ground, vm
from bocage.words import N_


class Error(errors.Conflict):
    """It cannot have one."""


class NotItself(Error):
    type = "replica-on-its-own-host"
    text = N_("{host} has {name}: a replica lies on another host")
    name: str
    host: str


class NotItsStorage(Error):
    type = "replica-storage-not-of-host"
    text = N_("{storage} is no storage of {host} alone")
    hint = N_("'bocage storage list' says which host has which")
    storage: str
    host: str


class LiesCentrally(Error):
    type = "replica-not-needed"
    text = N_("{name} lies on {storage}, which other hosts reach, too: they start it from there")
    name: str
    storage: str


class Carries(Error):
    type = "replica-cannot-carry"
    text = N_("{name} has {thing}, which its replica would lack")
    hint = N_("take it away first; what a replica carries is in the guide under 'A replica on another host'")
    name: str
    thing: str


class NotMeanwhile(Error):
    type = "not-with-replica"
    text = N_("{name} has a replica, whose disks are as its own: that cannot be done meanwhile")
    hint = N_("'bocage vm set {name} --replica none', do it, and give it one again: all of it is copied anew then")
    name: str


NOT_MEANWHILE = frozenset(
    {
        "vm.disk-attach",
        "vm.disk-detach",
        "vm.disk-grow",
        "vm.flatten",
        "vm.migrate",
        "vm.move",
        "vm.snapshot-create",
        "vm.snapshot-revert",
        "vm.upgrade-hardware",
    }
)
"""What is asked of a VM that changes its disks in one of two places."""


def chosen(
    machine: vm.VM, host: ground.Host, storage: str | None, storages: Collection[ground.Storage], *, mode: str
) -> vm.Replica:
    """Where the replica is to lie. Raises Error."""
    if machine.status.host == host.uid:
        raise NotItself(name=machine.name, host=host.name)
    lies = next(one for one in storages if one.uid == machine.spec.storage)
    if lies.shared:
        raise LiesCentrally(name=machine.name, storage=lies.name)
    own = [one for one in storages if one.spec.host == host.uid and storage in (None, one.name)]
    if not own:
        raise NotItsStorage(storage=storage or "?", host=host.name)
    first = min(own, key=lambda one: (one.metadata.created, one.uid))
    return vm.Replica.model_validate({"host": host.uid, "storage": first.uid, "mode": mode})


def check_change(before: vm.VM, changed: vm.VM) -> None:
    """Raises Error where a VM that keeps its replica would have what that lacks."""
    if before.spec.replica is None or changed.spec.replica is None:
        return
    if [(one.name, one.volume) for one in before.spec.disks] != [(one.name, one.volume) for one in changed.spec.disks]:
        raise NotMeanwhile(name=changed.name)
    for obstacle in obstacles(changed, ()):
        raise obstacle


def obstacles(machine: vm.VM, volumes: Collection[ground.Volume]) -> Iterator[Carries]:
    """What it has that a replica does not carry."""
    spec, things = machine.spec, []
    if spec.hardware.firmware is vm.Firmware.UEFI:
        things.append("UEFI firmware with variables of its own")
    if spec.hardware.tpm is not board.Tpm.NONE:
        things.append("a TPM")
    things += [f"an image in {cd.name}" for cd in spec.cds if cd.image]
    things += [f"{one.name}, a device of its host" for one in spec.usb]
    things += [f"{one.name}, a port of its host" for one in spec.ports if one.to == "device"]
    things += [f"snapshots on {one.spec.name}" for one in volumes if one.spec.layers]
    things += [f"{one.spec.name} on another storage" for one in volumes if one.spec.storage != spec.storage]
    things += [f"a limit on {disk.name}" for disk in spec.disks if not disk.limits.none]
    if not spec.share.disks.none:
        things.append("a limit on its disks")
    things += [f"{disk.name} with cache {disk.cache}" for disk in spec.disks if disk.cache is vm.Cache.UNSAFE]
    for thing in things:
        yield Carries(name=machine.name, thing=thing)
