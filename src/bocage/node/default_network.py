"""The network `default`, there from the first start: with NAT where the machine can carry it, else in user mode."""

from __future__ import annotations

import os
import uuid
from typing import Literal

from bocage import errors, words
from bocage.model import base, ground
from bocage.network import base as network
from bocage.network import machine as surroundings
from bocage.node.shop import Shop
from bocage.words import N_

NAME = "default"
SETTING = "BOCAGE_DEFAULT_NETWORK"
"""The environment variable that chooses the kind: `nat` or `user`; empty for what the machine can carry."""


class Error(errors.Problem):
    """Anything that goes wrong with the network `default`."""


class KindUnknown(Error, errors.Invalid, ValueError):
    type = "default-network-kind-unknown"
    text = N_("BOCAGE_DEFAULT_NETWORK is '{value}'; it can be 'nat' or 'user'")
    hint = N_("leave it out to have what this machine can carry")
    value: str


class Nat(words.Message):
    """What was chosen."""

    type = "default-network-nat"
    text = N_("the network 'default' has NAT, DHCP and DNS; its bridge is made when the first VM starts on it")


class User(words.Message):
    """What was chosen, and why it is not the other."""

    type = "default-network-user"
    text = N_("the network 'default' is in user mode, one for each VM: {reason}")
    hint = N_("'bocage network create --kind nat NAME' makes one where VMs reach each other")
    reason: str


class AsSet(words.Message):
    """Why it is what it is."""

    type = "default-network-as-set"
    text = N_("BOCAGE_DEFAULT_NETWORK says so")


async def ensure(shop: Shop) -> None:
    """Have the network be there; of a bridge nothing is made yet. Raises KindUnknown."""
    known = await shop.ground.resources.list(ground.Network, "default")
    if any(net.name == NAME for net in known.items):
        return
    kind, reason = await _choose()
    # Always the same uid on this host: with the database lost, its bridge and the VMs on it are found again.
    uid = str(uuid.uuid5(uuid.UUID(shop.ground.uid), NAME))
    metadata = base.Metadata(name=NAME, uid=uid, project="default")
    await shop.ground.resources.create(ground.Network(metadata=metadata, spec=ground.NetworkSpec(kind=kind)))
    await shop.ground.events.record(Nat() if reason is None else User(reason=words.say(reason)))


async def _choose() -> tuple[Literal["nat", "user"], words.Message | errors.Problem | None]:
    """The kind, and what keeps it from having NAT."""
    match os.environ.get(SETTING, ""):
        case "user":
            return "user", AsSet()
        case "nat":
            return "nat", None
        case "":
            pass
        case other:
            raise KindUnknown(value=other)
    try:
        await surroundings.check("nat")
    except network.Error as lack:
        return "user", lack
    return "nat", None
