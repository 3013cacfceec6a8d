"""What a planner would do, without doing it: with the world as it is, or with one that was kept as text."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Annotated, TypeVar

import pydantic
from fastapi import Body, Query
from pydantic import Field
from starlette.responses import Response

from bocage import errors
from bocage.api import answers, calls, examples, problems, routing, use
from bocage.model import base, faults, ground, plan, sample
from bocage.model.vm import VM
from bocage.planner import placement, rebalance, snapshot
from bocage.words import N_

router = routing.router("plan", "/plan")

Reading = Annotated[calls.Call, calls.may("plan:read")]
Survive = Annotated[int, Field(ge=0, le=2)]
R = TypeVar("R")
_ONE = asyncio.Semaphore(1)  # a long plan takes all that one thread has


class NoSuchVM(problems.Error, errors.NotFound):
    type = "plan-no-such-vm"
    text = N_("there is no VM {vm} in this world")
    hint = N_("say what it would be, such as its memory, to ask for one that is not there yet")
    vm: str


class Asked(base.Part):
    """A question of a planner."""

    world: plan.World | None = None
    """As `GET /plan/world` gave it; None: the present one."""
    survive: Survive | None = None
    """Hosts that may die at once; None: as the world has it."""


class PlaceRequest(Asked):
    vm: plan.Word | None = None
    """A VM of that world, `name` or `project/name`: where would it be, were it nowhere?"""
    new: plan.PlanVM | None = None
    """One that is not there, or is to be another."""


class RebalanceRequest(Asked):
    moves: Annotated[int, Field(ge=0, le=100_000)] | None = None
    """At most; None: as many as gain enough."""
    least: Annotated[float, Field(ge=0.0001, le=1000)] | None = None
    """What a move must gain of the score; None: 0.01, and with more than 20 hosts the less the more there are."""


@router.get("/world", name="world", response_model=plan.World)
async def world(
    call: Reading, survive: Annotated[int, Query(ge=0, le=2, description="Hosts that may die at once.")] = 0
) -> Response:
    """The world as a planner sees it now: a text to keep, and to ask with."""
    return answers.json((await _present(call, survive)).model_dump_json(exclude_defaults=True))


@router.post("/place", name="place", response_model=plan.Placed, responses=routing.problem_responses(404))
async def place(
    request: Annotated[PlaceRequest, Body(openapi_examples=examples.PLAN_PLACE)], call: Reading
) -> Response:
    """Where a VM would be placed, and what speaks for and against every host. Nothing is done."""
    of = await _world(call, request)
    asked = request.new or next((one for one in of.vms if request.vm in (one.key, f"default/{one.key}")), None)
    if asked is None:
        raise NoSuchVM(vm=request.vm or "")
    placed = await _computed(lambda: placement.place(asked, of))
    return answers.json(placed.model_dump_json(context=base.WORDS))


@router.post("/rebalance", name="rebalance", response_model=plan.Rebalanced)
async def rebalance_(
    request: Annotated[RebalanceRequest, Body(openapi_examples=examples.PLAN_REBALANCE)], call: Reading
) -> Response:
    """Which moves would balance the hosts, step by step, and who would survive then. Nothing is done."""
    of = await _world(call, request)
    found = await _computed(lambda: rebalance.rebalance(of, most=request.moves, least=request.least))
    return answers.json(found.model_dump_json(context=base.WORDS))


async def _world(call: calls.Call, request: Asked) -> plan.World:
    """The world that a request brings, or the present one."""
    of = request.world or await _present(call, 0)
    if request.survive is None:
        return of
    try:
        return plan.World.model_validate({**dict(of), "survive": request.survive})
    except pydantic.ValidationError as error:
        raise faults.problem(faults.read(error.errors())) from error


async def _present(call: calls.Call, survive: int) -> plan.World:
    held = (await call.api.index.fresh()).ground
    uses: dict[str, sample.Use] = {}
    with contextlib.suppress(errors.Problem):  # a node that does not answer leaves loads unknown
        uses = (await use.now(call)).vms
    return snapshot.world(
        held.every(ground.Host),
        held.every(ground.Storage),
        held.every(ground.Network),
        (await call.resources.list(VM)).items,
        uses=uses,
        survive=survive,
        now=base.now(),
    )


async def _computed(work: Callable[[], R]) -> R:
    """What takes long, beside everything else."""
    async with _ONE:
        return await asyncio.to_thread(work)
