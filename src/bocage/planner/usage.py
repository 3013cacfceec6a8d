"""What still uses an image, a network or a storage, and so keeps it from being deleted."""

from __future__ import annotations

from collections.abc import Iterable

from bocage import errors
from bocage.model import ground, vm
from bocage.words import N_


class Error(errors.Problem):
    """Something is still needed."""


class ImageInUse(Error, errors.Conflict):
    type = "image-in-use"
    text = N_("the image {name} is in use by {users}")
    hint = N_(
        "delete those first, in the trash too ('bocage vm list --trash'); 'bocage vm cd eject NAME' takes a CD out"
    )
    name: str
    users: list[str]


class NetworkInUse(Error, errors.Conflict):
    type = "network-in-use"
    text = N_("the network {name} is in use by {users}")
    hint = N_("move their NICs to another network first ('bocage vm edit'); VMs in the trash count, too")
    name: str
    users: list[str]


class GroupInUse(Error, errors.Conflict):
    type = "firewall-group-in-use"
    text = N_("NICs of {users} are held to the firewall group {name}")
    hint = N_("'bocage vm nic set VM NIC --firewall …' gives them others; VMs in the trash count, too")
    name: str
    users: list[str]


class VolumeKept(Error, errors.Conflict):
    type = "volume-kept"
    text = N_("the volume {name} is no disk of {vm} any more, but its machine, its saved memory or a snapshot has it")
    hint = N_(
        "it is free when the guest lets go of it, at the latest when {vm} is off (not saved), and no snapshot has it"
    )
    name: str
    vm: str


class StorageInUse(Error, errors.Conflict):
    type = "storage-in-use"
    text = N_("the storage {name} holds {users}")
    hint = N_("move or delete them first; VMs in the trash count, too ('bocage vm list --trash')")
    name: str
    users: list[str]


def of_image(image: ground.Image, volumes: Iterable[ground.Volume], machines: Iterable[vm.VM]) -> list[str]:
    """The VMs, those in the trash too, and the volumes that rest on an image or have it in a tray."""
    known = {machine.uid: machine for machine in machines}
    users = {
        known[volume.spec.vm].name if volume.spec.vm in known else volume.name
        for volume in volumes
        if _needs(volume, image)
    }
    users |= {
        one.name
        for one in known.values()
        if one.spec.rescue == image.uid or any(cd.image == image.uid for cd in one.spec.cds)
    }
    return sorted(users)


def _needs(volume: ground.Volume, image: ground.Image) -> bool:
    """A linked volume rests on its image for ever, a copy until it is made."""
    same = volume.spec.image == image.spec.sha256
    if volume.spec.linked:
        return same and volume.spec.storage == image.spec.storage
    return same and volume.status.state != "ready"


def of_network(network: ground.Network, machines: Iterable[vm.VM]) -> list[str]:
    """The VMs that have a NIC on a network."""
    return sorted({one.name for one in machines if any(nic.network == network.uid for nic in one.spec.nics)})
