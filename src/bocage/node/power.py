"""The power of hosts, asked through their BMCs: any host can ask that of any other."""

from __future__ import annotations

import asyncio

from bocage import errors
from bocage.model import base as model
from bocage.model import ground, power
from bocage.node.ground import Ground
from bocage.physical import base, bmcs
from bocage.store import secrets
from bocage.words import N_


class OfAnotherHost(base.Error, errors.Conflict):
    """The classic disaster: to fence one host would switch off another."""

    type = "bmc-of-another-host"
    text = N_("the BMC at {address} is that of host {other}, by its System UUID {uuid}, and not of {name}")
    hint = N_("are the addresses of two BMCs swapped?")
    address: str
    name: str
    other: str
    uuid: str


class Looked(model.Part):
    """What became of looking at a BMC."""

    bmc: power.Bmc
    uuid: str
    power: base.Power


async def box(here: Ground) -> secrets.Box:
    """What the passwords of BMCs are sealed with; raises as secrets.Box.open."""
    return await asyncio.to_thread(secrets.Box.open, here.home.secret_key)


async def look(here: Ground, uid: str, asked: power.BmcRequest) -> Looked:
    """Ask a BMC that is to be a host's who it is; what is to be kept comes back, with its password sealed.

    Raises OfAnotherHost, base.Error, resources.Missing.
    """
    host = await here.resources.get(ground.Host, None, uid)
    found = await bmcs.look(host, asked, await box(here))
    for other in (await here.resources.list(ground.Host)).items:
        if other.uid != uid and power.same_system(found.uuid, other.status.smbios_uuid):
            raise OfAnotherHost(address=asked.address, name=host.name, other=other.name, uuid=found.uuid)
    return Looked(bmc=found.bmc, uuid=found.uuid, power=found.power)


async def state(here: Ground, uid: str) -> base.Power:
    """Whether a host has power now. Raises base.Error, errors.TimedOut, resources.Missing."""
    host = await here.resources.get(ground.Host, None, uid)
    return await bmcs.of(host, await box(here)).power()
