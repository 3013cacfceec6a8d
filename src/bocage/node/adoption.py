"""Takes in VMs from their directories: after a lost database, from another machine, from an archive.

What is taken is checked first, all of it, and nothing is written when anything does not hold.
"""

from __future__ import annotations

import asyncio
import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any

from bocage import errors, files
from bocage.model import base, ground, vm
from bocage.node import directory
from bocage.planner import hardware
from bocage.store import resources
from bocage.words import N_

if TYPE_CHECKING:
    from bocage.node.agent import Node


class Error(errors.Problem):
    """A directory cannot be taken in."""


class NoDefinition(Error, errors.NotFound):
    type = "adopt-no-definition"
    text = N_("{path} has no vm.yaml, so it is no VM's directory")
    path: str


class OfAnotherHost(Error, errors.Conflict):
    """Its owner may still run it (SAFETY, part 7)."""

    type = "adopt-of-another-host"
    text = N_("{name} belongs to the host {host}, which may be running it now")
    hint = N_("adopt it there; or, when that host is dead for good, say so: '--dead {host}'")
    name: str
    host: str


class Known(Error, errors.Conflict):
    type = "adopt-known-already"
    text = N_("{name} is known already under this identity (uid {uid})")
    hint = N_("'--new-identity' makes it a VM of its own, with another uid, MAC addresses and serials")
    name: str
    uid: str


class AddressTaken(Error, errors.Conflict):
    type = "adopt-mac-taken"
    text = N_("the MAC address {mac} of {name} is that of {other} already")
    hint = N_("'--new-identity' gives it new ones")
    mac: str
    name: str
    other: str


class DiskMissing(Error, errors.Conflict):
    type = "adopt-disk-missing"
    text = N_("{path}, a disk of {name}, is not there")
    path: str
    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class Terms:
    """How directories are taken in. `dead`: the host that a person says is dead for good."""

    dead: str | None = None
    new_identity: bool = False
    name: str | None = None


async def take(node: Node, storage: ground.Storage, path: pathlib.Path, terms: Terms) -> vm.VM:
    """Take in one directory that lies in `storage`'s `vms/`, under its uid or a name of its own."""
    place = directory.Directory(path)
    try:
        held = await asyncio.to_thread(place.read)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NoDefinition(path=str(path)) from error
    if held.owner and held.owner.host not in (node.ground.uid, terms.dead):
        raise OfAnotherHost(name=held.vm.name, host=held.owner.host)
    machine, volumes = await _fit(node, storage, held, terms)
    await _check(node, machine, volumes, path, held)
    await asyncio.to_thread(_settle, path, path.parent / machine.uid)
    owner = vm.Owner(host=node.ground.uid, generation=(held.owner.generation if held.owner else 0) + 1)
    transaction = resources.Transaction()
    transaction.create(machine)
    for volume in volumes:
        transaction.create(volume)
    transaction.set_owner(machine, owner, expected=0)
    await node.ground.resources.commit(transaction)
    return machine


async def _fit(
    node: Node, storage: ground.Storage, held: directory.Held, terms: Terms
) -> tuple[vm.VM, list[ground.Volume]]:
    """The definition with its references made good here, and with another identity where that is wanted."""
    source = held.vm
    project = source.metadata.project or "default"
    uid = base.new_uid() if terms.new_identity else source.uid
    volumes: list[ground.Volume] = []
    disks: list[vm.Disk] = []
    by_uid = {volume.uid: volume for volume in held.volumes}
    for disk in source.spec.disks:
        volume = by_uid[disk.volume]
        volume_uid = base.new_uid() if terms.new_identity else volume.uid
        placed = volume.spec.model_copy(update={"storage": storage.uid, "vm": uid})
        volumes.append(
            ground.Volume(
                metadata=base.Metadata(uid=volume_uid, name=volume.name, project=project),
                spec=placed,
                status=ground.VolumeStatus(state="ready"),
            )
        )
        serial = hardware.serial(volume_uid) if terms.new_identity else disk.serial
        disks.append(disk.model_copy(update={"volume": volume_uid, "serial": serial}))
    board = source.spec.hardware
    if terms.new_identity:
        identity = base.new_uid()
        board = board.model_copy(
            update={"smbios": board.smbios.model_copy(update={"uuid": identity, "serial": identity})}
        )
    spec = source.spec.model_copy(
        update={
            "storage": storage.uid,
            "disks": tuple(disks),
            "nics": await _nics(node, held, project, uid, new=terms.new_identity),
            "cds": await _cds(node, held, project),
            "hardware": board,
        }
    )
    metadata = source.metadata.model_copy(
        update={"uid": uid, "name": terms.name or source.name, "deleted": None, "revision": 0, "status_revision": 0}
    )
    return vm.VM(metadata=metadata, spec=spec, status=vm.VMStatus(ready=True)), volumes


async def _nics(node: Node, held: directory.Held, project: str, uid: str, *, new: bool) -> tuple[vm.Nic, ...]:
    """Its NICs on the networks of the same uid, of the same name, or on `default`."""
    networks = (await node.ground.resources.list(ground.Network, project)).items
    by_uid = {network.uid: network for network in networks}
    by_name = {network.name: network for network in networks}
    taken = set(await _macs(node)) if new else set()
    nics: list[vm.Nic] = []
    for nic in held.vm.spec.nics:
        network = by_uid.get(nic.network) or by_name.get(held.names.get(nic.network, "")) or by_name["default"]
        mac = hardware.mac(uid, nic.name, taken) if new else nic.mac
        taken.add(mac)
        nics.append(nic.model_copy(update={"network": network.uid, "mac": mac}))
    return tuple(nics)


async def _cds(node: Node, held: directory.Held, project: str) -> tuple[vm.Cd, ...]:
    """Its CDs, by uid or by name; a tray whose image is not here is empty."""
    images = (await node.ground.resources.list(ground.Image, project)).items
    by_uid = {image.uid: image.uid for image in images}
    by_name = {image.name: image.uid for image in images}
    return tuple(
        cd.model_copy(update={"image": by_uid.get(cd.image or "") or by_name.get(held.names.get(cd.image or "", ""))})
        for cd in held.vm.spec.cds
    )


async def _check(
    node: Node, machine: vm.VM, volumes: list[ground.Volume], path: pathlib.Path, held: directory.Held
) -> None:
    kept = node.ground.resources
    known = (await kept.list(vm.VM, trash=True)).items
    for other in known:
        if other.uid == machine.uid:
            raise Known(name=machine.name, uid=machine.uid)
    macs = await _macs(node)
    for nic in machine.spec.nics:
        if nic.mac in macs:
            raise AddressTaken(mac=nic.mac, name=machine.name, other=macs[nic.mac])
    for volume in volumes:
        file = path / "disks" / f"{volume.spec.name}.{volume.spec.format}"
        if not await asyncio.to_thread(file.is_file):
            raise DiskMissing(path=str(file), name=machine.name)


async def _macs(node: Node) -> dict[str, str]:
    machines = (await node.ground.resources.list(vm.VM, trash=True)).items
    return {nic.mac: machine.name for machine in machines for nic in machine.spec.nics}


def _settle(path: pathlib.Path, destination: pathlib.Path) -> None:
    """Give the directory the name of the uid."""
    if path != destination:
        files.rename_durably(path, destination)


async def take_images(node: Node, storage: ground.Storage) -> list[ground.Image]:
    """Enter into the store every image of a storage that it does not know, under the names in its record."""
    kept = node.ground.resources
    known = {image.uid for image in (await kept.list(ground.Image)).items}
    entered: list[ground.Image] = []
    for found in await node.library(storage).images():
        for name, uid in found.names.items():
            project, _, label = name.partition("/")
            if uid in known:
                continue
            image = ground.Image.model_validate(
                {
                    "metadata": {"uid": uid, "name": label, "project": project},
                    "spec": {
                        "sha256": found.digest,
                        "format": found.format,
                        "virtual_size": f"{found.virtual_size}B",
                        "storage": storage.uid,
                        "origin": found.origin,
                    },
                    "status": {"size_bytes": found.file_size},
                }
            )
            await kept.create(image)
            entered.append(image)
    return entered


async def unknown_directories(node: Node, storage: ground.Storage) -> list[pathlib.Path]:
    """The VM directories of a storage that the store knows nothing of."""
    known = {machine.uid for machine in (await node.ground.resources.list(vm.VM, trash=True)).items}

    def look() -> list[pathlib.Path]:
        root = pathlib.Path(storage.spec.path) / "vms"
        found = root.iterdir() if root.is_dir() else []
        return sorted(path for path in found if path.name not in known and (path / "vm.yaml").exists())

    return await asyncio.to_thread(look)


def result(machines: list[vm.VM], refused: list[dict[str, Any]]) -> dict[str, Any]:
    """What an adoption tells: who came in, who did not and why."""
    return {"adopted": [machine.name for machine in machines], "refused": refused}
