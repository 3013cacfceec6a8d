"""Takes in VMs from their directories: after a lost database, from another machine, from an archive.

What is taken is checked first, all of it, and nothing is written when anything does not hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping

from bocage import errors
from bocage.engine import base as engine
from bocage.model import base, firewall, ground, snapshot, vm
from bocage.node.carrying import carried, moments, regrouping, rewiring, settling
from bocage.node.place import directory
from bocage.node.shop import Shop
from bocage.planner import layers
from bocage.store import resources
from bocage.words import N_

_TOGETHER = 16  # volumes that are entered in one transaction


class NoDefinition(settling.Error, errors.NotFound):
    type = "adopt-no-definition"
    text = N_("{path} has no vm.yaml, so it is no VM's directory")
    path: str


class OfAnotherHost(settling.Error, errors.Conflict):
    """Its owner may still run it, and its disks would be opened twice."""

    type = "adopt-of-another-host"
    text = N_("{name} belongs to the host {host}, which may be running it now")
    hint = N_("adopt it there; or, when that host is dead for good, say so: '--dead {host}'")
    name: str
    host: str


class RunsNow(settling.Error, errors.Conflict):
    type = "adopt-running"
    text = N_("{name} is running (process {pid}): a copy of its disks would not be whole")
    hint = N_("adopt it where it lies and as it is; else stop it first")
    name: str
    pid: int


class Known(settling.Error, errors.Conflict):
    type = "adopt-known-already"
    text = N_("{name} is known already under this identity (uid {uid})")
    hint = N_("'--new-identity' makes it a VM of its own, with another uid, MAC addresses and serials")
    name: str
    uid: str


class NameTaken(settling.Error, errors.Conflict):
    type = "adopt-name-taken"
    text = N_("a VM named {name} is here already")
    hint = N_("'--name NAME' takes it in under another one; or rename the other: 'bocage vm rename {name} NAME'")
    name: str


class Older(settling.Error, errors.Conflict):
    """A move has ended without taking it away; the guest has gone on in the other one."""

    type = "adopt-older"
    text = N_("{name} lies in {newer} too, and that is the newer one: {path} was left behind by a move")
    hint = N_("'bocage adopt {newer}' takes in the newer one; then remove {path}")
    name: str
    path: str
    newer: str


class Twice(settling.Error, errors.Conflict):
    type = "adopt-twice"
    text = N_("{name} lies in {path} and in {other}, and nothing says which of the two is the newer one")
    hint = N_("look at both, and move one of them out of its storage; or '--new-identity' makes another VM of this one")
    name: str
    path: str
    other: str


class HalfMade(settling.Error, errors.Conflict):
    type = "adopt-half-made"
    text = N_("{path} is half made, or half removed: it is no VM")
    path: str


class AddressTaken(settling.Error, errors.Conflict):
    type = "adopt-mac-taken"
    text = N_("the MAC address {mac} of {name} is that of {other} already")
    hint = N_("'--new-identity' gives it new ones")
    mac: str
    name: str
    other: str


class OwnDirectory(settling.Error, errors.Conflict):
    type = "adopt-own-directory"
    text = N_("{path} is the directory of the VM {name}")
    hint = N_("'bocage vm clone {name}' makes a copy of it with an identity of its own")
    path: str
    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
    """A directory that can be taken in, as it will stand in the store."""

    path: pathlib.Path
    vm: vm.VM
    volumes: tuple[ground.Volume, ...]
    networks: tuple[ground.Network, ...]  # those that are made for it
    groups: tuple[firewall.FirewallGroup, ...]  # that its NICs refer to
    generation: int  # of the ownership that it names
    names: Mapping[str, str]  # of what it refers to
    snapshots: tuple[snapshot.Snapshot, ...] = ()


async def examine(
    shop: Shop, storage: ground.Storage, path: pathlib.Path, terms: settling.Terms, *, uid: str | None = None
) -> Candidate:
    """See whether a directory can be taken into `storage`; `uid` is the one that it gets with a new identity."""
    place = directory.Directory(path)
    await asyncio.to_thread(carried.check_plain, path)
    try:
        held = await asyncio.to_thread(place.read)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NoDefinition(path=str(path)) from error
    if held.owner and held.owner.host and held.owner.host not in (shop.ground.uid, terms.dead):
        raise OfAnotherHost(name=held.vm.name, host=held.owner.host)
    in_place = path == await asyncio.to_thread(pathlib.Path(storage.spec.path).resolve) / "vms" / held.vm.uid
    if in_place and await is_known(shop, held.vm.uid):
        raise OwnDirectory(path=str(path), name=held.vm.name)
    stays = in_place and not terms.new_identity
    if not terms.new_identity and not await is_known(shop, held.vm.uid):
        await _check_newest(shop, held, path)
    name = terms.name or held.vm.name
    wiring = await rewiring.find(shop, held, settling.PROJECT, terms.networks, name=name, stays=stays)
    machine, volumes = await settling.definition(
        shop, storage, held, path, terms, uid or base.new_uid(), wiring, stays=stays
    )
    if not stays:
        await _check_at_rest(shop, held.vm, path)
    await _check_free(shop, machine)
    await carried.check(shop, path, machine.name, volumes)
    kept = moments.of(held, machine, volumes, path)
    _, present = layers.lineage(kept, {volume.uid: volume for volume in volumes})
    machine = machine.model_copy(update={"status": machine.status.model_copy(update={"snapshot": present})})
    return Candidate(
        path=path,
        vm=machine,
        volumes=tuple(volumes),
        networks=wiring.new,
        groups=held.groups,
        generation=held.owner.generation if held.owner else 0,
        names=held.names,
        snapshots=kept,
    )


async def enter(shop: Shop, found: Candidate) -> None:
    """Write a candidate into the store, whose directory has its place by now; nothing of it stays when that fails."""
    grouped: list[firewall.FirewallGroup] = []
    try:
        await rewiring.make(shop, found.networks)
        grouped = await regrouping.make(shop, found.groups, settling.PROJECT)
        await _enter(shop, found)
    except BaseException:
        await _forget(shop, found)
        await regrouping.forget(shop, grouped)
        await rewiring.forget(shop, found.networks)
        raise


async def _enter(shop: Shop, found: Candidate) -> None:
    """The VM comes last: it makes it whole."""
    kept = shop.ground.resources
    for first in range(0, len(found.volumes), _TOGETHER):
        transaction = resources.Transaction()
        for volume in found.volumes[first : first + _TOGETHER]:
            if not await _is_there(shop, volume):
                transaction.create(volume)
        if transaction.puts:
            await kept.commit(transaction)
    for one in found.snapshots:
        with contextlib.suppress(resources.Changed):  # an earlier attempt has entered it
            await kept.create(one)
    transaction = resources.Transaction()
    transaction.create(found.vm)
    owner = vm.Owner(host=shop.ground.uid, generation=found.generation + 1)
    transaction.set_owner(found.vm, owner, expected=0)
    await kept.commit(transaction)


async def is_known(shop: Shop, uid: str) -> bool:
    """Whether a VM of this uid is in the store, be it in the trash."""
    with contextlib.suppress(resources.Missing):
        return bool(await shop.ground.resources.get(vm.VM, settling.PROJECT, uid))
    return False


async def _forget(shop: Shop, found: Candidate) -> None:
    """Take out of the store again what there is of a candidate that could not be entered whole."""
    kept = shop.ground.resources
    for one in found.snapshots:
        with contextlib.suppress(errors.Problem):
            await kept.delete(await kept.get(snapshot.Snapshot, one.metadata.project, one.uid))
    for volume in found.volumes:
        with contextlib.suppress(errors.Problem):
            await kept.delete(await kept.get(ground.Volume, volume.metadata.project, volume.uid))


async def _check_at_rest(shop: Shop, source: vm.VM, path: pathlib.Path) -> None:
    """What is moved, copied or given another identity must not run under its old one."""
    if await is_known(shop, source.uid):
        return  # it is another one here, which lies elsewhere
    runtime = shop.ground.home.vm_runtime(source.uid)
    found = await shop.ground.engine.find(source.uid, source.name, path, runtime, listener=_unheard)
    if found:
        pid = found.pid
        await found.detach()
        raise RunsNow(name=source.name, pid=pid)


async def _check_newest(shop: Shop, held: directory.Held, path: pathlib.Path) -> None:
    """No storage of this host has the same VM in a newer directory, or in one of which that cannot be said."""
    for storage in (await shop.ground.resources.list(ground.Storage)).items:
        other = pathlib.Path(storage.spec.path) / "vms" / held.vm.uid
        place = directory.Directory(other)
        if await asyncio.to_thread(other.resolve) == path or not await asyncio.to_thread(place.definition.exists):
            continue
        age = None
        with contextlib.suppress(directory.Unreadable, OSError):
            age = directory.age(await asyncio.to_thread(place.read))
        if age is None or age == directory.age(held):
            raise Twice(name=held.vm.name, path=str(path), other=str(other))
        if age > directory.age(held):
            raise Older(name=held.vm.name, path=str(path), newer=str(other))


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
            raise NameTaken(name=machine.name)
    macs = await settling.macs(shop)
    for nic in machine.spec.nics:
        if nic.mac in macs:
            raise AddressTaken(mac=nic.mac, name=machine.name, other=macs[nic.mac])


async def _is_there(shop: Shop, volume: ground.Volume) -> bool:
    """Whether an earlier attempt, or the volume itself, stands in the store already as the same thing."""
    try:
        present = await shop.ground.resources.get(ground.Volume, volume.metadata.project, volume.uid)
    except resources.Missing:
        return False
    if present.spec != volume.spec:
        raise Known(name=volume.name, uid=volume.uid)
    return True


async def unknown_directories(shop: Shop, storage: ground.Storage) -> list[pathlib.Path]:
    """The VM directories of a storage that the store knows nothing of."""
    known = {machine.uid for machine in (await shop.ground.resources.list(vm.VM, trash=True)).items}
    return await asyncio.to_thread(directory.unknown, pathlib.Path(storage.spec.path), known)
