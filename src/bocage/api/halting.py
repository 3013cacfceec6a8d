"""Shutting the whole cluster down on purpose, and starting it again."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable
from typing import Annotated, Literal

from pydantic import BaseModel, Field
from starlette.responses import Response

from bocage import errors
from bocage.api import answers, calls, routing
from bocage.membership import standing
from bocage.model import base, vm
from bocage.model import standstill as model
from bocage.planner import standstill as planner
from bocage.store import contract

router = routing.router("cluster", "/cluster")

Acting = Annotated[calls.Call, calls.may("cluster:power")]
_TRIES = 20


class Shutdown(base.Part):
    within: Annotated[float, Field(ge=1, le=86_400)] | None = None
    """Seconds that each guest gets to switch off; None: as its stop policy says."""
    kill: bool = False
    """Pull the plug at that bound, and wait for no VM of a host that is silent."""


class Halt(BaseModel):
    """How far it is."""

    phase: Literal["works", "stopping", "down", "starting"]
    asked_by: str | None = None
    since: datetime.datetime | None = None
    ran: int = 0
    """VMs that ran, or should have."""
    left: list[str] = []
    """Those that still are to go off, or to start."""
    stuck: list[str] = []
    """Those that did not within their time."""


@router.get("/standstill", name="standstill", response_model=Halt)
async def get(call: Annotated[calls.Call, calls.may("cluster:read")]) -> Response:
    """Whether the cluster was shut down, and how far that, or its start, is."""
    entry = await call.resources.store.get(model.KEY)
    return await _answer(call, model.read(entry.value if entry else None))


@router.post("/shutdown", name="shutdown", response_model=Halt, responses=routing.problem_responses(409))
async def shutdown(request: Shutdown, call: Acting) -> Response:
    """Have all VMs go off, those that others wait for last. Nobody is fenced and nothing moved until `start`."""
    if call.api.membership is None or not call.api.membership.in_one:
        raise standing.InNone
    machines = (await call.resources.list(vm.VM)).items

    def wanted(before: model.Standstill | None) -> model.Standstill:
        if before is not None:
            return planner.again(before, within=request.within, kill=request.kill, now=base.now())
        return planner.begin(machines, by=call.asker.name, now=base.now(), within=request.within, kill=request.kill)

    return await _answer(call, await _write(call, wanted))


@router.post("/start", name="start", response_model=Halt)
async def start(call: Acting) -> Response:
    """Have all VMs start that ran before the shutdown, those that others wait for first; also in the middle of one."""
    return await _answer(
        call, await _write(call, lambda before: None if before is None else planner.start(before, now=base.now()))
    )


async def _write(
    call: calls.Call, wanted: Callable[[model.Standstill | None], model.Standstill | None]
) -> model.Standstill | None:
    for _ in range(_TRIES):
        entry = await call.resources.store.get(model.KEY)
        before = model.read(entry.value if entry else None)
        after = wanted(before)
        unreadable = entry is not None and before is None  # of another version: whoever starts the cluster ends it
        if after == before and not unreadable:
            return after
        compare = {model.KEY: entry.revision if entry else 0}
        puts = {} if after is None else {model.KEY: after.model_dump_json().encode()}
        try:
            await call.resources.store.apply(compare=compare, puts=puts, deletes=[] if puts else [model.KEY])
        except contract.Mismatch:
            continue
        return after
    raise errors.TimedOut(what="cluster", bound=0.0)


async def _answer(call: calls.Call, found: model.Standstill | None) -> Response:
    if found is None:
        return answers.json(Halt(phase="works").model_dump_json())
    machines = {one.uid: one for one in (await call.resources.list(vm.VM)).items}

    def names(uids: Iterable[str]) -> list[str]:
        return sorted(machines[uid].name for uid in uids if uid in machines)

    ran = [uid for stage in found.stages for uid in stage]
    halt = Halt(
        phase=found.phase,
        asked_by=found.asked_by,
        since=found.since,
        ran=len(ran),
        left=names(planner.left(found, machines)),
        stuck=names(found.stuck),
    )
    return answers.json(halt.model_dump_json())
