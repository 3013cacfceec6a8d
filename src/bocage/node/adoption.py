"""Takes in VMs from their directories: after a lost database, from another machine, from an archive.

What is taken is checked first, all of it, and nothing is written when anything does not hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pathlib
import stat
from collections.abc import Mapping
from typing import Any

from bocage import errors
from bocage.engine import base as engine
from bocage.model import base, ground, vm
from bocage.node import directory, disks, shelving
from bocage.node.shop import Shop
from bocage.planner import hardware
from bocage.storage import qcow2
from bocage.store import resources
from bocage.words import N_

BESIDE_DISKS = ("vm.yaml", "firmware-vars.fd", "seed.iso", "saved.state", "saved.json", "serial.log", "qemu.log")
"""What belongs to a VM and is no disk, by its name in the directory."""
_TOGETHER = 16  # volumes that are entered in one transaction


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


class RunsNow(Error, errors.Conflict):
    type = "adopt-running"
    text = N_("{name} is running (process {pid}): a copy of its disks would not be whole")
    hint = N_("adopt it where it lies and as it is; else stop it first")
    name: str
    pid: int


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


class MemoryOfAnother(Error, errors.Conflict):
    """Its guest knows the identity that it had, and would go on under it."""

    type = "adopt-saved-memory"
    text = N_("the memory of {name} is saved, and knows it by the identity that it had")
    hint = N_("take it in without '--new-identity'; or start and stop it where it is at home, then try again")
    name: str


class OwnDirectory(Error, errors.Conflict):
    type = "adopt-own-directory"
    text = N_("{path} is the directory of the VM {name}")
    hint = N_("'bocage vm clone {name}' makes a copy of it with an identity of its own")
    path: str
    name: str


class NotAFile(Error, errors.Invalid):
    """A link or a device where a disk should be: it could lead anywhere."""

    type = "adopt-not-a-file"
    text = N_("{path} is no ordinary file; nothing was opened")
    path: str


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


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
    """A directory that can be taken in, as it will stand in the store."""

    path: pathlib.Path
    vm: vm.VM
    volumes: tuple[ground.Volume, ...]
    generation: int  # of the ownership that it names
    names: Mapping[str, str]  # of what it refers to


async def examine(
    shop: Shop, storage: ground.Storage, path: pathlib.Path, terms: Terms, *, uid: str | None = None
) -> Candidate:
    """See whether a directory can be taken into `storage`; `uid` is the one that it gets with a new identity."""
    place = directory.Directory(path)
    try:
        held = await asyncio.to_thread(place.read)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NoDefinition(path=str(path)) from error
    if held.owner and held.owner.host not in (shop.ground.uid, terms.dead):
        raise OfAnotherHost(name=held.vm.name, host=held.owner.host)
    in_place = path == await asyncio.to_thread(pathlib.Path(storage.spec.path).resolve) / "vms" / held.vm.uid
    if in_place and await is_known(shop, held.vm.uid):
        raise OwnDirectory(path=str(path), name=held.vm.name)
    stays = in_place and not terms.new_identity
    machine, volumes = await _fit(shop, storage, held, path, terms, uid or base.new_uid(), stays=stays)
    if not stays:
        await _check_at_rest(shop, held.vm)
    await _check_free(shop, machine)
    await asyncio.to_thread(_check_plain, path)
    for volume in volumes:
        await _check_file(shop, volume, path, machine.name)
    return Candidate(
        path=path,
        vm=machine,
        volumes=tuple(volumes),
        generation=held.owner.generation if held.owner else 0,
        names=held.names,
    )


async def enter(shop: Shop, found: Candidate) -> None:
    """Write a candidate into the store, whose directory has its place by now. The VM comes last: it makes it whole."""
    kept = shop.ground.resources
    for first in range(0, len(found.volumes), _TOGETHER):
        transaction = resources.Transaction()
        for volume in found.volumes[first : first + _TOGETHER]:
            if not await _is_there(shop, volume):
                transaction.create(volume)
        if transaction.puts:
            await kept.commit(transaction)
    transaction = resources.Transaction()
    transaction.create(found.vm)
    owner = vm.Owner(host=shop.ground.uid, generation=found.generation + 1)
    transaction.set_owner(found.vm, owner, expected=0)
    await kept.commit(transaction)


async def is_known(shop: Shop, uid: str) -> bool:
    """Whether a VM of this uid is in the store, be it in the trash."""
    machines = (await shop.ground.resources.list(vm.VM, trash=True)).items
    return any(machine.uid == uid for machine in machines)


async def forget(shop: Shop, found: Candidate) -> None:
    """Take the volumes of a candidate out of the store again that could not be entered whole."""
    kept = shop.ground.resources
    for volume in found.volumes:
        with contextlib.suppress(errors.Problem):
            transaction = resources.Transaction()
            transaction.delete(await kept.get(ground.Volume, volume.metadata.project, volume.uid))
            await kept.commit(transaction)


async def _fit(
    shop: Shop,
    storage: ground.Storage,
    held: directory.Held,
    path: pathlib.Path,
    terms: Terms,
    new_uid: str,
    *,
    stays: bool,
) -> tuple[vm.VM, list[ground.Volume]]:
    """The definition with its references made good here, and with another identity where that is wanted."""
    source, project = held.vm, "default"  # the one that there is
    uid = new_uid if terms.new_identity else source.uid
    by_uid = {volume.uid: volume for volume in held.volumes}
    volumes: list[ground.Volume] = []
    devices: list[vm.Disk] = []
    for disk in source.spec.disks:
        if disk.volume not in by_uid:
            raise Inconsistent(path=str(path), kind="volume", name=disk.volume)
        volume = _volume(by_uid[disk.volume], storage, source.uid, uid, project, new=terms.new_identity)
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
            "nics": await _nics(shop, held, path, project, uid, new=terms.new_identity),
            "cds": await _cds(shop, held, project),
            "hardware": board,
        }
    )
    metadata = source.metadata.model_copy(
        update={
            "uid": uid,
            "name": terms.name or source.name,
            "project": project,
            "deleted": None,
            "revision": 0,
            "status_revision": 0,
        }
    )
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
    shop: Shop, held: directory.Held, path: pathlib.Path, project: str, uid: str, *, new: bool
) -> tuple[vm.Nic, ...]:
    """Its NICs on the networks of the same uid, of the same name, or on `default`."""
    networks = (await shop.ground.resources.list(ground.Network, project)).items
    by_uid = {network.uid: network for network in networks}
    by_name = {network.name: network for network in networks}
    taken = set(await _macs(shop)) if new else set()
    nics: list[vm.Nic] = []
    for nic in held.vm.spec.nics:
        name = held.names.get(nic.network, nic.network)
        network = by_uid.get(nic.network) or by_name.get(name) or by_name.get("default")
        if network is None:
            raise Inconsistent(path=str(path), kind="network", name=name)
        mac = hardware.mac(uid, nic.name, taken) if new else nic.mac
        taken.add(mac)
        nics.append(nic.model_copy(update={"network": network.uid, "mac": mac, "publish": () if new else nic.publish}))
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


async def _check_at_rest(shop: Shop, source: vm.VM) -> None:
    """What is moved, copied or given another identity must not run under its old one."""
    if await is_known(shop, source.uid):
        return  # it is another one here, which lies elsewhere
    runtime = shop.ground.home.vm_runtime(source.uid)
    found = await shop.ground.engine.find(source.uid, source.name, runtime, listener=_unheard)
    if found:
        pid = found.pid
        await found.detach()
        raise RunsNow(name=source.name, pid=pid)


def _unheard(_: engine.Happened) -> None:
    pass


async def _check_free(shop: Shop, machine: vm.VM) -> None:
    """Its uid, its name and its addresses are nobody else's."""
    known = (await shop.ground.resources.list(vm.VM, trash=True)).items
    for other in known:
        if other.uid == machine.uid:
            raise Known(name=machine.name, uid=machine.uid)
        same_place = other.metadata.project == machine.metadata.project and not other.metadata.deleted
        if other.name == machine.name and same_place:
            raise resources.NameTaken(kind="vm", name=machine.name)
    macs = await _macs(shop)
    for nic in machine.spec.nics:
        if nic.mac in macs:
            raise AddressTaken(mac=nic.mac, name=machine.name, other=macs[nic.mac])


def _check_plain(path: pathlib.Path) -> None:
    for name in BESIDE_DISKS:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG((path / name).lstat().st_mode):
                raise NotAFile(path=str(path / name))


async def _check_file(shop: Shop, volume: ground.Volume, path: pathlib.Path, name: str) -> None:
    """The file is there, is a file, and its header names what it should and nothing else."""
    if volume.spec.vm is None:
        try:
            root = await shop.ground.storage_root(volume.spec.storage)
        except resources.Missing as error:
            raise DiskMissing(path=volume.name, name=name) from error
        file = disks.place_of(volume, root)
    else:
        file = path / "disks" / f"{volume.spec.name}.{volume.spec.format}"
    try:
        known = await asyncio.to_thread(file.lstat)
    except FileNotFoundError as error:
        raise DiskMissing(path=str(file), name=name) from error
    if not stat.S_ISREG(known.st_mode):
        raise NotAFile(path=str(file))
    if volume.spec.linked:
        assert volume.spec.image
        digest = volume.spec.image
        image = await shop.preparation.disks.image_file(volume.spec.storage, digest) or await asyncio.to_thread(
            shelving.beside, path, digest
        )
        if image is None:
            raise disks.ImageMissing(digest=digest[:12], disk=volume.name)
        backing = f"../../../images/{image.name}"
        await asyncio.to_thread(
            qcow2.check_header, file, backing=backing, backing_format=image.suffix.removeprefix(".")
        )
    elif volume.spec.format == "qcow2":
        await asyncio.to_thread(qcow2.check_header, file, backing=None, backing_format=None)


async def _is_there(shop: Shop, volume: ground.Volume) -> bool:
    """Whether an earlier attempt, or the volume itself, stands in the store already as the same thing."""
    try:
        present = await shop.ground.resources.get(ground.Volume, volume.metadata.project, volume.uid)
    except resources.Missing:
        return False
    if present.spec != volume.spec:
        raise Known(name=volume.name, uid=volume.uid)
    return True


async def _macs(shop: Shop) -> dict[str, str]:
    machines = (await shop.ground.resources.list(vm.VM, trash=True)).items
    return {nic.mac: machine.name for machine in machines for nic in machine.spec.nics}


async def unknown_directories(shop: Shop, storage: ground.Storage) -> list[pathlib.Path]:
    """The VM directories of a storage that the store knows nothing of."""
    known = {machine.uid for machine in (await shop.ground.resources.list(vm.VM, trash=True)).items}
    return await asyncio.to_thread(directory.unknown, pathlib.Path(storage.spec.path), known)


def result(machines: list[str], refused: list[dict[str, Any]]) -> dict[str, Any]:
    """What an adoption tells: who came in, who did not and why."""
    return {"adopted": machines, "refused": refused}
