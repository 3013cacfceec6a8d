"""The BMC of a host, ready to be asked."""

from __future__ import annotations

import asyncio
import dataclasses

from bocage.model import ground, power
from bocage.physical import base, ipmi, redfish
from bocage.store import secrets


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """A BMC that was asked for the first time."""

    bmc: power.Bmc
    uuid: str  # of its system; empty when it tells none
    power: base.Power


def of(host: ground.Host, box: secrets.Box) -> base.Bmc:
    """The BMC of a host; it takes orders for this very machine alone. Raises base.NoBmc and what `unseal` raises."""
    if host.spec.bmc is None:
        raise base.NoBmc(name=host.name)
    password = box.unseal(host.spec.bmc.password, context=_context(host.uid)).decode()
    return _open(host.spec.bmc, password, host.status.smbios_uuid)


async def look(host: ground.Host, asked: power.BmcRequest, box: secrets.Box) -> Found:
    """Ask a BMC that is to be a host's who it is; what is to be kept of it comes back. Raises base.Error."""
    place = {name: getattr(asked, name) for name in power.BmcPlace.model_fields}
    sealed = box.seal(asked.password.encode(), context=_context(host.uid))
    shown = await asyncio.to_thread(redfish.certificate, asked) if asked.kind == "redfish" else ""
    bmc = power.Bmc(**place, password=sealed, certificate=shown)
    reached = _open(bmc, asked.password)
    uuid = await reached.identity()
    if isinstance(reached, redfish.Redfish):
        bmc = bmc.model_copy(update={"system": await reached.system()})
    return Found(bmc, uuid, await reached.power())


def _open(place: power.Bmc, password: str, expected: str = "") -> base.Bmc:
    kind = redfish.Redfish if place.kind == "redfish" else ipmi.Ipmi
    return kind(place, password, expected)


def _context(host_uid: str) -> str:
    return f"the BMC of host {host_uid}"
