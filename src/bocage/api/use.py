"""What VMs and hosts use: the moment, and its history. Both are asked of the nodes; samples never enter the store."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated, Any

from fastapi import Query
from pydantic import BaseModel
from starlette.responses import Response

from bocage import errors
from bocage.api import answers, calls, machines, routing
from bocage.model import base, ground, sample

router = routing.router("use", "")

Reading = Annotated[calls.Call, calls.may("vm:read")]
OfHost = Annotated[calls.Call, calls.may("host:read")]
Span = Annotated[int, Query(ge=10, le=366 * 86_400, description="How far back, in seconds.", examples=[86_400])]
Most = Annotated[int, Query(ge=1, le=2000, description="Steps at most; they are the longer the fewer.")]
_PROBLEMS = routing.problem_responses(404, 502, 504)
_OTHERS_WITHIN = 2.0  # seconds that other hosts have to tell: one that is silent holds up nobody for long


class VMUse(sample.Use):
    """One running VM's use."""

    name: str
    uid: str


class Top(BaseModel):
    """The host that answers, and the VMs of a project that run there or on any other that does, by name."""

    host: sample.HostUse
    vms: list[VMUse]


@router.get(
    routing.IN_PROJECT + "/top", name="top", response_model=Top, responses=routing.problem_responses(404, 502, 504)
)
async def top(project: calls.Project, call: Reading) -> Response:
    """What the running VMs of a project use now, and this host."""
    uses = await now(call)
    known = (await call.api.index.fresh()).vms
    vms = [
        VMUse(name=known[uid].name, uid=uid, **dict(use))
        for uid, use in uses.vms.items()
        if uid in known and known[uid].project == project
    ]
    told = Top(host=uses.host, vms=sorted(vms, key=lambda one: one.name))
    return answers.json(told.model_dump_json(context=base.WORDS))


@router.get(routing.IN_PROJECT + "/vms/{name}/stats", name="of_vm", response_model=sample.History, responses=_PROBLEMS)
async def of_vm(
    project: calls.Project, name: calls.Name, call: Reading, span: Span = 3600, most: Most = 720
) -> Response:
    """What a VM has used: for the last hour by seconds, for a day by minutes, for a year by hours."""
    if call.api.nodes.alone:
        return await _history(call, None, await machines.uid_of(call, project, name), span, most)
    machine = await machines.find(call, project, name)
    return await _history(call, machine.status.host, machine.uid, span, most)


@router.get("/hosts/{name}/use", name="of_host", response_model=sample.HostUse, responses=_PROBLEMS)
async def of_host(name: calls.Name, call: OfHost) -> Response:
    """What a host does now, what has to wait on it (PSI), and what merging equal pages gains (KSM)."""
    host = await call.resources.find(ground.Host, None, name)
    return answers.json((await of_node(call, host.uid)).host.model_dump_json())


@router.get("/hosts/{name}/stats", name="of_host_since", response_model=sample.History, responses=_PROBLEMS)
async def of_host_since(name: calls.Name, call: OfHost, span: Span = 3600, most: Most = 720) -> Response:
    """What a host has done: its own CPUs and memory, and the sums of its VMs."""
    host = await call.resources.find(ground.Host, None, name)
    return await _history(call, host.uid, host.uid, span, most)


async def now(call: calls.Call) -> sample.Uses:
    """This host's last measurement, and the VMs of all others that answer. Raises as this node's answers do."""
    hosts = [] if call.api.nodes.alone else (await call.resources.list(ground.Host)).items
    others = [one.uid for one in hosts if one.uid != call.api.host]
    mine, *theirs = await asyncio.gather(of_node(call), *(_of_other(call, uid) for uid in others))
    return mine.model_copy(update={"vms": {uid: one for uses in (*theirs, mine) for uid, one in uses.vms.items()}})


async def of_node(call: calls.Call, host: str | None = None) -> sample.Uses:
    """A host's last measurement. Raises as its node's answers do, and ways.HostSilent."""
    told: dict[str, Any] = await (await call.api.nodes.of(host)).document("GET", "/use")
    return sample.Uses.model_validate(told)


async def _of_other(call: calls.Call, host: str) -> sample.Uses:
    with contextlib.suppress(errors.Problem, TimeoutError):
        async with asyncio.timeout(_OTHERS_WITHIN):
            return await of_node(call, host)
    return sample.Uses()


async def _history(call: calls.Call, host: str | None, uid: str, span: int, most: int) -> Response:
    node = await call.api.nodes.of(host)
    return await node.forward("GET", f"/history/{uid}", query={"span": span, "most": most})
