"""What a VM becomes that goes back to a snapshot: its board as it was then, under the identity that it has now."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from bocage import errors
from bocage.model import snapshot
from bocage.model import vm as model
from bocage.planner import hardware, parts, shares
from bocage.words import N_


class Error(errors.Problem):
    """A VM cannot go back."""


class DiskGone(Error, errors.Conflict):
    type = "snapshot-disk-gone"
    text = N_("{name} does not have {disk} any more, which is part of the snapshot")
    name: str
    disk: str


class NetworkGone(Error, errors.Conflict):
    type = "snapshot-network-gone"
    text = N_("the network that {nic} of {name} was on is not there any more")
    hint = N_("give it a card {nic} on a network that is there, then try again")
    name: str
    nic: str


@dataclasses.dataclass(frozen=True, slots=True)
class Here:
    """What is still there, by uid."""

    images: Collection[str]
    networks: Collection[str]


def spec(machine: model.VM, to: snapshot.Snapshot, here: Here, *, generation_id: str) -> model.VMSpec:
    """The spec after going back. Disks that came since stay; raises DiskGone, NetworkGone and hardware's errors."""
    was, now = to.spec.machine, machine.spec
    board = was.hardware.model_copy(update={"smbios": now.hardware.smbios})
    disks = _disks(machine, to)
    names = {*(disk.name for disk in disks), *(cd.name for cd in was.cds), *(nic.name for nic in was.nics)}
    changed = parts.validated(
        model.VMSpec,
        {
            **dict(now),
            "cpus": was.cpus,
            "memory": was.memory,
            "dynamic_memory": was.dynamic_memory,
            "disks": disks,
            "cds": tuple(cd if cd.image in here.images else cd.model_copy(update={"image": None}) for cd in was.cds),
            "nics": tuple(_nic(machine, nic, here) for nic in was.nics),
            "boot": model.Boot(order=tuple(name for name in was.boot.order if name in names)),
            "hardware": hardware.with_generation_id(board, generation_id),
        },
        "spec",
    )
    hardware.check(changed)
    return shares.with_share_of(changed, now)  # what it may use of its host is today's word


def _disks(machine: model.VM, to: snapshot.Snapshot) -> tuple[model.Disk, ...]:
    present = {disk.name: disk for disk in machine.spec.disks}
    then: list[model.Disk] = []
    for held in to.status.disks:
        disk = next((one for one in to.spec.machine.disks if one.name == held.disk), None)
        now = present.pop(held.disk, None)
        if disk is None or now is None or now.volume != held.volume:
            raise DiskGone(name=machine.name, disk=held.disk)
        then.append(disk.model_copy(update={"volume": now.volume, "serial": now.serial}))
    return (*then, *present.values())


def _nic(machine: model.VM, nic: model.Nic, here: Here) -> model.Nic:
    """With the address that it has now, and where its network is gone on the one that it has now."""
    now = next((one for one in machine.spec.nics if one.name == nic.name), None)
    mac, network = (now.mac, now.network) if now else (nic.mac, None)
    if nic.network in here.networks:
        network = nic.network
    if network not in here.networks:
        raise NetworkGone(name=machine.name, nic=nic.name)
    return nic.model_copy(update={"mac": mac, "network": network})
