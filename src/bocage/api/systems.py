"""Operating systems: what is known of each, and the hardware that a VM for it gets."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Mapping
from typing import Annotated

from fastapi import Path
from pydantic import BaseModel
from starlette.responses import Response

from bocage.api import answers, calls, routing
from bocage.guest import osinfo as database
from bocage.model import board, osinfo, units
from bocage.planner import profiles

router = routing.router("os", "/os")

_known: dict[int, Mapping[str, osinfo.System]] = {}  # by the time at which the database was installed
_reading = asyncio.Lock()


class Chosen(board.Fittings):
    """The hardware of a new VM that is to run a system."""

    machine: str
    cpu_model: str | None
    """None: the host's usual one."""
    paravirtual: bool
    """With virtio's balloon, random numbers and guest agent's channel."""
    cpus: int
    memory: units.Size
    disk: units.Size


class Os(BaseModel):
    """One operating system."""

    name: str
    also: tuple[str, ...]
    title: str
    family: str
    released: datetime.date | None
    ended: datetime.date | None
    hardware: Chosen


class OsList(BaseModel):
    items: list[Os]


@router.get("", name="list", response_model=OsList)
async def list_(call: Annotated[calls.Call, calls.may("vm:read")]) -> Response:
    """All operating systems that are known, the older of each kind first."""
    found = profiles.listed((await known()).values())
    return answers.json(OsList(items=[_shown(one) for one in found]).model_dump_json())


@router.get("/{name}", name="get", response_model=Os, responses=routing.problem_responses(404))
async def get(
    name: Annotated[str, Path(description="Its short name in osinfo-db.", examples=["debian11"])],
    call: Annotated[calls.Call, calls.may("vm:read")],
) -> Response:
    """One operating system."""
    system, _ = profiles.find(name, await known())
    return answers.json(_shown(system).model_dump_json())


async def known() -> Mapping[str, osinfo.System]:
    """All systems, read anew when another database was installed. Raises guest.osinfo.NotInstalled."""
    async with _reading:
        installed = await asyncio.to_thread(database.installed)
        if installed not in _known:
            found = await asyncio.to_thread(database.read)
            _known.clear()
            _known[installed] = found
        return _known[installed]


def _shown(system: osinfo.System) -> Os:
    profile = profiles.choose(system)
    return Os(
        **system.model_dump(include={"name", "also", "title", "family", "released", "ended"}),
        hardware=Chosen(
            **dict(profile.fittings),
            machine=profile.alias,
            cpu_model=profile.cpu_model,
            paravirtual=profile.paravirtual,
            cpus=profile.cpus,
            memory=profile.memory,
            disk=profile.disk,
        ),
    )
