"""What a planner would do, without doing it: with the world as it is, or with one that was kept as text."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Annotated, TypeVar

import pydantic
import pydantic_core
from fastapi import Body, Query
from pydantic import Field, model_validator
from starlette.requests import Request
from starlette.responses import Response

from bocage import errors, threads
from bocage.api import answers, bodies, calls, examples, nodes, problems, routing, use
from bocage.model import base, faults, ground, plan, sample, standing
from bocage.model import policy as policies
from bocage.model.vm import VM
from bocage.planner import patience, placement, rebalance, snapshot
from bocage.words import N_

router = routing.router("plan", "/plan", route=bodies.LargeRoute)

Reading = Annotated[calls.Call, calls.may("plan:read")]
Survive = Annotated[int, Field(ge=0, le=2)]
R = TypeVar("R")
_LONGEST = 60.0  # seconds that are searched for a better plan; with what comes after it may be twice as many
_WAITED = 60.0  # seconds that one plan waits for another


class NoSuchVM(problems.Error, errors.NotFound):
    type = "plan-no-such-vm"
    text = N_("there is no VM {vm} in this world")
    hint = N_("say what it would be, such as its memory, to ask for one that is not there yet")
    vm: str


class Busy(problems.Error, errors.Unavailable):
    type = "plan-busy"
    text = N_("another plan is being made and takes long")
    hint = N_("ask again later")


class GivenUp(problems.Error, errors.Unavailable):
    type = "plan-given-up"
    text = N_("the plan was given up: whoever asked is gone, or the daemon ends")


class Asked(base.Part):
    """A question of a planner."""

    world: plan.AskedWorld | None = None
    """As `GET /plan/world` gave it; None: the present one."""
    survive: Survive | None = None
    """Hosts that may die at once; None: as the world has it."""


class PlaceRequest(Asked):
    vm: plan.Word | None = None
    """A VM of that world, `name` or `project/name`: where would it be, were it nowhere?"""
    new: plan.PlanVM | None = None
    """One that is not there, or is to be another."""

    @model_validator(mode="after")
    def _asks_for_one(self) -> PlaceRequest:
        if (self.vm is None) == (self.new is None):
            raise ValueError("vm: give either the name of one that is there, or in `new` what another would be")
        return self


class RebalanceRequest(Asked):
    moves: Annotated[int, Field(ge=0, le=100_000)] | None = None
    """At most; None: as many as gain enough."""
    least: Annotated[float, Field(ge=0.0001, le=1000)] | None = None
    """What a move must gain of the score; None: 0.01, and with more than 20 hosts the less the more there are."""


@router.get("/world", name="world", response_model=plan.World)
async def world(
    call: Reading,
    survive: Annotated[
        int | None, Query(ge=0, le=2, description="Hosts that may die at once; else as the cluster is set.")
    ] = None,
) -> Response:
    """The world as a planner sees it now: a text to keep, and to ask with."""
    of = await present(call)
    of = of if survive is None else _changed(of, survive=survive)
    return answers.json(pydantic_core.to_json(of.document()))


@router.post("/place", name="place", response_model=plan.Placed, responses=routing.problem_responses(404))
async def place(
    request: Annotated[PlaceRequest, Body(openapi_examples=examples.PLAN_PLACE)], call: Reading
) -> Response:
    """Where a VM would be placed, and what speaks for and against every host. Nothing is done."""
    of = await _world(call, request)
    asked = request.new or next((one for one in of.vms if request.vm in (one.key, f"default/{one.key}")), None)
    if asked is None:
        raise NoSuchVM(vm=str(request.vm))
    others = (one for one in of.vms if one.key != asked.key)
    asked = asked.model_copy(update={"host": None})
    of = _changed(of, vms=(*others, asked))
    placed = await computed(call, lambda check: placement.place(asked, of, check=check))
    return answers.json(placed.model_dump_json(context=base.WORDS))


@router.post("/rebalance", name="rebalance", response_model=plan.Rebalanced)
async def rebalance_(
    request: Annotated[RebalanceRequest, Body(openapi_examples=examples.PLAN_REBALANCE)], call: Reading
) -> Response:
    """Which moves would balance the hosts, step by step, and who would survive then. Nothing is done."""
    of = await _world(call, request)
    found = await computed(
        call, lambda check: rebalance.rebalance(of, most=request.moves, least=request.least, check=check)
    )
    return answers.json(found.model_dump_json(context=base.WORDS))


async def _world(call: calls.Call, request: Asked) -> plan.World:
    """The world that a request brings, or the present one."""
    of = request.world or await present(call)
    return of if request.survive is None else _changed(of, survive=request.survive)


def _changed(of: plan.World, **fields: object) -> plan.World:
    """A world with other fields, which are looked at as if they had been asked with."""
    try:
        return plan.World.model_validate({**dict(of), **fields})
    except pydantic.ValidationError as error:
        raise faults.problem(faults.read(error.errors())) from error


async def present(call: calls.Call) -> plan.World:
    """The world as it is now."""
    held = (await call.api.index.fresh()).ground
    hosts = held.every(ground.Host)
    uses: dict[str, sample.Use] = {}
    with contextlib.suppress(errors.Problem):  # a node that does not answer leaves loads unknown
        uses = (await use.now(call)).vms
    return snapshot.world(
        hosts,
        held.every(ground.Storage),
        held.every(ground.Network),
        (await call.resources.list(VM)).items,
        beside=[*(await call.resources.list(ground.Volume)).items, *held.every(ground.Image)],
        uses=uses,
        survive=(await policy(call)).among(len(hosts)),
        now=base.now(),
        stands=await stands(call),
    )


async def stands(call: calls.Call) -> standing.Standing | None:
    """How the hosts of a cluster stand, as the one that leads has written it; None outside of one."""
    entry = await call.resources.store.get(standing.KEY)
    return standing.Standing.model_validate_json(entry.value) if entry else None


async def policy(call: calls.Call) -> policies.Policy:
    """What people have set for all hosts together."""
    entry = await call.resources.store.get(policies.KEY)
    return policies.read(entry.value if entry else None)


async def computed(call: calls.Call, work: Callable[[patience.Check], R]) -> R:
    """What takes long, beside everything else, while there is somebody who waits for it. Raises Busy and GivenUp."""
    assert isinstance(call.connection, Request)
    found = list[R]()

    async def compute() -> None:
        try:
            async with asyncio.timeout(_WAITED):
                await call.api.planning.acquire()
        except TimeoutError as error:
            raise Busy from error
        try:
            found.append(await in_thread(work, within=_LONGEST))
        finally:
            call.api.planning.release()

    await nodes.first(compute(), nodes.gone(call.connection.receive), call.api.closing.wait())
    if not found:
        raise GivenUp
    return found[0]


async def in_thread(work: Callable[[patience.Check], R], *, within: float) -> R:
    """What may take long, beside everything else; `within` is how many seconds it may think."""
    job, end = threads.Job(None), time.monotonic() + within

    def check() -> bool:
        job.check()
        return time.monotonic() > end

    return await threads.to_its_end(asyncio.ensure_future(asyncio.to_thread(work, check)), job)
