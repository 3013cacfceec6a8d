"""The networks of a VM that comes in: the same ones, made again where they are gone, or those that were chosen.

Nothing here puts a NIC on a network by likeness: a network is the same only by its uid. Else a VM of an isolated
network could find itself among others, or in the world.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping

from bocage import errors, words
from bocage.model import base, ground, vm
from bocage.node import default_network
from bocage.node.place import directory
from bocage.node.shop import Shop
from bocage.planner import usage
from bocage.store import resources
from bocage.words import N_


class Error(errors.Problem):
    """A NIC of a VM that comes in has no network here."""


class NotHere(Error, errors.Conflict):
    """It was written before definitions carried their networks, or by hand."""

    type = "adopt-network-missing"
    text = N_("the network {network} of {vm} is not here, and its vm.yaml does not say what it was")
    hint = N_(
        "'bocage network create {network} --kind nat' (or isolated) makes one; then say which its NICs shall be on: "
        "'--network {network}={network}'"
    )
    network: str
    vm: str


class Another(Error, errors.Conflict):
    """Only a person knows whether both are the same wire."""

    type = "adopt-network-another"
    text = N_("the network {network} of {vm} (kind {kind}) is another one than the network {network} here ({here})")
    hint = N_(
        "'--network {network}={network}' puts it on the one that is here; for one of its own, 'bocage network create "
        "NAME --kind {kind}' and '--network {network}=NAME'"
    )
    network: str
    vm: str
    kind: str
    here: str


class CannotBeMade(Error, errors.Conflict):
    type = "adopt-network-cannot-be-made"
    text = N_("the network {network} of {vm} (kind {kind}) is not here and cannot be made: {reason}")
    hint = N_("mend that; or put it on one that is here: '--network {network}=NAME' ('bocage network list')")
    network: str
    vm: str
    kind: str
    reason: str


class Made(words.Message):
    type = "network-adopted"
    text = N_("the network {name} (kind {kind}) came in with a VM")
    name: str
    kind: str


@dataclasses.dataclass(frozen=True, slots=True)
class Wiring:
    """What each network of a VM is here."""

    networks: Mapping[str, str]  # uids: the one that it names, the one that it gets
    new: tuple[ground.Network, ...]  # those of them that have to be made


async def find(
    shop: Shop, held: directory.Held, project: str, chosen: Mapping[str, str], *, name: str, stays: bool
) -> Wiring:
    """Find every network that the NICs of `name` are on; `chosen` says for some, by name, which one to take.

    `stays`: it lies where it lay, and may be running. Raises Error, and resources.Missing for a choice that is none.
    """
    present = (await shop.ground.resources.list(ground.Network, project)).items
    found: dict[str, str] = {}
    new: list[ground.Network] = []
    for uid in dict.fromkeys(nic.network for nic in held.vm.spec.nics):
        old = next((one for one in held.networks if one.uid == uid), None)
        called = old.name if old else held.names.get(uid, uid)
        here = _choose(present, uid, old, called, chosen)
        if here is None and old is None:
            raise NotHere(network=called, vm=name)
        if here is None and old is not None:
            here = _again(old, project, stays=stays)
            await _check(shop, here, present, name)
            new.append(here)
        assert here
        found[uid] = here.uid
    return Wiring(networks=found, new=tuple(new))


async def make(shop: Shop, new: Iterable[ground.Network]) -> None:
    """Enter networks into the store, and make them."""
    for network in new:
        with contextlib.suppress(resources.NameTaken):  # another VM brought it meanwhile
            await shop.ground.resources.create(network)
            await shop.ground.events.record(Made(name=network.name, kind=network.spec.kind), subject=network.ref)
        await shop.wires.ensure(await shop.ground.resources.get(ground.Network, network.metadata.project, network.uid))


async def forget(shop: Shop, new: Iterable[ground.Network]) -> None:
    """Take networks down again that were made for a VM which could not come in, where no other VM has them."""
    kept = shop.ground.resources
    for network in new:
        with contextlib.suppress(errors.Problem):
            present = await kept.get(ground.Network, network.metadata.project, network.uid)
            if not usage.of_network(present, (await kept.list(vm.VM, trash=True)).items):
                await shop.wires.remove(present)
                await kept.delete(present)


def _choose(
    present: Iterable[ground.Network], uid: str, old: ground.Network | None, called: str, chosen: Mapping[str, str]
) -> ground.Network | None:
    by_name = {one.name: one for one in present}
    for which in (called, uid):
        if (wanted := chosen.get(which)) is not None:
            if wanted not in by_name:
                raise resources.Missing(kind="network", name=wanted)
            return by_name[wanted]
    if (same := next((one for one in present if one.uid == uid), None)) is not None:
        return same
    # Every installation has its own `default`: the way out for those who asked for nothing else.
    own = by_name.get(called) if called == default_network.NAME else None
    return own if own and "isolated" not in (own.spec.kind, old.spec.kind if old else own.spec.kind) else None


def _again(old: ground.Network, project: str, *, stays: bool) -> ground.Network:
    """The network as it was. Its subnet, when it chose that itself, is kept only for guests that live in it."""
    about = old.metadata
    return ground.Network(
        metadata=base.Metadata(
            uid=about.uid, name=about.name, project=project, title=about.title, notes=about.notes, tags=about.tags
        ),
        spec=old.spec,
        status=ground.NetworkStatus(subnet=old.status.subnet if stays else None),
    )


async def _check(shop: Shop, wanted: ground.Network, present: Iterable[ground.Network], name: str) -> None:
    """Nothing stands in the way of making it. Raises Another, CannotBeMade."""
    about = {"network": wanted.name, "vm": name, "kind": wanted.spec.kind}
    for one in present:
        if one.name == wanted.name:
            raise Another(**about, here=one.spec.kind)
    try:
        await shop.wires.check(wanted)
        shop.wires.check_begun(wanted)  # a NIC of the host is never moved because a VM came in
    except errors.Problem as problem:
        raise CannotBeMade(**about, reason=words.say(problem)) from problem
