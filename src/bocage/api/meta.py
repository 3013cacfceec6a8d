"""What this API is: its version, its extensions, who asks."""

from __future__ import annotations

import platform
from typing import Annotated, Any, Literal

import pydantic_core
from fastapi import Query
from pydantic import BaseModel
from starlette.responses import Response

import bocage
from bocage.api import answers, calls, routing
from bocage.model import base, ground

API = 1
EXTENSIONS = (
    "adopt",
    "cluster",
    "console-expect",
    "events-stream",
    "idempotency-keys",
    "image-build",
    "metrics",
    "os-profiles",
    "plan",
    "storage-change",
    "task-wait",
    "task-warnings",
    "uploads-resumable",
    "vm-clone",
    "vm-disk-hotplug",
    "vm-export",
    "vm-floppies",
    "vm-hand-edit",
    "vm-isolation",
    "vm-ports",
    "vm-save",
    "vm-stats",
    "vm-tpm",
    "vm-trash",
    "vm-upgrade-hardware",
    "vm-why",
)
"""What this server can do beside the plain verbs, by name; names are added and never taken away."""

router = routing.router("meta", "")


class Version(BaseModel):
    version: str
    api: int
    python: str
    kernel: str
    qemu: str
    """The installed QEMU's version; empty when there is none."""


class Whoami(BaseModel):
    name: str
    local: bool


class Check(BaseModel):
    """One thing that was looked at."""

    level: Literal["ok", "warning", "error"]
    type: str
    params: dict[str, Any]
    text: str
    hint: str


class Health(BaseModel):
    checks: list[Check]


@router.get("/version", name="version", response_model=Version)
async def version(call: Annotated[calls.Call, calls.may("meta:read")]) -> Response:
    """Which Bocage this is."""
    host = (await call.api.index.fresh()).ground.get(ground.Host, None, call.api.host) if call.api.host else None
    said = Version(
        version=bocage.__version__,
        api=API,
        python=platform.python_version(),
        kernel=platform.release(),
        qemu=host.status.qemu if host else "",
    )
    return answers.json(said.model_dump_json())


@router.get("/extensions", name="extensions", response_model=list[str])
async def extensions(call: Annotated[calls.Call, calls.may("meta:read")]) -> Response:
    """What this server can do, by name: ask this instead of guessing by version."""
    return answers.json(pydantic_core.to_json(EXTENSIONS))


@router.get("/whoami", name="whoami", response_model=Whoami)
async def whoami(call: Annotated[calls.Call, calls.may("meta:read")]) -> Response:
    """Who the asker is taken for."""
    return answers.json(Whoami(name=call.asker.name, local=call.asker.local).model_dump_json())


@router.get("/doctor", name="doctor", response_model=Health, responses=routing.problem_responses(404, 502, 504))
async def doctor(
    call: Annotated[calls.Call, calls.may("host:read")],
    host: Annotated[base.Name | None, Query(description="The host; the one that answers, when not given.")] = None,
) -> Response:
    """The checks of a machine, each with what to do."""
    uid = (await call.resources.find(ground.Host, None, host)).uid if host else None
    return await (await call.api.nodes.of(uid)).forward("GET", "/doctor", within=300.0)
