"""The definition of a VM that comes from elsewhere, as it stands here: what it refers to, and who it is."""

from __future__ import annotations

import asyncio
import dataclasses
import pathlib
from collections.abc import Mapping

from bocage import errors
from bocage.model import base, ground, vm
from bocage.node.carrying import rewiring
from bocage.node.place import directory
from bocage.node.shop import Shop
from bocage.planner import hardware
from bocage.words import N_

PROJECT = "default"  # the one that there is


class Error(errors.Problem):
    """A directory cannot be taken in."""


class MemoryOfAnother(Error, errors.Conflict):
    """Its guest knows the identity that it had, and would go on under it."""

    type = "adopt-saved-memory"
    text = N_("the memory of {name} is saved, and knows it by the identity that it had")
    hint = N_("take it in without '--new-identity'; or start and stop it where it is at home, then try again")
    name: str


class Inconsistent(Error, errors.Invalid):
    type = "adopt-inconsistent"
    text = N_("{path} names the {kind} {name}, of which it says nothing")
    path: str
    kind: str
    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class Terms:
    """How directories are taken in. `dead`: the host that a person says is dead for good."""

    dead: str | None = None
    new_identity: bool = False
    name: str | None = None
    networks: Mapping[str, str] = dataclasses.field(default_factory=dict)  # by name: which one takes its place here


async def definition(
    shop: Shop,
    storage: ground.Storage,
    held: directory.Held,
    path: pathlib.Path,
    terms: Terms,
    new_uid: str,
    wiring: rewiring.Wiring,
    *,
    stays: bool,
) -> tuple[vm.VM, list[ground.Volume]]:
    """The definition with its references made good here, and with another identity where that is wanted."""
    source = held.vm
    uid = new_uid if terms.new_identity else source.uid
    by_uid = {volume.uid: volume for volume in held.volumes}
    volumes: list[ground.Volume] = []
    devices: list[vm.Disk] = []
    for disk in source.spec.disks:
        if disk.volume not in by_uid:
            raise Inconsistent(path=str(path), kind="volume", name=disk.volume)
        volume = _volume(by_uid[disk.volume], storage, source.uid, uid, PROJECT, new=terms.new_identity)
        volumes.append(volume)
        serial = hardware.serial(volume.uid) if terms.new_identity else disk.serial
        devices.append(disk.model_copy(update={"volume": volume.uid, "serial": serial}))
    board = source.spec.hardware
    if terms.new_identity:
        identity = base.new_uid()
        smbios = board.smbios.model_copy(update={"uuid": identity, "serial": identity})
        board = board.model_copy(update={"smbios": smbios})
    has_memory = await asyncio.to_thread(directory.Directory(path).saved.exists)
    if has_memory and terms.new_identity:
        raise MemoryOfAnother(name=source.name)
    saved = source.spec.power is vm.Power.SAVED and has_memory
    power = source.spec.power if stays or saved else vm.Power.STOPPED
    spec = source.spec.model_copy(
        update={
            "storage": storage.uid,
            "power": power,
            "disks": tuple(devices),
            "nics": await _nics(shop, held, wiring, uid, new=terms.new_identity),
            "cds": await _cds(shop, held, PROJECT),
            "usb": () if terms.new_identity else source.spec.usb,
            "hardware": board,
            "replica": None,
        }
    )
    metadata = source.metadata.model_copy(
        update={
            "uid": uid,
            "name": terms.name or source.name,
            "project": PROJECT,
            "deleted": None,
            "revision": 0,
            "status_revision": 0,
        }
    )
    if terms.new_identity:
        board = hardware.with_generation_id(board, base.new_uid())
        spec = spec.model_copy(update={"hardware": board})
    state = vm.State.SAVED if saved else vm.State.STOPPED
    return vm.VM(metadata=metadata, spec=spec, status=vm.VMStatus(ready=True, state=state)), volumes


def _volume(
    held: ground.Volume, storage: ground.Storage, old_vm: str, new_vm: str, project: str, *, new: bool
) -> ground.Volume:
    """A volume as it is here: in the VM's directory, or by itself where it lay by itself."""
    uid = base.new_uid() if new else held.uid
    spec = held.spec
    if spec.vm is not None or new:
        spec = spec.model_copy(update={"storage": storage.uid, "vm": new_vm, "source": None})
    name = held.name if not new else f"{held.name[:54]}-{uid[:8]}"
    return ground.Volume(
        metadata=base.Metadata(uid=uid, name=name, project=project),
        spec=spec,
        status=ground.VolumeStatus(state="ready"),
    )


async def _nics(
    shop: Shop, held: directory.Held, wiring: rewiring.Wiring, uid: str, *, new: bool
) -> tuple[vm.Nic, ...]:
    """Its NICs, on the networks that were found for them."""
    taken = set(await macs(shop)) if new else set()
    nics: list[vm.Nic] = []
    for nic in held.vm.spec.nics:
        mac = hardware.mac(uid, nic.name, taken) if new else nic.mac
        taken.add(mac)
        network = wiring.networks[nic.network]
        nics.append(nic.model_copy(update={"network": network, "mac": mac, "publish": () if new else nic.publish}))
    return tuple(nics)


async def _cds(shop: Shop, held: directory.Held, project: str) -> tuple[vm.Cd, ...]:
    """Its CDs, by uid or by name; a tray whose image is not here is empty."""
    images = (await shop.ground.resources.list(ground.Image, project)).items
    by_uid = {image.uid: image.uid for image in images}
    by_name = {image.name: image.uid for image in images}
    return tuple(
        cd.model_copy(update={"image": by_uid.get(cd.image or "") or by_name.get(held.names.get(cd.image or "", ""))})
        for cd in held.vm.spec.cds
    )


async def macs(shop: Shop) -> dict[str, str]:
    """The MAC addresses of all VMs, and whose each is."""
    machines = (await shop.ground.resources.list(vm.VM, trash=True)).items
    return {nic.mac: machine.name for machine in machines for nic in machine.spec.nics}
