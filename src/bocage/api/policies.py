"""What people set for all hosts together."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from starlette.responses import Response

from bocage import errors
from bocage.api import answers, calls, plans, problems, routing
from bocage.model import base, vm
from bocage.model import policy as policies
from bocage.planner import patience, snapshot, survival
from bocage.store import contract
from bocage.words import N_

router = routing.router("cluster", "/cluster")

_TRIES = 20
_THINKS = 5.0  # seconds for which a start waits for the answer whether it breaks something


class PolicyPatch(base.Part):
    """Changes (RFC 7396: what is left out stays)."""

    survive: Annotated[int, Field(ge=0, le=2)] | None = None
    """Hosts that may die at once, and room for their VMs is kept free on the others; 0: none is."""


@router.get("/policy", name="policy", response_model=policies.Policy)
async def get(call: Annotated[calls.Call, calls.may("cluster:read")]) -> Response:
    """What is set for all hosts together."""
    return answers.json((await plans.policy(call)).model_dump_json())


@router.patch("/policy", name="set_policy", response_model=policies.Policy)
async def change(request: PolicyPatch, call: Annotated[calls.Call, calls.may("cluster:change")]) -> Response:
    """Change it. What runs goes on running; new places and starts heed it."""
    given = request.model_dump(exclude_none=True)
    for _ in range(_TRIES):
        entry = await call.resources.store.get(policies.KEY)
        changed = policies.read(entry.value if entry else None).model_copy(update=given)
        try:
            await call.resources.store.apply(
                compare={policies.KEY: entry.revision if entry else 0},
                puts={policies.KEY: changed.model_dump_json().encode()},
            )
        except contract.Mismatch:
            continue
        return answers.json(changed.model_dump_json())
    raise errors.TimedOut(what="policy", bound=0.0)


class BreaksSurvival(problems.Error, errors.Conflict):
    type = "vm-start-breaks-survival"
    text = N_("with {name} running, {vm} could not start again if {failed} died: {reason:saying}")
    hint = N_("'bocage plan rebalance' may make room; 'bocage vm start {name} --anyway' starts it all the same")
    name: str
    vm: str
    failed: str
    reason: dict[str, object]


async def check_start(call: calls.Call, machine: vm.VM) -> None:
    """Raises BreaksSurvival where its start takes the room that is kept for VMs of hosts that may die.

    What cannot be answered in a few seconds is no reason against it.
    """
    if not (await plans.policy(call)).survive or machine.spec.power in (vm.Power.RUNNING, vm.Power.PAUSED):
        return
    world, key = await plans.present(call), snapshot.key(machine.metadata.project, machine.name)
    try:
        broken = await plans.in_thread(lambda check: survival.broken_by_start(world, key, check=check), within=_THINKS)
    except patience.TookTooLong:
        return
    if broken:
        first = broken[0]
        raise BreaksSurvival(
            name=machine.name, vm=first.vm, failed=", ".join(first.hosts), reason=first.reason.model_dump()
        )
